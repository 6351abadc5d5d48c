//! Tests of the demo's directory: one demo at a time, nothing foreign removed, nothing left.
//!
//! `Scratch`, the directory of one test, serves the other tests of this crate, too.

use std::{
    ops::Deref,
    os::unix::fs::symlink,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::*;

/// A directory for one test, removed afterwards.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        // Tests run side by side, and some share a name.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("lacewing-cli-test-{}-{made}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("scratch directory");
        Self(path)
    }
}

impl Deref for Scratch {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn layout(dir: &Path) -> Layout {
    Layout::new(Some(dir.join("demo")), |_| None)
}

fn description() -> Description {
    let subnet: crate::demo::cast::Subnet = "127.1.9".parse().expect("a subnet");
    Description {
        pid: std::process::id(),
        started: 1_000,
        controller_admin: subnet.controller_admin(),
        pods: subnet.pods(),
    }
}

#[test]
fn the_usual_place_belongs_to_the_user() {
    let scratch = Scratch::new("place");
    let runtime = scratch.to_str().expect("UTF-8").to_owned();
    let in_runtime = Layout::new(None, |name| (name == "XDG_RUNTIME_DIR").then(|| runtime.clone()));
    assert_eq!(in_runtime.root(), scratch.join("lacewing-demo"));
    let gone = Layout::new(None, |name| (name == "XDG_RUNTIME_DIR").then(|| "/nonexistent/run".to_owned()));
    assert_eq!(gone.root(), Path::new("/tmp").join(format!("lacewing-demo-{}", user())));
    let relative = Layout::new(Some("x".into()), |_| None);
    assert!(relative.root().is_absolute());
}

#[test]
fn one_demo_at_a_time_and_nothing_left() {
    let scratch = Scratch::new("lock");
    let held = Held::take(layout(&scratch), 1_000).expect("free");
    let mode = fs::metadata(held.layout().root()).expect("made").mode();
    assert_eq!(mode & 0o777, 0o700);
    let refused = Held::take(layout(&scratch), 1_070).err().expect("taken").to_string();
    let pid = std::process::id();
    assert!(refused.contains(&format!("process {pid}, for 1m10s")), "{refused}");
    assert!(refused.contains("hint: ") && refused.contains("--subnet"), "{refused}");
    drop(held);
    assert_eq!(fs::read_dir(&*scratch).expect("list").count(), 0);
}

#[test]
fn a_running_demo_is_found_and_a_stale_one_is_not() {
    let scratch = Scratch::new("running");
    let layout = layout(&scratch);
    assert_eq!(layout.running().expect_err("nothing there").exit(), Exit::NotInstalled);
    let held = Held::take(layout.clone(), 1_000).expect("free");
    let starting = layout.running().expect_err("not described yet");
    assert!(starting.to_string().contains("still starting"), "{starting}");
    held.describe(&description()).expect("describe");
    assert_eq!(layout.running().expect("runs"), description());
    // As after SIGKILL: the lock is gone with the process, the files are not.
    let json = fs::read(layout.root().join(DESCRIPTION)).expect("described");
    drop(held);
    fs::create_dir(layout.root()).expect("again");
    fs::write(layout.root().join(DESCRIPTION), json).expect("stale");
    fs::write(layout.root().join(LOCK), "1 1\n").expect("stale");
    assert_eq!(layout.running().expect_err("stale").exit(), Exit::NotInstalled);
    let held = Held::take(layout.clone(), 2_000).expect("a stale one is no obstacle");
    assert!(!layout.root().join(DESCRIPTION).exists(), "what was left is cleared");
    drop(held);
}

#[test]
fn logs_stay_on_request_until_the_next_demo() {
    let scratch = Scratch::new("logs");
    let layout = layout(&scratch);
    let mut held = Held::take(layout.clone(), 1).expect("free");
    fs::write(layout.log("controller"), "what happened").expect("write");
    held.keep_logs();
    drop(held);
    let left: Vec<_> = fs::read_dir(layout.root()).expect("still there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "the logs and the lock file, by which the next demo knows the place: {left:?}");
    assert!(layout.log("controller").exists());
    drop(Held::take(layout.clone(), 2).expect("free"));
    assert!(!layout.root().exists());
}

#[test]
fn a_directory_of_the_users_own_is_left_as_it_is() {
    let scratch = Scratch::new("foreign");
    let layout = layout(&scratch);
    for name in ["manifests", "logs", "thesis.txt", "lock"] {
        let file = layout.root().join(name).join("precious");
        fs::create_dir_all(file.parent().expect("a parent")).expect("made by the user");
        fs::write(&file, "precious").expect("write");
        fs::set_permissions(layout.root(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let refused = Held::take(layout.clone(), 1).err().expect("refused").to_string();
        assert!(refused.contains("not of a demo") && refused.contains("hint: choose an empty directory"), "{refused}");
        assert_eq!(fs::metadata(layout.root()).expect("there").mode() & 0o777, 0o755);
        assert!(file.exists(), "{name}");
        assert_eq!(fs::read_dir(layout.root()).expect("list").count(), 1, "nothing is added");
        fs::remove_dir_all(layout.root()).expect("remove");
    }
    fs::create_dir(layout.root()).expect("an empty one");
    drop(Held::take(layout.clone(), 1).expect("an empty one will do"));
}

#[test]
fn what_a_user_adds_to_a_demo_stays_and_is_no_obstacle() {
    let scratch = Scratch::new("added");
    let layout = layout(&scratch);
    for now in 1..3 {
        let held = Held::take(layout.clone(), now).expect("free");
        fs::write(layout.root().join("notes.txt"), "precious").expect("write");
        drop(held);
        assert!(layout.root().join("notes.txt").exists() && !layout.manifests().exists());
    }
}

#[test]
fn what_is_of_somebody_else_is_not_believed() {
    let scratch = Scratch::new("other");
    let real = layout(&scratch);
    let held = Held::take(real.clone(), 1).expect("free");
    held.describe(&description()).expect("describe");
    let own = own_uid(real.root()).expect("writable");
    assert_eq!(fs::metadata(real.root()).expect("there").uid(), own);
    assert!(trusted(real.root(), own).is_ok());
    assert!(trusted(real.root(), own + 1).is_err());
    symlink(real.root(), scratch.join("link")).expect("link");
    let through_link = Layout::new(Some(scratch.join("link")), |_| None);
    let refused = through_link.running().expect_err("a link").to_string();
    assert!(refused.contains("not a directory of yours"), "{refused}");
    let linked_lock = scratch.join("linked-lock");
    fs::create_dir(&linked_lock).expect("made");
    symlink(real.root().join(LOCK), linked_lock.join(LOCK)).expect("link");
    assert!(Layout::new(Some(linked_lock.clone()), |_| None).running().is_err());
    assert!(Held::take(Layout::new(Some(linked_lock), |_| None), 1).is_err());
}

#[test]
fn a_description_has_only_names_and_loopback_addresses() {
    let good = serde_json::to_string(&description()).expect("JSON");
    assert_eq!(Description::read(&good), Ok(description()));
    let label = "a".repeat(64);
    for (from, to) in [
        ("web-1", "/home/victim/file"),
        ("web-1", "../x"),
        ("web-1", ""),
        ("web-1", "-web"),
        ("web-1", "\\u001b[2J"),
        ("web-1", label.as_str()),
        ("emojivoto", "Emoji voto"),
        ("127.1.9.1:9990", "10.0.0.1:9990"),
        ("127.1.9.10:4192", "10.0.0.1:4192"),
        ("127.1.9.10:4191", "[2001:db8::1]:4191"),
        ("\"127.1.9.10\"", "\"10.0.0.1\""),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        let why = Description::read(&text).expect_err(to);
        assert!(!why.chars().any(char::is_control), "{why:?}");
    }
}

#[test]
fn a_description_that_does_not_parse_is_not_a_start() {
    let scratch = Scratch::new("parse");
    let held = Held::take(layout(&scratch), 1).expect("free");
    fs::write(held.layout().root().join(DESCRIPTION), "{\"pid\": \"\u{1b}[2J\"}").expect("write");
    let failure = held.layout().running().expect_err("nonsense");
    let text = failure.to_string();
    assert_eq!(failure.exit(), Exit::Error);
    assert!(text.contains("demo.json: line 1") && text.contains("another version"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_directory_that_cannot_be_told_to_the_children_is_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let scratch = Scratch::new("utf8");
    let layout = Layout::new(Some(scratch.join(OsStr::from_bytes(b"d\xffmo"))), |_| None);
    let refused = Held::take(layout, 1).err().expect("refused").to_string();
    assert!(refused.contains("is not UTF-8"), "{refused}");
    assert_eq!(fs::read_dir(&*scratch).expect("list").count(), 0);
}

#[test]
fn a_link_in_a_shared_place_is_refused() {
    let scratch = Scratch::new("link");
    let elsewhere = scratch.join("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    symlink(&elsewhere, scratch.join("demo")).expect("link");
    let refused = Held::take(layout(&scratch), 1).err().expect("refused").to_string();
    assert!(refused.contains("not a directory of yours"), "{refused}");
}

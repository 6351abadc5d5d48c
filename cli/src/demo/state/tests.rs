//! Tests of the demo's directory: one demo at a time, nothing foreign removed, nothing left.
//!
//! `Scratch`, the directory of one test, serves the other tests of this crate, too.

use std::{ops::Deref, os::unix::fs::symlink};

use super::*;

/// A directory for one test, removed afterwards.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lacewing-cli-test-{}-{name}", std::process::id()));
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
    assert_eq!(gone.root(), Path::new("/tmp").join(format!("lacewing-demo-{}", own_uid())));
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
    assert_eq!(left, [LOGS]);
    assert!(layout.log("controller").exists());
    drop(Held::take(layout.clone(), 2).expect("free"));
    assert!(!layout.root().exists());
}

#[test]
fn foreign_files_stay() {
    let scratch = Scratch::new("foreign");
    let layout = layout(&scratch);
    fs::create_dir(layout.root()).expect("made by somebody");
    fs::write(layout.root().join("thesis.txt"), "precious").expect("write");
    drop(Held::take(layout.clone(), 1).expect("free"));
    let left: Vec<_> = fs::read_dir(layout.root()).expect("still there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["thesis.txt"]);
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

//! Owns the demo's directory: its place, the lock that says whether a demo runs, `demo.json`, and cleaning up.
//!
//! It uses an existing directory only if it is empty or carries the lock file of an earlier demo, and removes only what
//! the demo made, by name. What another user may have put there is neither followed nor believed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    demo::cast::Pod,
    failure::{Exit, Failure},
    output::units,
};

/// Other commands hold the lock for a moment to see whether a demo runs; a starting demo waits that long.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// Its name is also how a directory that demos may clear is told from one that only looks like it.
const LOCK: &str = "lacewing-demo.lock";
const DESCRIPTION: &str = "demo.json";
const LOGS: &str = "logs";
const DIRECTORIES: [&str; 5] = ["manifests", "controller", "tokens", LOGS, "faults"];

/// Paths of a demo's directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The directory asked for, or the usual place of this user.
    pub fn new(dir: Option<PathBuf>, env: impl Fn(&str) -> Option<String>) -> Self {
        let root = dir.unwrap_or_else(|| {
            let place = |name: &str| env(name).filter(|value| value.starts_with('/')).map(PathBuf::from);
            place("XDG_RUNTIME_DIR").filter(|runtime| runtime.is_dir()).map_or_else(
                || place("TMPDIR").unwrap_or_else(|| "/tmp".into()).join(format!("lacewing-demo-{}", user())),
                |runtime| runtime.join("lacewing-demo"),
            )
        });
        // Children start elsewhere or outlive a `cd`: a relative `--dir` is fixed here.
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// The controller's state.
    pub fn controller(&self) -> PathBuf {
        self.root.join("controller")
    }

    /// The trust bundle, in PEM.
    pub fn trust_bundle(&self) -> PathBuf {
        self.controller().join("root.pem")
    }

    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }

    /// The service-account token of `pod`.
    pub fn token(&self, pod: &Pod) -> PathBuf {
        self.tokens().join(format!("{}_{}.token", pod.namespace, pod.name))
    }

    pub fn log(&self, process: &str) -> PathBuf {
        self.root.join(LOGS).join(format!("{process}.log"))
    }

    pub fn faults(&self) -> PathBuf {
        self.root.join("faults")
    }

    /// What runs here.
    ///
    /// # Errors
    /// No demo runs (exit code 5), or the directory cannot be read, or not be trusted.
    pub fn running(&self) -> Result<Description, Failure> {
        let none = || {
            Failure::new(Exit::NotInstalled, format!("no demo is running (looked in {})", self.root.display()))
                .hint("start one with `mesh demo` in another terminal")
        };
        if !exists(&self.root.join(LOCK))? {
            return Err(none());
        }
        // Its commands would remove files by names, and ask addresses, that somebody else chose.
        let judged = own_uid(&self.root).and_then(|own| trusted(&self.root, own));
        if judged.is_err() && !exists(&self.root.join(LOCK))? {
            // It ended while we looked.
            return Err(none());
        }
        judged?;
        let lock = match File::open(self.root.join(LOCK)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
            Err(error) => return Err(Failure::file("open", &self.root.join(LOCK), &error)),
        };
        match lock.try_lock_shared() {
            // Nobody holds it: what is here was left by a demo that was killed.
            Ok(()) => return Err(none()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(Failure::file("lock", &self.root.join(LOCK), &error)),
        }
        let path = self.root.join(DESCRIPTION);
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let what = format!("the demo in {} is still starting", self.root.display());
                Failure::new(Exit::NotInstalled, what).hint("try again in a second")
            }
            _ => Failure::file("read", &path, &error),
        })?;
        Description::read(&text).map_err(|why| {
            Failure::error(format!("cannot make sense of {}: {why}", path.display()))
                .hint("was it written by another version of mesh? end that demo with Ctrl-C and start it again")
        })
    }
}

/// `demo.json`: what runs, for the other commands.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub pid: u32,
    /// Seconds since the Unix epoch.
    pub started: u64,
    pub controller_admin: SocketAddr,
    pub pods: Vec<Pod>,
}

impl Description {
    /// The description in `text`; if it is none, why. Names are names and addresses are of this machine: what is read
    /// here ends up in paths, on the terminal and in connections.
    fn read(text: &str) -> Result<Self, String> {
        // Only the place is told: the words would be the file's.
        let found: Self = serde_json::from_str(text)
            .map_err(|error| format!("line {}, column {} is not as expected", error.line(), error.column()))?;
        for pod in &found.pods {
            let names = [&pod.name, &pod.namespace, &pod.workload, &pod.workload_kind];
            if let Some(bad) = names.into_iter().find(|name| !is_dns_label(name)) {
                return Err(format!("{bad:?} is no name"));
            }
        }
        let of_pods = found.pods.iter().flat_map(|pod| [IpAddr::V4(pod.ip), pod.admin.ip(), pod.private_admin.ip()]);
        match of_pods.chain([found.controller_admin.ip()]).find(|ip| !ip.is_loopback()) {
            Some(ip) => Err(format!("{ip} is no loopback address")),
            None => Ok(found),
        }
    }
}

/// Whether `name` is a DNS label (RFC 1123, section 2.1, in lower case as in Kubernetes).
fn is_dns_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The directory, held by this process.
pub struct Held {
    layout: Layout,
    /// Whether the logs stay behind, for a user who must find out what went wrong.
    keep_logs: bool,
    /// Locked until it is dropped, or this process ends in any way.
    _lock: File,
}

impl Held {
    /// Takes the directory, and clears what a killed demo may have left in it.
    ///
    /// # Errors
    /// Another demo has it, or it cannot be made safely, or its path is not UTF-8.
    pub fn take(layout: Layout, now: u64) -> Result<Self, Failure> {
        if layout.root.to_str().is_none() {
            let what =
                format!("the demo's directory {} is not UTF-8; its processes could not be told", layout.root.display());
            return Err(Failure::error(what).hint("choose another place with `--dir DIR`"));
        }
        make_private(layout.root())?;
        let path = layout.root.join(LOCK);
        let mut lock = acquire(&path, now)?;
        clear(&layout, false).map_err(|error| Failure::file("clear", layout.root(), &error))?;
        for name in DIRECTORIES {
            let path = layout.root.join(name);
            DirBuilder::new().mode(0o700).create(&path).map_err(|error| Failure::file("make", &path, &error))?;
        }
        let owner = format!("{} {now}\n", std::process::id());
        let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(owner.as_bytes()));
        written.map_err(|error| Failure::file("write", &path, &error))?;
        Ok(Self { layout, keep_logs: false, _lock: lock })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Leaves the logs behind when the directory is given up; the next demo clears them.
    pub fn keep_logs(&mut self) {
        self.keep_logs = true;
    }

    /// Tells the other commands what runs.
    pub fn describe(&self, description: &Description) -> Result<(), Failure> {
        let path = self.layout.root.join(DESCRIPTION);
        let text = serde_json::to_string_pretty(description).unwrap_or_default();
        write_atomically(&path, &text).map_err(|error| Failure::file("write", &path, &error))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Best effort: what stays is cleared by the next demo.
        let _ = clear(&self.layout, self.keep_logs);
        // Where something stays, the lock file does: by it the next demo sees that the directory is a demo's.
        if only_lock(&self.layout.root).unwrap_or_default() {
            let _ = fs::remove_file(self.layout.root.join(LOCK));
            let _ = fs::remove_dir(self.layout.root());
        }
    }
}

/// Writes a file so that a reader sees the old or the new text, never a part.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

/// A number that keeps users apart in a shared place. Only a name: what is found there is judged by [`own_uid`].
fn user() -> u32 {
    // The owner of our own entry in /proc; where there is none (macOS), of the home directory.
    let home = std::env::home_dir().unwrap_or_default();
    fs::metadata("/proc/self").or_else(|_| fs::metadata(home)).map_or(0, |own| own.uid())
}

/// The user that this process makes files as in `dir`, found by making one: true on every system and file system.
fn own_uid(dir: &Path) -> Result<u32, Failure> {
    let probe = dir.join(format!("{LOCK}.{}-{:x}", std::process::id(), fastrand::u64(..)));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe);
    let uid = made.and_then(|file| file.metadata()).map(|meta| meta.uid());
    let _ = fs::remove_file(&probe);
    match uid {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(not_yours(dir)),
        uid => uid.map_err(|error| Failure::file("write to", dir, &error)),
    }
}

fn not_yours(root: &Path) -> Failure {
    Failure::error(format!("{} is there already, and it is not a directory of yours", root.display()))
        .hint("choose another place with `--dir DIR`")
}

/// Whether there is something at `path`, be it a link to nowhere.
fn exists(path: &Path) -> Result<bool, Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(Failure::file("read", path, &error)),
    }
}

/// Refuses what user `own` did not make: a link, a directory or lock file of somebody else.
fn trusted(root: &Path, own: u32) -> Result<(), Failure> {
    let meta = |path: &Path| fs::symlink_metadata(path).map_err(|error| Failure::file("read", path, &error));
    let found = meta(root)?;
    let lock = root.join(LOCK);
    let lock_is_ours = !exists(&lock)? || meta(&lock).is_ok_and(|lock| lock.is_file() && lock.uid() == own);
    if found.is_dir() && found.uid() == own && lock_is_ours { Ok(()) } else { Err(not_yours(root)) }
}

/// Whether nothing but the lock file is there, or files made for a moment by [`own_uid`] of others.
fn only_lock(root: &Path) -> io::Result<bool> {
    let mut others =
        fs::read_dir(root)?.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with(LOCK));
    Ok(others.next().is_none())
}

/// Makes the directory, or accepts one that is ours (in a shared /tmp somebody may have put something there first) and
/// that holds nothing but what demos leave: what they clear has names that the user's own things may have, too.
fn make_private(root: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(root) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Failure::file("make", root, &error)),
    }
    let found = fs::symlink_metadata(root).map_err(|error| Failure::file("read", root, &error))?;
    if !found.is_dir() {
        return Err(not_yours(root));
    }
    let read = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => not_yours(root),
        _ => Failure::file("read", root, &error),
    };
    if !exists(&root.join(LOCK))? && !only_lock(root).map_err(read)? {
        let what = format!("{} holds files that are not of a demo; it is left as it is", root.display());
        return Err(
            Failure::error(what).hint("choose an empty directory, or one that does not exist, with `--dir DIR`")
        );
    }
    trusted(root, own_uid(root)?)?;
    if found.mode() & 0o077 != 0 {
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(root, private).map_err(|error| Failure::file("make private", root, &error))?;
    }
    Ok(())
}

fn acquire(path: &Path, now: u64) -> Result<File, Failure> {
    let failed = |error: &io::Error| Failure::file("lock", path, error);
    let mut waited = Duration::ZERO;
    loop {
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = open.open(path).map_err(|error| failed(&error))?;
        match lock.try_lock() {
            // A demo that ended in between has removed the file that we opened: its lock would protect nothing.
            Ok(()) if same_file(&lock, path) => return Ok(lock),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if waited < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_RETRY);
                waited += LOCK_RETRY;
            }
            Err(TryLockError::WouldBlock) => return Err(occupied(&mut lock, path, now)),
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
    }
}

fn same_file(open: &File, path: &Path) -> bool {
    let inode = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    matches!((open.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if inode(&a) == inode(&b))
}

fn occupied(lock: &mut File, path: &Path, now: u64) -> Failure {
    let mut owner = String::new();
    let _ = lock.read_to_string(&mut owner);
    let root = path.parent().unwrap_or(path).display();
    let known = || {
        let (pid, since) = owner.trim().split_once(' ')?;
        Some((pid.parse::<u32>().ok()?, Duration::from_secs(now.saturating_sub(since.parse().ok()?))))
    };
    let who = match known() {
        Some((pid, age)) => format!("process {pid}, for {}, directory {root}", units::span(age)),
        None => format!("directory {root}"),
    };
    Failure::error(format!("a demo is running already ({who})")).hint(
        "look at it with `mesh stat`, end it with Ctrl-C where it runs, or start a second one \
         with `--dir DIR --subnet 127.1.5`",
    )
}

/// Removes what demos make, and nothing else.
fn clear(layout: &Layout, keep_logs: bool) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let directories = DIRECTORIES.iter().filter(|name| !(keep_logs && **name == LOGS));
    directories.into_iter().try_for_each(|name| gone(fs::remove_dir_all(layout.root.join(name))))?;
    gone(fs::remove_file(layout.root.join(DESCRIPTION)))
}

#[cfg(test)]
pub mod tests;

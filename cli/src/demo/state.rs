//! Owns the demo's directory: its place, the lock that says whether a demo runs, `demo.json`, and cleaning up.
//!
//! It removes only what the demo made, by name: a `--dir` that holds other files keeps them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    net::SocketAddr,
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
const LOCK: &str = "lock";
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
                || place("TMPDIR").unwrap_or_else(|| "/tmp".into()).join(format!("lacewing-demo-{}", own_uid())),
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
    /// No demo runs (exit code 5), or the directory cannot be read.
    pub fn running(&self) -> Result<Description, Failure> {
        let none = || {
            Failure::new(Exit::NotInstalled, format!("no demo is running (looked in {})", self.root.display()))
                .hint("start one with `mesh demo` in another terminal")
        };
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
        let starting = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::NotInstalled, format!("the demo in {} is still starting ({why})", self.root.display()))
                .hint("try again in a second")
        };
        let text = fs::read_to_string(path).map_err(|error| starting(&error))?;
        serde_json::from_str(&text).map_err(|error| starting(&error))
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
    /// Another demo has it, or it cannot be made safely.
    pub fn take(layout: Layout, now: u64) -> Result<Self, Failure> {
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
        let _ = fs::remove_file(self.layout.root.join(LOCK));
        let _ = fs::remove_dir(self.layout.root());
    }
}

/// Writes a file so that a reader sees the old or the new text, never a part.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

/// The user that this process runs as.
fn own_uid() -> u32 {
    // The owner of our own entry in /proc; where there is none (macOS), of the home directory.
    let home = std::env::home_dir().unwrap_or_default();
    fs::metadata("/proc/self").or_else(|_| fs::metadata(home)).map_or(0, |own| own.uid())
}

/// Makes the directory, or accepts one that is ours: in a shared /tmp somebody may have put something there first.
fn make_private(root: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(root) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Failure::file("make", root, &error)),
    }
    let found = fs::symlink_metadata(root).map_err(|error| Failure::file("read", root, &error))?;
    if !found.is_dir() || found.uid() != own_uid() {
        let what = format!("{} is there already, and it is not a directory of yours", root.display());
        return Err(Failure::error(what).hint("choose another place with `--dir DIR`"));
    }
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
    let who = match owner.trim().split_once(' ') {
        Some((pid, since)) => {
            let age = Duration::from_secs(now.saturating_sub(since.parse().unwrap_or(now)));
            format!("process {pid}, for {}, directory {root}", units::span(age))
        }
        None => format!("directory {root}"),
    };
    Failure::error(format!("a demo is running already ({who})")).hint(
        "look at it with `mesh stat`, end it with Ctrl-C where it runs, or start a second one: \
               `mesh demo --dir DIR --subnet 127.1.5`",
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

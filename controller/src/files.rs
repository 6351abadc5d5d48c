//! Owns writing the controller's few files so that nobody else can read the secret ones and nobody ever sees half of
//! one: a draft beside the file, then one atomic step. What is in them is the business of `identity` and `tokens`.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Only the owner may look into our directories.
const DIRECTORY_MODE: u32 = 0o700;
/// Only the owner may read our files.
const FILE_MODE: u32 = 0o600;
/// The bits that let somebody else in: group and others.
const OTHERS: u32 = 0o077;

/// Makes the directory, or checks that the one that is there is a directory, ours, and closed to everybody else. One
/// that we did not make is never changed: it may be `/tmp`.
///
/// # Errors
/// It cannot be made, or is not private: with the command that makes it so.
pub fn private_directory(path: &Path) -> io::Result<()> {
    // Without a slash at the end, which would make a link look like what it points to.
    let path: PathBuf = path.components().collect();
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
        Ok(()) => fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_private(&path),
        Err(error) => Err(error),
    }
}

fn check_private(path: &Path) -> io::Result<()> {
    let there = fs::symlink_metadata(path)?;
    // Who we are without a system call of our own: the kernel makes the entry belong to the process.
    let us = fs::metadata("/proc/self")?.uid();
    let shown = path.display();
    let why = if there.is_symlink() {
        format!("is a symbolic link; name the directory itself: `readlink -f '{shown}'`")
    } else if !there.is_dir() {
        "is there and no directory; name another one".to_owned()
    } else if there.uid() != us {
        format!(
            "belongs to user {}, and this process is user {us}; run `chown {us} '{shown}'` or name another one",
            there.uid()
        )
    } else if there.mode() & OTHERS != 0 {
        let mode = there.mode() & 0o777;
        format!("is open to other users (mode {mode:o}); if it is for this alone, run `chmod 700 '{shown}'`")
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Replaces the file, or makes it; what is in it is on the disk when this returns.
///
/// # Errors
/// Those of the file system; the old file is then still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    publish(path, content, Flush::Yes)
}

/// Replaces the file, or makes it, without waiting for the disk: for what is made anew at each start anyway.
///
/// # Errors
/// Those of the file system; the old file is then still there.
pub fn replace_unflushed(path: &Path, content: &[u8]) -> io::Result<()> {
    publish(path, content, Flush::No)
}

/// Whether to wait until the disk has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Yes,
    No,
}

fn publish(path: &Path, content: &[u8], flush: Flush) -> io::Result<()> {
    let draft = write_draft(path, content, flush)?;
    fs::rename(&draft, path).inspect_err(|_| forget(&draft))
}

/// Makes the file unless it is there: of several processes that try, one succeeds and the others get `false`.
///
/// # Errors
/// Those of the file system.
pub fn create_new(path: &Path, content: &[u8]) -> io::Result<bool> {
    let draft = write_draft(path, content, Flush::Yes)?;
    let linked = fs::hard_link(&draft, path);
    forget(&draft);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_draft(path: &Path, content: &[u8], flush: Flush) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("no file name"))?;
    let draft = path.with_file_name(format!(".{}.{}.draft", name.to_string_lossy(), std::process::id()));
    // A draft of the same name is from an earlier process with our number that ended half-way.
    forget(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&draft)?;
    let written = file.write_all(content);
    let flushed = if flush == Flush::Yes { written.and_then(|()| file.sync_all()) } else { written };
    flushed.inspect_err(|_| forget(&draft))?;
    Ok(draft)
}

/// Removes a draft; one that is not there is as good as removed.
fn forget(draft: &Path) {
    let _ = fs::remove_file(draft);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::directory::tests::TempDir;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_whole_private_and_leave_no_draft() {
        let temp = TempDir::new();
        let directory = temp.0.join("deep/state");
        private_directory(&directory).unwrap();
        let path = directory.join("key");
        assert!(create_new(&path, b"one").unwrap());
        assert!(!create_new(&path, b"two").unwrap(), "the first one wins");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_is_not_private_is_refused_and_left_as_it_is() {
        let temp = TempDir::new();
        let (open, link, file) = (temp.0.join("open"), temp.0.join("link"), temp.0.join("file"));
        let refused = |path: &Path, why: &str| {
            let error = private_directory(path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        fs::create_dir(&open).unwrap();
        for open_mode in [0o755, 0o1777, 0o750, 0o701] {
            fs::set_permissions(&open, Permissions::from_mode(open_mode)).unwrap();
            refused(&open, "run `chmod 700 ");
            assert_eq!(mode(&open), open_mode & 0o777);
        }
        fs::set_permissions(&open, Permissions::from_mode(0o700)).unwrap();
        private_directory(&open).unwrap();
        std::os::unix::fs::symlink(&open, &link).unwrap();
        refused(&link, "symbolic link");
        refused(&temp.0.join("link/"), "symbolic link");
        fs::write(&file, "").unwrap();
        refused(&file, "no directory");
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            std::os::unix::fs::chown(&open, Some(12), None).unwrap();
            refused(&open, "belongs to user 12");
        }
    }
}

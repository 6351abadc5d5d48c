//! Owns writing the controller's few files so that nobody else can read the secret ones and nobody ever sees half of
//! one: a draft beside the file, then one atomic step. What is in them is the business of `identity` and `tokens`.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Only the owner may look into our directories.
const DIRECTORY_MODE: u32 = 0o700;
/// Only the owner may read our files.
const FILE_MODE: u32 = 0o600;

/// Makes the directory, or closes the one that is there to everybody else.
///
/// # Errors
/// It cannot be made or is not ours.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

/// Replaces the file, or makes it.
///
/// # Errors
/// Those of the file system; the old file is then still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = write_draft(path, content)?;
    fs::rename(&draft, path).inspect_err(|_| forget(&draft))
}

/// Makes the file unless it is there: of several processes that try, one succeeds and the others get `false`.
///
/// # Errors
/// Those of the file system.
pub fn create_new(path: &Path, content: &[u8]) -> io::Result<bool> {
    let draft = write_draft(path, content)?;
    let linked = fs::hard_link(&draft, path);
    forget(&draft);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_draft(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("no file name"))?;
    let draft = path.with_file_name(format!(".{}.{}.draft", name.to_string_lossy(), std::process::id()));
    // A draft of the same name is from an earlier process with our number that ended half-way.
    forget(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&draft)?;
    file.write_all(content).and_then(|()| file.sync_all()).inspect_err(|_| forget(&draft))?;
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
    fn an_open_directory_is_closed() {
        let temp = TempDir::new();
        fs::set_permissions(&temp.0, Permissions::from_mode(0o755)).unwrap();
        private_directory(&temp.0).unwrap();
        assert_eq!(mode(&temp.0), 0o700);
    }
}

//! Owns how a command fails: what happened and where, what to do next, and the exit code.
//!
//! Printing it is the Printer's business. A reader that went away is marked, because it is no failure at all.

use std::{fmt, io, path::Path, process::ExitCode};

/// Exit codes, stable for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Error = 1,
    Usage = 2,
    /// `mesh check` found what does not work.
    CheckErrors = 3,
    /// `mesh check --fail-on=warning` found nothing worse than warnings.
    CheckWarnings = 4,
    /// Nothing is installed: no demo runs, or the cluster has no Lacewing.
    NotInstalled = 5,
    Timeout = 6,
    /// It works, but there is nothing to show.
    NoData = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    hint: Option<String>,
    broken_pipe: bool,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None, broken_pipe: false }
    }

    pub fn error(what: impl Into<String>) -> Self {
        Self::new(Exit::Error, what)
    }

    /// The next command to run, or what to change.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file or directory that could not be read, written or made.
    pub fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        let failure = Self::error(format!("cannot {doing} {}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                failure.hint("choose a directory that is yours with `--dir DIR`, or fix its owner and mode")
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                failure.hint("that file system is read-only; choose another place with `--dir DIR`")
            }
            io::ErrorKind::StorageFull => {
                failure.hint("free some space there, or choose another place with `--dir DIR`")
            }
            _ => failure,
        }
    }

    /// Our reader went away (`mesh stat | head -1`): nothing is wrong.
    pub fn output(error: &io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self { broken_pipe, ..Self::error(format!("cannot write to standard output: {error}")) }
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }

    pub fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_done_about_a_file_is_said() {
        for (kind, part) in [
            (io::ErrorKind::PermissionDenied, "fix its owner and mode"),
            (io::ErrorKind::ReadOnlyFilesystem, "is read-only; choose another place"),
            (io::ErrorKind::StorageFull, "free some space"),
        ] {
            let text = Failure::file("make", Path::new("/x"), &kind.into()).to_string();
            assert!(text.starts_with("error: cannot make /x: ") && text.contains(part), "{text}");
        }
    }
}

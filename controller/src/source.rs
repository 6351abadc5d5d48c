//! Owns where cluster state comes from: a Kubernetes API server, or a directory of the same YAML manifests that it would
//! be given. A source hands batches of [`Change`]s to `publish`; it never answers anybody itself.

pub mod directory;
#[rustfmt::skip] // tables of names: packed, they can be read at a glance
mod fields;
pub mod kubernetes;
mod locate;
pub mod manifest;
mod validate;

use lacewing_crds::{Object, ObjectKey};
use serde::Serialize;

/// One step from the last state to the new one.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "batches are short-lived and nearly all of them are objects")]
pub enum Change {
    Apply(Object),
    Remove(ObjectKey),
}

/// What is wrong with the source, and what is in force meanwhile. Served at the admin port's `/errors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceError {
    /// The file, or the directory if it cannot be read; of a cluster, the object, or the kind if it cannot be followed.
    pub file: String,
    /// Counted from 1; absent where the error concerns the whole file.
    pub line: Option<u64>,
    pub column: Option<u64>,
    pub cause: String,
    /// What the mesh acts on until this is mended.
    pub in_force: String,
}

impl std::fmt::Display for SourceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}:{}", self.column.unwrap_or(1))?;
        }
        write!(f, ": {}; {}", self.cause, self.in_force)
    }
}

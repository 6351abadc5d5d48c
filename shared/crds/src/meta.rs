//! Owns the metadata that every object carries. It refuses nothing: names are checked by whoever reads objects from a
//! place where nobody checked them before.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{nullable, texts};

/// The part of `metadata` that the mesh reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    pub name: String,
    /// Absent for cluster-wide objects, and in manifests that leave it to the default namespace.
    pub namespace: Option<String>,
    #[serde(deserialize_with = "texts")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    pub uid: Option<String>,
    /// Set from the moment of the wish to delete the object; it stays until its finalizers, or a pod's grace, are done.
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

impl ObjectMeta {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    pub fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that manages this object, if any.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller).or(self.owner_references.first())
    }
}

/// Who made an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub controller: bool,
}

//! Owns the metadata that every object carries. It refuses nothing: names are checked by whoever reads objects from a
//! place where nobody checked them before.

use std::{collections::BTreeMap, mem::take};

use serde::{Deserialize, Deserializer};

use crate::nullable;

/// The part of `metadata` that the mesh reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    pub name: String,
    /// Absent for cluster-wide objects, and in manifests that leave it to the default namespace.
    pub namespace: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub labels: Texts,
    #[serde(deserialize_with = "nullable")]
    pub annotations: Texts,
    pub uid: Option<String>,
    /// Set from the moment of the wish to delete the object; it stays until its finalizers, or a pod's grace, are done.
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Box<[OwnerReference]>,
}

impl ObjectMeta {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name)
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)
    }

    pub fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that manages this object, if any.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller).or(self.owner_references.first())
    }
}

/// Labels or annotations, sorted by name, each name once. There are tens of thousands of these in a controller, of a few
/// texts each: a tree would have room for eleven in its first node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(Box<[(Box<str>, Box<str>)]>);

impl Texts {
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (&**name, &**text))
    }

    /// A copy for those who share a way with texts from elsewhere.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
    }

    pub fn insert(&mut self, name: &str, text: &str) {
        self.retain(|other| other != name);
        let mut all = take(&mut self.0).into_vec();
        all.push((name.into(), text.into()));
        all.sort_unstable();
        self.0 = all.into();
    }

    /// Keeps those whose names `wanted` wants.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        if self.iter().any(|(name, _)| !wanted(name)) {
            self.0 = take(&mut self.0).into_iter().filter(|(name, _)| wanted(name)).collect();
        }
    }
}

/// A name without a text (`note:`) has the empty one, as in Kubernetes.
impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<Box<str>, Option<Box<str>>>::deserialize(deserializer)?;
        Ok(Self(texts.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect()))
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

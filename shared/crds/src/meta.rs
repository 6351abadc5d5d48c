//! Owns the metadata that every object carries. It refuses nothing: names are checked by whoever reads objects from a
//! place where nobody checked them before.

use std::{borrow::Cow, collections::BTreeMap};

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
/// short texts each: they lie in one piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Name, text, name, text…
    all: Box<str>,
    /// Where each of them ends.
    ends: Box<[u32]>,
}

impl Texts {
    /// `sorted` by name, each name once.
    fn of<'a>(sorted: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut all, mut ends) = (String::new(), Vec::new());
        for text in sorted.flat_map(|(name, text)| [name, text]) {
            all.push_str(text);
            ends.push(all.len() as u32);
        }
        Self { all: all.into(), ends: ends.into() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(other, text)| (other == name).then_some(text))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut from = 0;
        let mut next = move |end: &u32| {
            let text = &self.all[from..*end as usize];
            from = *end as usize;
            text
        };
        self.ends.as_chunks().0.iter().map(move |[name, text]| (next(name), next(text)))
    }

    /// A copy for those who share a way with texts from elsewhere.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
    }

    pub fn insert(&mut self, name: &str, text: &str) {
        let mut all: BTreeMap<_, _> = self.iter().collect();
        all.insert(name, text);
        *self = Self::of(all.into_iter());
    }

    /// Keeps those whose names `wanted` wants.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        if self.iter().any(|(name, _)| !wanted(name)) {
            *self = Self::of(self.iter().filter(|(name, _)| wanted(name)));
        }
    }
}

/// A name without a text (`note:`) has the empty one, as in Kubernetes.
impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<Cow<'_, str>, Option<Cow<'_, str>>>::deserialize(deserializer)?;
        Ok(Self::of(texts.iter().map(|(name, text)| (&**name, text.as_deref().unwrap_or_default()))))
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

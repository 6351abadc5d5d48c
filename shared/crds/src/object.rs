//! Owns the set of kinds that the mesh reads: one enum of objects, and the key that names an object among all others.

use std::fmt;

use serde::Deserialize;

use crate::{EndpointSlice, ObjectMeta, Pod, Service};

/// A Namespace: its labels and annotations are defaults for the pods in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    pub metadata: ObjectMeta,
}

/// Any object that the mesh reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Namespace(Namespace),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
        }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
        }
    }

    /// The key of this object. A namespaced object without a namespace is in [`Name::DEFAULT_NAMESPACE`].
    pub fn key(&self) -> ObjectKey {
        let (kind, metadata) = (self.kind(), self.metadata());
        let namespace = match (kind, metadata.namespace.as_deref()) {
            (Kind::Namespace, _) => "",
            (_, None | Some("")) => Name::DEFAULT_NAMESPACE,
            (_, Some(namespace)) => namespace,
        };
        ObjectKey { kind, name: Name::new(namespace, &metadata.name) }
    }
}

/// A kind of object that the mesh reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Namespace,
    Pod,
    Service,
    EndpointSlice,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Namespace, Self::Pod, Self::Service, Self::EndpointSlice];

    /// The kind's name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// The `apiVersion` under which the mesh reads this kind.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name in a namespace; the namespace of a cluster-wide object is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

impl Name {
    /// Where namespaced objects go that name no namespace.
    pub const DEFAULT_NAMESPACE: &str = "default";

    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names one object among all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: Kind,
    pub name: Name,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

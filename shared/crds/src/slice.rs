//! Owns the slim EndpointSlice (`discovery.k8s.io/v1`): which addresses serve a Service, on which ports, and whether
//! they are ready.

use serde::{Deserialize, Deserializer};

use crate::{Kind, Name, ObjectMeta, Transport, labels, nullable, one_of};

/// A part of the endpoints of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub address_type: AddressType,
    #[serde(deserialize_with = "nullable")]
    pub ports: Box<[EndpointPort]>,
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Box<[Endpoint]>,
}

impl EndpointSlice {
    /// The Service, in the same namespace, whose endpoints these are.
    pub fn service(&self) -> Option<&str> {
        self.metadata.label(labels::SERVICE_NAME)
    }
}

/// What the addresses of a slice are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    #[default]
    IPv4,
    IPv6,
    /// Host names. The mesh does not resolve them.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// A port that all endpoints of a slice serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The name of the Service's port; absent or empty for the only port of a Service.
    pub name: Option<String>,
    pub port: Option<u16>,
    #[serde(deserialize_with = "nullable")]
    pub protocol: Transport,
    pub app_protocol: Option<String>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Fungible addresses of the same endpoint; in practice one.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Box<[Box<str>]>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    pub target_ref: Option<TargetRef>,
    pub node_name: Option<String>,
    pub zone: Option<String>,
    /// For which clients the endpoint is meant (KEP-2433, KEP-4444, KEP-3015); absent: for all.
    pub hints: Option<Box<EndpointHints>>,
}

/// The state of an endpoint. Absent `ready` means ready, as the API says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    /// Like `ready`, but also while terminating; absent: as `ready`.
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// Whose clients should use an endpoint: what `trafficDistribution` and topology-aware routing come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<Hint>,
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<Hint>,
}

/// A zone or a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Hint {
    pub name: String,
}

/// The object behind an endpoint, usually a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    #[serde(rename = "kind", deserialize_with = "pod")]
    pub is_pod: bool,
    pub name: String,
    /// Absent: the namespace of the slice.
    pub namespace: Option<String>,
    pub uid: Option<String>,
}

fn pod<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    one_of(deserializer, &[Kind::Pod.as_str()])
}

impl TargetRef {
    /// The pod that this points at from a slice in `namespace`; none if it is no pod.
    pub fn pod(&self, namespace: &str) -> Option<Name> {
        let namespace = self.namespace.as_deref().filter(|given| !given.is_empty()).unwrap_or(namespace);
        self.is_pod.then(|| Name::new(namespace, &self.name))
    }
}

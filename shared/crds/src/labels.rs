//! Owns the name of every label and annotation that the mesh reads or writes, and the parsed form of those with a
//! fixed set of values. A value outside the set is refused by an error that names the key and what may be written.

pub mod config;

use std::{fmt, str::FromStr};

use lacewing_ops::log;

/// Label of an EndpointSlice: its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that a Deployment puts on the pods and ReplicaSets of one template: the suffix of the ReplicaSet's name.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Label that Kubernetes puts on nodes, and on pods once they have one: the zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Annotation of a Namespace or pod: whether pods get a proxy ([`Inject`]).
pub const INJECT: &str = "lacewing.dev/inject";
/// Annotation of a Namespace or pod: whom the inbound side serves ([`InboundMode`]).
pub const INBOUND: &str = "config.lacewing.dev/inbound";
/// Annotation of a pod: ports of the app (`25,8000-8100`) that are not redirected into the proxy, and so have no mesh
/// TLS. Injection writes what is in force onto the pod, wherever it came from; only there it is read.
pub const SKIP_INBOUND_PORTS: &str = "config.lacewing.dev/skip-inbound-ports";
/// Annotation of a pod that has a proxy: the proxy's version. Its presence is what makes a pod meshed.
pub const PROXY_VERSION: &str = "lacewing.dev/proxy-version";
/// Annotation of a pod whose traffic is not redirected: the `ip:port` of its proxy's inbound side.
pub const PROXY_ADDRESS: &str = "lacewing.dev/proxy-address";

/// Label, with the value `true`, of a pod that has a proxy: what selectors find meshed pods by.
pub const MESHED: &str = "lacewing.dev/meshed";
/// Label of a Namespace: the Pod Security level that the cluster enforces there.
pub const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Prefixes of label and annotation names that belong to the mesh.
pub const OWN_PREFIXES: [&str; 2] = ["lacewing.dev/", config::PREFIX];

/// Every annotation that the mesh reads. Another one under [`OWN_PREFIXES`] is a mistake that must be reported.
pub fn annotations() -> impl Iterator<Item = &'static str> {
    [INJECT, PROXY_VERSION, PROXY_ADDRESS].into_iter().chain(config::SETTINGS.iter().map(|setting| setting.key))
}

/// Whether a label's or annotation's name is one of the mesh's.
pub fn is_own(key: &str) -> bool {
    OWN_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// `appProtocol` of a port whose bytes the proxy must not interpret.
pub const OPAQUE: &str = "lacewing.dev/opaque";

/// Whether pods get a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inject {
    Enabled,
    Disabled,
    /// With a proxy that routes by authority, for ingress controllers.
    Ingress,
}

impl FromStr for Inject {
    type Err = BadValue;

    fn from_str(value: &str) -> Result<Self, BadValue> {
        match value {
            "enabled" => Ok(Self::Enabled),
            "disabled" => Ok(Self::Disabled),
            "ingress" => Ok(Self::Ingress),
            _ => Err(BadValue::new(INJECT, value, "enabled, disabled or ingress")),
        }
    }
}

/// Whom the inbound side of a pod serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InboundMode {
    /// Mesh TLS, and plain clients too.
    #[default]
    Permissive,
    /// Mesh TLS or nothing.
    Strict,
}

impl FromStr for InboundMode {
    type Err = BadValue;

    fn from_str(value: &str) -> Result<Self, BadValue> {
        match value {
            "permissive" => Ok(Self::Permissive),
            "strict" => Ok(Self::Strict),
            _ => Err(BadValue::new(INBOUND, value, "permissive or strict")),
        }
    }
}

/// A label or annotation whose value means nothing to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    key: &'static str,
    value: String,
    expected: &'static str,
}

impl BadValue {
    fn new(key: &'static str, value: &str, expected: &'static str) -> Self {
        Self { key, value: log::clip(value).to_owned(), expected }
    }

    /// The key whose value it is.
    pub fn key(&self) -> &'static str {
        self.key
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} is not {}", self.key, self.value, self.expected)
    }
}

impl std::error::Error for BadValue {}

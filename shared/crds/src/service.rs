//! Owns the slim Service: its addresses, its ports with what they declare, and which pods it selects.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

use crate::{ObjectMeta, nullable};

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
}

impl Service {
    /// Every cluster address, each once; none for a headless Service. An IPv4 address in IPv6 clothes is that IPv4
    /// address.
    pub fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        let canonical = |ClusterIp(ip): ClusterIp| ip.map(|ip| ip.to_canonical());
        let first = canonical(self.spec.cluster_ip);
        let others = self.spec.all_cluster_ips.iter().copied().filter_map(canonical);
        first.into_iter().chain(others.filter(move |ip| Some(*ip) != first))
    }

    /// Whether IPv6 is the Service's first family: that of its first cluster address; without one, the first listed.
    pub fn prefers_ipv6(&self) -> bool {
        let listed = || self.spec.ip_families.first().is_some_and(|family| family == "IPv6");
        self.cluster_ips().next().map_or_else(listed, |ip| ip.is_ipv6())
    }

    /// Clients use only endpoints of their own node.
    pub fn is_node_local(&self) -> bool {
        self.spec.internal_traffic_policy.as_deref() == Some("Local")
    }

    /// The Service only stands for a name elsewhere: it has no addresses and selects nothing.
    pub fn is_external_name(&self) -> bool {
        self.spec.kind.as_deref() == Some("ExternalName")
    }

    /// The TCP ports: the mesh carries nothing else.
    pub fn tcp_ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.spec.ports.iter().filter(|port| port.protocol == Transport::Tcp)
    }
}

/// The part of a Service's `spec` that the mesh reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: ClusterIp,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub all_cluster_ips: Vec<ClusterIp>,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    #[serde(deserialize_with = "nullable")]
    pub selector: BTreeMap<String, String>,
    pub external_name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub publish_not_ready_addresses: bool,
    /// `IPv4`, `IPv6`: the first is the one that the Service prefers.
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<String>,
    /// `Cluster` (also if absent) or `Local`: whether clients use endpoints of other nodes too.
    pub internal_traffic_policy: Option<String>,
    /// `None` (also if absent) or `ClientIP`.
    pub session_affinity: Option<String>,
}

/// A cluster address; nothing for a headless Service (`None`) and before one is assigned (empty).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterIp(pub Option<IpAddr>);

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "" | "None" => Ok(Self(None)),
            ip => ip.parse().map(|ip| Self(Some(ip))).map_err(|_| {
                D::Error::custom(format_args!(
                    "{ip:?} is no cluster address: write an IP address, or None for a headless Service"
                ))
            }),
        }
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    pub port: u16,
    #[serde(default)]
    pub name: Option<String>,
    /// Absent: the same number as `port`.
    #[serde(default, deserialize_with = "target_port")]
    pub target_port: Option<PortTarget>,
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: Transport,
    /// What is spoken on this port, such as `http` or `kubernetes.io/h2c`.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

/// Reads a `targetPort`, of which Kubernetes takes `0` and the empty name for absent.
fn target_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PortTarget>, D::Error> {
    let given: Option<PortTarget> = Option::deserialize(deserializer)?;
    Ok(given.filter(|target| match target {
        PortTarget::Number(number) => *number != 0,
        PortTarget::Name(name) => !name.is_empty(),
    }))
}

/// The container port behind a Service's port, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortTarget {
    Number(u16),
    Name(String),
}

impl<'de> Deserialize<'de> for PortTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortTargetVisitor)
    }
}

struct PortTargetVisitor;

impl Visitor<'_> for PortTargetVisitor {
    type Value = PortTarget;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port number from 1 to 65535 or the name of a container port")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<PortTarget, E> {
        let port = u16::try_from(number).map(PortTarget::Number);
        port.map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<PortTarget, E> {
        u64::try_from(number)
            .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            .and_then(|number| self.visit_u64(number))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<PortTarget, E> {
        Ok(PortTarget::Name(name.to_owned()))
    }
}

/// The transport of a port. The mesh carries TCP; the others are known so that they can be told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Transport {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

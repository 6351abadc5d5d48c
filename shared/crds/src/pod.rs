//! Owns the slim Pod: who it runs as, which ports its containers declare, which addresses it has,
//! and whether it still runs.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

use crate::{ObjectMeta, Transport, nullable, one_of};

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: PodSpec,
    #[serde(deserialize_with = "nullable")]
    pub status: PodStatus,
}

impl Pod {
    /// The service account, `default` where the manifest names none. As in Kubernetes, the old name of the field counts
    /// where the new one is empty.
    pub fn service_account(&self) -> &str {
        let PodSpec { service_account_name, service_account, .. } = &self.spec;
        let mut names = [service_account_name, service_account].into_iter().filter_map(Option::as_deref);
        names.find(|name| !name.is_empty()).unwrap_or("default")
    }

    /// Every address of the pod, each once; an IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`) is that IPv4 address.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        let first = self.status.pod_ip.map(|ip| ip.to_canonical());
        let others = self.status.pod_ips.iter().map(|entry| entry.ip.to_canonical());
        first.into_iter().chain(others.filter(move |ip| Some(*ip) != first))
    }

    /// The addresses at which there is this pod and nobody else: none on the host network, whose addresses are the
    /// node's.
    pub fn own_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.ips().filter(|_| !self.spec.host_network)
    }

    /// All containers have ended for good. The status keeps the addresses, which others may get meanwhile.
    pub fn has_finished(&self) -> bool {
        self.status.has_finished
    }

    /// The containers that run for as long as the pod: the ordinary ones and the native sidecars.
    pub fn long_running_containers(&self) -> impl Iterator<Item = &Container> {
        let sidecars = self.spec.init_containers.iter().filter(|container| container.is_sidecar);
        self.spec.containers.iter().chain(sidecars)
    }
}

/// The part of a pod's `spec` that the mesh reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub service_account_name: Option<String>,
    /// The old name of `serviceAccountName`, still written by many: see [`Pod::service_account`].
    pub service_account: Option<String>,
    /// The pod has the node's addresses, and so no identity of its own by address.
    #[serde(deserialize_with = "nullable")]
    pub host_network: bool,
    /// Where the pod runs; absent until it is decided.
    pub node_name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub containers: Box<[Container]>,
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Box<[Container]>,
}

/// A container: the ports that it declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    #[serde(deserialize_with = "nullable")]
    pub ports: Box<[ContainerPort]>,
    /// Only init containers say how they are restarted; `Always` makes one a native sidecar.
    #[serde(rename = "restartPolicy", deserialize_with = "always")]
    pub is_sidecar: bool,
}

fn always<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    one_of(deserializer, &["Always"])
}

fn finished<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    one_of(deserializer, &["Succeeded", "Failed"])
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    pub container_port: u16,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: Transport,
}

/// The part of a pod's `status` that the mesh reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// The phase is `Succeeded` or `Failed`.
    #[serde(rename = "phase", deserialize_with = "finished")]
    pub has_finished: bool,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Box<[PodIp]>,
}

/// One of a pod's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PodIp {
    pub ip: IpAddr,
}

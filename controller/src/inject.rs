//! Injection, pure: a pod, its Namespace and the mesh's settings in; a patch, or why there is none, out. The webhook and
//! `mesh inject --manual` both call [`inject`], so that they cannot differ.
//!
//! It refuses what it cannot honour (unknown or bad annotations, a Namespace whose Pod Security forbids the init step, an
//! app that takes the proxy's ports or user) and leaves alone what must not be meshed, always with a reason. [`probes`]
//! keeps the meaning of probes, [`settings`] merges annotations, [`sidecar`] builds containers and volumes, [`edit`]
//! writes the patch; [`removal`] takes all of it out again.

pub mod edit;
pub mod probes;
pub mod removal;
pub mod settings;
pub mod sidecar;

use std::{collections::BTreeMap, fmt};

use json_patch::Patch;
use k8s_openapi::api::core::v1::{Container, Pod};
use lacewing_crds::labels::{self, Inject};
use lacewing_ops::log::clip;
use serde_json::Value;

use crate::policy::PROXY_PORTS;
use edit::Edit;
use settings::{ProxySettings, unknown_annotation};

/// The user of the proxy: what it opens is not redirected.
pub const PROXY_UID: i64 = 2102;
/// The init container that makes the kernel redirect.
pub const INIT_CONTAINER: &str = "lacewing-init";
/// The native sidecar.
pub const PROXY_CONTAINER: &str = "lacewing-proxy";
/// Our volumes: the token that proves who the pod is, and what a restarted container should still know.
pub const TOKEN_VOLUME: &str = "lacewing-token";
pub const STATE_VOLUME: &str = "lacewing-state";
/// Container names of other meshes: two proxies in one pod would redirect each other's connections.
const FOREIGN_SIDECARS: [&str; 5] = ["istio-proxy", "istio-init", "linkerd-proxy", "linkerd-init", "consul-dataplane"];

/// What all pods of the mesh have in common.
#[derive(Debug, Clone)]
pub struct Mesh {
    pub settings: ProxySettings,
    /// The roots to trust, in PEM: public.
    pub bundle: String,
    pub trust_domain: String,
    /// Where the controller is.
    pub namespace: String,
}

/// The Namespace's part in the decision.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    pub annotations: &'a BTreeMap<String, String>,
    pub labels: &'a BTreeMap<String, String>,
}

/// What is to be done with a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Injected(Injected),
    /// It runs as it is.
    Skipped(Skip),
    /// It must not run like this: why, and the way out.
    Refused(String),
}

/// A pod with its proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// From the pod as it was to [`Self::pod`] (RFC 6902).
    pub patch: Patch,
    pub pod: Value,
    /// What the mesh does not carry, in sentences.
    pub warnings: Vec<String>,
}

/// Why a pod gets no proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    NotWanted,
    Disabled,
    HostNetwork,
    Windows,
    /// The name of the other mesh's container.
    ForeignSidecar(&'static str),
    AlreadyInjected,
}

impl Skip {
    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotWanted => "not_wanted",
            Self::Disabled => "disabled",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::ForeignSidecar(_) => "foreign_sidecar",
            Self::AlreadyInjected => "already_injected",
        }
    }

    /// Somebody asked for a proxy and gets none: that must be seen.
    pub fn is_a_surprise(&self) -> bool {
        matches!(self, Self::HostNetwork | Self::Windows | Self::ForeignSidecar(_))
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWanted => write!(f, "neither the pod nor its namespace has the annotation {}", labels::INJECT),
            Self::Disabled => write!(f, "{}: disabled", labels::INJECT),
            Self::HostNetwork => {
                f.write_str("it is on the host network, whose connections are everybody's on the node")
            }
            Self::Windows => f.write_str("it runs on Windows nodes, where there is no proxy"),
            Self::ForeignSidecar(name) => write!(f, "it has the sidecar of another mesh: {name}"),
            Self::AlreadyInjected => f.write_str("it has its proxy already"),
        }
    }
}

/// Decides about one pod, or the pod template of a workload: anything with `metadata` and `spec`.
pub fn inject(pod: &Value, namespace: Surroundings<'_>, mesh: &Mesh) -> Outcome {
    match decide(pod, namespace, mesh) {
        Ok(injected) => Outcome::Injected(injected),
        Err(No::Skip(skip)) => Outcome::Skipped(skip),
        Err(No::Refuse(why)) => Outcome::Refused(why),
    }
}

enum No {
    Skip(Skip),
    Refuse(String),
}

impl From<Skip> for No {
    fn from(skip: Skip) -> Self {
        Self::Skip(skip)
    }
}

impl From<String> for No {
    fn from(why: String) -> Self {
        Self::Refuse(why)
    }
}

fn decide(original: &Value, namespace: Surroundings<'_>, mesh: &Mesh) -> Result<Injected, No> {
    // What was injected before is taken out first: then it is made anew as it should be now, however often.
    let mut edit = Edit::new(original.clone());
    removal::remove(&mut edit)?;
    let pod: Pod = serde_json::from_value(edit.value().clone()).map_err(|error| format!("this is no pod: {error}"))?;
    wanted(&pod, namespace)?;
    left_alone(&pod)?;
    let effective = settings::effective(&pod, namespace, &mesh.settings)?;
    forbidden(&pod, namespace)?;
    let mut warnings = not_carried(&pod);
    let probes = probes::read(&pod, &mut warnings);
    probes.rewrite(&mut edit)?;
    sidecar::add(&mut edit, &pod, &effective, &probes, mesh, &mut warnings)?;
    effective.note(&mut edit)?;
    let (pod, patch) = edit.finish();
    if pod == *original {
        return Err(Skip::AlreadyInjected.into());
    }
    Ok(Injected { patch, pod, warnings })
}

/// Whether somebody asked for a proxy: the pod's own word counts before its Namespace's.
fn wanted(pod: &Pod, namespace: Surroundings<'_>) -> Result<(), No> {
    let own = pod.metadata.annotations.as_ref().and_then(|all| all.get(labels::INJECT));
    let (wish, whose) = match (own, namespace.annotations.get(labels::INJECT)) {
        (Some(own), _) => (own, "the pod"),
        (None, Some(inherited)) => (inherited, "its namespace"),
        (None, None) => return misplaced(pod).map_or(Err(Skip::NotWanted.into()), |why| Err(No::Refuse(why))),
    };
    match wish.parse::<Inject>() {
        Ok(Inject::Enabled) => Ok(()),
        Ok(Inject::Disabled) => Err(Skip::Disabled.into()),
        Ok(Inject::Ingress) => Err(No::Refuse(format!(
            "{}: ingress (on {whose}) is not there yet: write enabled, and let clients outside in with {}skip-inbound-ports",
            labels::INJECT,
            labels::config::PREFIX
        ))),
        Err(bad) => Err(No::Refuse(format!("on {whose}: {bad}"))),
    }
}

/// The wish was written where nobody reads it, or under a name that is not ours.
fn misplaced(pod: &Pod) -> Option<String> {
    if pod.metadata.labels.as_ref().is_some_and(|all| all.contains_key(labels::INJECT)) {
        return Some(format!("{} is a label here: write it as an annotation", labels::INJECT));
    }
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.keys().find(|key| labels::is_own(key) && !is_known(key)).map(|key| unknown_annotation(key))
}

fn is_known(key: &str) -> bool {
    labels::annotations().any(|known| known == key)
}

/// Pods that cannot have a proxy, or have somebody else's.
fn left_alone(pod: &Pod) -> Result<(), Skip> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.host_network == Some(true) {
        return Err(Skip::HostNetwork);
    }
    let selected = spec.node_selector.as_ref().and_then(|selector| selector.get("kubernetes.io/os"));
    let os = spec.os.as_ref().map(|os| &os.name).or(selected);
    if os.is_some_and(|os| os == "windows") {
        return Err(Skip::Windows);
    }
    let foreign = FOREIGN_SIDECARS.into_iter().find(|name| containers(pod).any(|container| container.name == *name));
    foreign.map_or(Ok(()), |name| Err(Skip::ForeignSidecar(name)))
}

/// What would not work with a proxy, though somebody wants one.
fn forbidden(pod: &Pod, namespace: Surroundings<'_>) -> Result<(), String> {
    let level = namespace.labels.get(labels::POD_SECURITY).map(String::as_str);
    if let Some(level @ ("baseline" | "restricted")) = level {
        return Err(format!(
            "the namespace enforces the Pod Security level {level} ({}), which forbids NET_ADMIN, and the mesh's init step \
             needs it: enforce privileged there (warn and audit may stay at {level}), or write {}: disabled on the pod",
            labels::POD_SECURITY,
            labels::INJECT
        ));
    }
    let pod_user = pod.spec.iter().find_map(|spec| spec.security_context.as_ref()?.run_as_user);
    for container in containers(pod) {
        let user = container.security_context.as_ref().and_then(|context| context.run_as_user).or(pod_user);
        if user == Some(PROXY_UID) {
            return Err(format!(
                "container {:?} runs as user {PROXY_UID}, the proxy's, whose connections go past the mesh: choose another",
                container.name
            ));
        }
        let ports = container.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let own = |port: i32| u16::try_from(port).is_ok_and(|port| PROXY_PORTS.contains(&port));
        if let Some(port) = ports.map(|port| port.container_port).find(|port| own(*port)) {
            return Err(format!(
                "container {:?} declares port {port}, one of the proxy's own: choose another",
                container.name
            ));
        }
    }
    Ok(())
}

/// What goes past the proxy because it is not TCP.
fn not_carried(pod: &Pod) -> Vec<String> {
    let ports =
        containers(pod).flat_map(|container| container.ports.iter().flatten().map(move |port| (container, port)));
    let others = ports.filter_map(|(container, port)| {
        let protocol = port.protocol.as_deref().filter(|protocol| *protocol != "TCP")?;
        Some(format!(
            "{} port {} of container {:?} is not in the mesh, which carries TCP: it works as without",
            clip(protocol),
            port.container_port,
            container.name
        ))
    });
    others.collect()
}

/// Ordinary containers and init containers.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

#[cfg(test)]
mod tests;

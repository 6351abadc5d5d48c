//! Owns what a pod is to the mesh: whether it has a proxy, who must answer at its addresses, what it is a replica of,
//! and which pod an address belongs to. Pure.
//!
//! An identity is given only where it is certain; where a pod says that it has a proxy in a way that cannot be
//! honoured, there is an error and never plain text. Which addresses are offered is decided in `endpoints`, what a
//! dialled address stands for in `destination`.

use std::net::{IpAddr, SocketAddr};

use lacewing_crds::{Kind, Name, Pod, labels};
use lacewing_identity::{SpiffeId, TrustDomain, sni};
use lacewing_ops::ports::{Ports, skip_list};

use crate::{
    endpoints::{Direct, Endpoint},
    policy::PROXY_PORTS,
    world::World,
};

/// Whose an address is.
#[derive(Debug, PartialEq, Eq)]
pub enum Holder<'w> {
    /// No pod has it as its own; it may be a node's.
    Nobody,
    One(&'w Name, &'w Pod),
    /// Pods that cannot all have it, at least two.
    Several(Vec<(&'w Name, &'w Pod)>),
}

/// Whose the address is, given in its canonical form. An address is used again only once its last owner's containers
/// have ended, so a pod that stays wins over those that are being deleted, and those that have finished have none.
pub fn holder(world: &World, ip: IpAddr) -> Holder<'_> {
    let running = world.pods_by_ip(ip).filter(|(_, pod)| !pod.has_finished());
    let (leaving, staying): (Vec<_>, Vec<_>) = running.partition(|(_, pod)| pod.metadata.is_being_deleted());
    let having = if staying.is_empty() { leaving } else { staying };
    match having[..] {
        [] => Holder::Nobody,
        [(name, pod)] => Holder::One(name, pod),
        _ => Holder::Several(having),
    }
}

/// Names the pods that claim one address.
pub fn claimants(ip: IpAddr, pods: &[(&Name, &Pod)]) -> String {
    let names: Vec<String> = pods.iter().map(|(name, _)| name.to_string()).collect();
    format!("{ip} is the address of more than one Pod: {}", names.join(", "))
}

/// Whether connections to the pod's addresses reach its own proxy. The addresses of a pod on the host network belong
/// to the node, and so to everybody on it.
pub fn is_meshed(pod: &Pod) -> bool {
    pod.metadata.annotation(labels::PROXY_VERSION).is_some() && !pod.spec.host_network
}

/// Whether somebody wants the pod to have a proxy, and it could have one: it says so itself, or else its namespace.
fn is_wanted(world: &World, name: &Name, pod: &Pod) -> bool {
    let namespace = || world.namespace(&name.namespace)?.metadata.annotation(labels::INJECT);
    let said = pod.metadata.annotation(labels::INJECT).or_else(namespace);
    said.is_some_and(|said| said.parse() == Ok(labels::Inject::Enabled)) && !pod.spec.host_network
}

/// The pods that should have a proxy and have none: older than the wish, or made while the webhook could not be reached.
pub fn unmeshed(world: &World) -> impl Iterator<Item = &Name> {
    let escaped = |(name, pod): &(&Name, &Pod)| !is_meshed(pod) && !is_leaving(pod) && is_wanted(world, name, pod);
    world.pods().filter(escaped).map(|(name, _)| name)
}

/// Nothing new should be sent to the pod: it is being deleted, or has finished.
pub fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.is_being_deleted() || pod.has_finished()
}

/// The endpoint at one of the pod's addresses. `service` is what the connection is meant for; `zone` is what the
/// address' slice says, if there is one.
///
/// Ports that bypass the proxy have no mesh TLS: there it is spoken to in plain text.
///
/// # Errors
/// The pod has a proxy, but what must answer there is not certain, or it cannot be told where the connection is meant
/// for: why, in words for an operator.
pub fn endpoint(
    trust_domain: &TrustDomain,
    (name, pod): (&Name, &Pod),
    address: SocketAddr,
    zone: Option<&str>,
    service: Result<&Name, &str>,
) -> Result<Endpoint, String> {
    let proxy = proxy(trust_domain, name, pod)?.filter(|_| !bypasses_proxy(pod, address.port()));
    let (identity, proxy_address) = match proxy {
        Some(proxy) => (Some(proxy.identity), proxy.address),
        None => (None, None),
    };
    let direct = proxy_address.map(|proxy_address| {
        let Name { namespace, name: service } = service.map_err(|why| {
            format!(
                "Pod {name} is reached only through its proxy ({}), which takes connections to a Service: {why}",
                labels::PROXY_ADDRESS
            )
        })?;
        Ok::<_, String>(Direct { proxy_address, sni: sni::format(address.port(), service, namespace) })
    });
    Ok(Endpoint {
        address,
        namespace: name.namespace.clone(),
        pod: name.name.clone(),
        workload: workload(name, pod),
        service_account: pod.service_account().to_owned(),
        zone: zone.or(pod.metadata.label(labels::ZONE)).unwrap_or_default().to_owned(),
        identity,
        direct: direct.transpose()?,
    })
}

/// Whether connections to this port of a pod with a proxy are not redirected into it: the proxy's own ports, and those
/// that were left out when the pod was made.
fn bypasses_proxy(pod: &Pod, port: u16) -> bool {
    // A list that cannot be read skips nothing: an error where the app does not speak mesh TLS, never plain text where
    // it does.
    PROXY_PORTS.contains(&port) || skipped_ports(pod).unwrap_or_default().iter().any(|ports| ports.contains(port))
}

/// Ports of a pod that are not redirected into its proxy.
///
/// # Errors
/// The annotation is no list of ports: why, in words for an operator.
pub fn skipped_ports(pod: &Pod) -> Result<Vec<Ports>, String> {
    let annotated = pod.metadata.annotation(labels::SKIP_INBOUND_PORTS).unwrap_or_default();
    skip_list(annotated).map_err(|why| format!("{}: {why}", labels::SKIP_INBOUND_PORTS))
}

/// Why no connection is made to this pod; none if nothing about the pod itself prevents it.
pub fn why_left_out(trust_domain: &TrustDomain, name: &Name, pod: &Pod) -> Option<String> {
    proxy(trust_domain, name, pod).err()
}

struct Proxy {
    identity: SpiffeId,
    /// Set where the pod's traffic is not redirected.
    address: Option<SocketAddr>,
}

/// The pod's proxy; none if it has none.
fn proxy(trust_domain: &TrustDomain, name: &Name, pod: &Pod) -> Result<Option<Proxy>, String> {
    if !is_meshed(pod) {
        return Ok(None);
    }
    let identity = SpiffeId::new(trust_domain, &name.namespace, pod.service_account())
        .map_err(|error| format!("{error}; {} {name} gets no traffic", Kind::Pod))?;
    let address = pod.metadata.annotation(labels::PROXY_ADDRESS).map(|annotated| {
        let address = annotated.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        address.ok_or_else(|| {
            format!("{}: {annotated:?} is not ip:port; {} {name} gets no traffic", labels::PROXY_ADDRESS, Kind::Pod)
        })
    });
    Ok(Some(Proxy { identity, address: address.transpose()? }))
}

/// What a pod is one replica of, as `kind/name` in lower case.
fn workload(name: &Name, pod: &Pod) -> String {
    let Some(owner) = pod.metadata.controller() else { return format!("pod/{}", name.name) };
    let hash = pod.metadata.label(labels::POD_TEMPLATE_HASH);
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(deployment)) if !deployment.is_empty() => format!("deployment/{deployment}"),
        (kind, _) => format!("{}/{}", kind.to_lowercase(), owner.name),
    }
}

#[cfg(test)]
mod tests;

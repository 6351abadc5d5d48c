//! Owns the endpoints behind a backend: which addresses are ready, which workload each belongs to, and, for meshed
//! pods, who must answer there. Pure: a [`World`] in, a sorted list out.
//!
//! An identity is given only where it is certain. Where a pod may be meshed but that is not certain (it is not known
//! yet, or says so in a way that cannot be honoured), the endpoint is left out: plain text is only for what is known
//! to have no proxy.

use std::{
    collections::BTreeMap,
    net::{AddrParseError, IpAddr, SocketAddr},
};

use lacewing_crds::{
    AddressType, Endpoint as SliceEndpoint, EndpointSlice, Kind, Name, Pod, Service, Transport, labels,
};
use lacewing_identity::{SpiffeId, TrustDomain, sni};

use crate::{destination::Backend, world::World};

/// A ready endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the app listens; unique in a list.
    pub address: SocketAddr,
    pub namespace: String,
    /// Empty if no pod is known at the address.
    pub pod: String,
    /// `deployment/web`; the pod itself where nothing owns it; empty without a pod.
    pub workload: String,
    pub service_account: String,
    pub zone: String,
    /// Who must answer there; none: not meshed, plain text.
    pub identity: Option<SpiffeId>,
    /// Set where the pod's traffic is not redirected into its proxy.
    pub direct: Option<Direct>,
}

/// The proxy to connect to, and the name that says where the connection is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    pub proxy_address: SocketAddr,
    pub sni: String,
}

/// The ready endpoints of the backend, sorted by address. None for a Service or port that is not there.
pub fn endpoints(world: &World, trust_domain: &TrustDomain, backend: &Backend) -> Vec<Endpoint> {
    let name = backend.service_name();
    let Some(service) = world.service(&name) else { return Vec::new() };
    let Some(port) = service.tcp_ports().find(|port| port.port == backend.port) else { return Vec::new() };
    let port_name = port.name.as_deref().unwrap_or_default();
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in world.slices_of(&name).filter(|slice| slice.address_type != AddressType::Fqdn) {
        let Some(port) = slice_port(slice, port_name) else { continue };
        for listed in slice.endpoints.iter().filter(|listed| is_ready(service, listed)) {
            for ip in listed.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                let view = View { world, trust_domain, backend, listed };
                if let Some(endpoint) = view.endpoint(SocketAddr::new(ip, port)) {
                    keep(&mut found, endpoint);
                }
            }
        }
    }
    found.into_values().collect()
}

/// The number behind the Service's port in this slice.
fn slice_port(slice: &EndpointSlice, name: &str) -> Option<u16> {
    let tcp = slice.ports.iter().filter(|port| port.protocol == Transport::Tcp);
    tcp.filter(|port| port.name.as_deref().unwrap_or_default() == name).find_map(|port| port.port)
}

fn is_ready(service: &Service, listed: &SliceEndpoint) -> bool {
    let ready = listed.conditions.ready.unwrap_or(true) || service.spec.publish_not_ready_addresses;
    ready && listed.conditions.terminating != Some(true)
}

/// Keeps one endpoint for an address. While an endpoint moves between slices it is in both; what is known to be meshed
/// wins.
fn keep(found: &mut BTreeMap<SocketAddr, Endpoint>, endpoint: Endpoint) {
    let known = found.get(&endpoint.address);
    if known.is_none_or(|known| known.identity.is_none() && endpoint.identity.is_some()) {
        found.insert(endpoint.address, endpoint);
    }
}

/// One endpoint of a slice, with what is needed to understand it.
struct View<'a> {
    world: &'a World,
    trust_domain: &'a TrustDomain,
    backend: &'a Backend,
    listed: &'a SliceEndpoint,
}

impl View<'_> {
    fn endpoint(&self, address: SocketAddr) -> Option<Endpoint> {
        let zone = self.listed.zone.clone().unwrap_or_default();
        let Some((name, pod)) = behind(self.world, &self.backend.namespace, self.listed, address.ip()).ok()? else {
            return Some(Endpoint {
                address,
                namespace: self.backend.namespace.clone(),
                pod: String::new(),
                workload: String::new(),
                service_account: String::new(),
                zone,
                identity: None,
                direct: None,
            });
        };
        let (identity, direct) = if is_meshed(pod) {
            let identity = SpiffeId::new(self.trust_domain, &name.namespace, pod.service_account()).ok()?;
            (Some(identity), self.direct(pod, address).ok()?)
        } else {
            (None, None)
        };
        Some(Endpoint {
            address,
            namespace: name.namespace.clone(),
            pod: name.name.clone(),
            workload: workload(name, pod),
            service_account: pod.service_account().to_owned(),
            zone,
            identity,
            direct,
        })
    }

    /// The address of the pod's proxy, if that is how the pod is reached; an error if it says so, but not legibly.
    fn direct(&self, pod: &Pod, address: SocketAddr) -> Result<Option<Direct>, AddrParseError> {
        let Some(annotated) = pod.metadata.annotation(labels::PROXY_ADDRESS) else { return Ok(None) };
        let proxy_address = annotated.parse()?;
        let sni = sni::format(address.port(), &self.backend.service, &self.backend.namespace);
        Ok(Some(Direct { proxy_address, sni }))
    }
}

/// The pod at an address of a slice in `namespace`; none where the slice names no pod.
///
/// # Errors
/// Whether there is a proxy at the address cannot be known, so that it must not be spoken to: why.
fn behind<'w>(
    world: &'w World,
    namespace: &str,
    listed: &SliceEndpoint,
    ip: IpAddr,
) -> Result<Option<(&'w Name, &'w Pod)>, String> {
    let Some(target) = listed.target_ref.as_ref().filter(|target| target.kind == Kind::Pod.as_str()) else {
        return Ok(None);
    };
    let Some((name, pod)) = world.pod_of(target, namespace) else {
        let uid = target.uid.as_deref().map(|uid| format!(" with the uid {uid}")).unwrap_or_default();
        return Err(format!("{ip} gets no traffic: no Pod {}{uid} is known", target.name));
    };
    if is_meshed(pod) && pod.ips().all(|own| own != ip) {
        return Err(format!("{ip} gets no traffic: Pod {name} has a proxy, but not this address in its status"));
    }
    Ok(Some((name, pod)))
}

/// Whether connections to the pod's addresses reach its own proxy. The addresses of a pod on the host network belong
/// to the node, and so to everybody on it.
fn is_meshed(pod: &Pod) -> bool {
    pod.metadata.annotation(labels::PROXY_VERSION).is_some() && !pod.spec.host_network
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

/// Why addresses of a slice in `namespace` are left out although they are ready, one reason each; for what is wrong
/// with the pods themselves, see [`why_left_out`].
pub fn why_addresses_left_out(world: &World, namespace: &str, slice: &EndpointSlice) -> Vec<String> {
    let ready = slice
        .endpoints
        .iter()
        .filter(|listed| listed.conditions.ready.unwrap_or(true) && listed.conditions.terminating != Some(true));
    let addresses = ready.flat_map(|listed| listed.addresses.iter().map(move |address| (listed, address)));
    let parsed = addresses.filter_map(|(listed, address)| Some((listed, address.parse::<IpAddr>().ok()?)));
    parsed.filter_map(|(listed, ip)| behind(world, namespace, listed, ip).err()).collect()
}

/// Why no endpoint of this pod gets traffic although it is ready; none if nothing about the pod itself prevents it.
pub fn why_left_out(trust_domain: &TrustDomain, name: &Name, pod: &Pod) -> Option<String> {
    if !is_meshed(pod) {
        return None;
    }
    if let Err(error) = SpiffeId::new(trust_domain, &name.namespace, pod.service_account()) {
        return Some(error.to_string());
    }
    let annotated = pod.metadata.annotation(labels::PROXY_ADDRESS)?;
    let bad = annotated.parse::<SocketAddr>().is_err();
    let kind = Kind::Pod;
    bad.then(|| format!("{}: {annotated:?} is not ip:port; {kind} {name} gets no traffic", labels::PROXY_ADDRESS))
}

#[cfg(test)]
mod tests;

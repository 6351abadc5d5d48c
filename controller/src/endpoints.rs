//! Owns the endpoints behind a backend: which addresses are ready, and which pod is behind each. Pure: a [`World`] in,
//! a sorted list out. What a pod is (who must answer, how it is reached) comes from `pods`.
//!
//! An identity is given only where it is certain. Where a pod may be meshed but that is not certain (it is not known
//! yet, or says so in a way that cannot be honoured), the endpoint is left out: plain text is only for what is known
//! to have no proxy. What a slice does not say about an address, the pods that have it do.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use lacewing_crds::{AddressType, Endpoint as SliceEndpoint, EndpointSlice, Kind, Name, Pod, Service, Transport};
use lacewing_identity::{SpiffeId, TrustDomain};

use crate::{
    destination::Backend,
    pods::{self, Holder},
    selection,
    world::World,
};

/// Where an app listens, and who must answer there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique in a list.
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

/// The ready endpoints of the backend, sorted by address. None for a Service or port that is not there. A pod with
/// addresses of both families is one endpoint, in the family of the Service's first ClusterIP (headless: IPv4): two would
/// have two breakers, and a retry "elsewhere" could meet the same pod again.
pub fn endpoints(world: &World, trust_domain: &TrustDomain, backend: &Backend) -> Vec<Endpoint> {
    let name = backend.service_name();
    let Some(service) = world.service(&name) else { return Vec::new() };
    let Some(port) = service.tcp_ports().find(|port| port.port == backend.port) else { return Vec::new() };
    let port_name = port.name.as_deref().unwrap_or_default();
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in world.slices_of(&name).filter(|slice| slice.address_type != AddressType::Fqdn) {
        let Some(port) = slice_port(slice, port_name) else { continue };
        for listed in slice.endpoints.iter().filter(|listed| is_ready(service, listed)) {
            for ip in addresses(listed) {
                if let Some(endpoint) = offered(world, trust_domain, &name, listed, SocketAddr::new(ip, port)) {
                    // While an endpoint moves between slices it is in both.
                    found.entry(endpoint.address).or_insert(endpoint);
                }
            }
        }
    }
    let prefers_v6 = service.cluster_ips().next().is_some_and(|ip| ip.is_ipv6());
    let preferred = |endpoint: &&Endpoint| endpoint.address.is_ipv6() == prefers_v6 && !endpoint.pod.is_empty();
    let pod = |endpoint: &Endpoint| (endpoint.namespace.clone(), endpoint.pod.clone());
    let once: HashSet<_> = found.values().filter(preferred).map(pod).collect();
    let other_family = |endpoint: &Endpoint| endpoint.address.is_ipv6() != prefers_v6;
    found.into_values().filter(|endpoint| !(other_family(endpoint) && once.contains(&pod(endpoint)))).collect()
}

/// The endpoint at an address that belongs to this pod, as a list would have it, whether or not it is ready.
///
/// # Errors
/// It must not be spoken to: why, in words for an operator.
pub fn of_pod(
    world: &World,
    trust_domain: &TrustDomain,
    (name, pod): (&Name, &Pod),
    address: SocketAddr,
    backend: Result<&Backend, &String>,
) -> Result<Endpoint, String> {
    let services = selection::services_of(world, name, pod);
    let mut listed = services.flat_map(|(service, _)| world.slices_of(service)).flat_map(|slice| &slice.endpoints);
    let zone = listed.find_map(|listed| {
        let zone = listed.zone.as_deref()?;
        // Names are compared first, as reading the addresses of a large Service takes its time.
        let named = listed.target_ref.as_ref().is_none_or(|target| target.name == name.name);
        (named && addresses(listed).any(|ip| ip == address.ip())).then_some(zone)
    });
    let service = backend.map(Backend::service_name);
    pods::endpoint(trust_domain, (name, pod), address, zone, service.as_ref().map_err(|why| why.as_str()))
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

/// The addresses in their canonical form; host names are none.
fn addresses(listed: &SliceEndpoint) -> impl Iterator<Item = IpAddr> {
    listed.addresses.iter().filter_map(|address| Some(address.parse::<IpAddr>().ok()?.to_canonical()))
}

/// The endpoint at an address that a slice lists; none if nothing is to be sent there.
fn offered(
    world: &World,
    trust_domain: &TrustDomain,
    service: &Name,
    listed: &SliceEndpoint,
    address: SocketAddr,
) -> Option<Endpoint> {
    let zone = listed.zone.as_deref();
    match behind(world, &service.namespace, listed, address.ip()).ok()? {
        Behind::Pod(_, pod) if pods::is_leaving(pod) => None,
        Behind::Pod(name, pod) => pods::endpoint(trust_domain, (name, pod), address, zone, Ok(service)).ok(),
        Behind::NoPod => Some(Endpoint {
            address,
            namespace: service.namespace.clone(),
            pod: String::new(),
            workload: String::new(),
            service_account: String::new(),
            zone: zone.unwrap_or_default().to_owned(),
            identity: None,
            direct: None,
        }),
    }
}

/// What is behind an address of a slice.
enum Behind<'w> {
    Pod(&'w Name, &'w Pod),
    /// Something outside the cluster, or of a node.
    NoPod,
}

/// What is behind an address of a slice in `namespace`. A slice that names no pod, as written by hand or by somebody's
/// own controller, may still lead to one.
///
/// # Errors
/// Whether there is a proxy at the address cannot be known, so that it must not be spoken to: why.
fn behind<'w>(world: &'w World, namespace: &str, listed: &SliceEndpoint, ip: IpAddr) -> Result<Behind<'w>, String> {
    let Some(target) = listed.target_ref.as_ref().filter(|target| target.kind == Kind::Pod.as_str()) else {
        return match pods::holder(world, ip) {
            Holder::Nobody => Ok(Behind::NoPod),
            Holder::One(name, pod) => Ok(Behind::Pod(name, pod)),
            Holder::Several(pods) => Err(format!("{ip} gets no traffic: {}", pods::claimants(ip, &pods))),
        };
    };
    let Some((name, pod)) = world.pod_of(target, namespace) else {
        let uid = target.uid.as_deref().map(|uid| format!(" with the uid {uid}")).unwrap_or_default();
        return Err(format!("{ip} gets no traffic: no Pod {}{uid} is known", target.name));
    };
    if pods::is_leaving(pod) {
        return Ok(Behind::Pod(name, pod));
    }
    if pods::is_meshed(pod) {
        // Whoever else claims the address: only this pod's identity can answer there.
        if pod.ips().all(|own| own != ip) {
            return Err(format!("{ip} gets no traffic: Pod {name} has a proxy, but not this address in its status"));
        }
    } else if let Some(other) = meshed_holder(world, ip) {
        return Err(format!("{ip} gets no traffic: it is listed for Pod {name}, but Pod {other} has it, and a proxy"));
    }
    Ok(Behind::Pod(name, pod))
}

/// A pod with a proxy that has this address.
fn meshed_holder(world: &World, ip: IpAddr) -> Option<&Name> {
    let holders = match pods::holder(world, ip) {
        Holder::Nobody => Vec::new(),
        Holder::One(name, pod) => vec![(name, pod)],
        Holder::Several(pods) => pods,
    };
    holders.into_iter().find_map(|(name, pod)| pods::is_meshed(pod).then_some(name))
}

/// Why addresses of a slice in `namespace` are left out although they are ready, one reason each; for what is wrong
/// with the pods themselves, see [`pods::why_left_out`]. That a pod is on its way out is as it should be.
pub fn why_addresses_left_out(world: &World, namespace: &str, slice: &EndpointSlice) -> Vec<String> {
    let ready = slice
        .endpoints
        .iter()
        .filter(|listed| listed.conditions.ready.unwrap_or(true) && listed.conditions.terminating != Some(true));
    let all = ready.flat_map(|listed| addresses(listed).map(move |ip| (listed, ip)));
    all.filter_map(|(listed, ip)| behind(world, namespace, listed, ip).err()).collect()
}

#[cfg(test)]
mod tests;

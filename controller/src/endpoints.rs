//! Owns the endpoints behind a backend: which addresses are ready, and which pod is behind each. Pure: a [`World`] in,
//! a sorted list out. What a pod is (who must answer, how it is reached) comes from `pods`.
//!
//! An identity is given only where it is certain. Where a pod may be meshed but that is not certain (it is not known
//! yet, or says so in a way that cannot be honoured), the endpoint is left out: plain text is only for what is known
//! to have no proxy. What a slice does not say about an address, the pods that have it do.

use std::{
    collections::{BTreeMap, HashSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
};

use lacewing_crds::{
    AddressType, Endpoint as SliceEndpoint, EndpointConditions, EndpointSlice, Name, Pod, Service, Transport,
};
use lacewing_identity::{SpiffeId, TrustDomain};

use crate::{
    destination::Backend,
    locality::{Candidate, Endpoints},
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

/// The endpoints of the backend, sorted by address. None for a Service or port that is not there. A pod with addresses
/// of both families is one endpoint, in the Service's first family: two would have two breakers, and a retry
/// "elsewhere" could meet the same pod again.
pub fn endpoints(world: &World, trust_domain: &TrustDomain, backend: &Backend) -> Endpoints {
    let name = backend.service_name();
    let Some(service) = world.service(&name) else { return Endpoints::default() };
    let Some(port) = service.tcp_ports().find(|port| port.port == backend.port) else { return Endpoints::default() };
    let port_name = port.name.as_deref().unwrap_or_default();
    let mut found: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
    for slice in world.slices_of(&name).filter(|slice| slice.address_type != AddressType::Fqdn) {
        let Some(port) = slice_port(slice, port_name) else { continue };
        for listed in &slice.endpoints {
            for ip in addresses(listed) {
                let candidate = candidate(world, trust_domain, (&name, service), listed, SocketAddr::new(ip, port));
                let Some(candidate) = candidate else { continue };
                // While an endpoint moves between slices it is in both; one that stays is the newer word.
                match found.entry(candidate.endpoint.address) {
                    Entry::Vacant(place) => drop(place.insert(candidate)),
                    Entry::Occupied(mut other) if other.get().leaving && !candidate.leaving => {
                        other.insert(candidate);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
    }
    once_per_pod(&mut found, service.prefers_ipv6());
    share_identities(&mut found);
    Endpoints::of(found.into_values().collect(), service.is_node_local())
}

/// Gives endpoints of the same identity, as replicas nearly always are, one copy of it.
fn share_identities(found: &mut BTreeMap<SocketAddr, Candidate>) {
    let mut last: Option<SpiffeId> = None;
    for identity in found.values_mut().filter_map(|candidate| candidate.endpoint.identity.as_mut()) {
        match &last {
            Some(last) if last == identity => identity.clone_from(last),
            _ => last = Some(identity.clone()),
        }
    }
}

/// Removes what is of the other family, of pods that are there in the preferred one.
fn once_per_pod(found: &mut BTreeMap<SocketAddr, Candidate>, prefers_ipv6: bool) {
    let preferred = |endpoint: &Endpoint| endpoint.address.is_ipv6() == prefers_ipv6;
    // In most clusters there is one family, and nothing to do.
    if found.values().all(|candidate| preferred(&candidate.endpoint)) {
        return;
    }
    let pod = |endpoint: &Endpoint| Name::new(&endpoint.namespace, &endpoint.pod);
    let there = found.values().map(|candidate| &candidate.endpoint).filter(|endpoint| preferred(endpoint));
    let there: HashSet<Name> = there.filter(|endpoint| !endpoint.pod.is_empty()).map(pod).collect();
    found.retain(|_, candidate| preferred(&candidate.endpoint) || !there.contains(&pod(&candidate.endpoint)));
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

/// Whether an endpoint is on its way out by what its slice says; none if it does not serve.
fn is_leaving(service: &Service, listed: &SliceEndpoint) -> Option<bool> {
    let EndpointConditions { ready, serving, terminating } = listed.conditions;
    let leaving = terminating == Some(true);
    let serves = if leaving { serving.or(ready).unwrap_or(false) } else { ready.unwrap_or(true) };
    (serves || service.spec.publish_not_ready_addresses).then_some(leaving)
}

/// The addresses of an entry in their canonical form; host names are none.
pub fn addresses(listed: &SliceEndpoint) -> impl Iterator<Item = IpAddr> {
    listed.addresses.iter().filter_map(|address| Some(address.parse::<IpAddr>().ok()?.to_canonical()))
}

/// The endpoint at an address that a slice lists; none if nothing is to be sent there.
fn candidate(
    world: &World,
    trust_domain: &TrustDomain,
    (name, service): (&Name, &Service),
    listed: &SliceEndpoint,
    address: SocketAddr,
) -> Option<Candidate> {
    let mut leaving = is_leaving(service, listed)?;
    let zone = listed.zone.as_deref();
    let mut node = listed.node_name.as_deref();
    let endpoint = match behind(world, &name.namespace, listed, address.ip()).ok()? {
        Behind::Pod(_, pod) if pod.has_finished() => return None,
        Behind::Pod(pod_name, pod) => {
            // The wish to delete a pod is known before its slices say so.
            leaving |= pod.metadata.is_being_deleted();
            node = node.or(pod.spec.node_name.as_deref());
            pods::endpoint(trust_domain, (pod_name, pod), address, zone, Ok(name)).ok()?
        }
        Behind::NoPod => outside(&name.namespace, address, zone),
    };
    Some(Candidate { endpoint, node: node.unwrap_or_default().to_owned(), hints: listed.hints.clone(), leaving })
}

/// An endpoint that is no pod.
fn outside(namespace: &str, address: SocketAddr, zone: Option<&str>) -> Endpoint {
    Endpoint {
        address,
        namespace: namespace.to_owned(),
        pod: String::new(),
        workload: String::new(),
        service_account: String::new(),
        zone: zone.unwrap_or_default().to_owned(),
        identity: None,
        direct: None,
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
    let Some(target) = listed.target_ref.as_ref().filter(|target| target.is_pod) else {
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
/// with the pods themselves, see [`pods::why_left_out`]. That a pod on its way out loses its address is as it should be.
pub fn why_addresses_left_out(world: &World, namespace: &str, slice: &EndpointSlice) -> Vec<String> {
    let stays = |listed: &&SliceEndpoint| {
        let pod = listed.target_ref.as_ref().and_then(|target| world.pod_of(target, namespace));
        listed.conditions.ready.unwrap_or(true)
            && listed.conditions.terminating != Some(true)
            && pod.is_none_or(|(_, pod)| !pods::is_leaving(pod))
    };
    let all = slice.endpoints.iter().filter(stays).flat_map(|listed| addresses(listed).map(move |ip| (listed, ip)));
    all.filter_map(|(listed, ip)| behind(world, namespace, listed, ip).err()).collect()
}

#[cfg(test)]
mod tests;

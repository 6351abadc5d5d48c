//! Owns what the inbound side of a pod needs to know: whom it serves, and the ports that the pod declares with what
//! they speak. Pure: a [`World`] in, an answer out. Access and rate policy will be answered from here too.
//!
//! A mode that cannot be read counts as strict: serving fewer than meant is noticed, serving more is not.

use std::collections::BTreeMap;

use lacewing_crds::{
    Name, Pod, Service, Transport,
    labels::{self, BadValue, InboundMode},
};

use crate::{
    destination::Protocol,
    selection::{services_of, target},
    world::World,
};

/// Ports of the proxy itself: outbound, inbound, public admin, private admin. Never an app's.
pub const PROXY_PORTS: [u16; 4] = [4140, 4143, 4191, 4192];

/// The inbound side of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPorts {
    pub mode: InboundMode,
    /// By port number.
    pub ports: BTreeMap<u16, Protocol>,
    /// The pod is being deleted: clients are asked to go elsewhere while it still serves.
    pub terminating: bool,
}

/// What the pod's inbound side serves; none if there is no such pod.
pub fn inbound(world: &World, name: &Name) -> Option<InboundPorts> {
    let pod = world.pod(name)?;
    let mode = mode(world, name, pod).unwrap_or(InboundMode::Strict);
    let declared = pod.long_running_containers().flat_map(|container| &container.ports);
    let tcp = declared.filter(|port| port.protocol == Transport::Tcp).map(|port| port.container_port);
    let ports = tcp.filter(|port| *port != 0 && !PROXY_PORTS.contains(port));
    let services: Vec<_> = services_of(world, name, pod).map(|(_, service)| service).collect();
    Some(InboundPorts {
        mode,
        ports: ports.map(|port| (port, protocol(&services, pod, port))).collect(),
        terminating: pod.metadata.is_being_deleted(),
    })
}

/// The mode that is annotated on the pod, else on its Namespace, else the mesh's default.
///
/// # Errors
/// The annotation that counts is not a mode.
pub fn mode(world: &World, name: &Name, pod: &Pod) -> Result<InboundMode, BadValue> {
    let namespace = || world.namespace(&name.namespace)?.metadata.annotation(labels::INBOUND);
    match pod.metadata.annotation(labels::INBOUND).or_else(namespace) {
        Some(value) => value.parse(),
        None => Ok(world.default_inbound()),
    }
}

/// What the Services in front of this pod say that it speaks on a port. Where they disagree, the proxy finds out.
fn protocol(services: &[&Service], pod: &Pod, port: u16) -> Protocol {
    let mut declared = services
        .iter()
        .flat_map(|service| service.tcp_ports())
        .filter(|candidate| target(pod, candidate) == Some(port))
        .map(|candidate| Protocol::of(candidate.app_protocol.as_deref()));
    match declared.next() {
        Some(first) if declared.all(|other| other == first) => first,
        _ => Protocol::Detect,
    }
}

#[cfg(test)]
mod tests;

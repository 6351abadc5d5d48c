//! Owns what the inbound side of a pod needs to know: whom it serves, and the ports that the pod declares with what
//! they speak. Pure: a [`World`] in, an answer out. Access and rate policy will be answered from here too.
//!
//! A mode that cannot be read counts as strict: serving fewer than meant is noticed, serving more is not.

use std::collections::BTreeMap;

use lacewing_crds::{
    Name, Pod, PortTarget, Service, Transport,
    labels::{self, BadValue, InboundMode},
};

use crate::{destination::Protocol, world::World};

/// Ports of the proxy itself: outbound, inbound, public admin, private admin. Never an app's.
pub const PROXY_PORTS: [u16; 4] = [4140, 4143, 4191, 4192];

/// The inbound side of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPorts {
    pub mode: InboundMode,
    /// By port number.
    pub ports: BTreeMap<u16, Protocol>,
}

/// What the pod's inbound side serves; none if there is no such pod.
pub fn inbound(world: &World, name: &Name) -> Option<InboundPorts> {
    let pod = world.pod(name)?;
    let mode = mode(world, name, pod).unwrap_or(InboundMode::Strict);
    let declared = pod.long_running_containers().flat_map(|container| &container.ports);
    let tcp = declared.filter(|port| port.protocol == Transport::Tcp).map(|port| port.container_port);
    let ports = tcp.filter(|port| *port != 0 && !PROXY_PORTS.contains(port));
    let services = world.services_in(&name.namespace).map(|(_, service)| service);
    let services: Vec<_> = services.filter(|service| selects(service, pod)).collect();
    Some(InboundPorts { mode, ports: ports.map(|port| (port, protocol(&services, pod, port))).collect() })
}

/// The mode that is annotated on the pod, else on its Namespace, else the default.
///
/// # Errors
/// The annotation that counts is not a mode.
pub fn mode(world: &World, name: &Name, pod: &Pod) -> Result<InboundMode, BadValue> {
    let namespace = || world.namespace(&name.namespace)?.metadata.annotation(labels::INBOUND);
    match pod.metadata.annotation(labels::INBOUND).or_else(namespace) {
        Some(value) => value.parse(),
        None => Ok(InboundMode::default()),
    }
}

/// What the Services in front of this pod say that it speaks on a port. Where they disagree, the proxy finds out.
fn protocol(services: &[&Service], pod: &Pod, port: u16) -> Protocol {
    let mut declared = services
        .iter()
        .flat_map(|service| service.tcp_ports())
        .filter(|candidate| target(pod, candidate.target_port.as_ref(), candidate.port) == Some(port))
        .map(|candidate| Protocol::of(candidate.app_protocol.as_deref()));
    match declared.next() {
        Some(first) if declared.all(|other| other == first) => first,
        _ => Protocol::Detect,
    }
}

/// A Service without a selector selects nothing: its slices are somebody else's work.
fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = &service.spec.selector;
    !selector.is_empty() && selector.iter().all(|(key, value)| pod.metadata.label(key) == Some(value))
}

/// The number of the container port that a Service's port leads to in this pod.
fn target(pod: &Pod, target: Option<&PortTarget>, service_port: u16) -> Option<u16> {
    match target {
        None => Some(service_port),
        Some(PortTarget::Number(number)) => Some(*number),
        Some(PortTarget::Name(name)) => {
            let mut ports = pod.long_running_containers().flat_map(|container| &container.ports);
            ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
        }
    }
}

#[cfg(test)]
mod tests;

//! Owns which Services select a pod, and which port of the pod a Service's port leads to. Pure.
//!
//! A Service without a selector selects nothing: its slices are somebody else's work. Neither does one that only stands
//! for an external name. Where several Services lead to one port of a pod, none is preferred: what they have in common
//! is `policy`'s business, and a connection to the pod itself belongs to none of them.

use lacewing_crds::{Name, Pod, PortTarget, Service, Transport};

use crate::{
    destination::{Backend, Protocol},
    world::World,
};

/// Most names that a reason lists.
const LISTED_MAX: usize = 5;

/// The Services that select the pod, in the order of their names.
pub fn services_of<'w>(
    world: &'w World,
    name: &'w Name,
    pod: &'w Pod,
) -> impl Iterator<Item = (&'w Name, &'w Service)> {
    world.services_in(&name.namespace).filter(move |(_, service)| selects(service, pod))
}

/// The only port of a Service that leads to `port` of the pod, and what it declares to speak.
///
/// # Errors
/// There is none, or more than one: why, in words for an operator.
pub fn only_backend(world: &World, name: &Name, pod: &Pod, port: u16) -> Result<(Backend, Protocol), String> {
    let mut leading = Vec::new();
    let mut others = Vec::new();
    for (service_name, service) in services_of(world, name, pod) {
        let before = leading.len();
        let ports = service.tcp_ports().filter(|candidate| target(pod, candidate) == Some(port));
        leading.extend(ports.map(|candidate| (service_name, candidate)));
        if leading.len() == before {
            others.push(service_name.name.as_str());
        }
    }
    match leading[..] {
        [(service, only)] => {
            let Name { namespace, name } = service.clone();
            let protocol = Protocol::of(only.app_protocol.as_deref());
            Ok((Backend { namespace, service: name, port: only.port }, protocol))
        }
        [] if others.is_empty() => Err(format!("no Service selects Pod {name}")),
        [] => Err(format!(
            "no Service leads to port {port} of Pod {name}; those that select it ({}) lead elsewhere",
            listed(&others, ", ")
        )),
        [(first, _), .., (last, _)] if first == last => {
            let ports: Vec<_> = leading.iter().map(|(_, candidate)| candidate.port.to_string()).collect();
            Err(format!(
                "ports {} of Service {} lead to port {port} of Pod {name}: none applies",
                listed(&ports, " and "),
                first.name
            ))
        }
        _ => {
            let mut services: Vec<_> = leading.iter().map(|(service, _)| service.name.as_str()).collect();
            services.dedup();
            let how = if services.len() == 2 { "both lead" } else { "all lead" };
            Err(format!("Services {} {how} to port {port} of Pod {name}: none applies", listed(&services, " and ")))
        }
    }
}

/// The number of the container port that a Service's TCP port leads to in this pod.
pub fn target(pod: &Pod, port: &lacewing_crds::ServicePort) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(PortTarget::Number(number)) => Some(*number),
        Some(PortTarget::Name(name)) => {
            let ports = pod.long_running_containers().flat_map(|container| &container.ports);
            let mut tcp = ports.filter(|port| port.protocol == Transport::Tcp);
            tcp.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
        }
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = &service.spec.selector;
    !selector.is_empty()
        && !service.is_external_name()
        && selector.iter().all(|(key, value)| pod.metadata.label(key) == Some(value))
}

/// `a, b and c`; the first [`LISTED_MAX`] of many.
fn listed<T: AsRef<str>>(all: &[T], last: &str) -> String {
    let mut shown: Vec<&str> = all.iter().take(LISTED_MAX).map(AsRef::as_ref).collect();
    if all.len() > LISTED_MAX {
        return format!("{} and {} more", shown.join(", "), all.len() - LISTED_MAX);
    }
    match shown.pop() {
        Some(end) if !shown.is_empty() => format!("{}{last}{end}", shown.join(", ")),
        only => only.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests;

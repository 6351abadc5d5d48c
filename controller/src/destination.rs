//! Owns the meaning of an outbound target: which Service and port `host:port` or `ip:port` names, seen from one
//! namespace, or which pod an address belongs to, and what protocol is declared. Pure: a [`World`] in, an answer out.
//!
//! It refuses to guess: a name that is nothing is answered with the reason and the nearest name, never with something
//! similar; a pod that may have a proxy is never answered as one without. The endpoints behind a Service are
//! `endpoints`' business.

use std::net::{IpAddr, SocketAddr};

use lacewing_crds::{Name, Service, ServicePort, labels};
use lacewing_identity::TrustDomain;
use lacewing_ops::nearest::nearest;

use crate::{
    endpoints::{self, Endpoint},
    pods::{self, Holder},
    selection,
    world::World,
};

/// The domain under which Services have names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Longest target, in bytes: a DNS name (RFC 1035 §2.3.4), a dot, a colon and a port.
pub const TARGET_BYTES_MAX: usize = 255 + 1 + 6;
/// Longest host name and longest part between its dots, in bytes (RFC 1035 §2.3.4). Nothing longer can be a Service.
const HOST_BYTES_MAX: usize = 253;
const HOST_LABEL_BYTES_MAX: usize = 63;
/// Most ports that an answer lists.
const LISTED_MAX: usize = 20;

/// What an outbound target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Service {
        backend: Backend,
        protocol: Protocol,
    },
    /// One pod, named by its address. It is the app's own choice, so the pod may be not ready or on its way out.
    Pod {
        endpoint: Box<Endpoint>,
        /// The only port of a Service that leads there: its policy applies; or why none does, in words for an operator.
        service: Result<Backend, String>,
        protocol: Protocol,
    },
    /// Nothing that is known has this address: connections to it pass as they are.
    Unknown,
    /// Nothing of that name: the reason, in words for an operator.
    NotFound(String),
}

/// A port of a Service: what endpoints are found for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub namespace: String,
    pub service: String,
    pub port: u16,
}

impl Backend {
    pub fn service_name(&self) -> Name {
        Name::new(&self.namespace, &self.service)
    }
}

/// What a port declares to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing is declared: the proxy finds out.
    Detect,
    Http,
    Http2,
    Opaque,
}

impl Protocol {
    /// What an `appProtocol` declares; none if the mesh does not know it.
    pub fn declared(app_protocol: Option<&str>) -> Option<Self> {
        match app_protocol.unwrap_or_default() {
            "" => Some(Self::Detect),
            "http" => Some(Self::Http),
            "kubernetes.io/h2c" | "grpc" => Some(Self::Http2),
            labels::OPAQUE | "tcp" => Some(Self::Opaque),
            _ => None,
        }
    }

    /// What a port speaks. Detection is right for what the mesh does not know: it carries any bytes.
    pub fn of(app_protocol: Option<&str>) -> Self {
        Self::declared(app_protocol).unwrap_or(Self::Detect)
    }
}

/// Finds what `target` names for a client in `namespace`.
pub fn resolve(world: &World, trust_domain: &TrustDomain, namespace: &str, target: &str) -> Target {
    find(world, trust_domain, namespace, target).unwrap_or_else(Target::NotFound)
}

fn find(world: &World, trust_domain: &TrustDomain, namespace: &str, target: &str) -> Result<Target, String> {
    match parse(target)? {
        Parsed::Address(address) => match world.service_by_ip(address.ip()) {
            Some((name, service)) => service_port(name, service, address.port()),
            None => by_address(world, trust_domain, address),
        },
        Parsed::Name(host, port) => {
            let name = service_name(namespace, &host)?;
            let (name, service) = world.service_entry(&name).ok_or_else(|| no_service(world, &name))?;
            service_port(name, service, port)
        }
    }
}

/// What is at an address that no Service has.
fn by_address(world: &World, trust_domain: &TrustDomain, address: SocketAddr) -> Result<Target, String> {
    let (name, pod) = match pods::holder(world, address.ip()) {
        Holder::Nobody => return Ok(Target::Unknown),
        Holder::One(name, pod) => (name, pod),
        Holder::Several(pods) => return Err(pods::claimants(address.ip(), &pods)),
    };
    let only = selection::only_backend(world, name, pod, address.port());
    let protocol = only.as_ref().map_or(Protocol::Detect, |(_, protocol)| *protocol);
    let service = only.map(|(backend, _)| backend);
    let endpoint = endpoints::of_pod(world, trust_domain, (name, pod), address, service.as_ref())?;
    Ok(Target::Pod { endpoint: Box::new(endpoint), service, protocol })
}

fn service_port(name: &Name, service: &Service, port: u16) -> Result<Target, String> {
    if service.is_external_name() {
        let elsewhere = service.spec.external_name.as_deref().unwrap_or("nothing");
        return Err(format!("Service {name} only stands for the external name {elsewhere}: connect there"));
    }
    let found = service.tcp_ports().find(|candidate| candidate.port == port);
    let found = found.ok_or_else(|| format!("Service {name} has no TCP port {port}, only {}", ports(service)))?;
    Ok(Target::Service {
        backend: Backend { namespace: name.namespace.clone(), service: name.name.clone(), port },
        protocol: Protocol::of(found.app_protocol.as_deref()),
    })
}

enum Parsed {
    /// In its canonical form: an IPv4 address in IPv6 clothes is still that address.
    Address(SocketAddr),
    /// Lower case, without the dot at the end; and the port.
    Name(String, u16),
}

fn parse(target: &str) -> Result<Parsed, String> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(format!("the target is longer than {TARGET_BYTES_MAX} bytes"));
    }
    let malformed = || format!("{target:?} is not host:port with a port from 1 to 65535");
    if let Ok(address) = target.parse::<SocketAddr>() {
        let port = Some(address.port()).filter(|port| *port != 0).ok_or_else(malformed)?;
        return Ok(Parsed::Address(SocketAddr::new(address.ip().to_canonical(), port)));
    }
    let (host, port) = target.rsplit_once(':').ok_or_else(malformed)?;
    // `parse` takes a plus sign; a port has none.
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| digits && *port != 0).ok_or_else(malformed)?;
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.is_empty() || host.split('.').any(str::is_empty) || host.contains(':') {
        return Err(malformed());
    }
    if host.len() > HOST_BYTES_MAX || host.split('.').any(|label| label.len() > HOST_LABEL_BYTES_MAX) {
        return Err(format!(
            "{host} is no host name: it is longer than {HOST_BYTES_MAX} bytes, or a part of it than {HOST_LABEL_BYTES_MAX}"
        ));
    }
    Ok(Parsed::Name(host, port))
}

/// What a target is about, whatever there is.
pub enum Subject {
    Address(IpAddr),
    Service(Name),
}

/// What `target` is about for a client in `namespace`; none if it cannot mean anything.
pub fn subject(namespace: &str, target: &str) -> Option<Subject> {
    match parse(target).ok()? {
        Parsed::Address(address) => Some(Subject::Address(address.ip())),
        Parsed::Name(host, _) => service_name(namespace, &host).ok().map(Subject::Service),
    }
}

/// The Service that a DNS name stands for: `svc`, `svc.ns`, `svc.ns.svc`, `svc.ns.svc.cluster.local`.
fn service_name(client: &str, host: &str) -> Result<Name, String> {
    let short = host.strip_suffix(CLUSTER_DOMAIN).and_then(|rest| rest.strip_suffix('.')).unwrap_or(host);
    let labels: Vec<&str> = short.split('.').collect();
    let qualified = short.len() != host.len();
    let (service, namespace) = match labels[..] {
        [service] if !qualified => (service, client),
        [service, namespace] if !qualified => (service, namespace),
        [service, namespace, "svc"] => (service, namespace),
        [_, _, _, "svc"] => {
            return Err(format!("{host} names one pod of a Service; the mesh balances over all of them"));
        }
        _ => {
            return Err(format!(
                "{host} is no name of a Service: write service.namespace or service.namespace.svc.{CLUSTER_DOMAIN}"
            ));
        }
    };
    Ok(Name::new(namespace, service))
}

fn no_service(world: &World, name: &Name) -> String {
    let Name { namespace, name } = name;
    let mut here = world.services_in(namespace).map(|(other, _)| other.name.as_str()).peekable();
    let has_services = here.peek().is_some();
    if let Some(meant) = nearest(name, here) {
        return format!("no Service {name} in namespace {namespace}; did you mean {meant}?");
    }
    if let Some(elsewhere) = world.namespaces_with_service(name).next() {
        return format!(
            "no Service {name} in namespace {namespace}; there is one in {elsewhere}: write {name}.{elsewhere}"
        );
    }
    if !has_services && let Some(meant) = nearest(namespace, world.namespaces_with_services()) {
        return format!("no Service {name} in namespace {namespace}; did you mean the namespace {meant}?");
    }
    format!("no Service {name} in namespace {namespace}")
}

fn ports(service: &Service) -> String {
    let one = |port: &ServicePort| match port.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{} ({name})", port.port),
        _ => port.port.to_string(),
    };
    let listed: Vec<String> = service.tcp_ports().take(LISTED_MAX).map(one).collect();
    match service.tcp_ports().count() {
        0 => "ports of other protocols or none".to_owned(),
        all if all > LISTED_MAX => format!("{} and {} more", listed.join(", "), all - LISTED_MAX),
        _ => listed.join(", "),
    }
}

#[cfg(test)]
mod tests;

//! Owns the checks that an API server would have made on an object: names, ports, addresses, and the values of the
//! mesh's own annotations. A directory has nobody else to make them. What cannot be honoured is refused here, so that
//! nothing after the source has to guess.

use std::net::{IpAddr, SocketAddr};

use lacewing_crds::{
    AddressType, EndpointSlice, Kind, Object, ObjectMeta, Pod, Service,
    labels::{self, Inject},
};
use lacewing_ops::ports::{Ports, skip_list};

use super::locate::Step;
use crate::inject::settings;

/// Longest name of a Namespace, Service or other DNS label (RFC 1123).
const LABEL_MAX: usize = 63;
/// Longest name of any other object (a DNS subdomain, RFC 1123).
const SUBDOMAIN_MAX: usize = 253;

/// Where in the object the error is, and what it is.
type Invalid = (Vec<Step>, String);

macro_rules! at {
    ($($step:expr),*) => { vec![$(Step::from($step)),*] };
}

/// Checks one object.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(object: &Object) -> Result<(), Invalid> {
    metadata(object.kind(), object.metadata())?;
    labels_and_annotations(object.kind(), object.metadata())?;
    match object {
        Object::Namespace(_) => Ok(()),
        Object::Pod(pod) => self::pod(pod),
        Object::Service(service) => self::service(service),
        Object::EndpointSlice(slice) => self::slice(slice),
    }
}

fn metadata(kind: Kind, metadata: &ObjectMeta) -> Result<(), Invalid> {
    if metadata.name.is_empty() {
        return Err((at!["metadata"], "metadata.name is missing".to_owned()));
    }
    if let Some(given) = metadata.deletion_timestamp.as_deref().filter(|given| !is_time(given)) {
        let why =
            format!("{given:?} is no time such as 2026-01-31T12:00:00Z; leave it out of what is not being deleted");
        return Err((at!["metadata", "deletionTimestamp"], why));
    }
    let label = matches!(kind, Kind::Namespace | Kind::Service);
    name(&metadata.name, label).map_err(|why| (at!["metadata", "name"], why))?;
    match metadata.namespace.as_deref() {
        Some(namespace) if kind == Kind::Namespace => {
            let why = format!("a Namespace is in no namespace, but metadata.namespace is {namespace:?}");
            Err((at!["metadata", "namespace"], why))
        }
        None | Some("") => Ok(()),
        Some(namespace) => name(namespace, true).map_err(|why| (at!["metadata", "namespace"], why)),
    }
}

/// Whether the text has the shape of an RFC 3339 time. What it says is never used, only that it is there.
fn is_time(text: &str) -> bool {
    let shape = "0000-00-00T00:00:00";
    let fits = |(byte, shape): (u8, u8)| if shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    text.len() > shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

/// Checks a DNS label, or a DNS subdomain: labels between dots.
fn name(name: &str, label: bool) -> Result<(), String> {
    let max = if label { LABEL_MAX } else { SUBDOMAIN_MAX };
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = |part: &str| {
        part.bytes().next().is_some_and(edge)
            && part.bytes().last().is_some_and(edge)
            && part.bytes().all(|byte| edge(byte) || byte == b'-')
    };
    let shaped = if label { good(name) } else { name.split('.').all(good) };
    if shaped && name.len() <= max {
        return Ok(());
    }
    let dots = if label { "" } else { ", dots" };
    Err(format!(
        "{name:?} is no name: at most {max} lower-case letters, digits, dashes{dots}; a letter or digit at both ends"
    ))
}

fn labels_and_annotations(kind: Kind, metadata: &ObjectMeta) -> Result<(), Invalid> {
    if let Some(own) = own_label(metadata) {
        let why = format!("{own} is no label of the mesh, which reads annotations: write it there");
        return Err((at!["metadata", "labels", own], why));
    }
    for (key, value) in metadata.annotations.iter() {
        let checked = match key {
            foreign if !labels::is_own(foreign) => Ok(()),
            known if !read_on(known).contains(&kind) && labels::annotations().any(|annotation| annotation == known) => {
                let kinds: Vec<_> = read_on(known).iter().map(|kind| kind.as_str()).collect();
                Err(format!("{known} means nothing on a {kind}: write it on a {}", kinds.join(" or ")))
            }
            labels::INJECT => value.parse::<Inject>().map(drop).map_err(|e| e.to_string()),
            labels::PROXY_ADDRESS => proxy_address(value),
            labels::SKIP_INBOUND_PORTS => skip_list::<Ports>(value).map(drop).map_err(|why| format!("{key}: {why}")),
            labels::PROXY_VERSION if value.is_empty() => Err(format!("{key} is empty: write the proxy's version")),
            labels::PROXY_VERSION => Ok(()),
            _ => settings::check(key, value).map(drop),
        };
        checked.map_err(|why| (at!["metadata", "annotations", key], why))?;
    }
    Ok(())
}

/// A label that looks like one of the mesh's and is none.
fn own_label(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.iter().map(|(key, _)| key).find(|key| labels::is_own(key) && *key != labels::MESHED)
}

/// The kinds on which one of [`labels::annotations`] has an effect.
fn read_on(annotation: &str) -> &'static [Kind] {
    match annotation {
        labels::PROXY_VERSION | labels::PROXY_ADDRESS => &[Kind::Pod],
        _ => &[Kind::Namespace, Kind::Pod],
    }
}

fn proxy_address(value: &str) -> Result<(), String> {
    let address = value.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    address.map(drop).ok_or_else(|| format!("{}: {value:?} is not ip:port", labels::PROXY_ADDRESS))
}

fn pod(pod: &Pod) -> Result<(), Invalid> {
    let old_name = pod.spec.service_account_name.as_deref().is_none_or(str::is_empty);
    let field = if old_name { "serviceAccount" } else { "serviceAccountName" };
    name(pod.service_account(), false).map_err(|why| (at!["spec", field], why))?;
    for (list, containers) in [("containers", &pod.spec.containers), ("initContainers", &pod.spec.init_containers)] {
        for (c, container) in containers.iter().enumerate() {
            if let Some(p) = container.ports.iter().position(|port| port.container_port == 0) {
                let path = at!["spec", list, c, "ports", p, "containerPort"];
                return Err((path, "a container port is from 1 to 65535".to_owned()));
            }
        }
    }
    Ok(())
}

fn service(service: &Service) -> Result<(), Invalid> {
    let ports = &service.spec.ports;
    for (p, port) in ports.iter().enumerate() {
        if port.port == 0 {
            return Err((at!["spec", "ports", p, "port"], "a port is from 1 to 65535".to_owned()));
        }
        if ports[..p].iter().any(|other| other.port == port.port && other.protocol == port.protocol) {
            return Err((at!["spec", "ports", p, "port"], format!("port {} is there twice", port.port)));
        }
        if ports.len() > 1 && port.name.as_deref().is_none_or(str::is_empty) {
            return Err((at!["spec", "ports", p], "with several ports, each needs a name".to_owned()));
        }
        if ports[..p].iter().any(|other| other.name == port.name) {
            let name = port.name.as_deref().unwrap_or_default();
            return Err((at!["spec", "ports", p, "name"], format!("two ports are named {name:?}")));
        }
    }
    Ok(())
}

fn slice(slice: &EndpointSlice) -> Result<(), Invalid> {
    let label = labels::SERVICE_NAME;
    if let Some(service) = slice.service() {
        name(service, true).map_err(|why| (at!["metadata", "labels", label], format!("{label}: {why}")))?;
    }
    if let Some(p) = slice.ports.iter().position(|port| port.port == Some(0)) {
        return Err((at!["ports", p, "port"], "a port is from 1 to 65535".to_owned()));
    }
    for (e, endpoint) in slice.endpoints.iter().enumerate() {
        for (a, address) in endpoint.addresses.iter().enumerate() {
            self::address(slice.address_type, address).map_err(|why| (at!["endpoints", e, "addresses", a], why))?;
        }
    }
    Ok(())
}

fn address(kind: AddressType, address: &str) -> Result<(), String> {
    let parsed = address.parse::<IpAddr>().ok();
    match kind {
        AddressType::IPv4 if parsed.is_some_and(|ip| ip.is_ipv4()) => Ok(()),
        AddressType::IPv6 if parsed.is_some_and(|ip| ip.is_ipv6()) => Ok(()),
        // Not used, of which `conditions` warns.
        AddressType::Fqdn => Ok(()),
        AddressType::IPv4 | AddressType::IPv6 => {
            Err(format!("{address:?} is no {kind:?} address, as addressType says"))
        }
    }
}

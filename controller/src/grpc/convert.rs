//! Owns the conversion between wire types and our own: what a proxy asks for is parsed once, what it is answered is
//! written out. Nothing else happens here, and wire types go nowhere else.

use lacewing_crds::{Name, labels::InboundMode};
use lacewing_identity::SpiffeId;
use lacewing_proto::control as wire;
use wire::{key::Key as WireKey, watch_response::Answer as WireAnswer};

use crate::{
    destination::{Backend, Protocol, TARGET_BYTES_MAX, Target},
    endpoints::Endpoint,
    policy::InboundPorts,
    publish::Query,
};

/// Longest name in a key, in bytes (a DNS subdomain, RFC 1123).
const NAME_BYTES_MAX: usize = 253;

/// What the key means when `peer` asks: a name without a namespace is one of its own.
///
/// # Errors
/// The key is none, in words for an operator.
pub fn query(key: wire::Key, peer: &SpiffeId) -> Result<Query, String> {
    match key.key.ok_or("the key is empty: is the proxy newer than the controller?")? {
        WireKey::Target(target) if target.len() > TARGET_BYTES_MAX => {
            Err(format!("the target is longer than {TARGET_BYTES_MAX} bytes"))
        }
        WireKey::Target(target) => Ok(Query::Target { namespace: peer.namespace().to_owned(), target }),
        WireKey::Endpoints(wire::Backend { namespace, service, port }) => {
            let port = u16::try_from(port).ok().filter(|port| *port != 0);
            let port = port.ok_or("the backend's port is not from 1 to 65535")?;
            Ok(Query::Endpoints(Backend { namespace: short(namespace)?, service: short(service)?, port }))
        }
        WireKey::Inbound(pod) => Ok(Query::Inbound {
            pod: Name::new(peer.namespace(), short(pod)?),
            service_account: peer.service_account().to_owned(),
        }),
        WireKey::Trust(wire::Trust {}) => Ok(Query::Trust),
    }
}

/// The key by which a proxy asks this.
pub fn key(query: &Query) -> wire::Key {
    let key = match query {
        Query::Target { target, .. } => WireKey::Target(target.clone()),
        Query::Endpoints(backend) => WireKey::Endpoints(self::backend(backend)),
        Query::Inbound { pod, .. } => WireKey::Inbound(pod.name.clone()),
        Query::Trust => WireKey::Trust(wire::Trust {}),
    };
    wire::Key { key: Some(key) }
}

fn short(name: String) -> Result<String, String> {
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("a name in the key is longer than {NAME_BYTES_MAX} bytes"));
    }
    Ok(name)
}

pub fn target(target: &Target) -> WireAnswer {
    let found = match target {
        Target::Service { backend, protocol } => wire::target::Found::Service(wire::Service {
            backend: Some(self::backend(backend)),
            protocol: self::protocol(*protocol).into(),
        }),
        Target::Pod { endpoint, service, protocol } => wire::target::Found::Pod(wire::Pod {
            endpoint: Some(self::endpoint(endpoint)),
            service: service.as_ref().ok().map(self::backend),
            protocol: self::protocol(*protocol).into(),
            why_no_service: service.as_ref().err().cloned().unwrap_or_default(),
        }),
        Target::Unknown => wire::target::Found::Unknown(wire::Unknown {}),
        Target::NotFound(reason) => wire::target::Found::NotFound(reason.clone()),
    };
    WireAnswer::Target(wire::Target { found: Some(found) })
}

fn backend(Backend { namespace, service, port }: &Backend) -> wire::Backend {
    wire::Backend { namespace: namespace.clone(), service: service.clone(), port: (*port).into() }
}

pub fn endpoint(endpoint: &Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        address: endpoint.address.to_string(),
        namespace: endpoint.namespace.clone(),
        pod: endpoint.pod.clone(),
        workload: endpoint.workload.clone(),
        service_account: endpoint.service_account.clone(),
        zone: endpoint.zone.clone(),
        identity: endpoint.identity.as_ref().map(SpiffeId::to_string).unwrap_or_default(),
        direct: endpoint
            .direct
            .as_ref()
            .map(|direct| wire::Direct { proxy_address: direct.proxy_address.to_string(), sni: direct.sni.clone() }),
    }
}

pub fn inbound(inbound: &InboundPorts) -> WireAnswer {
    let port = |(port, protocol): (&u16, &Protocol)| wire::InboundPort {
        port: (*port).into(),
        protocol: self::protocol(*protocol).into(),
    };
    WireAnswer::Inbound(wire::InboundPorts {
        strict: inbound.mode == InboundMode::Strict,
        ports: inbound.ports.iter().map(port).collect(),
        terminating: inbound.terminating,
    })
}

fn protocol(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Detect => wire::Protocol::Detect,
        Protocol::Http => wire::Protocol::Http,
        Protocol::Http2 => wire::Protocol::Http2,
        Protocol::Opaque => wire::Protocol::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_wire_and_bad_ones_are_refused() {
        let peer = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/web").unwrap();
        let backend = Backend { namespace: "b".into(), service: "web".into(), port: 80 };
        for query in [
            Query::Target { namespace: "a".into(), target: "web:80".into() },
            Query::Endpoints(backend),
            Query::Inbound { pod: Name::new("a", "web-1"), service_account: "web".into() },
            Query::Trust,
        ] {
            assert_eq!(self::query(key(&query), &peer), Ok(query));
        }
        let wire_backend = |name: &str, port: u32| {
            WireKey::Endpoints(wire::Backend { namespace: name.into(), service: "web".into(), port })
        };
        for bad in [
            None,
            Some(WireKey::Target("x".repeat(TARGET_BYTES_MAX + 1))),
            Some(WireKey::Inbound("x".repeat(NAME_BYTES_MAX + 1))),
            Some(wire_backend("a", 0)),
            Some(wire_backend("a", 65_536)),
            Some(wire_backend(&"x".repeat(NAME_BYTES_MAX + 1), 80)),
        ] {
            assert!(query(wire::Key { key: bad }, &peer).is_err());
        }
    }

    #[test]
    fn every_answer_about_a_target_is_written_out() {
        use wire::target::Found;
        let backend = Backend { namespace: "a".into(), service: "web".into(), port: 80 };
        let endpoint = Endpoint {
            address: "[fd00::1]:8080".parse().unwrap(),
            namespace: "a".into(),
            pod: "web-1".into(),
            workload: "deployment/web".into(),
            service_account: "web".into(),
            zone: "east".into(),
            identity: Some(SpiffeId::parse("spiffe://cluster.local/ns/a/sa/web").unwrap()),
            direct: None,
        };
        let pod = |service: Result<Backend, String>, protocol| Target::Pod {
            endpoint: Box::new(endpoint.clone()),
            service,
            protocol,
        };
        let wire_pod = |service: Option<&Backend>, protocol: wire::Protocol, why: &str| {
            Found::Pod(wire::Pod {
                endpoint: Some(self::endpoint(&endpoint)),
                service: service.map(self::backend),
                protocol: protocol.into(),
                why_no_service: why.into(),
            })
        };
        for (target, found) in [
            (pod(Ok(backend.clone()), Protocol::Http2), wire_pod(Some(&backend), wire::Protocol::Http2, "")),
            (pod(Err("two of them".into()), Protocol::Detect), wire_pod(None, wire::Protocol::Detect, "two of them")),
            (Target::Unknown, Found::Unknown(wire::Unknown {})),
            (Target::NotFound("gone".into()), Found::NotFound("gone".into())),
            (
                Target::Service { backend: backend.clone(), protocol: Protocol::Opaque },
                Found::Service(wire::Service {
                    backend: Some(wire::Backend { namespace: "a".into(), service: "web".into(), port: 80 }),
                    protocol: wire::Protocol::Opaque.into(),
                }),
            ),
        ] {
            assert_eq!(self::target(&target), WireAnswer::Target(wire::Target { found: Some(found) }));
        }
        let written = self::endpoint(&endpoint);
        assert_eq!((&*written.address, &*written.identity), ("[fd00::1]:8080", "spiffe://cluster.local/ns/a/sa/web"));
    }

    #[test]
    fn an_inbound_side_is_written_out() {
        for (mode, terminating) in [(InboundMode::Strict, false), (InboundMode::Permissive, true)] {
            let ports = [(8080, Protocol::Http)].into();
            let expected = wire::InboundPorts {
                strict: mode == InboundMode::Strict,
                ports: vec![wire::InboundPort { port: 8080, protocol: wire::Protocol::Http.into() }],
                terminating,
            };
            assert_eq!(inbound(&InboundPorts { mode, ports, terminating }), WireAnswer::Inbound(expected));
        }
    }
}

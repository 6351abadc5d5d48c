//! From wire types to our own, once, at the edge. What does not parse is refused with words; nothing half-understood
//! goes further: an endpoint with a broken identity is dropped, never treated as a plain one.

use lacewing_identity::{SpiffeId, TrustBundle};
use lacewing_proto::control as wire;
use rustls_pki_types::ServerName;

use super::{BackendKey, Inbound, Pod};
use crate::{
    authorize::Mode,
    endpoint::{Direct, Info},
    first::Declared,
};

/// An answer about a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetAnswer {
    Service(BackendKey, Declared),
    Pod(Box<Pod>),
    /// The cluster has nothing there.
    Unknown,
    NotFound(String),
}

pub fn target(target: wire::Target) -> Result<TargetAnswer, String> {
    match target.found.ok_or("a target without an answer")? {
        wire::target::Found::NotFound(reason) => Ok(TargetAnswer::NotFound(reason)),
        wire::target::Found::Service(service) => {
            let declared = declared(service.protocol());
            Ok(TargetAnswer::Service(backend(service.backend.ok_or("a service without a backend")?)?, declared))
        }
        wire::target::Found::Pod(pod) => {
            let declared = declared(pod.protocol());
            Ok(TargetAnswer::Pod(Box::new(Pod {
                info: endpoint(pod.endpoint.ok_or("a pod without an endpoint")?)?,
                service: pod.service.map(backend).transpose()?,
                declared,
                why_no_service: pod.why_no_service,
            })))
        }
        wire::target::Found::Unknown(_) => Ok(TargetAnswer::Unknown),
    }
}

/// `http` and `http2` both mean that the client speaks first; which of the two, its first bytes tell.
fn declared(protocol: wire::Protocol) -> Declared {
    match protocol {
        wire::Protocol::Detect => Declared::Nothing,
        wire::Protocol::Http | wire::Protocol::Http2 => Declared::Http,
        wire::Protocol::Opaque => Declared::Opaque,
    }
}

pub fn backend(backend: wire::Backend) -> Result<BackendKey, String> {
    Ok(BackendKey { namespace: backend.namespace, service: backend.service, port: port(backend.port)? })
}

fn port(port: u32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| format!("{port} is not a port"))
}

pub fn endpoint(endpoint: wire::Endpoint) -> Result<Info, String> {
    let addr = endpoint.address.parse().map_err(|error| format!("endpoint address {:?}: {error}", endpoint.address))?;
    let identity = match endpoint.identity.as_str() {
        "" => None,
        id => Some(SpiffeId::parse(id).map_err(|error| format!("endpoint {addr}: {error}"))?),
    };
    let direct = endpoint.direct.map(|direct| {
        let proxy = direct.proxy_address.parse().map_err(|error| format!("endpoint {addr}: proxy address: {error}"))?;
        let sni = ServerName::try_from(direct.sni).map_err(|error| format!("endpoint {addr}: SNI: {error}"))?;
        Ok::<_, String>(Direct { proxy, sni })
    });
    Ok(Info {
        addr,
        namespace: endpoint.namespace,
        pod: endpoint.pod,
        workload: endpoint.workload,
        service_account: endpoint.service_account,
        zone: endpoint.zone,
        identity,
        direct: direct.transpose()?,
    })
}

pub fn inbound(ports: &wire::InboundPorts) -> Result<Inbound, String> {
    let mode = if ports.strict { Mode::Strict } else { Mode::Permissive };
    let parsed = ports.ports.iter().map(|listed| Ok((port(listed.port)?, declared(listed.protocol()))));
    Ok(Inbound { mode, ports: parsed.collect::<Result<_, String>>()?, terminating: ports.terminating })
}

pub fn trust(bundle: wire::TrustBundle) -> Result<TrustBundle, String> {
    TrustBundle::from_der(bundle.roots).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_endpoint() -> wire::Endpoint {
        wire::Endpoint {
            address: "10.0.0.1:8080".to_owned(),
            identity: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
            direct: Some(wire::Direct {
                proxy_address: "10.0.0.1:4143".to_owned(),
                sni: "p8080.web.shop.lacewing".to_owned(),
            }),
            ..wire::Endpoint::default()
        }
    }

    #[test]
    fn a_good_endpoint_parses() {
        let info = endpoint(wire_endpoint()).unwrap();
        assert_eq!(info.identity.unwrap().namespace(), "shop");
        assert_eq!(info.direct.unwrap().proxy.port(), 4143);
    }

    #[test]
    fn a_broken_one_is_refused_not_downgraded() {
        let broken: [fn(&mut wire::Endpoint); 5] = [
            |e| e.identity = "spiffe://cluster.local/web".to_owned(),
            |e| e.identity = "web".to_owned(),
            |e| e.address = "10.0.0.1".to_owned(),
            |e| e.direct.as_mut().unwrap().sni = "..".to_owned(),
            |e| e.direct.as_mut().unwrap().proxy_address = String::new(),
        ];
        for (n, breaks) in broken.iter().enumerate() {
            let mut wire = wire_endpoint();
            breaks(&mut wire);
            assert!(endpoint(wire).is_err(), "{n}");
        }
    }

    #[test]
    fn ports_are_ports() {
        assert!(port(0).is_err() && port(65_536).is_err() && port(65_535).is_ok());
        assert!(target(wire::Target { found: None }).is_err());
    }
}

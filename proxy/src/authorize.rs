//! Decides whether a connection or request may reach the app: pure, from the port's policy, who the peer proved to be, and
//! whether it is one of the pod's own probes, which the kubelet sends without mesh TLS. Rules per route and peer come as
//! further arguments of the same question, not as another place that asks it.

use std::str::FromStr;

use http::{
    Method,
    header::{UPGRADE, USER_AGENT},
    request::Parts,
};
use lacewing_identity::SpiffeId;

use crate::{config::PROBES_MAX, detect::Protocol};

/// Where gRPC health checks go (grpc.health.v1).
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";
/// How the kubelet names itself in probes and in hooks of a container's life, before its version.
const KUBELET: [&[u8]; 2] = [b"kube-probe/", b"kube-lifecycle/"];

/// How a workload treats peers without mesh TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plain clients are served, counted and shown.
    Permissive,
    /// Mesh TLS or nothing; and probes.
    Strict,
}

/// The answer, with what an operator reads in metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(&'static str),
}

/// Whether `peer` (`None`: it proved nothing) may connect, or send this request.
pub fn authorize(mode: Mode, peer: Option<&SpiffeId>, is_probe: bool) -> Decision {
    match (mode, peer) {
        (Mode::Strict, None) if !is_probe => Decision::Deny(
            "this workload takes mesh TLS only (strict): the client is not in the mesh, or bypassed its own proxy",
        ),
        _ => Decision::Allow,
    }
}

/// What the kubelet asks the pod, as the probes in its spec say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes(Vec<Probe>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Probe {
    /// HTTP: path and query exactly as they are on the wire.
    Http(u16, String),
    /// The app's own TLS: what is asked in it cannot be seen, so that it is the port that is let through.
    Tls(u16),
}

impl Probes {
    /// Whether a connection that begins like this may carry a probe. Over HTTP each request is asked about again.
    pub fn may_come(&self, port: u16, protocol: Protocol) -> bool {
        self.0.iter().any(|probe| match probe {
            Probe::Http(at, _) => *at == port && matches!(protocol, Protocol::Http1 | Protocol::Http2),
            Probe::Tls(at) => *at == port && protocol == Protocol::Tls,
        })
    }

    /// Whether this request is one of them. What would make a tunnel of the connection is none.
    pub fn contain(&self, port: u16, request: &Parts) -> bool {
        let Some(asked) = request.uri.path_and_query() else { return false };
        let method = if asked.path() == GRPC_HEALTH { Method::POST } else { Method::GET };
        request.method == method
            && !request.headers.contains_key(UPGRADE)
            && self
                .0
                .iter()
                .any(|probe| matches!(probe, Probe::Http(at, path) if *at == port && path == asked.as_str()))
    }
}

/// Whether a probe says that the kubelet sends it. Nothing is allowed for that; a client without a certificate that takes
/// this name hides its requests for the probe's path from the metrics, no more.
pub fn is_kubelets(probe: &Parts) -> bool {
    let agent = probe.headers.get(USER_AGENT);
    agent.is_some_and(|agent| KUBELET.iter().any(|name| agent.as_bytes().starts_with(name)))
}

impl FromStr for Probes {
    type Err = String;

    /// Reads `8080/healthz 9000/grpc.health.v1.Health/Check 8443:tls`: ports with what may be asked there.
    ///
    /// # Errors
    /// What is wrong with it, in words for an operator.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = |entry: &str| format!("{entry:?} is no probe: write 8080/healthz, or 8443:tls");
        let probes = text.split_ascii_whitespace().map(|entry| {
            let end = entry.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| malformed(entry))?;
            let (port, what) = entry.split_at(end);
            let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| malformed(entry))?;
            match what {
                ":tls" => Ok(Probe::Tls(port)),
                path if path.starts_with('/') => Ok(Probe::Http(port, path.to_owned())),
                _ => Err(malformed(entry)),
            }
        });
        let probes: Vec<_> = probes.collect::<Result<_, _>>()?;
        if probes.len() > PROBES_MAX {
            return Err(format!("{} probes, of at most {PROBES_MAX}", probes.len()));
        }
        Ok(Self(probes))
    }
}

#[cfg(test)]
mod tests {
    use lacewing_identity::TrustDomain;

    use super::*;

    #[test]
    fn table() {
        let web = SpiffeId::new(&TrustDomain::parse("cluster.local").unwrap(), "shop", "web").unwrap();
        let (peer, nobody) = (Some(&web), None);
        for (mode, who, is_probe, allowed) in [
            (Mode::Strict, peer, false, true),
            (Mode::Strict, nobody, false, false),
            (Mode::Strict, nobody, true, true),
            (Mode::Permissive, peer, false, true),
            (Mode::Permissive, nobody, false, true),
        ] {
            assert_eq!(authorize(mode, who, is_probe) == Decision::Allow, allowed, "{mode:?} {who:?} {is_probe}");
        }
    }

    #[test]
    fn probes_are_let_through_and_nothing_that_looks_like_them() {
        let probes: Probes =
            "8080/healthz 8080/ready?full=1 9000/grpc.health.v1.Health/Check 8443:tls".parse().unwrap();
        let parts = |line: &str| {
            let (method, uri) = line.split_once(' ').unwrap();
            http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0
        };
        for (port, line, expected) in [
            (8080, "GET /healthz", true),
            (8080, "GET http://10.0.0.1:8080/healthz", true),
            (8080, "GET /ready?full=1", true),
            (9000, "POST http://10.0.0.1/grpc.health.v1.Health/Check", true),
            (8080, "GET /healthz?x=1", false),
            (8080, "GET /healthz/../secret", false),
            (8080, "GET /healthz/", false),
            (8080, "GET /ready", false),
            (8080, "POST /healthz", false),
            (8081, "GET /healthz", false),
            (9000, "GET /grpc.health.v1.Health/Check", false),
            (8443, "GET /healthz", false),
            (8080, "OPTIONS *", false),
            (8080, "CONNECT 10.0.0.1:80", false),
        ] {
            assert_eq!(probes.contain(port, &parts(line)), expected, "{port} {line}");
        }
        let mut upgrade = parts("GET /healthz");
        upgrade.headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
        assert!(!probes.contain(8080, &upgrade), "a tunnel is no probe");
        for (agent, expected) in [("kube-probe/1.34", true), ("kube-lifecycle/1.34", true), ("a kube-probe/1", false)] {
            let mut probe = parts("GET /healthz");
            assert!(!is_kubelets(&probe));
            probe.headers.insert(USER_AGENT, http::HeaderValue::from_static(agent));
            assert_eq!(is_kubelets(&probe), expected, "{agent}");
        }
        for (port, protocol, expected) in [
            (8080, Protocol::Http1, true),
            (9000, Protocol::Http2, true),
            (8080, Protocol::Tls, false),
            (8080, Protocol::Opaque, false),
            (8443, Protocol::Tls, true),
            (8443, Protocol::Http1, false),
            (8081, Protocol::Http1, false),
        ] {
            assert_eq!(probes.may_come(port, protocol), expected, "{port} {protocol:?}");
        }
    }

    #[test]
    fn bad_lists_say_what_to_write() {
        for bad in ["8080", "/healthz", "0/", "70000/x", "8080:http", "8080healthz", "+1/x"] {
            assert!(bad.parse::<Probes>().unwrap_err().contains("write 8080/healthz"), "{bad}");
        }
        let many = vec!["1/"; PROBES_MAX + 1].join(" ");
        assert!(many.parse::<Probes>().unwrap_err().contains("at most"));
        assert_eq!("".parse(), Ok(Probes::default()));
    }
}

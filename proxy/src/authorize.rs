//! Decides whether a connection may reach the app: pure, from the port's policy and who the peer proved to be. Rules
//! per route and peer come as further arguments of the same question, not as another place that asks it.

use lacewing_identity::SpiffeId;

/// How a workload treats peers without mesh TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plain clients are served, counted and shown.
    Permissive,
    /// Mesh TLS or nothing.
    Strict,
}

/// The answer, with what an operator reads in metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(&'static str),
}

/// Whether `peer` (`None`: it proved nothing) may use `port`, given what the workload declares.
pub fn authorize(mode: Mode, declared: &[u16], port: u16, peer: Option<&SpiffeId>) -> Decision {
    match (mode, peer) {
        (Mode::Strict, None) => Decision::Deny("the workload takes mesh TLS only (strict)"),
        _ if !declared.contains(&port) => Decision::Deny("the workload declares no such port"),
        (Mode::Permissive, _) | (Mode::Strict, Some(_)) => Decision::Allow,
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
        for (mode, port, who, allowed) in [
            (Mode::Strict, 8080, peer, true),
            (Mode::Strict, 8080, nobody, false),
            (Mode::Strict, 4191, peer, false),
            (Mode::Permissive, 8080, peer, true),
            (Mode::Permissive, 8080, nobody, true),
            (Mode::Permissive, 9999, nobody, false),
            (Mode::Permissive, 9999, peer, false),
        ] {
            let decision = authorize(mode, &[8080, 8081], port, who);
            assert_eq!(decision == Decision::Allow, allowed, "{mode:?} {port} {who:?}");
        }
    }
}

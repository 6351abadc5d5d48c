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

/// Whether `peer` (`None`: it proved nothing) may connect.
pub fn authorize(mode: Mode, peer: Option<&SpiffeId>) -> Decision {
    match (mode, peer) {
        (Mode::Strict, None) => Decision::Deny(
            "this workload takes mesh TLS only (strict): the client is not in the mesh, or bypassed its own proxy",
        ),
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
        for (mode, who, allowed) in [
            (Mode::Strict, peer, true),
            (Mode::Strict, nobody, false),
            (Mode::Permissive, peer, true),
            (Mode::Permissive, nobody, true),
        ] {
            assert_eq!(authorize(mode, who) == Decision::Allow, allowed, "{mode:?} {who:?}");
        }
    }
}

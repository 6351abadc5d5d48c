//! Owns which of a Service's endpoints a client is offered because of where it runs: `internalTrafficPolicy: Local`,
//! and the hints that `trafficDistribution` and topology-aware routing leave in EndpointSlices. Pure.
//!
//! The rules are kube-proxy's, so that a pod sees the same endpoints before and after it is meshed. What is offered at
//! all is decided in `endpoints`; where a client runs is known once its stream has named its pod (`grpc`).

use std::borrow::Cow;

use lacewing_crds::{EndpointHints, Hint, Pod, labels};

use crate::{endpoints::Endpoint, world::World};

/// Where a client runs. Both are empty where nothing says so: then the one node that has no name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub node: String,
    pub zone: String,
}

impl Place {
    /// Where the pod runs. Older clusters do not label pods with their zone; then it is what slices say about its node.
    pub fn of(world: &World, pod: &Pod) -> Self {
        let node = pod.spec.node_name.clone().unwrap_or_default();
        let zone = pod.metadata.label(labels::ZONE).or_else(|| world.zone_of(&node));
        Self { zone: zone.unwrap_or_default().to_owned(), node }
    }
}

/// The endpoints of a backend, and whom each is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Sorted by address.
    all: Vec<Endpoint>,
    audience: Audience,
}

/// Whom endpoints are for; where it differs, an entry for each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Audience {
    #[default]
    Everybody,
    /// Clients on the same node (KEP-2086).
    SameNode(Vec<Local>),
    /// Clients for which they are hinted (KEP-2433, KEP-4444, KEP-3015).
    Hinted(Vec<EndpointHints>),
}

/// Where an endpoint runs; one that is leaving is offered only if the node has no other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Local {
    node: String,
    leaving: bool,
}

/// An endpoint of a slice that may be offered.
pub struct Candidate {
    pub endpoint: Endpoint,
    pub node: String,
    pub hints: Option<Box<EndpointHints>>,
    /// It still serves but is on its way out.
    pub leaving: bool,
}

impl Endpoints {
    /// What is offered of `candidates`, which are sorted by address. Those that are leaving are offered only where there
    /// are no others (KEP-1669), and then to everybody, whatever their hints say.
    pub fn of(candidates: Vec<Candidate>, same_node: bool) -> Self {
        if same_node {
            let split = |Candidate { endpoint, node, leaving, .. }| (endpoint, Local { node, leaving });
            let (all, places) = candidates.into_iter().map(split).unzip();
            return Self { all, audience: Audience::SameNode(places) };
        }
        let all_leave = candidates.iter().all(|candidate| candidate.leaving);
        let offered = candidates.into_iter().filter(|candidate| candidate.leaving == all_leave);
        let (all, hints): (Vec<_>, Vec<_>) = offered.map(|candidate| (candidate.endpoint, candidate.hints)).unzip();
        // One endpoint without a hint, and none counts: the hints are just being made, or taken away.
        let hints: Option<Vec<EndpointHints>> = hints.into_iter().map(|hints| hints.map(|hints| *hints)).collect();
        let audience = hints.filter(|hints| !hints.is_empty() && !all_leave).map(Audience::Hinted);
        Self { all, audience: audience.unwrap_or_default() }
    }

    /// Whether clients at different places may be offered different endpoints.
    pub fn depends_on_place(&self) -> bool {
        self.audience != Audience::Everybody
    }

    /// What a client at `place` is offered, sorted by address.
    pub fn near(&self, place: &Place) -> Cow<'_, [Endpoint]> {
        match &self.audience {
            Audience::Everybody => Cow::Borrowed(&self.all),
            Audience::SameNode(places) => {
                let here = |local: &&Local| local.node == place.node;
                let one_stays = places.iter().filter(here).any(|local| !local.leaving);
                self.select(places, |local| here(&local) && local.leaving != one_stays)
            }
            Audience::Hinted(hints) => {
                let meant = |wanted: &str, list: fn(&EndpointHints) -> &[Hint]| {
                    let complete = hints.iter().all(|hints| !list(hints).is_empty());
                    let chosen = self.select(hints, |hints| list(hints).iter().any(|hint| hint.name == wanted));
                    Some(chosen).filter(|chosen| complete && !chosen.is_empty())
                };
                let on_node = meant(&place.node, |hints| &hints.for_nodes);
                let near = on_node.or_else(|| meant(&place.zone, |hints| &hints.for_zones));
                // Hints prefer and do not forbid: where nothing is meant for this client, everything is.
                near.unwrap_or(Cow::Borrowed(&self.all))
            }
        }
    }

    fn select<T>(&self, audience: &[T], wanted: impl Fn(&T) -> bool) -> Cow<'_, [Endpoint]> {
        let chosen = self.all.iter().zip(audience).filter(|(_, one)| wanted(one));
        chosen.map(|(endpoint, _)| endpoint.clone()).collect()
    }
}

#[cfg(test)]
mod tests;

//! A cluster made for histories: a service `web` with a port for each protocol, members that come and go, and a meshed
//! client from which load comes.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Book, Event, History, Load, Protocol, Server, Stream};
use crate::{
    net::{Cluster, Pod, PodSpec},
    wait::until,
};

/// A change reaches every proxy within this, on a loaded machine.
const SPREAD: Duration = Duration::from_secs(10);
/// One request in so many is a POST, where a protocol has others.
const POST_EACH: u64 = 5;

/// The cluster.
pub struct Shop {
    pub cluster: Cluster,
    pub client: Arc<Pod>,
    pub book: Book,
}

/// A server pod.
pub struct Member {
    pub name: String,
    pub pod: Arc<Pod>,
    /// One for each protocol that it serves.
    pub servers: Vec<Server>,
}

impl Member {
    /// What each of its servers does from now on.
    pub fn set(&self, mode: super::Mode) {
        self.servers.iter().for_each(|server| server.set(mode));
    }
}

impl Shop {
    /// A cluster with a client, and nobody to serve it.
    #[expect(clippy::new_without_default, reason = "it starts processes")]
    pub fn new() -> Self {
        let cluster = Cluster::new();
        let client = cluster.pod(PodSpec::new("client"));
        Self { cluster, client, book: Book::default() }
    }

    /// The same with members `web-1`, `web-2`, …
    pub fn with(members: usize, protocols: &[Protocol]) -> (Self, Vec<Member>) {
        let shop = Self::new();
        let members = (1..=members).map(|number| shop.add(&format!("web-{number}"), protocols)).collect();
        (shop, members)
    }

    /// A member, ready for traffic.
    #[track_caller]
    pub fn add(&self, name: &str, protocols: &[Protocol]) -> Member {
        let pod = self.held(name);
        let servers = protocols.iter().map(|protocol| Server::start(&pod.host, name, *protocol, &self.book)).collect();
        self.cluster.set_ready(&pod, true);
        Member { name: name.to_owned(), pod, servers }
    }

    /// The member with new apps in place of its old ones.
    pub fn serve_again(&self, member: Member, protocols: &[Protocol]) -> Member {
        let Member { name, pod, servers } = member;
        drop(servers);
        let servers = protocols.iter().map(|protocol| Server::start(&pod.host, &name, *protocol, &self.book)).collect();
        Member { name, pod, servers }
    }

    /// A member's pod without an app, and not ready.
    #[track_caller]
    pub fn held(&self, name: &str) -> Arc<Pod> {
        self.pod(PodSpec::new(name))
    }

    /// The same without a proxy.
    #[track_caller]
    pub fn held_plain(&self, name: &str) -> Arc<Pod> {
        self.pod(PodSpec::new(name).unmeshed())
    }

    #[track_caller]
    fn pod(&self, spec: PodSpec) -> Arc<Pod> {
        let spec = spec.service("web").held();
        self.cluster.pod(Protocol::ALL.iter().fold(spec, |spec, protocol| {
            let app_protocol = match protocol {
                Protocol::Http1 => "http",
                Protocol::Http2 => "kubernetes.io/h2c",
                Protocol::Grpc => "grpc",
            };
            spec.port(protocol.name(), protocol.port(), app_protocol)
        }))
    }

    /// What a load on the service is like.
    pub fn stream(&self, protocol: Protocol, rps: u32) -> Stream {
        Stream {
            protocol,
            to: self.cluster.address("web", protocol.port()),
            authority: format!("{}:{}", self.cluster.name("web"), protocol.port()),
            gap: Duration::from_secs(1) / rps,
            post_each: POST_EACH,
        }
    }

    /// Load from the client, one request in five a POST.
    pub fn load(&self, protocol: Protocol, rps: u32) -> Load {
        Load::start(&self.client.host, self.stream(protocol, rps))
    }

    /// The same without any POST.
    pub fn gets(&self, protocol: Protocol, rps: u32) -> Load {
        Load::start(&self.client.host, Stream { post_each: 0, ..self.stream(protocol, rps) })
    }

    /// What the client's proxy knows about the endpoints behind this port.
    pub fn endpoints(&self, protocol: Protocol) -> Vec<Value> {
        let known = self.client.private("/destinations");
        let name = format!("{}/web:{}", self.cluster.namespace, protocol.port());
        let backend = known["backends"].as_array().expect("a list").iter().find(|backend| backend["backend"] == *name);
        backend.and_then(|backend| backend["endpoints"].as_array().cloned()).unwrap_or_default()
    }

    /// Waits until the client's proxy has so many pods for this port; a pod may have an endpoint in each IP family.
    #[track_caller]
    pub fn until_known(&self, protocol: Protocol, count: usize) {
        let pods =
            || self.endpoints(protocol).iter().map(|endpoint| endpoint["pod"].to_string()).collect::<BTreeSet<_>>();
        let known = || pods().len() == count;
        let started = Instant::now();
        while !known() && started.elapsed() < SPREAD {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(known(), "the client does not know {count} pods: {}", self.client.private("/destinations"));
    }

    /// Waits until the client's proxy no longer has this pod for any protocol; from then on the history says so.
    #[track_caller]
    pub fn until_removed(&self, pod: &str) {
        until(&format!("the client forgets {pod}"), SPREAD, || {
            let known = Protocol::ALL.iter().flat_map(|protocol| self.endpoints(*protocol));
            known.into_iter().all(|endpoint| endpoint["pod"] != pod).then_some(())
        });
        self.book.removed(pod);
    }

    /// How many endpoints the breaker holds out, and of how many.
    pub fn ejected(&self, protocol: Protocol) -> (usize, usize) {
        let endpoints = self.endpoints(protocol);
        (endpoints.iter().filter(|endpoint| endpoint["ejected"] == true).count(), endpoints.len())
    }

    pub fn history(&self, events: Vec<Event>) -> History {
        History::new(events, &self.book)
    }
}

/// Lets a load run.
pub fn run_for(time: Duration) -> (Instant, Instant) {
    let from = Instant::now();
    std::thread::sleep(time);
    (from, Instant::now())
}

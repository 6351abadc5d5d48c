//! The same server of somebody else twice, in a meshed pod and in a plain one, and a client pod of each kind: every peer's
//! test works on a [`Site`] and says for each [`Way`] what it saw. Nothing here or there declares a protocol. The metrics
//! of the proxies must say that the work really went as the way is called.

#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lacewing_tests::{
    net::{Cluster, Host, Pod, PodSpec, Process},
    wait::until,
};

/// A proxy counts a connection or a request within this.
const COUNTED: Duration = Duration::from_secs(5);

pub struct Site {
    pub cluster: Cluster,
    pub server: Arc<Pod>,
    pub plain_server: Arc<Pod>,
    pub client: Arc<Pod>,
    pub plain_client: Arc<Pod>,
    _daemons: [Vec<Process>; 2],
}

/// From one client pod to one server pod.
#[derive(Clone)]
pub struct Way<'a> {
    pub name: &'static str,
    pub from: &'a Pod,
    pub to: &'a Pod,
    /// The service, as the client calls it: only the server of this way is behind it.
    pub service: String,
}

impl Site {
    /// `ports` of the services `peer` (meshed) and `plain`: (the service's, the server's). `start` starts the servers.
    pub fn new(ports: &[(u16, u16)], start: impl Fn(&Host) -> Vec<Process> + Sync) -> Self {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let cluster = Cluster::new();
        let server = |service: &str| {
            let named = NAMES.iter().zip(ports);
            named.fold(PodSpec::new(&format!("{service}-1")).service(service).held(), |spec, (name, (port, target))| {
                spec.port_to(name, *port, *target, "")
            })
        };
        let [server, plain_server] = [server("peer"), server("plain").unmeshed()].map(|spec| cluster.pod(spec));
        let started = Instant::now();
        let daemons = std::thread::scope(|scope| {
            let each = [&server, &plain_server].map(|pod| scope.spawn(|| start(&pod.host)));
            each.map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        println!("servers ready after {:?}", started.elapsed());
        for pod in [&server, &plain_server] {
            cluster.set_ready(pod, true);
        }
        let client = cluster.pod(PodSpec::new("client"));
        let plain_client = cluster.pod(PodSpec::new("plain-client").unmeshed());
        cluster.published();
        Self { cluster, server, plain_server, client, plain_client, _daemons: daemons }
    }

    pub fn meshed(&self) -> Way<'_> {
        Way { name: "meshed to meshed", from: &self.client, to: &self.server, service: self.cluster.name("peer") }
    }

    /// Through two proxies, and through one on either side.
    pub fn ways(&self) -> [Way<'_>; 3] {
        let to_plain = Way { name: "meshed to plain", to: &self.plain_server, ..self.direct() };
        let from_plain = Way { name: "plain to meshed", from: &self.plain_client, ..self.meshed() };
        [self.meshed(), Way { from: &self.client, ..to_plain }, from_plain]
    }

    /// Without a proxy: to compare with.
    pub fn direct(&self) -> Way<'_> {
        Way {
            name: "plain to plain",
            from: &self.plain_client,
            to: &self.plain_server,
            service: self.cluster.name("plain"),
        }
    }
}

impl Way<'_> {
    /// The host that clients run on.
    pub fn host(&self) -> &Host {
        &self.from.host
    }

    /// Does `work`, of which the proxies must see at least `count` TCP connections, all of them protected as the way is.
    #[track_caller]
    pub fn carries_tcp<T>(&self, count: u32, work: impl FnOnce() -> T) -> T {
        self.carries("tcp_open_total", count, work)
    }

    /// The same with HTTP requests.
    #[track_caller]
    pub fn carries_http<T>(&self, count: u32, work: impl FnOnce() -> T) -> T {
        self.carries("request_total", count, work)
    }

    #[track_caller]
    fn carries<T>(&self, metric: &str, count: u32, work: impl FnOnce() -> T) -> T {
        let meshed = self.from.spec.meshed && self.to.spec.meshed;
        let (wanted, other) = if meshed { ("true", "no_identity") } else { ("no_identity", "true") };
        let sides = [(self.from, "outbound"), (self.to, "inbound")];
        let counted = |tls: &str| {
            sides.map(|(pod, direction)| {
                let labels = [format!("direction=\"{direction}\""), format!("tls=\"{tls}\"")];
                let proxied = pod.spec.meshed;
                if proxied {
                    pod.metric(&format!("{metric}{{"), &labels.each_ref().map(String::as_str)) as u64
                } else {
                    0
                }
            })
        };
        let before = [counted(wanted), counted(other)];
        let done = work();
        until(&format!("{metric} of {count} {}", self.name), COUNTED, || {
            let now = counted(wanted);
            let enough = |side: usize| now[side] - before[0][side] >= u64::from(count) || !sides[side].0.spec.meshed;
            (enough(0) && enough(1)).then_some(())
        });
        assert_eq!(counted(other), before[1], "{}: {metric} with tls={other}", self.name);
        done
    }
}

/// The one in the middle.
pub fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

//! The world of the protocol matrix: a client and a server with a proxy, and one of each without, and the ways between
//! them. A row is a server, which runs on both server pods, and a client, which takes every way; after each it is proved by
//! the proxies' own numbers that the way was what it says. Nothing declares a protocol.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use lacewing_tests::{
    net::{Cluster, Host, Pod, PodSpec},
    wait::until,
};

use super::wire::{Server, Wire};

/// Ports of the services, none of them special.
const PORTS: [(&str, u16); 16] = [
    ("p1", 18_001),
    ("p2", 18_002),
    ("p3", 18_003),
    ("p4", 18_004),
    ("p5", 18_005),
    ("p6", 18_006),
    ("p7", 18_007),
    ("p8", 18_008),
    ("p9", 18_009),
    ("p10", 18_010),
    ("p11", 18_011),
    ("p12", 18_012),
    ("p13", 18_013),
    ("p14", 18_014),
    ("p15", 18_015),
    ("p16", 18_016),
];
/// For a number to show up.
const SOON: Duration = Duration::from_secs(10);

/// Two clients, two servers.
pub struct World {
    pub cluster: Cluster,
    /// Service `web`.
    pub meshed_server: Arc<Pod>,
    /// Service `old`.
    pub plain_server: Arc<Pod>,
    pub meshed_client: Arc<Pod>,
    pub plain_client: Arc<Pod>,
    used: AtomicUsize,
}

impl World {
    pub fn new() -> Self {
        Self::with(|spec| spec)
    }

    /// `change`: what is different about the pods that have proxies.
    pub fn with(change: impl Fn(PodSpec) -> PodSpec) -> Self {
        let cluster = Cluster::new();
        let ports = |spec: PodSpec| PORTS.iter().fold(spec, |spec, (name, port)| spec.port(name, *port, ""));
        let meshed_server = cluster.pod(change(ports(PodSpec::new("web").service("web"))));
        let plain_server = cluster.pod(ports(PodSpec::new("old").service("old").unmeshed()));
        let meshed_client = cluster.pod(change(PodSpec::new("client")));
        let plain_client = cluster.pod(PodSpec::new("plain").unmeshed());
        cluster.published();
        Self { cluster, meshed_server, plain_server, meshed_client, plain_client, used: AtomicUsize::new(0) }
    }

    /// A port that nobody has used in this world.
    pub fn port(&self) -> u16 {
        PORTS[self.used.fetch_add(1, SeqCst)].1
    }

    /// Both server pods run `app` on a port of its own.
    pub fn serve(&self, app: impl Fn(&mut Wire) + Clone + Send + 'static) -> Service<'_> {
        let port = self.port();
        let [meshed, plain] =
            [&self.meshed_server, &self.plain_server].map(|pod| Server::on(pod.host.listen(port), app.clone()));
        Service { world: self, port, meshed, plain }
    }

    /// What the meshed server's proxy has counted at `port`: with mesh TLS, and without.
    fn seen(&self, port: u16) -> [u64; 2] {
        let port = format!("srv_port=\"{port}\"");
        ["tls=\"true\"", "tls=\"no_identity\""].map(|tls| {
            let all = ["request_total", "tcp_open_total"];
            all.map(|name| self.meshed_server.metric(name, &["direction=\"inbound\"", tls, &port]) as u64).iter().sum()
        })
    }

    /// What the meshed client's proxy has counted towards the server that has none.
    fn left_plain(&self) -> u64 {
        let labels = ["direction=\"outbound\"", "tls=\"no_identity\"", "dst_pod=\"old\""];
        ["request_total", "tcp_open_total"].map(|name| self.meshed_client.metric(name, &labels) as u64).iter().sum()
    }
}

/// A server on both pods.
pub struct Service<'w> {
    world: &'w World,
    pub port: u16,
    pub meshed: Server,
    pub plain: Server,
}

/// From a client to a server.
pub struct Way<'w> {
    pub name: &'static str,
    pub client: &'w Pod,
    pub server_pod: &'w Pod,
    pub server: &'w Server,
    pub to: SocketAddr,
    /// The SPIFFE ID by which the server must know the client.
    pub client_id: Option<String>,
}

impl Way<'_> {
    pub fn host(&self) -> &Host {
        &self.client.host
    }

    #[track_caller]
    pub fn connect(&self) -> Wire {
        Wire::new(self.host().connect(self.to).unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }
}

impl Service<'_> {
    /// Every way over IPv4.
    pub fn each(&self, client: impl Fn(&Way<'_>)) {
        self.take(&self.ways(false), client);
    }

    /// Every way over both families.
    pub fn each_family(&self, client: impl Fn(&Way<'_>)) {
        let ways: Vec<Way<'_>> = self.ways(false).into_iter().chain(self.ways(true)).collect();
        self.take(&ways, client);
    }

    pub fn ways(&self, v6: bool) -> Vec<Way<'_>> {
        let World { cluster, meshed_server, plain_server, meshed_client, plain_client, .. } = self.world;
        let to =
            |service| if v6 { cluster.address_v6(service, self.port) } else { cluster.address(service, self.port) };
        let id = format!("spiffe://cluster.local/ns/{}/sa/client", cluster.namespace);
        [
            ("meshed to meshed", meshed_client, meshed_server, &self.meshed, "web", Some(id)),
            ("meshed to plain", meshed_client, plain_server, &self.plain, "old", None),
            ("plain to meshed", plain_client, meshed_server, &self.meshed, "web", None),
        ]
        .map(|(name, client, server_pod, server, service, client_id)| Way {
            name,
            client,
            server_pod,
            server,
            to: to(service),
            client_id,
        })
        .into()
    }

    /// Takes each way, and proves that it was.
    fn take(&self, ways: &[Way<'_>], client: impl Fn(&Way<'_>)) {
        let world = self.world;
        let names: HashSet<&str> = ways.iter().map(|way| way.name).collect();
        assert_eq!(names.len(), 3);
        for way in ways {
            let (before, left) = (world.seen(self.port), world.left_plain());
            client(way);
            way.server.is_well();
            let mut after = before;
            until(&format!("{} was {}", way.to, way.name), SOON, || {
                after = world.seen(self.port);
                match way.name {
                    "meshed to meshed" => after[0] > before[0],
                    "meshed to plain" => world.left_plain() > left,
                    _ => after[1] > before[1],
                }
                .then_some(())
            });
            let other = usize::from(way.name == "meshed to meshed");
            assert_eq!(after[other], before[other], "{} went another way, too", way.name);
        }
    }
}

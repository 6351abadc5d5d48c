//! Owns requests through both spines in one process and one thread: client socket, outbound, mesh TLS, inbound, app
//! socket, and back. Each spine has a runtime of its own, and the runtimes take turns; so it is known whose turn costs
//! what, and the order of events is the same each time. The client and the app are plain sockets and are not counted.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::Arc,
    time::Duration,
};

use lacewing_identity::{Authority, SpiffeId, TrustDomain};
use lacewing_proxy::{
    authorize::Mode,
    clock,
    discovery::{self, Discovery, Pod, Stream, parse::TargetAnswer},
    endpoint::{Context, Info},
    first::{Declared, Meshed},
    inbound::{self, Inbound},
    listen::{Arrived, Drain, Draining, Place},
    metrics::Metrics,
    outbound::{self, Listener, Outbound},
    socket::{self, Dialer},
    tls::Identity,
};
use parking_lot::Mutex;
use rustls_pki_types::UnixTime;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::Semaphore,
};

use crate::{Gate, measured};

pub const GATES: &[Gate] = &[
    Gate { name: "request-out-1", function: "outbound::request", run: |n| run(Side::Outbound, 1, n), times: 250 },
    Gate { name: "request-in-1", function: "inbound::request", run: |n| run(Side::Inbound, 1, n), times: 250 },
    Gate { name: "request-out-64", function: "outbound::request", run: |n| run(Side::Outbound, 64, n), times: 640 },
    Gate { name: "request-in-64", function: "inbound::request", run: |n| run(Side::Inbound, 64, n), times: 640 },
];

/// What the app dials; nothing is there but what discovery says.
const DIALLED: &str = "10.1.0.1:8080";
const REQUEST: &[u8] = b"GET /api/list HTTP/1.1\r\nHost: web.shop:8080\r\nUser-Agent: gates/1\r\nAccept: */*\r\n\r\n";
const BODY: usize = 1_024;
/// Rounds before counting: connections are made, and buffers have their size.
const WARM_UP: u32 = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Outbound,
    Inbound,
}

/// `times` requests, `connections` at a time; the turns of one side are counted.
fn run(side: Side, connections: usize, times: u32) {
    let mut pair = Pair::new(connections);
    for _ in 0..WARM_UP {
        pair.round(None);
    }
    for _ in 0..times / u32::try_from(connections).unwrap() {
        pair.round(Some(side));
    }
}

struct Pair {
    outbound: Runtime,
    inbound: Runtime,
    app: App,
    clients: Vec<StdStream>,
    answer: Vec<u8>,
    _alive: (Drain, Drain),
}

impl Pair {
    fn new(connections: usize) -> Self {
        let (outbound, inbound) = (runtime(), runtime());
        let app = App::new();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = Authority::generate(&domain, clock::unix_now()).unwrap();
        let server = SpiffeId::new(&domain, "shop", "web").unwrap();
        let alive = (Drain::default(), Drain::default());

        let meshed = inbound.block_on(serve_inbound(&authority, &server, app.addr, &alive.1));
        let client = SpiffeId::new(&domain, "shop", "client").unwrap();
        let (listener, discovery) = outbound.block_on(serve_outbound(&authority, &client, &alive.0));
        let clients: Vec<_> = (0..connections).map(|_| connect(listener)).collect();
        let mut pair = Self { outbound, inbound, app, clients, answer: Vec::new(), _alive: alive };
        // The first request makes the target, and waits for discovery's word about it.
        pair.clients.iter_mut().for_each(|client| client.write_all(REQUEST).unwrap());
        turn(&pair.outbound);
        discovery.set_target(DIALLED, there(meshed, server));
        pair.finish(None);
        pair
    }

    /// One request on each connection.
    fn round(&mut self, counted: Option<Side>) {
        for client in &mut self.clients {
            client.write_all(REQUEST).unwrap();
        }
        self.finish(counted);
    }

    /// Until every client has its answer.
    fn finish(&mut self, counted: Option<Side>) {
        let mut waiting = 0;
        while waiting < self.clients.len() {
            take_turn(&self.outbound, counted == Some(Side::Outbound));
            take_turn(&self.inbound, counted == Some(Side::Inbound));
            self.app.turn();
            take_turn(&self.inbound, counted == Some(Side::Inbound));
            take_turn(&self.outbound, counted == Some(Side::Outbound));
            while waiting < self.clients.len() && has_answer(&mut self.clients[waiting], &mut self.answer) {
                waiting += 1;
            }
        }
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn take_turn(runtime: &Runtime, counted: bool) {
    if counted { measured(&mut || turn(runtime)) } else { turn(runtime) }
}

/// Looks at what has happened and does what follows.
fn turn(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
    });
}

/// The answer of discovery about [`DIALLED`].
fn there(addr: SocketAddr, identity: SpiffeId) -> TargetAnswer {
    let info = Info {
        addr,
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        workload: "deployment/web".to_owned(),
        service_account: "web".to_owned(),
        zone: String::new(),
        identity: Some(identity),
        direct: None,
    };
    TargetAnswer::Pod(Box::new(Pod { info, service: None, declared: Declared::Nothing, why_no_service: String::new() }))
}

fn context(authority: &Authority, id: &SpiffeId) -> Arc<Context> {
    let identity = Identity::default();
    let leaf = authority.issue_own(id, clock::unix_now(), 24 * 3_600).unwrap();
    identity.set(leaf, authority.bundle().clone()).unwrap();
    let (metrics, _) = Metrics::new(UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now())));
    Arc::new(Context {
        identity: Arc::new(identity),
        metrics,
        dialer: Dialer::default(),
        pod_ips: vec!["10.1.0.9".parse().unwrap()],
        spine_ports: Vec::new(),
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
    })
}

/// A target that discovery has told about.
pub async fn known_target() -> (Arc<Discovery>, SocketAddr) {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let authority = Authority::generate(&domain, clock::unix_now()).unwrap();
    let id = SpiffeId::new(&domain, "shop", "client").unwrap();
    let discovery = Discovery::new(context(&authority, &id));
    discovery.stream().send_replace(Stream::Up);
    let addr = DIALLED.parse().unwrap();
    let (known, ()) = tokio::join!(discovery.at(addr), async { discovery.set_target(DIALLED, there(addr, id)) });
    assert!(known.is_ok());
    (discovery, addr)
}

/// Starts the outbound side; returns where it listens.
async fn serve_outbound(authority: &Authority, id: &SpiffeId, drain: &Drain) -> (SocketAddr, Arc<Discovery>) {
    let context = context(authority, id);
    let discovery = Discovery::new(context.clone());
    discovery.stream().send_replace(Stream::Up);
    let outbound = Arc::new(Outbound {
        discovery: discovery.clone(),
        metrics: context.metrics.clone(),
        draining: drain.handle(),
        dialer: context.dialer,
        allow_connect: false,
        own_ports: Vec::new(),
        as_is: Default::default(),
    });
    let addr = accept(Some(DIALLED.parse().unwrap()), drain.handle(), move |arrived| {
        outbound::connection(outbound.clone(), arrived, Listener::Outbound)
    });
    (addr.await, discovery)
}

/// Starts the inbound side, for the app at `app`; returns where it listens.
async fn serve_inbound(authority: &Authority, id: &SpiffeId, app: SocketAddr, drain: &Drain) -> SocketAddr {
    let context = context(authority, id);
    let discovery = Discovery::new(context.clone());
    let policy =
        discovery::Inbound { mode: Mode::Permissive, ports: vec![(app.port(), Declared::Nothing)], terminating: false };
    discovery.inbound().send_replace(Some(policy));
    let inbound = Arc::new(Inbound {
        probes: lacewing_proxy::authorize::Probes::default(),
        discovery,
        identity: context.identity.clone(),
        metrics: context.metrics.clone(),
        draining: drain.handle(),
        dialer: context.dialer,
        pod_ips: vec![app.ip()],
        own_ports: Vec::new(),
        allow_connect: false,
        apps: Mutex::default(),
        peers: Mutex::default(),
        meshed: Meshed::default(),
    });
    accept(Some(app), drain.handle(), move |arrived| inbound::connection(inbound.clone(), arrived)).await
}

/// As `listen::accept`, with a destination as the kernel would have said it.
async fn accept<C, F>(destination: Option<SocketAddr>, draining: Draining, connection: C) -> SocketAddr
where
    C: Fn(Arrived) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let slots = Arc::new(Semaphore::new(1_000));
    tokio::spawn(async move {
        loop {
            let (socket, from): (TcpStream, _) = listener.accept().await.unwrap();
            socket::tune(&socket).unwrap();
            let slot = Place::new(slots.clone().acquire_owned().await.unwrap(), draining.clone());
            tokio::spawn(connection(Arrived { socket, from, destination, slot }));
        }
    });
    addr
}

fn connect(to: SocketAddr) -> StdStream {
    let stream = StdStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Whether the whole answer is there; part of it stays in `so_far`.
fn has_answer(client: &mut StdStream, so_far: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4_096];
    match client.read(&mut buffer) {
        Ok(0) => panic!("the connection ended: {}", String::from_utf8_lossy(so_far)),
        Ok(n) => so_far.extend_from_slice(&buffer[..n]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
        Err(error) => panic!("{error}"),
    }
    let Some(head) = so_far.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    assert!(so_far.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(so_far));
    let whole = so_far.len() == head + 4 + BODY;
    if whole {
        so_far.clear();
    }
    whole
}

/// Answers each request at once.
struct App {
    addr: SocketAddr,
    listener: StdListener,
    connections: Vec<StdStream>,
    answer: Vec<u8>,
}

impl App {
    fn new() -> Self {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nServer: gates\r\nDate: Sun, 22 Nov 2026 07:00:00 GMT\r\nContent-Type: text/plain\r\n\
             Content-Length: {BODY}\r\nConnection: keep-alive\r\n\r\n"
        )
        .into_bytes();
        answer.resize(answer.len() + BODY, b'x');
        Self { addr: listener.local_addr().unwrap(), listener, connections: Vec::new(), answer }
    }

    fn turn(&mut self) {
        while let Ok((connection, _)) = self.listener.accept() {
            connection.set_nodelay(true).unwrap();
            connection.set_nonblocking(true).unwrap();
            self.connections.push(connection);
        }
        let mut buffer = [0; 4_096];
        for connection in &mut self.connections {
            if connection.read(&mut buffer).is_ok_and(|n| n > 0) {
                connection.write_all(&self.answer).unwrap();
            }
        }
    }
}

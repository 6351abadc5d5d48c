//! Simulated proxies: each gets its own certificate, has its own connection over mutual TLS and one watch stream on it,
//! follows what a proxy of its size would, applies every answer and reports its version. What they hold is compared
//! with the truth at the end; when each change reached whom is written down.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Instant,
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lacewing_identity::{KeyAndCsr, Leaf, SpiffeId, TrustBundle, TrustDomain, tls};
use lacewing_proto::control::{self as wire, control_client::ControlClient};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::UnboundedReceiverStream;
use wire::{key::Key as WireKey, watch_request::Action, watch_response::Answer};

use super::cluster::{self, Size};

/// Services that each proxy follows.
pub const TARGETS: usize = 20;

/// When changes were made, and how long they took to reach whom.
#[derive(Default)]
pub struct Clock {
    /// By number: when, and whether it took an endpoint away.
    pub made: Vec<(Instant, bool)>,
    /// The last change that took an endpoint away.
    pub gone: HashMap<(usize, usize), u32>,
    /// By change: µs until each follower had it.
    pub took: HashMap<u32, Vec<u32>>,
}

impl Clock {
    fn note(&mut self, change: u32) {
        // What was there before the first change has no time.
        if let Some((made, _)) = self.made.get(change as usize).filter(|_| change > 0) {
            let took = made.elapsed().as_micros() as u32;
            self.took.entry(change).or_default().push(took);
        }
    }
}

/// What a proxy holds: of each Service that it follows, the endpoints and since which change they are ready.
pub struct Held {
    pub services: HashMap<usize, BTreeSet<(usize, u32)>>,
    /// Keys that were answered at least once.
    answered: usize,
}

impl Held {
    /// Whether there was an answer for each target, for its endpoints, for the inbound side and for the roots.
    pub fn is_complete(&self) -> bool {
        self.answered == 2 * self.services.len() + 2
    }
}

pub struct Proxy {
    pub held: Arc<Mutex<Held>>,
    task: tokio::task::JoinHandle<String>,
}

/// Where the controller is, and whom to believe.
pub struct Control {
    pub address: SocketAddr,
    pub bundle: TrustBundle,
}

/// The Services that proxy `number` follows.
pub fn targets(number: usize, size: Size) -> BTreeSet<usize> {
    (0..TARGETS).map(|k| (number * 37 + k * 9) % size.services).collect()
}

impl Proxy {
    /// Starts the proxy of this number: of Service after Service one pod.
    pub async fn start(number: usize, size: Size, control: &Control, clock: &Arc<Mutex<Clock>>) -> Self {
        let (service, at) = (number % size.services, number / size.services % size.endpoints);
        let leaf = certify(control, service, at).await;
        let mut client = connect(control, Some(&leaf)).await;
        let (requests, receiver) = mpsc::unbounded_channel();
        let followed = targets(number, size);
        let mut keys = vec![WireKey::Trust(wire::Trust {}), WireKey::Inbound(cluster::pod_name(service, at))];
        for service in &followed {
            keys.push(WireKey::Target(format!("{}:80", cluster::cluster_ip(*service))));
            keys.push(WireKey::Endpoints(backend(*service)));
        }
        for key in keys {
            let key = wire::Key { key: Some(key) };
            requests.send(wire::WatchRequest { action: Some(Action::Subscribe(key)) }).expect("an open stream");
        }
        let answers = client.watch(UnboundedReceiverStream::new(receiver)).await.expect("a stream").into_inner();
        let held = Held { services: followed.iter().map(|service| (*service, BTreeSet::new())).collect(), answered: 0 };
        let held = Arc::new(Mutex::new(held));
        let task = tokio::spawn(follow(answers, requests, held.clone(), clock.clone()));
        Self { held, task }
    }

    /// Why the stream ended, if it did.
    pub fn ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    mut answers: tonic::Streaming<wire::WatchResponse>,
    requests: mpsc::UnboundedSender<wire::WatchRequest>,
    held: Arc<Mutex<Held>>,
    clock: Arc<Mutex<Clock>>,
) -> String {
    let mut versions: HashMap<WireKey, u64> = HashMap::new();
    loop {
        let response = match answers.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return "the controller ended the stream".to_owned(),
            Err(status) => return status.to_string(),
        };
        let (Some(key), Some(answer)) = (response.key.and_then(|key| key.key), response.answer) else {
            return "an answer without a key".to_owned();
        };
        let mut held = held.lock().expect("nobody panics here");
        if let WireKey::Endpoints(backend) = &key {
            let service = backend.service.strip_prefix("service-").and_then(|number| number.parse().ok());
            let service = service.and_then(|service: usize| Some((service, held.services.get_mut(&service)?)));
            let (service, known) = service.expect("what was asked for");
            apply(service, known, answer, &clock);
        }
        if !response.more {
            let counter = response.version.map_or(0, |version| version.counter);
            if versions.insert(key.clone(), counter).is_none() {
                held.answered += 1;
            }
            let applied = wire::Applied { key: Some(wire::Key { key: Some(key) }), version: response.version };
            let _ = requests.send(wire::WatchRequest { action: Some(Action::Applied(applied)) });
        }
    }
}

fn apply(service: usize, known: &mut BTreeSet<(usize, u32)>, answer: Answer, clock: &Mutex<Clock>) {
    let (upserted, removed) = match answer {
        Answer::Snapshot(snapshot) => (snapshot.endpoints, Vec::new()),
        Answer::Delta(delta) => (delta.upserted, delta.removed),
        other => panic!("not endpoints: {other:?}"),
    };
    let mut clock = clock.lock().expect("nobody panics here");
    for address in removed {
        let (_, at) = cluster::endpoint_at(&address).expect("an address of this cluster");
        known.retain(|(other, _)| *other != at);
        if let Some(change) = clock.gone.get(&(service, at)).copied() {
            clock.note(change);
        }
    }
    for endpoint in upserted {
        let (of, at) = cluster::endpoint_at(&endpoint.address).expect("an address of this cluster");
        assert!(of == service && endpoint.identity.ends_with(&endpoint.service_account), "{endpoint:?}");
        let change = cluster::change_of(&endpoint.zone).expect("a zone of this cluster");
        known.retain(|(other, _)| *other != at);
        known.insert((at, change));
        clock.note(change);
    }
}

fn backend(service: usize) -> wire::Backend {
    wire::Backend { namespace: cluster::namespace(service), service: cluster::service_name(service), port: 80 }
}

/// A certificate for one pod.
async fn certify(control: &Control, service: usize, at: usize) -> Leaf {
    let (namespace, account) = (cluster::namespace(service), cluster::service_name(service));
    let token = format!("{namespace}/{account}/{}", cluster::pod_name(service, at));
    let (key, csr) = KeyAndCsr::generate().expect("a key");
    let mut client = connect(control, None).await;
    let answer = client.certify(wire::CertifyRequest { token, csr }).await.expect("a certificate").into_inner();
    let (from, until) = (answer.not_before.cast_unsigned(), answer.not_after.cast_unsigned());
    key.with_chain(answer.chain, from, until).expect("a good certificate")
}

/// A connection as tonic wants it.
#[derive(Clone)]
struct Channel(http2::SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn connect(control: &Control, leaf: Option<&Leaf>) -> ControlClient<Channel> {
    let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
    let server = SpiffeId::new(&domain, "lacewing", "lacewing-controller").expect("a name");
    let config = tls::client_config(leaf, &control.bundle, &server, &[b"h2"]).expect("a configuration");
    let socket = TcpStream::connect(control.address).await.expect("a connection");
    socket.set_nodelay(true).expect("a socket");
    let name = "controller".try_into().expect("a name");
    let stream = TlsConnector::from(config).connect(name, socket).await.expect("a handshake");
    let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    ControlClient::with_origin(Channel(sender), http::Uri::from_static("http://lacewing-controller"))
}

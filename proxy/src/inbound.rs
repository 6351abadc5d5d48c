//! SPINE. From the mesh to the app: accept → detect → TLS → who → where → per request: authorize → send → stream back →
//! record. With mesh TLS, ALPN says the protocol; plain connections are detected as in `outbound.rs`, which this mirrors.
//! Where the two differ, the difference is the feature.
//!
//! It refuses peers that prove no identity (strict), connections that say not where they are meant for, and the proxy's
//! own ports.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::BytesMut;
use http::{HeaderValue, Method, Response, StatusCode, Version, header::CONNECTION, request::Parts};
use lacewing_identity::{Refusal, RefusalKind, SpiffeId, sni};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    authorize::{Decision, Mode, Probes, authorize, is_kubelets},
    config::{AMBIGUOUS_TIMEOUT, APP_PORTS_MAX, FIRST_BYTES, HANDSHAKE_TIMEOUT, LIVE_SERIES_MAX, UNSERVED_GRACE},
    detect::{self, Protocol},
    discovery::{self, Discovery},
    error::Error,
    first::{self, Declared, First, Meshed, Overheard},
    http::{
        Message,
        body::Body,
        client::{Answered, Carrier, Client},
        headers, server, upgrade,
    },
    listen::{Arrived, Draining, Slot},
    live::{Direction, Key},
    metrics::{Class, Metrics, Peer},
    record::Record,
    route::DEFAULT_ROUTE,
    socket::Dialer,
    tcp,
    tls::{self, Alpn, Identity, Io, MeshConnection, Rewound, Transport},
};

/// What the inbound side works with.
pub struct Inbound {
    pub discovery: Arc<Discovery>,
    pub identity: Arc<Identity>,
    pub metrics: Arc<Metrics>,
    pub draining: Draining,
    pub dialer: Dialer,
    /// Where the app listens: at the first one, if nothing says which was meant.
    pub pod_ips: Vec<IpAddr>,
    /// Ports of the proxy itself: never a destination.
    pub own_ports: Vec<u16>,
    pub allow_connect: bool,
    pub apps: Mutex<HashMap<SocketAddr, Arc<Client>>>,
    pub peers: Mutex<Peers>,
    /// Who is expected to speak first.
    pub meshed: Meshed,
    /// What is served without mesh TLS even where the workload is strict.
    pub probes: Probes,
}

/// Numbers by client (`None`: one that proved nothing) and port.
type Peers = HashMap<(Option<SpiffeId>, String), Arc<Peer>>;

/// Who is calling, and where they want to go.
struct Call {
    /// `None`: nobody that proved anything.
    peer: Option<SpiffeId>,
    /// The app.
    at: SocketAddr,
}

impl Inbound {
    /// The client for one of the app's ports.
    fn app(&self, at: SocketAddr) -> Arc<Client> {
        let transport = || Transport::new(at, None, None, self.identity.clone(), self.dialer);
        remembered(&mut self.apps.lock(), at, APP_PORTS_MAX, || Client::new(transport(), None))
    }

    /// Closes idle connections to the app. Called now and then.
    pub fn sweep(&self) {
        self.apps.lock().values().for_each(|app| app.sweep());
    }

    /// Numbers about one client.
    fn peer(&self, call: &Call) -> Arc<Peer> {
        let (id, port) = (call.peer.as_ref(), self.port_label(call.at.port()));
        let make = || {
            let key = Key {
                direction: Direction::Inbound,
                peer_namespace: id.map_or("", SpiffeId::namespace).to_owned(),
                peer: id.map_or_else(|| "unmeshed".to_owned(), |id| format!("sa/{}", id.service_account())),
                service: None,
                route: DEFAULT_ROUTE.to_owned(),
            };
            let mut labels = vec![("tls", if id.is_some() { "true" } else { "no_identity" }.to_owned())];
            labels.extend(id.map(|id| ("client_id", id.to_string())));
            labels.push(("srv_port", port.clone()));
            self.metrics.peer(&key, labels)
        };
        remembered(&mut self.peers.lock(), (id.cloned(), port.clone()), LIVE_SERIES_MAX, make)
    }

    /// The port as a label: one that is not declared was chosen by the client, who may try them all.
    fn port_label(&self, port: u16) -> String {
        let policy = self.discovery.inbound().borrow();
        let declared = policy.iter().flat_map(|policy| &policy.ports).any(|(declared, _)| *declared == port);
        if declared { port.to_string() } else { "undeclared".to_owned() }
    }

    /// Authorize: the workload's policy of this moment.
    fn authorize(&self, call: &Call, is_probe: bool) -> Result<(), Error> {
        match authorize(self.policy()?.mode, call.peer.as_ref(), is_probe) {
            Decision::Deny(reason) => Err(Error::Denied(reason)),
            Decision::Allow if self.own_ports.contains(&call.at.port()) => {
                Err(Error::Denied("the port is the proxy's own"))
            }
            Decision::Allow => Ok(()),
        }
    }

    /// The same for a connection, counted.
    fn let_in(&self, call: &Call, may_be_probe: bool) -> Result<(), Error> {
        self.authorize(call, may_be_probe).inspect_err(|error| self.metrics.denied(error))?;
        self.metrics.allowed(self.port_label(call.at.port()));
        Ok(())
    }

    fn policy(&self) -> Result<discovery::Inbound, Error> {
        let policy = self.discovery.inbound().borrow();
        policy.clone().ok_or(Error::Denied("the workload's policy is not known yet"))
    }

    /// What one of the app's ports is declared to speak.
    fn declared(&self, port: u16) -> Declared {
        let policy = self.discovery.inbound().borrow();
        let ports = policy.iter().flat_map(|policy| &policy.ports);
        ports.copied().find(|(declared, _)| *declared == port).map_or(Declared::Nothing, |(_, speaks)| speaks)
    }

    /// Whether a client that says nothing may be an app's, and not a proxy that is slow to begin its handshake.
    fn may_wait_for_the_server(&self, destination: Option<SocketAddr>) -> Option<SocketAddr> {
        let permissive = self.policy().is_ok_and(|policy| policy.mode == Mode::Permissive);
        destination.filter(|at| permissive && self.declared(at.port()) != Declared::Http)
    }
}

/// The entry of a map that stays small: when it is full, what nobody holds is forgotten.
fn remembered<K: Eq + Hash, V>(
    map: &mut HashMap<K, Arc<V>>,
    key: K,
    most: usize,
    make: impl FnOnce() -> Arc<V>,
) -> Arc<V> {
    if let Some(known) = map.get(&key) {
        return known.clone();
    }
    if map.len() >= most {
        map.retain(|_, value| Arc::strong_count(value) > 1);
    }
    let made = make();
    map.insert(key, made.clone());
    made
}

/// Once per socket.
pub async fn connection(inbound: Arc<Inbound>, arrived: Arrived) {
    let from = arrived.from;
    if let Err(error) = serve(&inbound, arrived).await {
        inbound.metrics.error(Direction::Inbound, &error, Some(from));
    }
}

async fn serve(inbound: &Arc<Inbound>, arrived: Arrived) -> Result<(), Error> {
    let Arrived { mut socket, from, destination, slot } = arrived;
    let from = from.ip().to_canonical();
    if destination.is_some_and(|at| !inbound.pod_ips.contains(&at.ip())) {
        return Err(Error::Denied("the destination is no address of this pod (LACEWING_POD_IPS)"));
    }
    // Detect: TLS or plain, by the first bytes. A client that is silent may wait for the server to speak.
    let mut bytes = BytesMut::with_capacity(FIRST_BYTES);
    let mut draining = inbound.draining.clone();
    let (began, dialled) = tokio::select! {
        began = Box::pin(detect(inbound, from, destination, &mut socket, &mut bytes)) => began?,
        () = draining.over_for_the_silent() => return Ok(()),
    };
    let plain = match began {
        First::Closed if dialled.is_none() => return Ok(()),
        First::Silence => {
            return Err(Error::Forbidden(Refusal::new(RefusalKind::NotTls, "no TLS handshake within 10 s")));
        }
        // TLS: the mesh's own is terminated here, the app's passes untouched.
        First::Client(Protocol::Tls) => {
            let accepted = timeout(HANDSHAKE_TIMEOUT, Box::pin(tls::accept(socket, bytes, &inbound.identity))).await;
            let late =
                || Error::Forbidden(Refusal::new(RefusalKind::NotTls, "the TLS handshake took longer than 10 s"));
            match accepted.unwrap_or_else(|_| Err(late()))? {
                Ok(connection) => {
                    inbound.meshed.note(from);
                    return Box::pin(mesh_connection(inbound, connection, destination, &slot)).await;
                }
                Err(foreign) => Plain { io: foreign, from, protocol: Protocol::Tls, dialled },
            }
        }
        First::Client(protocol) => Plain { io: Rewound::new(bytes.freeze(), socket), from, protocol, dialled },
        First::Server | First::ServerClosed | First::Closed => {
            Plain { io: Rewound::new(bytes.freeze(), socket), from, protocol: Protocol::Opaque, dialled }
        }
    };
    plain_connection(inbound, plain, destination, &slot).await
}

/// How the connection begins, and the app if it was dialled to find out; a client that speaks meanwhile need not wait.
async fn detect(
    inbound: &Inbound,
    from: IpAddr,
    destination: Option<SocketAddr>,
    socket: &mut TcpStream,
    bytes: &mut BytesMut,
) -> Result<(First, Option<Rewound<Io>>), Error> {
    let waits_for = inbound.may_wait_for_the_server(destination);
    let patience = if waits_for.is_some() { inbound.meshed.grace(from) } else { HANDSHAKE_TIMEOUT };
    let began = first::read(socket, bytes, patience, AMBIGUOUS_TIMEOUT).await?;
    let (First::Silence, Some(at)) = (&began, waits_for) else { return Ok((began, None)) };
    let app = inbound.app(at);
    let dialled = tokio::select! {
        biased;
        began = first::read(socket, bytes, HANDSHAKE_TIMEOUT, AMBIGUOUS_TIMEOUT) => return Ok((began?, None)),
        dialled = app.transport.connect(Alpn::Tcp) => dialled,
    };
    match dialled {
        Ok(mut server) => {
            let mut greeting = BytesMut::new();
            let began = first::race(socket, bytes, &mut server, &mut greeting).await?;
            Ok((began, Some(Rewound::new(greeting.freeze(), server))))
        }
        // No app to listen to: only the client can still say something, and HTTP and the mesh have an answer to that.
        Err(error) => match first::read(socket, bytes, UNSERVED_GRACE, AMBIGUOUS_TIMEOUT).await? {
            First::Silence | First::Client(Protocol::Opaque) => Err(error),
            began => Ok((began, None)),
        },
    }
}

/// A peer that proved who it is.
async fn mesh_connection(
    inbound: &Arc<Inbound>,
    connection: Box<MeshConnection>,
    destination: Option<SocketAddr>,
    slot: &Slot,
) -> Result<(), Error> {
    let MeshConnection { io, peer, alpn, sni } = *connection;
    // Where, and may it?
    let at = where_to(inbound, destination, sni.as_deref()).inspect_err(|error| inbound.metrics.denied(error))?;
    let call = Call { peer: Some(peer), at };
    inbound.let_in(&call, false)?;
    match alpn {
        Alpn::Tcp if inbound.declared(at.port()) == Declared::Http => Err(Error::Denied(first::NOT_HTTP)),
        Alpn::Tcp => {
            let app = Box::pin(inbound.app(at).transport.connect(Alpn::Tcp)).await?;
            Ok(Box::pin(tcp::forward(app, io, &inbound.peer(&call).connection())).await?)
        }
        Alpn::H1 => http_connection(inbound, call, io, Carrier::Http1, Version::HTTP_11, slot).await,
        Alpn::H1H2 => http_connection(inbound, call, io, Carrier::Http1, Version::HTTP_2, slot).await,
        Alpn::H2 => http_connection(inbound, call, io, Carrier::Http2, Version::HTTP_2, slot).await,
    }
}

/// A connection without mesh TLS.
struct Plain {
    io: Rewound<TcpStream>,
    from: IpAddr,
    protocol: Protocol,
    /// The app, where it was dialled already because the client was silent.
    dialled: Option<Rewound<Io>>,
}

/// A client that proves nothing: served where the workload is permissive, and the kernel says where it wanted to go.
async fn plain_connection(
    inbound: &Arc<Inbound>,
    plain: Plain,
    destination: Option<SocketAddr>,
    slot: &Slot,
) -> Result<(), Error> {
    let Plain { io, from, protocol, dialled } = plain;
    let call = destination.map(|at| Call { peer: None, at });
    let allowed = match &call {
        Some(call) => inbound.let_in(call, inbound.probes.may_come(call.at.port(), protocol)),
        None => Err(no_mesh_tls(inbound)),
    };
    let call = match (allowed, call) {
        (Ok(()), Some(call)) => call,
        (Ok(()), None) => return Ok(()),
        (Err(error), _) => {
            if protocol == Protocol::Http1 {
                server::tell(io, &error).await;
            }
            return Err(error);
        }
    };
    let declared = inbound.declared(call.at.port());
    // Where only probes are let in, each request must be one.
    let http = declared != Declared::Opaque || inbound.policy()?.mode == Mode::Strict;
    match protocol {
        Protocol::Opaque if declared == Declared::Http => Err(Error::Denied(first::NOT_HTTP)),
        Protocol::Http1 if http => http_connection(inbound, call, io, Carrier::Http1, Version::HTTP_11, slot).await,
        Protocol::Http2 if http => http_connection(inbound, call, io, Carrier::Http2, Version::HTTP_2, slot).await,
        _ => {
            let app = match dialled {
                Some(app) => app,
                None => Rewound::whole(Box::pin(inbound.app(call.at).transport.connect(Alpn::Tcp)).await?),
            };
            // A handshake that comes now was late, and is lost: the next one will be waited for.
            let hears = |bytes: &[u8]| {
                if detect::detect(bytes) == Some(Protocol::Tls) {
                    inbound.meshed.note(from);
                }
            };
            Ok(Box::pin(tcp::forward(app, Overheard::new(io, hears), &inbound.peer(&call).connection())).await?)
        }
    }
}

/// Serves the requests of one connection: `version` is the client's, `carrier` the app's.
async fn http_connection<I>(
    inbound: &Arc<Inbound>,
    call: Call,
    io: I,
    carrier: Carrier,
    version: Version,
    slot: &Slot,
) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let numbers = inbound.peer(&call);
    let _counted = numbers.connection();
    let app = inbound.app(call.at);
    let allowed = if call.peer.is_some() { server::Allowed::PEER } else { server::Allowed::STRANGER };
    let slot = slot.clone();
    let id = call.peer.as_ref().and_then(headers::client_id);
    let client = Arc::new(FromClient { inbound: inbound.clone(), call, id, numbers, app, carrier, version, slot });
    let handler = move |incoming| {
        let client = client.clone();
        async move { request(&client, incoming).await }
    };
    let draining = inbound.draining.clone();
    server::ended(match version {
        Version::HTTP_2 => Box::pin(server::serve_http2(io, allowed, draining, handler)).await,
        _ => server::serve_http1(io, draining, handler).await,
    })
}

/// Where: the kernel says, if it redirected the connection; else the SNI names a port that the workload declares.
fn where_to(inbound: &Inbound, destination: Option<SocketAddr>, sni: Option<&str>) -> Result<SocketAddr, Error> {
    if let Some(destination) = destination {
        return Ok(destination);
    }
    let (port, _, _) = sni.and_then(sni::parse).ok_or(Error::Denied("the connection's SNI names no port of ours"))?;
    if !inbound.policy()?.ports.iter().any(|(declared, _)| *declared == port) {
        return Err(Error::Denied("the workload declares no such port"));
    }
    let ip = inbound.pod_ips.first().ok_or(Error::Denied("this proxy does not know its pod's address"))?;
    Ok(SocketAddr::new(*ip, port))
}

/// Nothing says where the connection is meant for; where it would not be let in anyway, that is the better reason.
fn no_mesh_tls(inbound: &Inbound) -> Error {
    let error = match inbound.policy().map(|policy| authorize(policy.mode, None, false)) {
        Ok(Decision::Deny(reason)) => Error::Denied(reason),
        Ok(Decision::Allow) | Err(_) => Error::Denied("not mesh TLS, and nothing says where it is meant for"),
    };
    inbound.metrics.denied(&error);
    error
}

/// A client's connection, for its requests.
struct FromClient {
    inbound: Arc<Inbound>,
    call: Call,
    /// Who the client is, for the app.
    id: Option<HeaderValue>,
    numbers: Arc<Peer>,
    app: Arc<Client>,
    carrier: Carrier,
    version: Version,
    slot: Slot,
}

/// Who sends a request that is one of the pod's probes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prober {
    /// Not counted: it is no traffic of anybody's.
    Kubelet,
    Other,
}

impl FromClient {
    fn probe(&self, head: &Parts) -> Option<Prober> {
        let is_probe = self.call.peer.is_none() && self.inbound.probes.contain(self.call.at.port(), head);
        is_probe.then(|| if is_kubelets(head) { Prober::Kubelet } else { Prober::Other })
    }
}

/// Once per request. An `Err` resets the HTTP/2 stream.
async fn request(client: &FromClient, message: Box<Message>) -> Result<Response<Body>, h2::Error> {
    let received = Instant::now();
    let head = &message.head;
    let (grpc, bodyless) = (headers::is_grpc(&head.headers), head.method == Method::HEAD);
    let probe = client.probe(head);
    let counts = probe != Some(Prober::Kubelet);
    if counts {
        client.numbers.request();
    }
    let error = match forward(client, message, received, probe).await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    client.inbound.metrics.error(Direction::Inbound, &error, None);
    if counts {
        client.numbers.response(error.status(), None, Class::Failure, received.elapsed());
    }
    match (&error, client.version) {
        // The app did not see it: the client's proxy may send it elsewhere (RFC 9113, 8.7).
        (Error::Connect { .. } | Error::Refused, Version::HTTP_2) => Err(h2::Reason::REFUSED_STREAM.into()),
        (Error::Reset(reason), Version::HTTP_2) => Err((*reason).into()),
        (Error::Connect { .. } | Error::Refused, _) => {
            let mut response = server::refuse(&error, client.version, grpc, bodyless);
            response.headers_mut().insert(headers::REFUSED, HeaderValue::from_static("1"));
            Ok(response)
        }
        _ => Ok(server::refuse(&error, client.version, grpc, bodyless)),
    }
}

async fn forward(
    client: &FromClient,
    mut message: Box<Message>,
    received: Instant,
    probe: Option<Prober>,
) -> Result<Response<Body>, Error> {
    // Authorize: again for each request, since policy may have changed.
    let allowed = client.inbound.authorize(&client.call, probe.is_some());
    allowed.inspect_err(|error| client.inbound.metrics.denied(error))?;
    let head = &mut message.head;
    if head.method == Method::CONNECT && !client.inbound.allow_connect {
        return Err(Error::Denied("CONNECT is not allowed for this workload (LACEWING_ALLOW_CONNECT)"));
    }
    if head.method == Method::CONNECT && head.version != Version::HTTP_11 {
        return Err(Error::Denied("CONNECT is carried over HTTP/1.1 only"));
    }
    let authority = headers::authority(head, Some(client.call.at))?;
    let wish = upgrade::wish(head);
    headers::strip(&mut head.headers);
    head.headers.extend(client.id.clone().map(|id| (headers::CLIENT_ID, id)));
    if let Some(wish) = &wish {
        wish.say(&mut head.headers);
    }
    // Send: to the app, in the version that the client's side speaks.
    match client.carrier {
        Carrier::Http1 => headers::to_http1(head, &authority),
        Carrier::Http2 | Carrier::Http1InHttp2 => headers::to_http2(head, &authority),
    }
    let sent = client.app.send(message, client.carrier, true).await;
    let Answered { mut response, mut connection, .. } = sent.map_err(|failed| failed.error)?;
    let granted = wish.filter(|wish| wish.is_granted(response.status()));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && granted.is_none() {
        return Err(Error::BadAnswer("the server switched protocols, and nobody had asked it to"));
    }
    let switched = upgrade::agreed(&response);
    if let Some(wish) = granted {
        let held = (connection.take(), client.slot.clone());
        wish.tunnel(&mut response, &client.numbers, held);
    }
    // Stream back, and record at the end of the stream.
    let (mut head, body) = response.into_parts();
    headers::strip(&mut head.headers);
    if let Some(protocol) = switched {
        upgrade::put(&mut head.headers, protocol);
    } else if client.version != Version::HTTP_2 && client.inbound.draining.has_started() {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    head.version = client.version;
    let record = Record::new(client.numbers.clone(), &head, connection, received.elapsed())
        .uncounted(probe == Some(Prober::Kubelet));
    Ok(Response::from_parts(head, body.recorded(record)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// As in `outbound.rs`: every open connection holds the first, and each request moves the second.
    #[test]
    fn futures_stay_small() {
        let (connection, request) = (
            size_of_future(connection),
            size_of_future(|client: &'static FromClient, incoming| request(client, incoming)),
        );
        assert!(connection <= 2_560, "{connection} bytes");
        assert!(request <= 896, "{request} bytes");
    }
}

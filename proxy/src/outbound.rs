//! SPINE. From the app to the mesh: accept → look up → detect → per request: route → pick → send → stream back → record.
//! Read it from top to bottom; each phase is a call into the file of that name. In a pod the kernel says where the app
//! wanted to go; without redirection each request names its destination, so look up comes after route.
//!
//! It decides nothing by itself but the order, and the retry: a visible loop, in which a request goes to another endpoint
//! only if the error, the route, the limits and the budget all allow it.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::BytesMut;
use http::{Method, Response, StatusCode, Version, request};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};

use crate::{
    balance::{Awaiting, InFlight, Loaded},
    config::{
        AMBIGUOUS_TIMEOUT, DETECT_TIMEOUT, FIRST_BYTES, KEEP_ALIVE_TIMEOUT, RETRY_LIMIT, RETRY_UNPROCESSED_LIMIT,
        UNSERVED_GRACE,
    },
    detect::Protocol,
    discovery::{AsIs, Discovery, Place, Target},
    endpoint::{Backend, Endpoint},
    error::{Error, Retry},
    first::{self, Declared, First},
    http::{
        Message,
        body::{Body, ReplayHandle},
        client::{Answered, Carrier, Failed},
        headers, server,
        upgrade::{self, Wish},
    },
    listen::{Arrived, Draining, Slot},
    live::{Direction, Key},
    metrics::{Class, Metrics, Peer},
    record::Record,
    route::{self, DEFAULT_ROUTE, Route},
    socket::Dialer,
    tcp::{self, Abort},
    tls::{Alpn, Io, Rewound},
};

/// What the outbound side works with.
pub struct Outbound {
    pub discovery: Arc<Discovery>,
    pub metrics: Arc<Metrics>,
    pub draining: Draining,
    pub dialer: Dialer,
    pub allow_connect: bool,
    /// Ports of the proxy itself: never a destination on loopback.
    pub own_ports: Vec<u16>,
    /// Numbers about what is not the mesh's business, by its kind.
    pub as_is: [OnceLock<Arc<Peer>>; AsIs::ALL.len()],
}

/// What a listener is for.
#[derive(Clone)]
pub enum Listener {
    /// Redirected connections; and HTTP in which each request names its destination.
    Outbound,
    /// Raw TCP to this target (`host:port`).
    Mapped(Arc<str>),
}

/// Where a connection's requests go.
enum To {
    /// Each request names its own.
    Authority,
    /// Where the app's connection was meant for.
    Dialled(SocketAddr, Arc<Target>),
}

/// Once per socket.
pub async fn connection(outbound: Arc<Outbound>, arrived: Arrived, listener: Listener) {
    let Arrived { socket, from, destination, slot } = arrived;
    let served = match (destination, listener) {
        (Some(addr), _) => redirected(&outbound, socket, addr, &slot).await,
        (None, Listener::Outbound) => by_authority(&outbound, socket, &slot).await,
        (None, Listener::Mapped(target)) => Box::pin(mapped(&outbound, socket, &target)).await,
    };
    if let Err(error) = served {
        outbound.metrics.error(Direction::Outbound, &error, Some(from));
    }
}

/// A connection that the kernel redirected here: the app knows nothing of us.
async fn redirected(
    outbound: &Arc<Outbound>,
    mut socket: TcpStream,
    addr: SocketAddr,
    slot: &Slot,
) -> Result<(), Error> {
    if addr.ip().is_loopback() && outbound.own_ports.contains(&addr.port()) {
        return Err(Error::Denied("the destination is this proxy itself"));
    }
    // Look up: what is there?
    let target = match outbound.discovery.at(addr).await {
        Ok(Place::Known(target)) => target,
        Ok(Place::AsIs(why)) => return Box::pin(as_is(outbound, socket, addr, why)).await,
        Err(error) => {
            let mut bytes = BytesMut::with_capacity(FIRST_BYTES);
            let began = first::read(&mut socket, &mut bytes, UNSERVED_GRACE, UNSERVED_GRACE).await;
            if let Ok(First::Client(Protocol::Http1)) = began {
                server::tell(socket, &error).await;
            }
            return Err(error);
        }
    };
    let (backend, declared) = target.current()?;
    // Detect: by declaration, by the client's first bytes, or by who speaks first.
    let mut bytes = BytesMut::with_capacity(FIRST_BYTES);
    let mut draining = outbound.draining.clone();
    let (began, dialled) = tokio::select! {
        began = Box::pin(detect(outbound, &backend, declared, &mut socket, &mut bytes)) => began?,
        () = draining.over_for_the_silent() => return Ok(()),
    };
    backend.speaks.learn(&began);
    let io = Rewound::new(bytes.freeze(), socket);
    match began {
        First::Closed | First::Silence if dialled.is_none() => Ok(()),
        First::Client(protocol @ (Protocol::Http1 | Protocol::Http2)) => {
            drop(dialled);
            http_connection(outbound, io, protocol, To::Dialled(addr, target), slot).await
        }
        First::Client(Protocol::Opaque) if declared == Declared::Http => Err(Error::Denied(first::NOT_HTTP)),
        // Bytes; or a client that has closed its side, and still listens to the server that was dialled for it.
        _ => Box::pin(opaque(outbound, &backend, io, dialled)).await,
    }
}

/// Bytes, to a server that may be dialled already.
async fn opaque(
    outbound: &Outbound,
    backend: &Backend,
    io: Rewound<TcpStream>,
    dialled: Option<Dialled>,
) -> Result<(), Error> {
    let (endpoint, server) = match dialled {
        Some(dialled) => dialled,
        None => connect(outbound, backend, true).await.map(|(endpoint, io)| (endpoint, Rewound::whole(io)))?,
    };
    tcp_connection(io, &endpoint, server).await
}

type Dialled = (Arc<Endpoint>, Rewound<Io>);

/// How the connection begins, and the server if it was dialled to find out. A server that is dialled only for that counts
/// neither for the balancer nor for the breaker, and a client that speaks meanwhile need not wait for it.
async fn detect(
    outbound: &Outbound,
    backend: &Backend,
    declared: Declared,
    socket: &mut TcpStream,
    bytes: &mut BytesMut,
) -> Result<(First, Option<Dialled>), Error> {
    let silence = match declared {
        Declared::Opaque => return Ok((First::Client(Protocol::Opaque), None)),
        Declared::Http => KEEP_ALIVE_TIMEOUT,
        Declared::Nothing => backend.speaks.grace(),
    };
    let began = first::read(socket, bytes, silence, AMBIGUOUS_TIMEOUT).await?;
    if began != First::Silence || declared == Declared::Http {
        return Ok((began, None));
    }
    let dialled = tokio::select! {
        biased;
        began = first::read(socket, bytes, KEEP_ALIVE_TIMEOUT, AMBIGUOUS_TIMEOUT) => return Ok((began?, None)),
        dialled = connect(outbound, backend, false) => dialled,
    };
    match dialled {
        Ok((endpoint, mut server)) => {
            let mut greeting = BytesMut::new();
            let began = first::race(socket, bytes, &mut server, &mut greeting).await?;
            Ok((began, Some((endpoint, Rewound::new(greeting.freeze(), server)))))
        }
        // No server to listen to: only the client can still say something, and HTTP has an answer to that.
        Err(error) => match first::read(socket, bytes, UNSERVED_GRACE, AMBIGUOUS_TIMEOUT).await? {
            began @ (First::Closed | First::Client(Protocol::Http1 | Protocol::Http2)) => Ok((began, None)),
            _ => Err(error),
        },
    }
}

/// Connections of an app that names the destination in each request.
async fn by_authority(outbound: &Arc<Outbound>, mut socket: TcpStream, slot: &Slot) -> Result<(), Error> {
    // Detect: the first bytes tell HTTP/1 from HTTP/2; anything else has no destination here.
    let mut bytes = BytesMut::with_capacity(FIRST_BYTES);
    match first::read(&mut socket, &mut bytes, DETECT_TIMEOUT, DETECT_TIMEOUT).await? {
        First::Client(protocol @ (Protocol::Http1 | Protocol::Http2)) => {
            let io = Rewound::new(bytes.freeze(), socket);
            http_connection(outbound, io, protocol, To::Authority, slot).await
        }
        First::Client(_) | First::Server | First::ServerClosed => {
            Err(Error::BadRequest("this port takes HTTP only: for TCP, map a port (LACEWING_OUTBOUND_MAP)"))
        }
        First::Silence => Err(Error::BadRequest("no request came within 10 s")),
        First::Closed => Ok(()),
    }
}

/// Raw TCP to a target that a setting names.
async fn mapped(outbound: &Arc<Outbound>, socket: TcpStream, target: &str) -> Result<(), Error> {
    let backend = outbound.discovery.look_up(target).await?;
    let (endpoint, server) = connect(outbound, &backend, true).await?;
    tcp_connection(socket, &endpoint, server).await
}

/// What is not the mesh's business passes as it is, and is counted.
async fn as_is(outbound: &Outbound, socket: TcpStream, addr: SocketAddr, why: AsIs) -> Result<(), Error> {
    let peer = outbound.as_is[why as usize].get_or_init(|| {
        let key = Key {
            direction: Direction::Outbound,
            peer_namespace: String::new(),
            peer: why.as_str().to_owned(),
            service: None,
            route: DEFAULT_ROUTE.to_owned(),
        };
        let labels = vec![("tls", "no_identity".to_owned()), ("dst_kind", why.as_str().to_owned())];
        outbound.metrics.peer(&key, labels)
    });
    let failed = |cause| Error::Connect { addr, cause: Arc::new(cause) };
    let server = outbound.dialer.connect(addr).await.map_err(failed)?;
    Ok(tcp::forward(socket, server, &peer.connection()).await?)
}

/// An app's connection, for its requests.
struct FromApp {
    outbound: Arc<Outbound>,
    to: To,
    slot: Slot,
}

/// Serves the requests of one connection.
async fn http_connection(
    outbound: &Arc<Outbound>,
    io: Rewound<TcpStream>,
    protocol: Protocol,
    to: To,
    slot: &Slot,
) -> Result<(), Error> {
    let app = Arc::new(FromApp { outbound: outbound.clone(), to, slot: slot.clone() });
    let handler = move |incoming| {
        let app = app.clone();
        async move { request(&app, incoming).await }
    };
    let draining = outbound.draining.clone();
    server::ended(match protocol {
        Protocol::Http2 => Box::pin(server::serve_http2(io, server::Allowed::APP, draining, handler)).await,
        _ => server::serve_http1(io, draining, handler).await,
    })
}

/// Once per request. An `Err` resets the HTTP/2 stream.
async fn request(app: &FromApp, message: Box<Message>) -> Result<Response<Body>, h2::Error> {
    let received = Instant::now();
    let head = &message.head;
    let (version, grpc, bodyless) = (head.version, headers::is_grpc(&head.headers), head.method == Method::HEAD);
    let error = match forward(app, message, received).await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    app.outbound.metrics.error(Direction::Outbound, &error, None);
    match (&error, version) {
        // What the server meant by it, only the client knows.
        (Error::Reset(reason), Version::HTTP_2) => Err((*reason).into()),
        _ => Ok(server::refuse(&error, version, grpc, bodyless)),
    }
}

async fn forward(app: &FromApp, mut message: Box<Message>, received: Instant) -> Result<Response<Body>, Error> {
    let outbound = &*app.outbound;
    // Route: what the head decides; and look up, where the destination is known only now.
    let (route, backend) = match &app.to {
        To::Authority => {
            let route = route::route(&message.head, None, outbound.allow_connect)?;
            let backend = Box::pin(outbound.discovery.look_up(&route.target())).await?;
            (route, backend)
        }
        To::Dialled(addr, target) => {
            (route::route(&message.head, Some(*addr), outbound.allow_connect)?, target.current()?.0)
        }
    };
    backend.budget.deposit(received);

    let mut wish = upgrade::wish(&mut message.head);
    let kept = prepare(&mut message, &route, wish.as_ref());
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let mut retries = Retries::default();
    loop {
        // Pick: another endpoint each time.
        let now = if tried.is_empty() { received } else { Instant::now() };
        let endpoint = backend.pick(&tried, now).await.inspect_err(|_| backend.not_served(received.elapsed()))?;
        let awaiting = Awaiting::new(endpoint.clone(), now);
        endpoint.metrics.request();
        // Send: mesh TLS if the endpoint has an identity, and never without it then.
        let carrier = route.carrier(endpoint.is_meshed());
        shape(&mut message.head, &route, carrier);
        let (error, unsent) = match endpoint.client.send(message, carrier, tried.is_empty()).await {
            Ok(mut answered) => {
                let Some(error) = bad_answer(&answered, &endpoint, wish.as_ref()) else {
                    let now = Instant::now();
                    let in_flight = awaiting.answered(answered.sent, now);
                    if let Some(wish) = wish.take_if(|wish| wish.is_granted(answered.response.status())) {
                        let load = InFlight::new(endpoint.clone());
                        let held = (answered.connection.take(), app.slot.clone(), load);
                        wish.tunnel(&mut answered.response, &endpoint.metrics, held);
                    }
                    return Ok(stream_back(answered, &route, backend, in_flight, now - received));
                };
                (error, None)
            }
            Err(failed) => {
                let Failed { error, unsent } = *failed;
                (error, unsent)
            }
        };
        // Retry, or give up: only what is allowed and can be sent once more.
        backend.failed(&endpoint, &error);
        let again = unsent.or_else(|| kept.as_ref().and_then(Kept::again));
        let Some(again) = again.filter(|_| retries.may_retry(&route, &error, &backend, outbound)) else {
            endpoint.metrics.response(error.status(), None, Class::Failure, received.elapsed());
            return Err(error);
        };
        outbound.metrics.error(Direction::Outbound, &error, None);
        message = again;
        tried.push(endpoint);
    }
}

/// What another attempt needs after the first was sent.
struct Kept {
    head: request::Parts,
    body: ReplayHandle,
}

impl Kept {
    fn again(&self) -> Option<Box<Message>> {
        Some(Box::new(Message { head: self.head.clone(), body: self.body.again()? }))
    }
}

/// Takes away what ends here; keeps a copy where the request could be sent twice.
fn prepare(message: &mut Message, route: &Route, wish: Option<&Wish>) -> Option<Kept> {
    let Message { head, body } = message;
    headers::strip(&mut head.headers);
    if let Some(wish) = wish {
        wish.say(&mut head.headers);
    }
    if !(route.replayable || http_body::Body::is_end_stream(body)) {
        return None;
    }
    let handle = body.replayable();
    Some(Kept { head: head.clone(), body: handle })
}

/// Makes the head one for the endpoint.
fn shape(head: &mut request::Parts, route: &Route, carrier: Carrier) {
    match carrier {
        Carrier::Http1 => headers::to_http1(head, &route.authority),
        Carrier::Http2 | Carrier::Http1InHttp2 => headers::to_http2(head, &route.authority),
    }
}

/// Retries made so far.
#[derive(Default)]
struct Retries {
    unprocessed: u32,
    processed: u32,
}

impl Retries {
    fn may_retry(&mut self, route: &Route, error: &Error, backend: &Backend, outbound: &Outbound) -> bool {
        let (made, limit) = match error.retry() {
            Retry::Always => (&mut self.unprocessed, RETRY_UNPROCESSED_LIMIT),
            Retry::IfIdempotent | Retry::Never => (&mut self.processed, RETRY_LIMIT),
        };
        if !route.may_retry(error) {
            return false;
        }
        if *made >= limit {
            outbound.metrics.retry_skipped(&backend.name, "limit");
            return false;
        }
        if !backend.budget.withdraw(Instant::now()) {
            outbound.metrics.retry_skipped(&backend.name, "no_budget");
            return false;
        }
        *made += 1;
        outbound.metrics.retry(&backend.name);
        true
    }
}

/// An answer that is none: to something that nobody asked for, or made by a meshed endpoint's own proxy because its app
/// gave none.
fn bad_answer(answered: &Answered, endpoint: &Endpoint, wish: Option<&Wish>) -> Option<Error> {
    let (status, headers) = (answered.response.status(), answered.response.headers());
    if status == StatusCode::SWITCHING_PROTOCOLS && wish.is_none_or(|wish| !wish.is_granted(status)) {
        return Some(Error::BadAnswer("the server switched protocols, and nobody had asked it to"));
    }
    if !endpoint.is_meshed() {
        return None;
    }
    if headers.contains_key(headers::REFUSED) {
        return Some(Error::Refused);
    }
    let app_broke = headers.get(headers::ERROR).is_some_and(|label| label == "broken");
    app_broke.then_some(Error::AppBroken { addr: endpoint.info.addr })
}

/// Stream back: the answer with its fields put right, and the record that its end completes.
fn stream_back(
    answered: Answered,
    route: &Route,
    backend: Arc<Backend>,
    endpoint: InFlight<Endpoint>,
    latency: Duration,
) -> Response<Body> {
    let switched = upgrade::agreed(&answered.response);
    let (mut head, body) = answered.response.into_parts();
    // What a meshed endpoint's proxy says about an error is its own word: it has removed the app's.
    let error = head.headers.remove(headers::ERROR).filter(|_| endpoint.is_meshed());
    headers::strip(&mut head.headers);
    head.headers.extend(error.map(|label| (headers::ERROR, label)));
    if let Some(protocol) = switched {
        upgrade::put(&mut head.headers, protocol);
    }
    head.version = if route.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let record = Record::new(endpoint.metrics.clone(), &head, answered.connection, latency);
    Response::from_parts(head, body.recorded(record.outbound(backend, endpoint)))
}

/// Pick → connect, for raw TCP. What failed is retried elsewhere: nothing was sent yet. `counts`: the balancer and the
/// breaker learn from it.
async fn connect(outbound: &Outbound, backend: &Backend, counts: bool) -> Result<(Arc<Endpoint>, Io), Error> {
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    loop {
        let started = Instant::now();
        let endpoint = backend.pick(&tried, started).await?;
        match endpoint.client.transport.connect(Alpn::Tcp).await {
            Ok(server) => {
                if counts {
                    endpoint.load().observe(started.elapsed(), Instant::now());
                    backend.balancer.outcome(&endpoint, true, Instant::now());
                }
                return Ok((endpoint, server));
            }
            Err(error) => {
                if counts {
                    backend.failed(&endpoint, &error);
                }
                outbound.metrics.error(Direction::Outbound, &error, None);
                tried.push(endpoint);
                if tried.len() > RETRY_UNPROCESSED_LIMIT as usize {
                    return Err(error);
                }
            }
        }
    }
}

/// Once per connection of raw TCP: copy → record.
async fn tcp_connection<C, S>(client: C, endpoint: &Arc<Endpoint>, server: S) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Abort + Unpin,
    S: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let _in_flight = InFlight::new(endpoint.clone());
    let counted = endpoint.metrics.connection();
    Ok(tcp::forward(client, server, &counted).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Each of 2,000 idle connections holds the first for as long as it is open, and room for the second; each request moves
    /// the second. There is room for a few words more: whoever needs a buffer in them boxes it for as long as it is used.
    #[test]
    fn futures_stay_small() {
        let (connection, request) =
            (size_of_future(connection), size_of_future(|app: &'static FromApp, incoming, ()| request(app, incoming)));
        assert!(connection <= 1_792, "{connection} bytes");
        assert!(request <= 1_200, "{request} bytes");
    }
}

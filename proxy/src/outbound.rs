//! SPINE. From the app to the mesh: accept → detect → per request: route → look up → pick → send → stream back →
//! record. Read it from top to bottom; each phase is a call into the file of that name.
//!
//! It decides nothing by itself but the order, and the retry: a visible loop, in which a request goes to another endpoint
//! only if the error, the route, the limits and the budget all allow it.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use http::{Method, Request, Response, Version, request};
use hyper::body::Incoming;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    balance::{Awaiting, InFlight, Loaded},
    config::{DETECT_BYTES_MAX, DETECT_TIMEOUT, RETRY_LIMIT, RETRY_UNPROCESSED_LIMIT},
    detect::{Protocol, detect},
    discovery::Discovery,
    endpoint::{Backend, Endpoint},
    error::{Error, Retry},
    http::{
        body::{Body, ReplayHandle},
        client::{Answered, Carrier, Failed},
        headers, server,
    },
    listen::Draining,
    live::Direction,
    metrics::{Class, Metrics},
    record::Record,
    route::{self, Route},
    tcp,
    tls::{Alpn, Rewound},
};

/// What the outbound side works with.
pub struct Outbound {
    pub discovery: Arc<Discovery>,
    pub metrics: Arc<Metrics>,
    pub draining: Draining,
}

/// Where a connection's requests go.
#[derive(Clone)]
pub enum Destination {
    /// HTTP: each request names its own.
    Authority,
    /// Raw TCP to this one (`host:port`).
    Mapped(Arc<str>),
}

/// Once per socket.
pub async fn connection(outbound: Arc<Outbound>, socket: TcpStream, from: SocketAddr, destination: Destination) {
    let served = match destination {
        Destination::Authority => http_connection(&outbound, socket).await,
        Destination::Mapped(target) => tcp_connection(&outbound, socket, &target).await,
    };
    if let Err(error) = served {
        outbound.metrics.error(Direction::Outbound, &error, Some(from));
    }
}

/// Connections of an app that names the destination in each request.
async fn http_connection(outbound: &Arc<Outbound>, mut socket: TcpStream) -> Result<(), Error> {
    // Detect: the first bytes tell HTTP/1 from HTTP/2; anything else has no destination here.
    let mut first = BytesMut::new();
    let protocol = timeout(DETECT_TIMEOUT, first_bytes(&mut socket, &mut first)).await;
    let protocol = protocol.unwrap_or(Err(Error::BadRequest("no request came within 10 s")))?;
    let io = Rewound::new(first.freeze(), socket);
    let spine = outbound.clone();
    let handler = move |incoming| {
        let spine = spine.clone();
        async move { Ok::<_, std::convert::Infallible>(request(&spine, incoming).await) }
    };
    let ended = match protocol {
        Some(Protocol::Http1) => server::serve_http1(io, outbound.draining.clone(), handler).await,
        Some(Protocol::Http2) => server::serve_http2(io, outbound.draining.clone(), handler).await,
        Some(Protocol::Tls | Protocol::Opaque) => {
            return Err(Error::BadRequest("this port takes HTTP only: for TCP, map a port (LACEWING_OUTBOUND_MAP)"));
        }
        None => Ok(()), // the client left without a word
    };
    server::ended(ended)
}

/// Reads until the protocol is told; `None` if the client closes before its first byte.
async fn first_bytes(socket: &mut TcpStream, first: &mut BytesMut) -> Result<Option<Protocol>, Error> {
    loop {
        if let Some(protocol) = detect(first) {
            return Ok(Some(protocol));
        }
        if first.len() >= DETECT_BYTES_MAX {
            // A request line of this length: hyper has the right answer (414).
            return Ok(Some(Protocol::Http1));
        }
        if socket.read_buf(first).await? == 0 {
            return if first.is_empty() { Ok(None) } else { Err(Error::BadRequest("the request line broke off")) };
        }
    }
}

/// Once per request.
pub async fn request(outbound: &Outbound, incoming: Request<Incoming>) -> Response<Body> {
    let received = Instant::now();
    let (head, body) = incoming.into_parts();
    let (grpc, bodyless) = (headers::is_grpc(&head.headers), head.method == Method::HEAD);
    match forward(outbound, head, body, received).await {
        Ok(response) => response,
        Err(error) => {
            outbound.metrics.error(Direction::Outbound, &error, None);
            server::refuse(&error, grpc, bodyless)
        }
    }
}

async fn forward(
    outbound: &Outbound,
    head: request::Parts,
    body: Incoming,
    received: Instant,
) -> Result<Response<Body>, Error> {
    // Route: what the head decides.
    let route = route::route(&head)?;
    // Look up: what the destination is.
    let backend = outbound.discovery.look_up(&route.target()).await?;
    backend.budget.deposit(received);

    let (mut attempt, kept) = Attempt::first(head, body, &route);
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let mut retries = Retries::default();
    loop {
        // Pick: another endpoint each time.
        let endpoint = backend.pick(&tried).await.inspect_err(|_| backend.not_served(received.elapsed()))?;
        let awaiting = Awaiting::new(endpoint.clone());
        endpoint.metrics.request();
        // Send: mesh TLS if the endpoint has an identity, and never without it then.
        let carrier = route.carrier(endpoint.is_meshed());
        let (error, unsent) = match endpoint.client.send(attempt.request(&route, carrier), carrier).await {
            Ok(answered) => {
                let Some(error) = broken_answer(&answered, &endpoint) else {
                    let in_flight = awaiting.answered(answered.sent);
                    return Ok(stream_back(answered, &route, &backend, endpoint, in_flight, received));
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
        let again = unsent.map(Attempt::from).or_else(|| kept.as_ref().and_then(Kept::again));
        let Some(again) = again.filter(|_| retries.may_retry(&route, &error, &backend, outbound)) else {
            endpoint.metrics.response(error.status(), None, Class::Failure, received.elapsed());
            return Err(error);
        };
        outbound.metrics.error(Direction::Outbound, &error, None);
        attempt = again;
        tried.push(endpoint);
    }
}

/// One attempt's request, before it is shaped for its endpoint.
struct Attempt {
    head: request::Parts,
    body: Body,
}

/// What another attempt needs after the first was sent.
struct Kept {
    head: request::Parts,
    body: ReplayHandle,
}

impl Attempt {
    /// The request as it came, without what ends here; and a copy where it could be sent twice.
    fn first(mut head: request::Parts, body: Incoming, route: &Route) -> (Self, Option<Kept>) {
        headers::strip_reserved(&mut head.headers);
        headers::strip_hop_by_hop(&mut head.headers);
        let body = Body::incoming(body);
        if !(route.replayable || http_body::Body::is_end_stream(&body)) {
            return (Self { head, body }, None);
        }
        let (body, handle) = body.replayable();
        let kept = Kept { head: head.clone(), body: handle };
        (Self { head, body }, Some(kept))
    }

    fn request(self, route: &Route, carrier: Carrier) -> Request<Body> {
        let Self { mut head, body } = self;
        match carrier {
            Carrier::Http1 => headers::to_http1(&mut head, &route.authority),
            Carrier::Http2 | Carrier::Http1InHttp2 => headers::to_http2(&mut head, &route.authority),
        }
        Request::from_parts(head, body)
    }
}

impl From<Request<Body>> for Attempt {
    fn from(unsent: Request<Body>) -> Self {
        let (head, body) = unsent.into_parts();
        Self { head, body }
    }
}

impl Kept {
    fn again(&self) -> Option<Attempt> {
        Some(Attempt { head: self.head.clone(), body: self.body.again()? })
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

/// An answer that a meshed endpoint's own proxy made, because its app gave none.
fn broken_answer(answered: &Answered, endpoint: &Endpoint) -> Option<Error> {
    let headers = answered.response.headers();
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
    backend: &Arc<Backend>,
    endpoint: Arc<Endpoint>,
    in_flight: InFlight<Endpoint>,
    received: Instant,
) -> Response<Body> {
    let (mut head, body) = answered.response.into_parts();
    headers::strip_reserved(&mut head.headers);
    headers::strip_hop_by_hop(&mut head.headers);
    head.version = if route.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let record = Record::new(endpoint.metrics.clone(), &head, answered.connection, received.elapsed());
    let record = record.outbound(backend.clone(), endpoint, in_flight);
    Response::from_parts(head, Body::incoming(body).recorded(Box::new(record)))
}

/// Once per socket of raw TCP: look up → pick → connect → copy → record.
async fn tcp_connection(outbound: &Outbound, socket: TcpStream, target: &str) -> Result<(), Error> {
    let backend = outbound.discovery.look_up(target).await?;
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let (endpoint, peer) = loop {
        let endpoint = backend.pick(&tried).await?;
        let started = Instant::now();
        match endpoint.client.transport.connect(Alpn::Tcp).await {
            Ok(peer) => {
                endpoint.load().observe(started.elapsed(), Instant::now());
                backend.balancer.outcome(&endpoint, true, Instant::now());
                break (endpoint, peer);
            }
            Err(error) => {
                backend.failed(&endpoint, &error);
                outbound.metrics.error(Direction::Outbound, &error, None);
                tried.push(endpoint);
                if tried.len() > RETRY_UNPROCESSED_LIMIT as usize {
                    return Err(error);
                }
            }
        }
    };
    let _in_flight = InFlight::new(endpoint.clone());
    let counted = endpoint.metrics.connection();
    Ok(tcp::forward(socket, peer, &counted).await?)
}

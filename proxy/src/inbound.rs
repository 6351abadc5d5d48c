//! SPINE. From the mesh to the app: accept → TLS → who → where → per request: authorize → send → stream back → record.
//! ALPN already says the protocol, so nothing is detected. Mirrors `outbound.rs`; where they differ, the difference is the
//! feature.
//!
//! It refuses peers that prove no identity (strict), ports that the workload does not declare, and the proxy's own.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use lacewing_identity::{Refusal, RefusalKind, SpiffeId, sni};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    authorize::{Decision, Mode, authorize},
    config::{HANDSHAKE_TIMEOUT, LIVE_SERIES_MAX},
    detect::Protocol,
    discovery::Discovery,
    error::Error,
    http::{
        body::Body,
        client::{Answered, Carrier, Client},
        headers, server,
    },
    listen::Draining,
    live::{Direction, Key},
    metrics::{Class, ConnectionGuard, Metrics, Peer},
    record::Record,
    route::DEFAULT_ROUTE,
    tcp,
    tls::{self, Accepted, Alpn, Identity, MeshConnection, Transport},
};

/// What the inbound side works with.
pub struct Inbound {
    pub discovery: Arc<Discovery>,
    pub identity: Arc<Identity>,
    pub metrics: Arc<Metrics>,
    pub draining: Draining,
    /// Where the app listens.
    pub pod_ip: IpAddr,
    /// Ports of the proxy itself: never a destination.
    pub own_ports: Vec<u16>,
    apps: Mutex<HashMap<u16, Arc<Client>>>,
    peers: Mutex<HashMap<(SpiffeId, u16), Arc<Peer>>>,
}

impl Inbound {
    pub fn new(
        discovery: Arc<Discovery>,
        identity: Arc<Identity>,
        metrics: Arc<Metrics>,
        draining: Draining,
        pod_ip: IpAddr,
        own_ports: Vec<u16>,
    ) -> Self {
        Self {
            discovery,
            identity,
            metrics,
            draining,
            pod_ip,
            own_ports,
            apps: Mutex::default(),
            peers: Mutex::default(),
        }
    }

    /// The client for one of the app's ports; there are as many as the workload declares.
    fn app(&self, port: u16) -> Arc<Client> {
        let addr = SocketAddr::new(self.pod_ip, port);
        let make = || Client::new(Transport::new(addr, None, None, self.identity.clone()), None);
        self.apps.lock().entry(port).or_insert_with(make).clone()
    }

    /// Closes idle connections to the app. Called now and then.
    pub fn sweep(&self) {
        self.apps.lock().values().for_each(|app| app.sweep());
    }

    /// Numbers about one client.
    fn peer(&self, id: &SpiffeId, port: u16) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(&(id.clone(), port)) {
            return peer.clone();
        }
        if peers.len() >= LIVE_SERIES_MAX {
            peers.retain(|_, peer| Arc::strong_count(peer) > 1);
        }
        let key = Key {
            direction: Direction::Inbound,
            peer_namespace: id.namespace().to_owned(),
            peer: format!("sa/{}", id.service_account()),
            service: None,
            route: DEFAULT_ROUTE.to_owned(),
        };
        let labels = vec![("tls", "true".to_owned()), ("client_id", id.to_string()), ("srv_port", port.to_string())];
        let peer = self.metrics.peer(&key, labels);
        peers.insert((id.clone(), port), peer.clone());
        peer
    }

    /// Authorize: the workload's policy of this moment.
    fn authorize(&self, port: u16, peer: Option<&SpiffeId>) -> Result<(), Error> {
        let policy = self.discovery.inbound().borrow();
        let policy = policy.as_ref().ok_or(Error::Denied("the workload's policy is not known yet"))?;
        match authorize(policy.mode, &policy.ports, port, peer) {
            Decision::Deny(reason) => Err(Error::Denied(reason)),
            Decision::Allow if self.own_ports.contains(&port) => Err(Error::Denied("the port is the proxy's own")),
            Decision::Allow => Ok(()),
        }
    }
}

/// Once per socket.
pub async fn connection(inbound: Arc<Inbound>, socket: TcpStream, from: SocketAddr) {
    let served = serve(&inbound, socket).await;
    if let Err(error) = served {
        inbound.metrics.error(Direction::Inbound, &error, Some(from));
    }
}

async fn serve(inbound: &Arc<Inbound>, socket: TcpStream) -> Result<(), Error> {
    // TLS: who is it? A plain or foreign connection says not where it is meant for, so there is nothing to serve.
    let accepted = timeout(HANDSHAKE_TIMEOUT, tls::accept(socket, &inbound.identity)).await;
    let late = || Error::Forbidden(Refusal::new(RefusalKind::NotTls, "no TLS handshake within 10 s"));
    let connection = match accepted.unwrap_or_else(|_| Err(late()))? {
        Accepted::Mesh(connection) => connection,
        Accepted::Foreign => return Err(no_mesh_tls(inbound)),
        Accepted::Plain(protocol, socket) => {
            let error = no_mesh_tls(inbound);
            if protocol == Protocol::Http1 {
                tell(socket, &error).await;
            }
            return Err(error);
        }
    };
    let MeshConnection { io, peer, alpn, sni } = *connection;
    // Where, and may it?
    let port = where_to(sni.as_deref())?;
    inbound.authorize(port, Some(&peer)).inspect_err(|error| inbound.metrics.denied(error))?;
    inbound.metrics.allowed(port);

    let numbers = inbound.peer(&peer, port);
    let counted = numbers.connection();
    let client = Arc::new(FromClient { inbound: inbound.clone(), peer, port, numbers, app: inbound.app(port), alpn });
    let handler = {
        let client = client.clone();
        move |incoming| {
            let client = client.clone();
            async move { request(&client, incoming).await }
        }
    };
    let ended = match alpn {
        Alpn::Tcp => return tcp_connection(&client, io, &counted).await,
        Alpn::H1 => server::serve_http1(io, inbound.draining.clone(), handler).await,
        Alpn::H2 | Alpn::H1H2 => server::serve_http2(io, inbound.draining.clone(), handler).await,
    };
    server::ended(ended)
}

/// Where: the SNI names the port, since nothing redirected the connection.
fn where_to(sni: Option<&str>) -> Result<u16, Error> {
    let (port, _, _) = sni.and_then(sni::parse).ok_or(Error::Denied("the connection's SNI names no port of ours"))?;
    Ok(port)
}

/// Tells a plain HTTP/1 client why it is not served: otherwise its people see a connection that just closes.
async fn tell(mut socket: TcpStream, error: &Error) {
    let body = format!("lacewing: {error}\n");
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\nconnection: close\r\n{}: {}\r\n\r\n",
        body.len(),
        headers::ERROR,
        error.label()
    );
    // One small write into an empty socket buffer; if the client is gone already, so be it.
    let _ = timeout(HANDSHAKE_TIMEOUT, socket.write_all(format!("{head}{body}").as_bytes())).await;
}

fn no_mesh_tls(inbound: &Inbound) -> Error {
    let strict = inbound.discovery.inbound().borrow().as_ref().is_none_or(|policy| policy.mode == Mode::Strict);
    let reason = if strict {
        "this workload takes mesh TLS only (strict): the client is not in the mesh, or bypassed its own proxy"
    } else {
        "not mesh TLS, and nothing says where it is meant for"
    };
    let error = Error::Denied(reason);
    inbound.metrics.denied(&error);
    error
}

/// A client's connection, for its requests.
struct FromClient {
    inbound: Arc<Inbound>,
    peer: SpiffeId,
    port: u16,
    numbers: Arc<Peer>,
    app: Arc<Client>,
    alpn: Alpn,
}

/// Once per request. An `Err` resets the HTTP/2 stream.
async fn request(client: &FromClient, incoming: Request<Incoming>) -> Result<Response<Body>, h2::Error> {
    let received = Instant::now();
    client.numbers.request();
    let (grpc, bodyless) = (headers::is_grpc(incoming.headers()), incoming.method() == Method::HEAD);
    let error = match forward(client, incoming, received).await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    client.inbound.metrics.error(Direction::Inbound, &error, None);
    client.numbers.response(error.status(), None, Class::Failure, received.elapsed());
    match (&error, client.alpn) {
        // The app did not see it: the client's proxy may send it elsewhere (RFC 9113, 8.7).
        (Error::Connect { .. } | Error::Refused, Alpn::H2 | Alpn::H1H2) => Err(h2::Reason::REFUSED_STREAM.into()),
        (Error::Connect { .. } | Error::Refused, _) => {
            let mut response = server::refuse(&error, grpc, bodyless);
            response.headers_mut().insert(headers::REFUSED, HeaderValue::from_static("1"));
            Ok(response)
        }
        _ => Ok(server::refuse(&error, grpc, bodyless)),
    }
}

async fn forward(client: &FromClient, incoming: Request<Incoming>, received: Instant) -> Result<Response<Body>, Error> {
    // Authorize: again for each request, since policy may have changed.
    client.inbound.authorize(client.port, Some(&client.peer))?;
    let (mut head, body) = incoming.into_parts();
    let authority = headers::authority(&head)?;
    headers::strip_reserved(&mut head.headers);
    headers::strip_hop_by_hop(&mut head.headers);
    headers::set_client_id(&mut head.headers, Some(&client.peer));
    // Send: to the app, in the version that the client's side speaks.
    let carrier = if client.alpn == Alpn::H2 { Carrier::Http2 } else { Carrier::Http1 };
    match carrier {
        Carrier::Http1 => headers::to_http1(&mut head, &authority),
        Carrier::Http2 | Carrier::Http1InHttp2 => headers::to_http2(&mut head, &authority),
    }
    let sent = client.app.send(Request::from_parts(head, Body::incoming(body)), carrier).await;
    let Answered { response, connection, .. } = sent.map_err(|failed| failed.error)?;
    // Stream back, and record at the end of the stream.
    let (mut head, body) = response.into_parts();
    headers::strip_reserved(&mut head.headers);
    headers::strip_hop_by_hop(&mut head.headers);
    head.version = if client.alpn == Alpn::H1 { Version::HTTP_11 } else { Version::HTTP_2 };
    let record = Record::new(client.numbers.clone(), &head, connection, received.elapsed());
    Ok(Response::from_parts(head, Body::incoming(body).recorded(Box::new(record))))
}

/// Once per socket of raw TCP: connect to the app, copy, record.
async fn tcp_connection<I>(client: &FromClient, io: I, counted: &ConnectionGuard) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let app = client.app.transport.connect(Alpn::Tcp).await?;
    Ok(tcp::forward(app, io, counted).await?)
}

//! The HTTP client for one peer: a few idle HTTP/1 connections, and one warm multiplexed HTTP/2 connection per carrier.
//! It sends one request once; whether to try elsewhere is the spine's decision, so a request that certainly was not
//! sent comes back with the error.

use std::{fmt::Display, future::Future, io, net::SocketAddr, sync::Arc};

use http::{
    HeaderValue, Method, Request, Response,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lacewing_identity::{Refusal, RefusalKind};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    Message,
    body::{Body, Broke},
    interim::{Answering, Interim},
    multiplexed::{NotSent, Open},
};
use crate::{
    config::{HEADER_FIELDS_MAX, HEADER_LIST_MAX, IDLE_PER_ENDPOINT_MAX, IDLE_TIMEOUT, PEER_PING_INTERVAL},
    error::Error,
    metrics::Peer,
    tls::{Alpn, Transport},
};

/// The HTTP version that carries a request to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Http1,
    Http2,
    /// HTTP/1 requests multiplexed over HTTP/2: between proxies only.
    Http1InHttp2,
}

/// An HTTP/1 connection.
struct Connection {
    sender: http1::SendRequest<Body>,
    interim: Interim,
}

/// Connections to one peer.
pub struct Client {
    pub transport: Transport,
    /// Counts the connections; `None` towards our own app.
    numbers: Option<Arc<Peer>>,
    idle: Mutex<Vec<(Connection, Instant)>>,
    http2: Multiplexed,
    http1_in_http2: Multiplexed,
}

/// One HTTP/2 connection: none, being opened, or open.
#[derive(Default)]
struct Multiplexed(Mutex<Slot>);

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    /// A task opens it; everybody who needs it waits for the same outcome.
    Opening(watch::Receiver<Option<Result<Open, Error>>>),
    Open(Open),
}

/// A request that was not answered, and the request itself if it was certainly not sent.
pub struct Failed {
    pub error: Error,
    pub unsent: Option<Box<Message>>,
}

/// An answer; with HTTP/1, also what gives the connection back once the answer's body was read.
pub struct Answered {
    pub response: Response<Body>,
    /// When the request went out, connecting not included.
    pub sent: Instant,
    pub connection: Option<Reusable>,
}

impl Client {
    pub fn new(transport: Transport, numbers: Option<Arc<Peer>>) -> Arc<Self> {
        Arc::new(Self {
            transport,
            numbers,
            idle: Mutex::default(),
            http2: Multiplexed::default(),
            http1_in_http2: Multiplexed::default(),
        })
    }

    /// Sends one request; its head must fit the carrier. `reuse`: over a connection that was idle, if there is one; a
    /// request that broke off once must not meet another that is just being closed.
    pub async fn send(
        self: &Arc<Self>,
        request: Box<Message>,
        carrier: Carrier,
        reuse: bool,
    ) -> Result<Answered, Box<Failed>> {
        match carrier {
            Carrier::Http1 => self.send_http1(request, reuse).await,
            Carrier::Http2 => self.send_http2(request, Alpn::H2).await,
            Carrier::Http1InHttp2 => self.send_http2(request, Alpn::H1H2).await,
        }
    }

    async fn send_http1(self: &Arc<Self>, mut request: Box<Message>, reuse: bool) -> Result<Answered, Box<Failed>> {
        frame_body(&mut request);
        loop {
            let (mut connection, reused) = match self.take_idle().filter(|_| reuse) {
                Some(connection) => (connection, true),
                // Boxed, as all that is seldom done: it would be room in every request.
                None => match Box::pin(self.connect_http1()).await {
                    Ok(connection) => (connection, false),
                    Err(error) => return Err(Box::new(Failed { error, unsent: Some(request) })),
                },
            };
            let sent = Instant::now();
            connection.interim.begins();
            let answer = connection.sender.try_send_request(Request::from(request)).await;
            let too_many = connection.interim.ends();
            match answer {
                Ok(response) => {
                    if let Err(error) = super::headers::unambiguous_answer(response.headers()) {
                        return Err(Box::new(Failed { error, unsent: None }));
                    }
                    let connection = Some(Reusable { client: self.clone(), connection });
                    return Ok(Answered { response: response.map(Body::http1), sent, connection });
                }
                Err(_) if too_many => {
                    let error = Error::BadAnswer("more interim answers (1xx) than any request needs");
                    return Err(Box::new(Failed { error, unsent: None }));
                }
                // The peer closed an idle connection: that says nothing about the peer. Take another.
                Err(mut error) => {
                    let back = error.take_message().map(Message::boxed);
                    match unsent(classify(error.into_error(), self.transport.addr), back) {
                        (_, Some(back)) if reused => request = back,
                        (error, unsent) => return Err(Box::new(Failed { error, unsent })),
                    }
                }
            }
        }
    }

    /// A connection that can take a request now. One that is still busy with an upload that its server did not wait for
    /// is no use.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let (connection, since) = self.idle.lock().pop()?;
            if since.elapsed() < IDLE_TIMEOUT && connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    async fn connect_http1(&self) -> Result<Connection, Error> {
        let interim = Interim::default();
        let io = Answering::new(self.transport.connect(Alpn::H1).await?, interim.clone());
        let (sender, connection) = http1::Builder::new()
            .max_headers(HEADER_FIELDS_MAX)
            .max_header_size(HEADER_LIST_MAX as usize)
            .max_buf_size(HEADER_LIST_MAX as usize)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| self.connect_failed(&error.to_string()))?;
        self.drive(connection.with_upgrades());
        Ok(Connection { sender, interim })
    }

    async fn send_http2(self: &Arc<Self>, mut request: Box<Message>, alpn: Alpn) -> Result<Answered, Box<Failed>> {
        loop {
            let (open, reused) = match self.open_now(alpn) {
                Some(open) => (open, true),
                None => match Box::pin(self.http2_connection(alpn)).await {
                    Ok(open) => (open, false),
                    Err(error) => return Err(Box::new(Failed { error, unsent: Some(request) })),
                },
            };
            let sent = Instant::now();
            match open.send(request).await {
                Ok(response) => return Ok(Answered { response, sent, connection: None }),
                // The connection went away while it was idle: that says nothing about the peer. Open another.
                Err(NotSent { error, request: back }) => {
                    match unsent(classify_http2(error, self.transport.addr), back) {
                        (_, Some(back)) if reused => request = back,
                        (error, unsent) => return Err(Box::new(Failed { error, unsent })),
                    }
                }
            }
        }
    }

    fn open_now(&self, alpn: Alpn) -> Option<Open> {
        match &*self.multiplexed(alpn).0.lock() {
            Slot::Open(open) if !open.is_closed() => Some(open.clone()),
            _ => None,
        }
    }

    /// A new connection, or one that somebody else has just opened.
    async fn http2_connection(self: &Arc<Self>, alpn: Alpn) -> Result<Open, Error> {
        let mut opening = {
            let mut slot = self.multiplexed(alpn).0.lock();
            match &*slot {
                Slot::Open(open) if !open.is_closed() => return Ok(open.clone()),
                Slot::Opening(outcome) if outcome.has_changed().is_ok() => outcome.clone(),
                _ => {
                    let (tell, outcome) = watch::channel(None);
                    *slot = Slot::Opening(outcome.clone());
                    // Its own task: whoever asked first may give up before the handshake is over.
                    tokio::spawn(self.clone().open_http2(alpn, tell));
                    outcome
                }
            }
        };
        match opening.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(open))) => Ok(open.clone()),
            Ok(Some(Err(error))) => Err(error.shared()),
            Ok(None) | Err(_) => Err(self.connect_failed("the attempt was abandoned")),
        }
    }

    async fn open_http2(self: Arc<Self>, alpn: Alpn, tell: watch::Sender<Option<Result<Open, Error>>>) {
        let outcome = self.handshake_http2(alpn).await;
        let mut slot = self.multiplexed(alpn).0.lock();
        *slot = outcome.as_ref().map_or(Slot::Empty, |open| Slot::Open(open.clone()));
        drop(slot);
        tell.send_replace(Some(outcome));
    }

    async fn handshake_http2(&self, alpn: Alpn) -> Result<Open, Error> {
        let io = self.transport.connect(alpn).await?;
        // Only our own kind is asked: a gRPC server closes connections with more pings than it likes.
        let silence = self.transport.peer.is_some().then_some(PEER_PING_INTERVAL);
        let handshake = Open::handshake(io, silence).await;
        let (open, connection) = handshake.map_err(|error| self.connect_failed(&error.to_string()))?;
        self.drive(connection);
        Ok(open)
    }

    /// Keeps a connection going until it ends, and counted for as long.
    fn drive<E: Display>(&self, connection: impl Future<Output = Result<(), E>> + Send + 'static) {
        let open = self.numbers.as_ref().map(Peer::connection);
        tokio::spawn(async move {
            let _open = open;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a peer ended");
            }
        });
    }

    fn multiplexed(&self, alpn: Alpn) -> &Multiplexed {
        if alpn == Alpn::H1H2 { &self.http1_in_http2 } else { &self.http2 }
    }

    fn connect_failed(&self, why: &str) -> Error {
        Error::Connect { addr: self.transport.addr, cause: Arc::new(io::Error::other(why.to_owned())) }
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if !connection.sender.is_closed() && idle.len() < IDLE_PER_ENDPOINT_MAX {
            idle.push((connection, Instant::now()));
        }
    }

    /// Closes connections that were idle for too long. Called now and then.
    pub fn sweep(&self) {
        self.idle.lock().retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < IDLE_TIMEOUT);
    }
}

/// hyper takes it that GET and HEAD have no body unless their head says so, and drops what there is.
fn frame_body(Message { head, body }: &mut Message) {
    let bodyless = body.is_end_stream() || head.method == Method::CONNECT;
    if !bodyless && !head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// An HTTP/1 connection that can be used again once the answer was read to its end.
pub struct Reusable {
    client: Arc<Client>,
    connection: Connection,
}

impl Reusable {
    /// The answer was read to its end.
    pub fn done(self) {
        self.client.give_back(self.connection);
    }
}

/// What a failed send means: the error, and the request if it was certainly not sent.
fn unsent(error: Error, back: Option<Box<Message>>) -> (Error, Option<Box<Message>>) {
    match (error, back) {
        (Error::Broken(_), Some(back)) => (Error::Refused, Some(back)),
        (error, back) => (error, back),
    }
}

/// What an error of hyper's client says about the request.
fn classify(error: hyper::Error, addr: SocketAddr) -> Error {
    let source = std::error::Error::source(&error);
    if let Some(refusal) = source.and_then(|source| source.downcast_ref::<io::Error>()).and_then(refused_us) {
        return Error::Handshake { addr, refusal };
    }
    let body_broke = error.is_user() && source.is_some_and(<dyn std::error::Error>::is::<Broke>);
    if body_broke { Error::ClientBody(error.into()) } else { Error::Broken(error.into()) }
}

/// The same of h2's.
fn classify_http2(error: h2::Error, addr: SocketAddr) -> Error {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => return Error::Refused,
        // A peer that goes away ends only the streams that it did not begin to process (RFC 9113, 6.8).
        Some(h2::Reason::NO_ERROR) if error.is_remote() && error.is_go_away() => return Error::Refused,
        // By the app, or by the proxy before it on the app's behalf.
        Some(reason) if error.is_remote() && error.is_reset() => return Error::Reset(reason),
        // Reset by us, because the body that we were to send broke off.
        _ if error.is_reset() && !error.is_remote() && !error.is_library() => return Error::ClientBody(error.into()),
        _ => {}
    }
    match error.get_io().and_then(refused_us) {
        Some(refusal) => Error::Handshake { addr, refusal },
        None => Error::Broken(error.into()),
    }
}

/// With TLS 1.3 a client learns only by its first read that its certificate was refused: then nothing was processed.
fn refused_us(error: &io::Error) -> Option<Refusal> {
    let refusal = lacewing_identity::refusal(error);
    let certificate = matches!(
        refusal.kind,
        RefusalKind::NoCertificate | RefusalKind::UntrustedCertificate | RefusalKind::ExpiredCertificate
    );
    (refusal.by_peer() && certificate).then_some(refusal)
}

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
    body::{Body, Broke},
    multiplexed::{NotSent, Open},
};
use crate::{
    config::{
        HEADER_FIELDS_MAX, HEADER_LIST_MAX, IDLE_PER_ENDPOINT_MAX, IDLE_TIMEOUT, INTERIM_MAX, PEER_PING_INTERVAL,
    },
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

/// Connections to one peer.
pub struct Client {
    pub transport: Transport,
    /// Counts the connections; `None` towards our own app.
    numbers: Option<Arc<Peer>>,
    idle: Mutex<Vec<(http1::SendRequest<Body>, Instant)>>,
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
    pub unsent: Option<Request<Body>>,
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
        request: Request<Body>,
        carrier: Carrier,
        reuse: bool,
    ) -> Result<Answered, Box<Failed>> {
        match carrier {
            Carrier::Http1 => self.send_http1(request, reuse).await,
            Carrier::Http2 => self.send_http2(request, Alpn::H2).await,
            Carrier::Http1InHttp2 => self.send_http2(request, Alpn::H1H2).await,
        }
    }

    async fn send_http1(self: &Arc<Self>, mut request: Request<Body>, reuse: bool) -> Result<Answered, Box<Failed>> {
        frame_body(&mut request);
        loop {
            let (mut sender, reused) = match self.take_idle().filter(|_| reuse) {
                Some(sender) => (sender, true),
                None => match self.connect_http1().await {
                    Ok(sender) => (sender, false),
                    Err(error) => return Err(Box::new(Failed { error, unsent: Some(request) })),
                },
            };
            let sent = Instant::now();
            let interim = Interim::count(&mut request);
            let answer = tokio::select! {
                biased; // the last of too many may come together with the answer
                // Dropping the sender closes the connection.
                error = interim.too_many() => return Err(Box::new(Failed { error, unsent: None })),
                answer = sender.try_send_request(request) => answer,
            };
            match answer {
                Ok(response) => {
                    if let Err(error) = super::headers::unambiguous_answer(response.headers()) {
                        return Err(Box::new(Failed { error, unsent: None }));
                    }
                    let connection = Some(Reusable { client: self.clone(), sender });
                    return Ok(Answered { response: response.map(Body::http1), sent, connection });
                }
                // The peer closed an idle connection: that says nothing about the peer. Take another.
                Err(mut error) => {
                    let back = error.take_message();
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
    fn take_idle(&self) -> Option<http1::SendRequest<Body>> {
        loop {
            let (sender, since) = self.idle.lock().pop()?;
            if since.elapsed() < IDLE_TIMEOUT && sender.is_ready() {
                return Some(sender);
            }
        }
    }

    async fn connect_http1(&self) -> Result<http1::SendRequest<Body>, Error> {
        let io = self.transport.connect(Alpn::H1).await?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(HEADER_FIELDS_MAX)
            .max_header_size(HEADER_LIST_MAX as usize)
            .max_buf_size(HEADER_LIST_MAX as usize)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| self.connect_failed(&error.to_string()))?;
        self.drive(connection.with_upgrades());
        Ok(sender)
    }

    async fn send_http2(self: &Arc<Self>, mut request: Request<Body>, alpn: Alpn) -> Result<Answered, Box<Failed>> {
        loop {
            let (open, reused) = match self.http2_connection(alpn).await {
                Ok(connection) => connection,
                Err(error) => return Err(Box::new(Failed { error, unsent: Some(request) })),
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

    /// The open connection, or a new one; and whether it was open before.
    async fn http2_connection(self: &Arc<Self>, alpn: Alpn) -> Result<(Open, bool), Error> {
        let mut opening = {
            let mut slot = self.multiplexed(alpn).0.lock();
            match &*slot {
                Slot::Open(open) if !open.is_closed() => return Ok((open.clone(), true)),
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
            Ok(Some(Ok(open))) => Ok((open.clone(), false)),
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

    fn give_back(&self, sender: http1::SendRequest<Body>) {
        let mut idle = self.idle.lock();
        if !sender.is_closed() && idle.len() < IDLE_PER_ENDPOINT_MAX {
            idle.push((sender, Instant::now()));
        }
    }

    /// Closes connections that were idle for too long. Called now and then.
    pub fn sweep(&self) {
        self.idle.lock().retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_TIMEOUT);
    }
}

/// hyper takes it that GET and HEAD have no body unless their head says so, and drops what there is.
fn frame_body(request: &mut Request<Body>) {
    let bodyless = request.body().is_end_stream() || request.method() == Method::CONNECT;
    if !bodyless && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Counts the interim answers (1xx) to one request: a server may send any number, and each costs time.
struct Interim(watch::Receiver<u32>);

impl Interim {
    fn count(request: &mut Request<Body>) -> Self {
        let (seen, count) = watch::channel(0);
        hyper::ext::on_informational(request, move |_| seen.send_modify(|seen| *seen += 1));
        Self(count)
    }

    /// Ends when there are more than [`INTERIM_MAX`], and never otherwise.
    async fn too_many(mut self) -> Error {
        if self.0.wait_for(|seen| *seen > INTERIM_MAX).await.is_err() {
            std::future::pending::<()>().await;
        }
        Error::BadAnswer("more interim answers (1xx) than any request needs")
    }
}

/// An HTTP/1 connection that can be used again once the answer was read to its end.
pub struct Reusable {
    client: Arc<Client>,
    sender: http1::SendRequest<Body>,
}

impl Reusable {
    /// The answer was read to its end.
    pub fn done(self) {
        self.client.give_back(self.sender);
    }
}

/// What a failed send means: the error, and the request if it was certainly not sent.
fn unsent(error: Error, back: Option<Request<Body>>) -> (Error, Option<Request<Body>>) {
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

//! The HTTP client for one peer: a few idle HTTP/1 connections, and one warm multiplexed HTTP/2 connection per carrier.
//! It sends one request once; whether to try elsewhere is the spine's decision, so a request that certainly was not
//! sent comes back with the error.

use std::sync::Arc;

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::body::Body;
use crate::{
    config::{
        CONNECTION_WINDOW, HEADER_FIELDS_MAX, HEADER_LIST_MAX, IDLE_PER_ENDPOINT_MAX, IDLE_TIMEOUT, PING_INTERVAL,
        PING_TIMEOUT, SEND_BUFFER, STREAM_WINDOW,
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

#[derive(Default)]
struct Multiplexed {
    sender: Mutex<Option<http2::SendRequest<Body>>>,
    /// Held while connecting, so that a burst of requests opens one connection.
    connecting: tokio::sync::Mutex<()>,
}

/// A request that was not answered, and the request itself if it was certainly not sent.
pub struct Failed {
    pub error: Error,
    pub unsent: Option<Request<Body>>,
}

/// An answer; with HTTP/1, also what gives the connection back once the answer's body was read.
pub struct Answered {
    pub response: Response<Incoming>,
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

    /// Sends one request; its head must fit the carrier.
    pub async fn send(self: &Arc<Self>, request: Request<Body>, carrier: Carrier) -> Result<Answered, Box<Failed>> {
        match carrier {
            Carrier::Http1 => self.send_http1(request).await,
            Carrier::Http2 => self.send_http2(request, &self.http2, Alpn::H2).await,
            Carrier::Http1InHttp2 => self.send_http2(request, &self.http1_in_http2, Alpn::H1H2).await,
        }
    }

    async fn send_http1(self: &Arc<Self>, mut request: Request<Body>) -> Result<Answered, Box<Failed>> {
        loop {
            let (mut sender, reused) = match self.take_idle().await {
                Some(sender) => (sender, true),
                None => match self.connect_http1().await {
                    Ok(sender) => (sender, false),
                    Err(error) => return Err(Box::new(Failed { error, unsent: Some(request) })),
                },
            };
            let sent = Instant::now();
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let connection = Some(Reusable { client: self.clone(), sender });
                    return Ok(Answered { response, sent, connection });
                }
                // The peer closed an idle connection: that says nothing about the peer. Take another.
                Err(error) => match unsent(error) {
                    (_, Some(back)) if reused => request = back,
                    (error, unsent) => return Err(Box::new(Failed { error, unsent })),
                },
            }
        }
    }

    async fn take_idle(&self) -> Option<http1::SendRequest<Body>> {
        loop {
            let (mut sender, since) = self.idle.lock().pop()?;
            if since.elapsed() < IDLE_TIMEOUT && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect_http1(&self) -> Result<http1::SendRequest<Body>, Error> {
        let io = self.transport.connect(Alpn::H1).await?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(HEADER_FIELDS_MAX)
            .max_header_size(HEADER_LIST_MAX as usize)
            .handshake(TokioIo::new(io))
            .await
            .map_err(Error::Broken)?;
        let open = self.numbers.as_ref().map(|numbers| numbers.connection());
        tokio::spawn(async move {
            let _open = open;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/1 connection ended");
            }
        });
        Ok(sender)
    }

    async fn send_http2(
        &self,
        mut request: Request<Body>,
        to: &Multiplexed,
        alpn: Alpn,
    ) -> Result<Answered, Box<Failed>> {
        let mut reused = true;
        loop {
            let open = to.open();
            let mut sender = match open {
                Some(sender) => sender,
                None => match self.connect_http2(to, alpn, &mut reused).await {
                    Ok(sender) => sender,
                    Err(error) => return Err(Box::new(Failed { error, unsent: Some(request) })),
                },
            };
            let sent = Instant::now();
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(Answered { response, sent, connection: None }),
                Err(error) => match unsent(error) {
                    (_, Some(back)) if reused => {
                        to.forget();
                        request = back;
                        reused = false;
                    }
                    (error, unsent) => return Err(Box::new(Failed { error, unsent })),
                },
            }
        }
    }

    async fn connect_http2(
        &self,
        to: &Multiplexed,
        alpn: Alpn,
        reused: &mut bool,
    ) -> Result<http2::SendRequest<Body>, Error> {
        let _one = to.connecting.lock().await;
        if let Some(sender) = to.open() {
            return Ok(sender); // somebody else connected while we waited
        }
        *reused = false;
        let io = self.transport.connect(alpn).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST_MAX)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(io))
            .await
            .map_err(Error::Broken)?;
        let open = self.numbers.as_ref().map(|numbers| numbers.connection());
        tokio::spawn(async move {
            let _open = open;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 connection ended");
            }
        });
        *to.sender.lock() = Some(sender.clone());
        Ok(sender)
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

impl Multiplexed {
    fn open(&self) -> Option<http2::SendRequest<Body>> {
        self.sender.lock().as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    fn forget(&self) {
        let _ = self.sender.lock().take();
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

/// Sorts out what a failed send means.
fn unsent(error: TrySendError<Request<Body>>) -> (Error, Option<Request<Body>>) {
    let mut error = error;
    let back = error.take_message();
    (classify(error.into_error()), back)
}

/// What an error of hyper's client says about the request.
fn classify(error: hyper::Error) -> Error {
    let reset = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    let not_processed = |h2: &h2::Error| match h2.reason() {
        Some(h2::Reason::REFUSED_STREAM) => h2.is_remote(),
        // A peer that goes away ends only the streams that it did not begin to process (RFC 9113, 6.8).
        Some(h2::Reason::NO_ERROR) => h2.is_remote() && h2.is_go_away(),
        _ => false,
    };
    if reset.is_some_and(not_processed) {
        return Error::Refused;
    }
    if error.is_user() { Error::ClientBody(error) } else { Error::Broken(error) }
}

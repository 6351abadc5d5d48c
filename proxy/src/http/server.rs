//! Serves HTTP on one connection: hyper's state machine with our limits; each request goes to the spine. When the
//! proxy drains, the connection says so (GOAWAY, `connection: close`) and ends after the requests that it has.

use std::{error::Error as StdError, fmt::Write, future::Future, pin::pin};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::{
    body::Body,
    flood::Guarded,
    headers,
    patience::{Cut, Verdict, patience},
    stalled,
    strict::{Strict, Told},
};
use crate::{
    config::{
        CONNECTION_WINDOW, FIRST_REQUEST_GRACE, HEAD_TIMEOUT, HEADER_FIELDS_MAX, HEADER_LIST_MAX, PING_INTERVAL,
        PING_TIMEOUT, RESETS_MAX, SEND_BUFFER, STREAM_WINDOW, STREAMS_MAX, STREAMS_MAX_UNKNOWN,
    },
    error::Error,
    listen::Draining,
};

/// How a connection ended that did not end well.
#[derive(Debug)]
pub enum Ended {
    /// We cut it.
    Cut(Cut),
    /// We refused a request's head: why.
    Refused(&'static str),
    /// It broke, or the client broke the protocol.
    Broke(hyper::Error),
}

/// Serves HTTP/1 until the client is done or the proxy stops. While the proxy is only leaving, answers say `connection:
/// close` (the spine's business) and no idle connection is closed: a request may be on its way.
///
/// # Errors
/// The connection was cut or broke, or the client broke the protocol.
pub async fn serve_http1<I, H, F, E>(io: I, mut draining: Draining, handler: H) -> Result<(), Ended>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Body>, E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let born = Instant::now();
    let verdict = Verdict::default();
    let told = Told::default();
    let (timer, io, reading) = patience(Strict::new(io, told.clone()), verdict.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        if !request.body().is_end_stream() {
            request.extensions_mut().insert(reading.clone());
        }
        let asked = told.asked(&request);
        let answer = handler(request);
        async move {
            let answer = answer.await;
            if let Some(asked) = asked {
                asked.answered(answer.as_ref().ok().map(Response::status));
            }
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(timer)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADER_FIELDS_MAX)
        .max_header_size(HEADER_LIST_MAX as usize)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let stopped = tokio::select! {
        ended = &mut connection => return understood(ended, &verdict, &told),
        () = draining.stopping() => Instant::now(),
    };
    // hyper closes a connection on which nothing came yet at once: a client that has just connected would lose its request.
    let grace = FIRST_REQUEST_GRACE.saturating_sub(stopped - born);
    if let Ok(ended) = timeout(grace, connection.as_mut()).await {
        return understood(ended, &verdict, &told);
    }
    connection.as_mut().graceful_shutdown();
    understood(connection.await, &verdict, &told)
}

/// What an HTTP/2 client may do.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Streams at a time.
    pub streams: u32,
    /// Streams that it resets before we have looked at them; more end the connection (CVE-2023-44487).
    pub resets: usize,
}

impl Allowed {
    /// Our own app.
    pub const APP: Self = Self { streams: STREAMS_MAX, resets: RESETS_MAX };
    /// A peer's proxy: many clients share its connection, and one that goes away with all its streams must not end it.
    pub const PEER: Self = Self { streams: STREAMS_MAX, resets: STREAMS_MAX as usize };
    /// A client that proved nothing.
    pub const STRANGER: Self = Self { streams: STREAMS_MAX_UNKNOWN, resets: RESETS_MAX };
}

/// Serves HTTP/2 until the client is done or the proxy drains.
///
/// # Errors
/// The connection was cut or broke, or the client broke the protocol.
pub async fn serve_http2<I, H, F, E>(io: I, allowed: Allowed, mut draining: Draining, handler: H) -> Result<(), Ended>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Body>, E>> + Send + 'static,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let verdict = Verdict::default();
    let io = Guarded::server(io, verdict.clone());
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { answer.await.map(|response| response.map(stalled::Told::new)) }
    });
    let connection = http2::Builder::new(stalled::Streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(allowed.streams)
        .max_pending_accept_reset_streams(allowed.resets)
        .max_header_list_size(HEADER_LIST_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining.started() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    judged(ended, &verdict)
}

/// If we cut it, that is why it ended, whatever hyper makes of it.
fn judged(ended: Result<(), hyper::Error>, verdict: &Verdict) -> Result<(), Ended> {
    match verdict.get() {
        Some(cut) => Err(Ended::Cut(cut)),
        None => ended.map_err(Ended::Broke),
    }
}

/// The same; and if hyper refused a head in which we had found a fault, that is why.
fn understood(ended: Result<(), hyper::Error>, verdict: &Verdict, told: &Told) -> Result<(), Ended> {
    match (ended, told.fault()) {
        (Err(error), Some(why)) if error.is_parse() => Err(Ended::Refused(why)),
        (ended, _) => judged(ended, verdict),
    }
}

/// What the end of a connection says: that we cut it, or a head that was refused (too long, malformed; it has answered
/// 431 or 400), is an error of the client; everything else is how connections end.
///
/// # Errors
/// [`Error::BadRequest`], [`Error::Cut`].
pub fn ended(ended: Result<(), Ended>) -> Result<(), Error> {
    match ended {
        Err(Ended::Cut(cut)) => Err(Error::Cut(cut)),
        Err(Ended::Refused(why)) => Err(Error::BadRequest(why)),
        Err(Ended::Broke(error)) if error.is_parse_too_large() => {
            Err(Error::BadRequest("the request's head is longer than 64 KiB"))
        }
        Err(Ended::Broke(error)) if error.is_parse() => Err(Error::BadRequest("the request's head is not HTTP")),
        Err(Ended::Broke(error)) => {
            tracing::debug!(%error, "HTTP connection ended");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The answer for a request that was not served: status, label and reason, or the same as gRPC.
/// `bodyless`: the request was a HEAD.
pub fn refuse(error: &Error, grpc: bool, bodyless: bool) -> Response<Body> {
    let label = HeaderValue::from_static(error.label());
    let reason = error.to_string();
    let mut response = if grpc {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-status", HeaderValue::from(error.grpc_status()));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(&reason)) {
            response.headers_mut().insert("grpc-message", message);
        }
        response
    } else {
        let body = if bodyless { Body::empty() } else { Body::full(Bytes::from(format!("lacewing: {reason}\n"))) };
        let mut response = Response::new(body);
        *response.status_mut() = error.status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    response.headers_mut().insert(headers::ERROR, label);
    if error.status() == StatusCode::BAD_REQUEST {
        // What follows on this connection cannot be trusted to be where we think it is.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Tells an HTTP/1 client why its connection is not served: otherwise its people see one that just closes.
pub async fn tell<I: AsyncWrite + Unpin>(mut client: I, error: &Error) {
    let body = format!("lacewing: {error}\n");
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\n{}: {}\r\n\r\n",
        error.status(),
        body.len(),
        headers::ERROR,
        error.label()
    );
    // One small write into an empty socket buffer; if the client is gone already, so be it.
    let _ = timeout(HEAD_TIMEOUT, client.write_all(format!("{head}{body}").as_bytes())).await;
}

/// Encodes a `grpc-message` (gRPC over HTTP/2, "Status-Message").
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_percent_encoded() {
        assert_eq!(percent_encode("50% \u{fc}\n"), "50%25 %C3%BC%0A");
    }

    #[test]
    fn a_refusal_says_why_in_the_clients_own_protocol() {
        let error = Error::BadRequest("no host");
        let http = refuse(&error, false, false);
        assert_eq!(http.status(), StatusCode::BAD_REQUEST);
        assert_eq!(http.headers()["l6g-error"], "bad_request");
        assert_eq!(http.headers()["connection"], "close");
        let grpc = refuse(&Error::Refused, true, false);
        assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from_static("14")));
    }
}

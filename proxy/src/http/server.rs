//! Serves HTTP on one connection, within our limits: HTTP/1 by hyper's state machine, HTTP/2 by h2 itself; each request
//! goes to the spine. When the proxy drains, the connection says so (GOAWAY, `connection: close`) and ends after the
//! requests that it has. An HTTP/1 connection that is idle is parked: it keeps its socket and gives everything else back.

use std::{
    fmt::Write,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use super::{
    Message,
    body::{Body, Broke},
    flood::Guarded,
    headers,
    patience::{Advice, Cut, Marks, Patience, Turn, Verdict, Watched},
    pulse::Pulse,
    pump::pump,
    strict::{Strict, Told},
};
use crate::{
    config::{
        CONNECTION_WINDOW, FIRST_REQUEST_GRACE, HEAD_TIMEOUT, HEADER_FIELDS_MAX, HEADER_LIST_MAX, KEEP_ALIVE_TIMEOUT,
        LOOK_INTERVAL, NO_PROGRESS, PING_INTERVAL, RESETS_MAX, SEND_BUFFER, STREAM_WINDOW, STREAMS_MAX,
        STREAMS_MAX_UNKNOWN,
    },
    error::Error,
    listen::Draining,
    sys,
};

/// How a connection ended that did not end well.
#[derive(Debug)]
pub enum Ended {
    /// We cut it.
    Cut(Cut),
    /// We refused a request's head: why.
    Refused(&'static str),
    /// It broke, or the client broke the protocol.
    Broke(Broke),
}

/// Serves HTTP/1 until the client is done or the proxy stops. While the proxy is only leaving, answers say `connection:
/// close` (the spine's business) and no idle connection is closed: a request may be on its way.
///
/// # Errors
/// The connection was cut or broke, or the client broke the protocol.
pub async fn serve_http1<I, H, F>(io: I, mut draining: Draining, handler: H) -> Result<(), Ended>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Box<Message>) -> F,
    F: Future<Output = Result<Response<Body>, h2::Error>>,
{
    let parts =
        Parts { born: Instant::now(), told: Told::default(), marks: Arc::default(), verdict: Verdict::default() };
    let mut io = Watched::new(Strict::new(io, parts.told.clone()), parts.marks.clone(), parts.verdict.clone());
    loop {
        // All that serving needs is in this box, which an idle connection gives back.
        let Some(idle) = Box::pin(serve_until_idle(io, &parts, &mut draining, &handler)).await? else { return Ok(()) };
        io = idle;
        sys::gave_back();
        let woken = tokio::select! {
            biased;
            woken = poll_fn(|cx| io.poll_woken(cx)) => woken,
            () = sleep(KEEP_ALIVE_TIMEOUT) => false,
            () = draining.stopping() => false,
        };
        if !woken {
            return Ok(());
        }
    }
}

/// What an HTTP/1 connection is made of besides its bytes.
struct Parts {
    born: Instant,
    told: Told,
    marks: Arc<Marks>,
    verdict: Verdict,
}

/// Serves until the connection ends (`None`), or needs nothing but its socket for a while.
async fn serve_until_idle<I, H, F>(
    io: Watched<I>,
    parts: &Parts,
    draining: &mut Draining,
    handler: &H,
) -> Result<Option<Watched<I>>, Ended>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Box<Message>) -> F,
    F: Future<Output = Result<Response<Body>, h2::Error>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let turn = Turn::begins(&parts.marks);
        let asked = parts.told.asked(&request);
        let message = Message::boxed(request.map(|body| Body::from_client(body, &turn)));
        async move {
            let answer = handler(message).await;
            if let Some(asked) = asked {
                asked.answered(answer.as_ref().ok().map(Response::status));
            }
            answer.map(|response| response.map(|body| body.in_turn(turn)))
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(HEADER_FIELDS_MAX)
        .max_header_size(HEADER_LIST_MAX as usize)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let (mut patience, mut look) = (Patience::default(), pin!(sleep(LOOK_INTERVAL)));
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => return understood(ended, parts),
            () = &mut look => look.as_mut().reset(Instant::now() + LOOK_INTERVAL),
            () = draining.stopping() => {
                // hyper closes a connection on which nothing came yet at once: a client that has just connected would lose
                // its request.
                let grace = FIRST_REQUEST_GRACE.saturating_sub(parts.born.elapsed());
                if let Ok(ended) = timeout(grace, &mut connection).await {
                    return understood(ended, parts);
                }
                Pin::new(&mut connection).graceful_shutdown();
                return understood(connection.await, parts);
            }
        }
        match patience.look(&parts.marks, Instant::now()) {
            Advice::Wait => {}
            Advice::End => return Ok(None),
            Advice::Park => break,
        }
    }
    Ok(connection.into_parts().map(|parts| {
        let mut io = parts.io.into_inner();
        io.give_back(&parts.read_buf);
        io
    }))
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
pub async fn serve_http2<I, H, F>(io: I, allowed: Allowed, mut draining: Draining, handler: H) -> Result<(), Ended>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Box<Message>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Body>, h2::Error>> + Send + 'static,
{
    let (verdict, pulse) = (Verdict::default(), Pulse::default());
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(allowed.streams)
        .max_pending_accept_reset_streams(allowed.resets)
        .max_header_list_size(HEADER_LIST_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let handshake = builder.handshake(Guarded::server(io, verdict.clone(), pulse.clone()));
    let mut connection = match timeout(HEAD_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return judged(Err(error.into()), &verdict),
        Err(_) => return Ok(()),
    };
    // h2 gives it once, and this is the once.
    let Some(pings) = connection.ping_pong() else { return Ok(()) };
    let mut dead = pin!(pulse.stops(pings, PING_INTERVAL, || true));
    let mut leaving = pin!(draining.started());
    let mut left = false;
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    tokio::spawn(stream(handler.clone(), Message::boxed(request.map(Body::http2)), respond));
                }
                Some(Err(error)) => return judged(Err(error.into()), &verdict),
                None => return judged(Ok(()), &verdict),
            },
            () = &mut leaving, if !left => {
                left = true;
                connection.graceful_shutdown();
            }
            () = &mut dead => {
                tracing::debug!("an HTTP/2 client did not answer a ping");
                return Ok(());
            }
        }
    }
}

/// Answers one request, unless the client takes it back.
async fn stream<H, F>(handler: H, message: Box<Message>, mut respond: SendResponse<Bytes>)
where
    H: Fn(Box<Message>) -> F,
    F: Future<Output = Result<Response<Body>, h2::Error>>,
{
    let mut answer = pin!(handler(message));
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let response = match answered {
        Ok(response) => response,
        Err(error) => return respond.send_reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR)),
    };
    let (head, body) = response.into_parts();
    let empty = http_body::Body::is_end_stream(&body);
    match respond.send_response(Response::from_parts(head, ()), empty) {
        Ok(to) if !empty => pump(body, to, NO_PROGRESS).await,
        Ok(_) => {}
        // Fields that HTTP/2 does not have, or a client that is gone.
        Err(error) => {
            tracing::debug!(%error, "an answer could not be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// If we cut it, that is why it ended, whatever hyper makes of it.
fn judged(ended: Result<(), Broke>, verdict: &Verdict) -> Result<(), Ended> {
    match verdict.get() {
        Some(cut) => Err(Ended::Cut(cut)),
        None => ended.map_err(Ended::Broke),
    }
}

/// The same; and if hyper refused a head in which we had found a fault, that is why.
fn understood<I>(ended: Result<(), hyper::Error>, parts: &Parts) -> Result<Option<I>, Ended> {
    match (ended, parts.told.fault()) {
        (Err(error), Some(why)) if error.is_parse() => Err(Ended::Refused(why)),
        (ended, _) => judged(ended.map_err(Broke::Http1), &parts.verdict).map(|()| None),
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
        Err(Ended::Broke(Broke::Http1(error))) if error.is_parse_too_large() => {
            Err(Error::BadRequest("the request's head is longer than 64 KiB"))
        }
        Err(Ended::Broke(Broke::Http1(error))) if error.is_parse() => {
            Err(Error::BadRequest("the request's head is not HTTP"))
        }
        Err(Ended::Broke(error)) => {
            tracing::debug!(%error, "HTTP connection ended");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The answer for a request of this `version` that was not served: status, label and reason, or the same as gRPC.
/// `bodyless`: the request was a HEAD.
pub fn refuse(error: &Error, version: Version, grpc: bool, bodyless: bool) -> Response<Body> {
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
        let text = format!("lacewing: {reason}\n");
        let length = HeaderValue::from(text.len());
        let mut response = Response::new(if bodyless { Body::empty() } else { Body::full(text) });
        *response.status_mut() = error.status();
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    response.headers_mut().insert(headers::ERROR, label);
    if error.status() == StatusCode::BAD_REQUEST && version < Version::HTTP_2 {
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
        let http = refuse(&error, Version::HTTP_11, false, false);
        assert_eq!(http.status(), StatusCode::BAD_REQUEST);
        assert_eq!(http.headers()["l6g-error"], "bad_request");
        assert_eq!(http.headers()["connection"], "close");
        let grpc = refuse(&Error::Refused, Version::HTTP_2, true, false);
        assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from_static("14")));
    }
}

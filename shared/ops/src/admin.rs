//! Owns the HTTP server of the admin ports: HTTP/1.1, one handler that answers from memory, or soon.
//!
//! It refuses request bodies, more than [`CONNECTIONS_MAX`] connections, and slow request heads. What may be asked
//! is the handler's business.

use std::{
    convert::Infallible,
    future::{Future, ready},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
};

/// Connections to one admin port at a time; more wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 64;
/// A request's head must arrive within this.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// An admin connection ends after this, whatever it does.
pub const CONNECTION_LIFETIME_MAX: Duration = Duration::from_secs(300);
/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1_024;
/// Pause after a failed accept (usually: no file descriptors), so that the loop cannot spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a handler answers.
pub type Answer = Response<Full<Bytes>>;

/// Answers requests on `listener` at once, for as long as it is polled.
pub async fn serve<H>(listener: TcpListener, handler: H)
where
    H: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    serve_async(listener, move |request| ready(handler(&request))).await;
}

/// The same where an answer may take a while.
pub async fn serve_async<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let handler = Arc::new(handler);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed, so this cannot fail; if it did, there would be nothing left to serve.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "admin port could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(socket), service);
            // A broken admin connection concerns only whoever broke it.
            let _ = tokio::time::timeout(CONNECTION_LIFETIME_MAX, connection).await;
            drop(slot);
        });
    }
}

/// Binds every address of a setting. An IPv6 address is passed over on a host without IPv6, if there is another.
///
/// # Errors
/// As for [`bind`].
pub fn bind_all(addrs: &[SocketAddr], setting: &str) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for addr in addrs {
        match bind(*addr, setting) {
            Ok(listener) => listeners.push(listener),
            Err(error) if addr.is_ipv6() && addrs.len() > 1 && has_no_ipv6(&error) => {
                tracing::info!(%addr, "this host has no IPv6; not listening there");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

fn has_no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own.
    error.kind() == io::ErrorKind::AddrNotAvailable || TcpSocket::new_v6().is_err()
}

/// A listener on an IPv6 address takes IPv6 only: IPv4 has a listener of its own.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    listen_with(socket, addr, true)
}

fn listen_with(socket: TcpSocket, addr: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    if addr.is_ipv6() {
        SockRef::from(&socket).set_only_v6(only_v6)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Binds as [`bind`] does, but `[::]` is both families: it takes IPv4, too, and becomes `0.0.0.0` on a host without IPv6.
///
/// # Errors
/// As for [`bind`].
pub fn bind_both(addr: SocketAddr, setting: &str) -> io::Result<TcpListener> {
    both(addr, setting, TcpSocket::new_v6)
}

fn both(addr: SocketAddr, setting: &str, v6: fn() -> io::Result<TcpSocket>) -> io::Result<TcpListener> {
    if addr.ip() != Ipv6Addr::UNSPECIFIED {
        return bind(addr, setting);
    }
    match v6() {
        Ok(socket) => listen_with(socket, addr, false).map_err(|error| explained(addr, setting, &error)),
        Err(error) => {
            tracing::info!(%addr, %error, "this host has no IPv6; listening on IPv4 alone");
            bind((Ipv4Addr::UNSPECIFIED, addr.port()).into(), setting)
        }
    }
}

/// Binds an admin port or any other listener, with an error for the operator.
///
/// # Errors
/// The address is in use or not ours: which setting, and what to do.
pub fn bind(addr: SocketAddr, setting: &str) -> io::Result<TcpListener> {
    listen(addr).map_err(|error| explained(addr, setting, &error))
}

fn explained(addr: SocketAddr, setting: &str, error: &io::Error) -> io::Error {
    let cause = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another process listens there; find it with `ss -ltnp 'sport = :{}'`, or set {setting}",
                addr.port()
            )
        }
        io::ErrorKind::AddrNotAvailable => format!("this host has no such address; set {setting}"),
        io::ErrorKind::PermissionDenied => format!("ports below 1024 need privileges; set {setting}"),
        _ => format!("see {setting}"),
    };
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}; {cause}"))
}

/// A plain-text answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body.into())
}

/// A JSON answer.
pub fn json(body: impl Into<Bytes>) -> Answer {
    answer(StatusCode::OK, "application/json", body.into())
}

/// An answer of any type.
pub fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn both_families_are_one_listener_and_one_alone_where_there_is_no_other() {
        let any: SocketAddr = "[::]:0".parse().unwrap();
        let no_ipv6 = || Err(io::Error::from_raw_os_error(97));
        let listeners = [(bind_both(any, "X"), true), (both(any, "X", no_ipv6), false)];
        for (listener, has_ipv6) in listeners {
            let listener = listener.unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(listener.local_addr().unwrap().is_ipv6(), has_ipv6);
            for (client, is_served) in [("127.0.0.1", true), ("::1", has_ipv6)] {
                let connected = TcpStream::connect((client, port)).await;
                assert_eq!(connected.is_ok(), is_served, "{client}: {connected:?}");
            }
            let taken = both((Ipv6Addr::UNSPECIFIED, port).into(), "X", TcpSocket::new_v6).unwrap_err().to_string();
            assert!(taken.contains("another process listens there") && taken.contains("set X"), "{taken}");
        }
        // Any other address is what it says.
        let listener = bind_both("127.0.0.1:0".parse().unwrap(), "X").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect(("::1", port)).await.is_err());
    }
}

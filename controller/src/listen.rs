//! Owns the gRPC port: accepts, shakes hands, notes who it is, and hands requests to `grpc`; at the end, drains.
//!
//! It refuses slow handshakes, connections beyond a limit (a lower one for callers who have proved nothing), callers
//! without a certificate who stay longer than getting one takes, and callers who outstay their certificate.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lacewing_identity::{
    refusal,
    svid::{PeerCertificate, peer_certificate},
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::codegen::Service as _;

use crate::{
    clock,
    grpc::{self, Peer, Service},
    identity::Identity,
    metrics::Metrics,
    tokens::TokenReviewer,
};

/// Open connections at a time; more wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Of these, connections whose caller has not shown a certificate (yet), so that strangers leave room for proxies.
pub const UNPROVEN_MAX: usize = 1_000;
/// A TLS handshake must be over within this.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A caller without a certificate is here to get one: that takes no longer.
pub const ANONYMOUS_LIFETIME_MAX: Duration = Duration::from_secs(60);
/// HTTP/2 pings notice a peer that is gone.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest header list, in bytes.
pub const HEADER_LIST_MAX: u32 = 64 * 1024;
/// Streams on one connection: a proxy needs two.
pub const STREAMS_MAX: u32 = 16;
/// Flow-control windows for what clients send, in bytes: their requests are small.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What is buffered for a peer that does not read, in bytes a stream: each has a list of frames that never becomes smaller.
const SEND_BUFFER_MAX: usize = 4 * 1024;
/// Pause after a failed accept (usually: no file descriptors), so that the loop cannot spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that have not ended by themselves after GOAWAY are cut after this.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The gRPC port and what is behind it.
pub struct Server<R: TokenReviewer> {
    pub identity: Arc<Identity>,
    pub service: grpc::Server<Service<R>>,
    pub metrics: Arc<Metrics>,
    /// One permit a connection, [`CONNECTIONS_MAX`] in all.
    pub slots: Arc<Semaphore>,
    pub stopping: watch::Receiver<bool>,
}

impl<R: TokenReviewer> Clone for Server<R> {
    fn clone(&self) -> Self {
        Self {
            identity: self.identity.clone(),
            service: self.service.clone(),
            metrics: self.metrics.clone(),
            slots: self.slots.clone(),
            stopping: self.stopping.clone(),
        }
    }
}

impl<R: TokenReviewer> Server<R> {
    /// Serves until `stopping`, then drains: every connection gets a GOAWAY and [`DRAIN_TIMEOUT`].
    pub async fn serve(mut self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut failing = false;
        let unproven = Arc::new(Semaphore::new(UNPROVEN_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &self.slots, &unproven) => accepted,
                () = stopped(&mut self.stopping) => break,
                // Takes finished tasks out of the set; without any it is never ready.
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((socket, address, slot, unproven)) => {
                    failing = false;
                    let server = self.clone();
                    connections.spawn(async move {
                        server.connection(socket, address, unproven).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot accept connections, trying again; too few file descriptors (`ulimit -n`)?");
                    }
                    failing = true;
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::info!(connections = connections.len(), "cutting connections that did not end in time");
        }
    }

    /// Serves one connection, which gives `unproven` back as soon as its caller has shown a certificate.
    async fn connection(mut self, socket: TcpStream, address: SocketAddr, unproven: OwnedSemaphorePermit) {
        let Some(tls) = self.identity.tls() else { return };
        // Without it small answers would wait for the peer's acknowledgement; a broken socket shows itself below.
        let _ = socket.set_nodelay(true);
        let (stream, peer) = match timeout(HANDSHAKE_TIMEOUT, shake_hands(tls, socket)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => return self.refused(address, &refusal(&error).to_string()),
            Err(_) => return self.refused(address, "the TLS handshake took too long"),
        };
        let _unproven = peer.is_none().then_some(unproven);
        let lifetime = lifetime(peer.as_ref(), clock::unix_now());
        let service = self.service.clone();
        let peer = Peer(peer.map(|peer| peer.id));
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let mut service = service.clone();
            async move { service.call(request).await.map_err(|never: Infallible| never) }
        });
        let mut connection = Box::pin(builder().serve_connection(TokioIo::new(stream), answer));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopped(&mut self.stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = sleep(lifetime) => {
                connection.as_mut().graceful_shutdown();
                timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "connection ended");
        }
    }

    fn refused(&self, address: SocketAddr, why: &str) {
        self.metrics.connection_refused();
        tracing::debug!(%address, why, "refused a connection");
    }
}

/// Resolves once the controller stops, or is gone.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// How long a connection may stay, at `now` (unix seconds): a proxy renews long before its certificate ends, and comes
/// back with the new one.
fn lifetime(peer: Option<&PeerCertificate>, now: u64) -> Duration {
    peer.map_or(ANONYMOUS_LIFETIME_MAX, |peer| Duration::from_secs(peer.not_after.saturating_sub(now)))
}

/// A connection, its slot, and its slot among those who have proved nothing.
type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit, OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>, unproven: &Arc<Semaphore>) -> io::Result<Accepted> {
    // Room first, so that the rest waits in the backlog; only this loop takes slots, so the room is still there below.
    drop(slots.acquire().await.map_err(io::Error::other)?);
    drop(unproven.acquire().await.map_err(io::Error::other)?);
    let (socket, address) = listener.accept().await?;
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let unproven = unproven.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((socket, address, slot, unproven))
}

/// Shakes hands; with a client certificate, says whose it is and until when. The certificate has been verified by then.
async fn shake_hands(
    tls: Arc<ServerConfig>,
    socket: TcpStream,
) -> io::Result<(TlsStream<TcpStream>, Option<PeerCertificate>)> {
    let stream = Box::pin(TlsAcceptor::from(tls).accept(socket)).await?;
    let peer = match stream.get_ref().1.peer_certificates() {
        None | Some([]) => None,
        Some(certificates) => Some(peer_certificate(certificates).map_err(io::Error::other)?),
    };
    Ok((stream, peer))
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Poll};

    use lacewing_identity::SpiffeId;

    use super::*;

    #[test]
    fn a_connection_stays_as_long_as_what_its_caller_has_shown() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/web").unwrap();
        let peer = |not_after| PeerCertificate { id: id.clone(), not_after };
        assert_eq!(lifetime(None, 1_000), ANONYMOUS_LIFETIME_MAX);
        assert_eq!(lifetime(Some(&peer(4_600)), 1_000), Duration::from_secs(3_600));
        assert_eq!(lifetime(Some(&peer(999)), 1_000), Duration::ZERO, "the clock went on since the handshake");
    }

    #[tokio::test]
    async fn strangers_wait_for_each_other_and_leave_slots_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (slots, unproven) = (Arc::new(Semaphore::new(3)), Arc::new(Semaphore::new(1)));
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (_, _, _slot, stranger) = accept(&listener, &slots, &unproven).await.unwrap();
        let mut second = pin!(accept(&listener, &slots, &unproven));
        assert!(poll_once(second.as_mut()).await.is_pending(), "the first has proved nothing yet");
        assert_eq!(slots.available_permits(), 2);
        drop(stranger);
        drop(second.await.unwrap());
    }

    async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    }
}

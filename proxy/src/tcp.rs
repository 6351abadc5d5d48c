//! Raw TCP: copies bytes both ways until both sides are done, passing a half-close on, and counts as it goes. It knows
//! nothing about protocols and never times a silent connection out, unless one side has closed already.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
};

use crate::{
    config::{COPY_BUFFER, HALF_CLOSED_TIMEOUT},
    metrics::ConnectionGuard,
};

/// Copies between our side and the peer's; what goes over the peer's side is counted. Ends a connection of which one side
/// is closed and nothing moves for [`HALF_CLOSED_TIMEOUT`].
///
/// What breaks on one side is broken off on the other: a transfer that was cut must not look whole.
///
/// # Errors
/// One of the connections broke, or was half-closed for too long.
pub async fn forward<A, B>(ours: A, peer: B, counted: &ConnectionGuard) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let progress = Progress::default();
    let mut ours = Watched { io: ours, progress: &progress, counted: None };
    let mut peer = Watched { io: peer, progress: &progress, counted: Some(counted) };
    let ended = tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut ours, &mut peer, COPY_BUFFER, COPY_BUFFER) => copied.map(|_| ()),
        () = progress.stalled() => Err(io::Error::new(io::ErrorKind::TimedOut, "half-closed, and nothing moves any more")),
    };
    if ended.is_err() {
        ours.io.abort();
        peer.io.abort();
    }
    ended
}

/// A connection that can end so that the other side sees it broken, not finished.
pub trait Abort {
    /// Makes the coming end a reset.
    fn abort(&self);
}

impl Abort for TcpStream {
    fn abort(&self) {
        // If the kernel will not, the connection just ends.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// TLS that ends without a word (RFC 8446, 6.1) is broken already.
impl<I> Abort for tokio_rustls::server::TlsStream<I> {
    fn abort(&self) {}
}

/// hyper does not show what is below it.
impl<I> Abort for TokioIo<I> {
    fn abort(&self) {}
}

/// What both directions have moved, and whether one has ended.
#[derive(Default)]
struct Progress {
    moved: AtomicU64,
    half_closed: AtomicBool,
}

impl Progress {
    async fn stalled(&self) {
        let mut seen = None;
        let mut tick = tokio::time::interval(HALF_CLOSED_TIMEOUT);
        loop {
            tick.tick().await;
            let now = self.half_closed.load(Relaxed).then(|| self.moved.load(Relaxed));
            if now.is_some() && now == seen {
                return;
            }
            seen = now;
        }
    }
}

/// One side, watched while it is copied.
struct Watched<'a, I> {
    io: I,
    progress: &'a Progress,
    counted: Option<&'a ConnectionGuard>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<'_, I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = (buf.filled().len() - before) as u64;
        if read > 0 {
            self.progress.moved.fetch_add(read, Relaxed);
            self.counted.inspect(|counted| counted.bytes(read, 0));
        } else if polled.is_ready() {
            self.progress.half_closed.store(true, Relaxed);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<'_, I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.progress.moved.fetch_add(written as u64, Relaxed);
            self.counted.inspect(|counted| counted.bytes(0, written as u64));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::UnixTime;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        net::TcpListener,
        time::{Instant, sleep},
    };

    use super::*;
    use crate::{
        live::{Direction, Key},
        metrics::Metrics,
    };

    impl Abort for DuplexStream {
        fn abort(&self) {}
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_cut_transfer_does_not_look_whole() {
        let guard = guard();
        let (mut client, ours) = pair().await;
        let (peer, mut server) = pair().await;
        let copying = tokio::spawn(async move { forward(ours, peer, &guard).await });
        client.write_all(b"half a file").await.unwrap();
        let mut got = [0; 11];
        server.read_exact(&mut got).await.unwrap();
        client.abort();
        drop(client);
        assert!(copying.await.unwrap().is_err());
        let end = server.read(&mut got).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    }

    fn guard() -> ConnectionGuard {
        let (metrics, _) = Metrics::new(UnixTime::since_unix_epoch(Duration::ZERO));
        let key = Key {
            direction: Direction::Outbound,
            peer_namespace: String::new(),
            peer: "db".to_owned(),
            service: None,
            route: "default".to_owned(),
        };
        metrics.peer(&key, Vec::new()).connection()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_held_a_half_closed_one_is_not() {
        let guard = guard();
        let (mut client, ours) = duplex(64);
        let (mut server, peer) = duplex(64);
        let copying = tokio::spawn(async move { forward(ours, peer, &guard).await });
        sleep(HALF_CLOSED_TIMEOUT * 100).await;
        server.write_all(b"still here").await.unwrap();
        let mut seen = [0; 10];
        client.read_exact(&mut seen).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut seen).await.unwrap(), 0, "the half-close goes on");
        // The other direction may take its time, as long as something moves.
        for _ in 0..10 {
            sleep(HALF_CLOSED_TIMEOUT / 2).await;
            server.write_all(b"x").await.unwrap();
            client.read_exact(&mut seen[..1]).await.unwrap();
        }
        let started = Instant::now();
        let error = copying.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() <= HALF_CLOSED_TIMEOUT * 2);
    }
}

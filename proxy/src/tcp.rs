//! Raw TCP: carries bytes both ways until both sides are done, passing a half-close on, and counts as it goes. It knows
//! nothing about protocols and never times a silent connection out, unless one side has closed already. How one
//! direction's bytes move is in `tcp/way.rs`; an idle connection holds neither a buffer nor a pipe.

pub mod buffer;
mod pipe;
mod way;

use std::{future::poll_fn, io, pin::Pin, task::Poll, time::Duration};

use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use self::way::Way;
use crate::{config::HALF_CLOSED_TIMEOUT, metrics::ConnectionGuard, tls::Rewound};

/// Carries bytes between our side and the peer's; what goes over the peer's side is counted. Ends a connection of which one
/// side is closed and nothing moves for [`HALF_CLOSED_TIMEOUT`].
///
/// What breaks on one side is broken off on the other: a transfer that was cut must not look whole.
///
/// # Errors
/// One of the connections broke, or was half-closed for too long.
pub async fn forward<A, B>(mut ours: A, mut peer: B, counted: &ConnectionGuard) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    ours.will_stream();
    peer.will_stream();
    let (mut there, mut back) = (Way::default(), Way::default());
    let mut patience = None;
    let ended = poll_fn(|cx| {
        let before = (there.written, back.read);
        let polled = (there.poll(cx, &mut ours, &mut peer), back.poll(cx, &mut peer, &mut ours));
        if (there.written, back.read) != before {
            counted.bytes(back.read - before.1, there.written - before.0);
        }
        match polled {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ if there.has_ended() || back.has_ended() => {
                let patience = patience.get_or_insert_with(Patience::new);
                patience.poll(cx, there.moved() + back.moved()).map(Err)
            }
            _ => Poll::Pending,
        }
    })
    .await;
    if ended.is_err() {
        ours.abort();
        peer.abort();
    }
    ended
}

/// A connection that can end so that the other side sees it broken, not finished; and what is known of what is below it.
pub trait Abort {
    /// Makes the coming end a reset.
    fn abort(&self);

    /// The socket, where nothing is between it and who reads here: no TLS, no bytes that were read before.
    fn bare(&self) -> Option<&TcpStream> {
        None
    }

    /// Many bytes may come: large reads and writes will pay.
    fn will_stream(&mut self) {}
}

impl Abort for TcpStream {
    fn abort(&self) {
        // If the kernel will not, the connection just ends.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn bare(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

/// TLS that ends without a word (RFC 8446, 6.1) is broken already.
impl<I> Abort for tokio_rustls::server::TlsStream<Rewound<I>> {
    fn abort(&self) {}

    fn will_stream(&mut self) {
        // Writes need nothing: rustls takes 64 KiB at once, and gives the kernel their records in one call.
        self.get_mut().0.read_ahead();
    }
}

impl<I> Abort for tokio_rustls::client::TlsStream<Rewound<I>> {
    fn abort(&self) {}

    fn will_stream(&mut self) {
        self.get_mut().0.read_ahead();
    }
}

/// hyper does not show what is below it.
impl<I> Abort for TokioIo<I> {
    fn abort(&self) {}
}

/// With a connection of which one side has ended.
struct Patience {
    over: Pin<Box<Sleep>>,
    /// What both directions had moved when it began.
    moved: Option<u64>,
}

impl Patience {
    fn new() -> Self {
        Self { over: Box::pin(sleep(HALF_CLOSED_TIMEOUT)), moved: None }
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>, moved: u64) -> Poll<io::Error> {
        let began_with = *self.moved.get_or_insert(moved);
        while self.over.as_mut().poll(cx).is_ready() {
            if began_with == moved {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "half-closed, and nothing moves any more"));
            }
            self.moved = Some(moved);
            self.over.as_mut().reset(Instant::now() + HALF_CLOSED_TIMEOUT);
        }
        Poll::Pending
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

    /// Random enough that a piece in the wrong place shows.
    fn bytes(seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| random.u8(..)).take(5_000_000).collect()
    }

    /// Says `said` in pieces of many sizes, so that both copies and pipes have their turn, then ends its side.
    async fn says(mut to: impl AsyncWrite + Unpin, said: &[u8]) {
        let mut rest = said;
        for size in [1, 200, 70_000, 3, 3_000_000, 40_000].into_iter().cycle() {
            let (piece, later) = rest.split_at(rest.len().min(size));
            to.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
            if later.is_empty() {
                return to.shutdown().await.unwrap();
            }
            rest = later;
        }
    }

    #[tokio::test]
    async fn much_goes_whole_both_ways_and_is_counted() {
        let (guard, registry) = counted();
        let (client, ours) = pair().await;
        let (peer, server) = pair().await;
        let ours = Rewound::new(bytes::Bytes::from_static(b"first"), ours);
        let (request, response) = (bytes(1), bytes(2));
        let (mut from_client, to_client) = (Vec::new(), response.clone());
        let copying = async { forward(ours, peer, &guard).await.unwrap() };
        let talk = async {
            let ((mut client_reads, client_writes), (mut server_reads, server_writes)) =
                (client.into_split(), server.into_split());
            let mut to_server = Vec::new();
            let ((), (), got, answered) = tokio::join!(
                says(client_writes, &request),
                says(server_writes, &to_client),
                server_reads.read_to_end(&mut to_server),
                client_reads.read_to_end(&mut from_client),
            );
            assert_eq!((got.unwrap(), answered.unwrap()), (request.len() + 5, response.len()));
            assert!(to_server.starts_with(b"first") && to_server[5..] == request);
        };
        tokio::join!(copying, talk);
        assert!(from_client == response);
        let mut numbers = String::new();
        prometheus_client::encoding::text::encode(&mut numbers, &registry).unwrap();
        for (name, carried) in [("read", response.len()), ("write", request.len() + 5)] {
            let line = numbers.lines().find(|line| line.starts_with(&format!("tcp_{name}_bytes_total{{"))).unwrap();
            assert!(line.ends_with(&format!(" {carried}")), "{line}");
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_everything_and_idle_connections_hold_nothing() {
        let guard = guard();
        let (mut client, ours) = pair().await;
        let (peer, mut server) = pair().await;
        let copying = forward(ours, peer, &guard);
        let talk = async {
            let said = bytes(3);
            let mut got = vec![0; said.len()];
            let reading = async {
                for piece in got.chunks_mut(100_000) {
                    server.read_exact(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            tokio::join!(async { client.write_all(&said).await.unwrap() }, reading);
            assert!(got == said);
        };
        let mut copying = std::pin::pin!(copying);
        tokio::select! {
            _ = &mut copying => panic!("nobody has ended"),
            () = talk => {}
        }
        assert!(buffer::spare() > 0 && pipe::spare() > 0, "given back, to the last one");
    }

    fn guard() -> ConnectionGuard {
        counted().0
    }

    fn counted() -> (ConnectionGuard, prometheus_client::registry::Registry) {
        let (metrics, registry) = Metrics::new(UnixTime::since_unix_epoch(Duration::ZERO));
        let key = Key {
            direction: Direction::Outbound,
            peer_namespace: String::new(),
            peer: "db".to_owned(),
            service: None,
            route: "default".to_owned(),
        };
        (metrics.peer(&key, Vec::new()).connection(), registry)
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

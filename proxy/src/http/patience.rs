//! How long an HTTP/1 client may take: [`KEEP_ALIVE_TIMEOUT`] to begin its next request, then [`HEAD_TIMEOUT`] to finish
//! the head, and never [`BODY_IDLE`] without a byte of a body that somebody waits for. hyper has one timer for the first
//! two, so an idle connection would live no longer than a slow head may take, and none for the third; here its timer is
//! told when the first byte came. Also: the [`Verdict`] by which a connection's end says that we cut it, and why.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time,
};

use crate::{
    config::{BODY_IDLE, HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT},
    tls::forward_writes,
};

/// Why we end a connection before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    #[error(
        "the peer sent more than 1,000 HTTP/2 control frames within 10 s and nothing else: an attack, or a broken client"
    )]
    Flood,
    #[error("no byte of the request's body came for 60 s: an attack, or a client that is stuck")]
    SlowBody,
}

impl Cut {
    /// The label under which it is counted.
    pub fn label(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::SlowBody => "slow_body",
        }
    }
}

/// Whether a connection was cut. hyper and h2 do not hand an IO error through with its type, so it is said beside them.
#[derive(Clone, Default)]
pub struct Verdict(Arc<OnceLock<Cut>>);

impl Verdict {
    pub fn get(&self) -> Option<Cut> {
        self.0.get().copied()
    }

    /// The error with which the connection's IO ends.
    pub fn cut(&self, why: Cut) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, *self.0.get_or_init(|| why))
    }
}

/// What a connection's parts tell each other.
#[derive(Default)]
struct Told {
    /// When the first byte came since hyper's timer was last set.
    first_byte: Option<time::Instant>,
    /// Somebody waits for the request's body, and how long there was no byte.
    body_wanted: Option<time::Instant>,
}

type Shared = Arc<Mutex<Told>>;

/// hyper's timer for one connection.
pub struct Patience(Shared);

/// The connection, watched for first bytes and for silence within a body.
pub struct Watched<I> {
    io: I,
    told: Shared,
    verdict: Verdict,
    timer: Option<Pin<Box<time::Sleep>>>,
}

/// Goes with a request as an extension: tells the connection when somebody waits for the request's body.
#[derive(Clone)]
pub struct Reading(Shared);

/// A timer and the connection that it goes with, and what its requests' bodies need.
pub fn patience<I>(io: I, verdict: Verdict) -> (Patience, Watched<I>, Reading) {
    let told = Shared::default();
    (Patience(told.clone()), Watched { io, told: told.clone(), verdict, timer: None }, Reading(told))
}

impl Reading {
    pub fn waits(&self, waits: bool) {
        let mut told = self.0.lock();
        if !waits {
            told.body_wanted = None;
        } else if told.body_wanted.is_none() {
            told.body_wanted = Some(time::Instant::now());
        }
    }
}

impl Timer for Patience {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now())
    }

    /// hyper asks when it begins to wait for a head; how long that may take is decided here.
    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.lock().first_byte = None;
        let timer = Box::pin(time::sleep(KEEP_ALIVE_TIMEOUT));
        Box::pin(Waiting { timer, told: self.0.clone(), head_began: false })
    }
}

struct Waiting {
    timer: Pin<Box<time::Sleep>>,
    told: Shared,
    /// The timer is set for the end of the head.
    head_began: bool,
}

impl Sleep for Waiting {}

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let first_byte = self.told.lock().first_byte;
        if let (Some(began), false) = (first_byte, self.head_began) {
            self.head_began = true;
            self.timer.as_mut().reset(began + HEAD_TIMEOUT);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl<I> Watched<I> {
    /// Nothing came, and somebody waits since then: for how much longer?
    fn silent(&mut self, since: time::Instant, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let deadline = since + BODY_IDLE;
        let timer = self.timer.get_or_insert_with(|| Box::pin(time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| Err(self.verdict.cut(Cut::SlowBody)))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let mut told = self.told.lock();
        if buf.filled().len() > before {
            if told.first_byte.is_none() || told.body_wanted.is_some() {
                let now = time::Instant::now();
                told.first_byte.get_or_insert(now);
                if let Some(since) = told.body_wanted.as_mut() {
                    *since = now;
                }
            }
            return polled;
        }
        let wanted = told.body_wanted;
        drop(told);
        match wanted {
            Some(since) if polled.is_pending() => self.silent(since, cx),
            _ => polled,
        }
    }
}

forward_writes!([<I: AsyncWrite + Unpin>] Watched<I>, |this| Pin::new(&mut this.io));

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use http::{Request, Response};
    use http_body::Body as _;
    use hyper::body::Incoming;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::{
        http::{
            body::Body,
            server::{Ended, serve_http1},
        },
        listen::Drain,
    };

    /// Serves one end of a pipe, gives the other.
    fn client(drain: &Drain) -> DuplexStream {
        let (client, server) = tokio::io::duplex(4096);
        let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Body::full("hello"))) };
        tokio::spawn(serve_http1(server, drain.handle(), answer));
        client
    }

    /// The same, with a handler that reads the request's body to its end first, and how the connection ended.
    fn reader(drain: &Drain, think: Duration) -> (DuplexStream, tokio::task::JoinHandle<Result<(), Ended>>) {
        let (client, server) = tokio::io::duplex(4096);
        let answer = move |incoming: Request<Incoming>| async move {
            let (mut head, body) = incoming.into_parts();
            let mut body = Body::from_client(&mut head, body);
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                frame?;
            }
            time::sleep(think).await;
            Ok::<_, hyper::Error>(Response::new(Body::full("hello")))
        };
        (client, tokio::spawn(serve_http1(server, drain.handle(), answer)))
    }

    /// How long until the server closes.
    async fn closed(client: &mut DuplexStream) -> Duration {
        let started = time::Instant::now();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        started.elapsed()
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_cut_an_idle_connection_is_not() {
        let drain = Drain::default();
        let mut slow = client(&drain);
        slow.write_all(b"GET / HT").await.unwrap();
        let lived = closed(&mut slow).await;
        assert!(lived >= HEAD_TIMEOUT && lived < HEAD_TIMEOUT * 2, "{lived:?}");

        let mut idle = client(&drain);
        let mut answer = [0; 512];
        for pause in [1, 15, 60] {
            time::sleep(Duration::from_secs(pause)).await;
            idle.write_all(REQUEST).await.unwrap();
            let n = idle.read(&mut answer).await.unwrap();
            assert!(answer[..n].starts_with(b"HTTP/1.1 200"), "after {pause} s");
        }
        let lived = closed(&mut idle).await;
        assert!(lived >= KEEP_ALIVE_TIMEOUT && lived < KEEP_ALIVE_TIMEOUT * 2, "{lived:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_head_may_not_be_slow_either() {
        let drain = Drain::default();
        let mut client = client(&drain);
        client.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 512];
        let _ = client.read(&mut answer).await.unwrap();
        time::sleep(Duration::from_secs(30)).await;
        for _ in 0..5 {
            client.write_all(b"G").await.unwrap();
            time::sleep(Duration::from_secs(1)).await;
        }
        assert!(closed(&mut client).await < HEAD_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_is_cut_a_slow_one_is_not() {
        let drain = Drain::default();
        for head in ["content-length: 9", "transfer-encoding: chunked"] {
            let (mut client, served) = reader(&drain, Duration::ZERO);
            client.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
            for byte in [b"2", b"\r", b"\n"] {
                time::sleep(BODY_IDLE.saturating_sub(Duration::from_secs(1))).await;
                client.write_all(byte).await.unwrap();
            }
            let lived = closed(&mut client).await;
            assert!(lived >= BODY_IDLE && lived < BODY_IDLE + Duration::from_secs(1), "{head}: {lived:?}");
            assert!(matches!(served.await.unwrap(), Err(Ended::Cut(Cut::SlowBody))), "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_that_nobody_waits_in_is_not_cut() {
        // A whole body, then an app that thinks for long; twice on the same connection.
        let drain = Drain::default();
        let (mut client, _served) = reader(&drain, BODY_IDLE * 10);
        let mut answer = [0; 512];
        for _ in 0..2 {
            client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab").await.unwrap();
            let n = client.read(&mut answer).await.unwrap();
            assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_reads_may_wait() {
        let drain = Drain::default();
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let answer = |incoming: Request<Incoming>| async move {
            let (mut head, body) = incoming.into_parts();
            let _unread = Body::from_client(&mut head, body);
            time::sleep(BODY_IDLE * 3).await;
            Ok::<_, Infallible>(Response::new(Body::full("hello")))
        };
        tokio::spawn(serve_http1(server, drain.handle(), answer));
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\nab").await.unwrap();
        let mut answer = [0; 512];
        let n = client.read(&mut answer).await.unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    }
}

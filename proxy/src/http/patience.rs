//! How long an HTTP/1 client may take: [`KEEP_ALIVE_TIMEOUT`] to begin its next request, then [`HEAD_TIMEOUT`] to finish
//! the head, and never [`BODY_IDLE`] without a byte of a body that somebody waits for; and when its connection is idle for
//! long enough to be parked. The connection's parts leave marks as they work, and once in [`LOOK_INTERVAL`] somebody looks
//! at them: requests read no clock and set no timer. Also: the [`Verdict`] by which a connection's end says that we cut it,
//! and why.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::strict::Strict;
use crate::config::{BODY_IDLE, HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT, PARK_AFTER, WAKING_BYTES};

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

/// What a connection's parts leave for who looks.
#[derive(Default)]
pub struct Marks {
    /// Bytes came since the last look.
    came: AtomicBool,
    /// A request was read since the last look.
    asked: AtomicBool,
    /// Something of the next request has come, and not all.
    within: AtomicBool,
    /// All that was written has left.
    flushed: AtomicBool,
    /// Somebody waits for a request's body.
    body_wanted: AtomicBool,
    /// The client was too slow with it.
    cut: AtomicBool,
}

/// While one is held, a request is being served. Tells when somebody waits for the request's body.
#[derive(Clone)]
pub struct Turn(Arc<Marks>);

impl Turn {
    /// A request was read.
    pub fn begins(marks: &Arc<Marks>) -> Self {
        marks.asked.store(true, Relaxed);
        Self(marks.clone())
    }

    pub fn waits(&self, waits: bool) {
        self.0.body_wanted.store(waits, Relaxed);
    }
}

/// Holders of [`Marks`] while no request is served: the connection and who serves it.
const AT_REST: usize = 2;

/// How a connection looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Busy,
    SilentBody,
    Head,
    /// The client does not take its answer.
    Unread,
    Idle,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    Wait,
    /// It needs nothing but its socket.
    Park,
    /// Close it.
    End,
}

/// What was seen at the last look.
#[derive(Default)]
pub struct Patience(Option<(Looks, Instant)>);

impl Patience {
    /// Looks at a connection's marks; at most [`LOOK_INTERVAL`](crate::config::LOOK_INTERVAL) later than a time was over.
    pub fn look(&mut self, marks: &Arc<Marks>, now: Instant) -> Advice {
        let (came, asked) = (marks.came.swap(false, Relaxed), marks.asked.swap(false, Relaxed));
        let looks = if marks.body_wanted.load(Relaxed) && !came {
            Looks::SilentBody
        } else if Arc::strong_count(marks) > AT_REST {
            Looks::Busy
        } else if marks.within.load(Relaxed) {
            Looks::Head
        } else if !marks.flushed.load(Relaxed) {
            Looks::Unread
        } else {
            Looks::Idle
        };
        let since = match self.0 {
            Some((before, since)) if before == looks && !asked => since,
            _ => now,
        };
        self.0 = Some((looks, since));
        let lasted = now.saturating_duration_since(since);
        match looks {
            Looks::SilentBody if lasted >= BODY_IDLE => {
                marks.cut.store(true, Relaxed);
                Advice::Wait
            }
            Looks::Head if lasted >= HEAD_TIMEOUT => Advice::End,
            Looks::Unread if lasted >= KEEP_ALIVE_TIMEOUT => Advice::End,
            Looks::Idle if lasted >= PARK_AFTER => Advice::Park,
            _ => Advice::Wait,
        }
    }
}

/// The connection, watched.
pub struct Watched<I> {
    io: Strict<I>,
    /// Read already.
    first: Bytes,
    marks: Arc<Marks>,
    verdict: Verdict,
}

impl<I> Watched<I> {
    pub fn new(io: Strict<I>, marks: Arc<Marks>, verdict: Verdict) -> Self {
        Self { io, first: Bytes::new(), marks, verdict }
    }

    /// What was read and not looked at.
    pub fn give_back(&mut self, first: &[u8]) {
        // Copied: nothing, as a rule, in a buffer with much room.
        self.first = Bytes::copy_from_slice(first);
    }
}

impl<I: AsyncRead + Unpin> Watched<I> {
    /// Waits for bytes and holds nothing meanwhile. `false`: the client has left.
    pub fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.first.is_empty() {
            return Poll::Ready(true);
        }
        let mut space = [0; WAKING_BYTES];
        let mut buf = ReadBuf::new(&mut space);
        let read = ready!(Pin::new(&mut *self).poll_read(cx, &mut buf));
        self.first = Bytes::copy_from_slice(buf.filled());
        Poll::Ready(read.is_ok() && !self.first.is_empty())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            let n = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..n]);
            this.first.advance(n);
            if this.first.is_empty() {
                this.first = Bytes::new(); // gives the buffer back
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        this.marks.within.store(!this.io.is_between(), Relaxed);
        if buf.filled().len() > before {
            this.marks.came.store(true, Relaxed);
        } else if polled.is_pending() && this.marks.cut.load(Relaxed) {
            return Poll::Ready(Err(this.verdict.cut(Cut::SlowBody)));
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.marks.flushed.store(false, Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    /// hyper flushes only when it has written all that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.marks.flushed.store(polled.is_ready(), Relaxed);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.marks.flushed.store(false, Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use http::Response;
    use http_body::Body as _;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time,
    };

    use super::*;
    use crate::{
        config::LOOK_INTERVAL,
        http::{
            Message,
            body::Body,
            server::{Ended, serve_http1},
        },
        listen::Drain,
    };

    /// Serves one end of a pipe, gives the other.
    fn client(drain: &Drain) -> DuplexStream {
        let (client, server) = tokio::io::duplex(4096);
        let answer = |_: Box<Message>| async { Ok(Response::new(Body::full("hello"))) };
        tokio::spawn(serve_http1(server, drain.handle(), answer));
        client
    }

    /// The same, with a handler that reads the request's body to its end first, and how the connection ended.
    fn reader(drain: &Drain, think: Duration) -> (DuplexStream, tokio::task::JoinHandle<Result<(), Ended>>) {
        let (client, server) = tokio::io::duplex(4096);
        let answer = move |incoming: Box<Message>| async move {
            let mut body = incoming.body;
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                frame.map_err(|broke| broke.reason())?;
            }
            time::sleep(think).await;
            Ok(Response::new(Body::full("hello")))
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
            assert!(lived >= BODY_IDLE && lived < BODY_IDLE + LOOK_INTERVAL * 3, "{head}: {lived:?}");
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
        let answer = |incoming: Box<Message>| async move {
            let _unread = incoming.body;
            time::sleep(BODY_IDLE * 3).await;
            Ok(Response::new(Body::full("hello")))
        };
        tokio::spawn(serve_http1(server, drain.handle(), answer));
        client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\nab").await.unwrap();
        let mut answer = [0; 512];
        let n = client.read(&mut answer).await.unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    }
}

//! How long an HTTP/1 client may take for its next request: [`KEEP_ALIVE_TIMEOUT`] to begin one, then [`HEAD_TIMEOUT`] to
//! finish its head. hyper has one timer for both, so an idle connection would live no longer than a slow head may take;
//! here its timer is told when the first byte came.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time,
};

use crate::config::{HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT};

/// When the first byte came since the timer was last set.
type FirstByte = Arc<Mutex<Option<time::Instant>>>;

/// hyper's timer for one connection.
pub struct Patience(FirstByte);

/// The connection, watched for first bytes.
pub struct Watched<I> {
    io: I,
    first_byte: FirstByte,
}

/// A timer and the connection that it goes with.
pub fn patience<I>(io: I) -> (Patience, Watched<I>) {
    let first_byte = FirstByte::default();
    (Patience(first_byte.clone()), Watched { io, first_byte })
}

impl Timer for Patience {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now())
    }

    /// hyper asks when it begins to wait for a head; how long that may take is decided here.
    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        *self.0.lock() = None;
        let timer = Box::pin(time::sleep(KEEP_ALIVE_TIMEOUT));
        Box::pin(Waiting { timer, first_byte: self.0.clone(), head_began: false })
    }
}

struct Waiting {
    timer: Pin<Box<time::Sleep>>,
    first_byte: FirstByte,
    /// The timer is set for the end of the head.
    head_began: bool,
}

impl Sleep for Waiting {}

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let first_byte = *self.first_byte.lock();
        if let (Some(began), false) = (first_byte, self.head_began) {
            self.head_began = true;
            self.timer.as_mut().reset(began + HEAD_TIMEOUT);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.first_byte.lock().get_or_insert_with(time::Instant::now);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use hyper::body::Incoming;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::{
        http::{body::Body, server::serve_http1},
        listen::Drain,
    };

    /// Serves one end of a pipe, gives the other.
    fn client(drain: &Drain) -> DuplexStream {
        let (client, server) = tokio::io::duplex(4096);
        let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Body::full("hello"))) };
        tokio::spawn(serve_http1(server, drain.handle(), answer));
        client
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
}

//! HTTP/2 streams whose reader takes nothing of what waits for it, while its connection is well: reset after
//! [`NO_PROGRESS`]. A stream that waits for its server may be silent for ever. hyper's task for a stream knows which it is
//! by what it last did with the response's body: got a frame and did not come back, or came back for nothing.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{self, Sleep};

use super::body::Body;
use crate::config::NO_PROGRESS;

tokio::task_local! {
    /// Of the stream whose task runs.
    static PROGRESS: Arc<Progress>;
}

/// Frames of a response that its task has taken, doubled; odd while the latest waits to be sent.
#[derive(Default)]
struct Progress(AtomicU64);

impl Progress {
    fn took(&self) {
        self.0.store((self.0.load(Relaxed) | 1) + 2, Relaxed);
    }

    fn came_back(&self) {
        self.0.store(self.0.load(Relaxed) & !1, Relaxed);
    }

    /// What is on its way, if anything.
    fn unsent(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|frames| frames & 1 == 1)
    }
}

/// Runs hyper's task for each stream, and drops those that are stalled: h2 resets such streams.
#[derive(Clone, Copy)]
pub struct Streams;

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        let (progress, timer) = (Arc::default(), None);
        tokio::spawn(Stream { task: Box::pin(task), progress, waiting: None, timer });
    }
}

struct Stream<F> {
    task: Pin<Box<F>>,
    progress: Arc<Progress>,
    /// What the timer runs for.
    waiting: Option<u64>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { task, progress, waiting, timer } = &mut *self;
        if PROGRESS.sync_scope(progress.clone(), || task.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(());
        }
        let Some(unsent) = progress.unsent() else {
            *waiting = None;
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| Box::pin(time::sleep(NO_PROGRESS)));
        if *waiting != Some(unsent) {
            *waiting = Some(unsent);
            timer.as_mut().reset(time::Instant::now() + NO_PROGRESS);
        }
        let ended = timer.as_mut().poll(cx);
        if ended.is_ready() {
            tracing::debug!("an HTTP/2 stream is reset: its reader took nothing for {} s", NO_PROGRESS.as_secs());
        }
        ended
    }
}

/// A response's body that tells its stream's task how it goes.
pub struct Told {
    body: Body,
    progress: Option<Arc<Progress>>,
}

impl Told {
    /// To be called within the stream's task.
    pub fn new(body: Body) -> Self {
        Self { body, progress: PROGRESS.try_with(Clone::clone).ok() }
    }
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(progress) = &self.progress {
            match polled {
                Poll::Ready(Some(Ok(_))) => progress.took(),
                _ => progress.came_back(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use h2::{RecvStream, SendStream, client::SendRequest};
    use http::{Request, Response};
    use hyper::body::Incoming;
    use tokio::{
        io::{DuplexStream, duplex},
        time::timeout,
    };

    use super::*;
    use crate::{
        config::STREAM_WINDOW,
        http::server::{Allowed, serve_http2},
        listen::Drain,
    };

    /// More than a window.
    const LARGE: usize = 3 * STREAM_WINDOW as usize;

    async fn echo(incoming: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::incoming(incoming.into_body())))
    }

    /// A client of a server that answers with what it is sent.
    async fn client(drain: &Drain) -> SendRequest<Bytes> {
        let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 20);
        tokio::spawn(serve_http2(theirs, Allowed::PEER, drain.handle(), echo));
        let mut builder = h2::client::Builder::new();
        let (requests, connection) = builder.initial_connection_window_size(1 << 20).handshake(ours).await.unwrap();
        tokio::spawn(connection);
        requests
    }

    async fn ask(requests: &mut SendRequest<Bytes>, bytes: usize) -> (RecvStream, SendStream<Bytes>) {
        let request = Request::post("http://a/").body(()).unwrap();
        let (answer, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(vec![7; bytes].into(), false).unwrap();
        (answer.await.unwrap().into_body(), sending)
    }

    /// What does not end by then hangs.
    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_loses_its_stream_and_no_other_does() {
        let drain = Drain::default();
        let mut requests = client(&drain).await;
        let (mut silent, mut speaking) = ask(&mut requests, 1).await;
        assert_eq!(silent.data().await.unwrap().unwrap(), &[7][..]);
        let (mut stalled, _sending) = ask(&mut requests, LARGE).await;
        let began = time::Instant::now();
        // What the window takes, which is never opened again; then the end.
        let until_broken = async { while let Some(Ok(_)) = stalled.data().await {} };
        timeout(DAY, until_broken).await.expect("the stream ends");
        let lasted = began.elapsed();
        assert!(lasted >= NO_PROGRESS && lasted < NO_PROGRESS * 2, "{lasted:?}");

        // One that had nothing to read for long is as it was.
        time::sleep(NO_PROGRESS * 10).await;
        speaking.send_data(Bytes::from_static(b"still here"), false).unwrap();
        let heard = timeout(DAY, silent.data()).await.expect("an echo");
        assert_eq!(heard.unwrap().unwrap(), &b"still here"[..]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_it_all() {
        let drain = Drain::default();
        let mut requests = client(&drain).await;
        let (mut slow, _sending) = ask(&mut requests, LARGE).await;
        let mut got = 0;
        while got < LARGE {
            let data = timeout(DAY, slow.data()).await.expect("more").unwrap();
            let size = data.unwrap().len();
            got += size;
            time::sleep(NO_PROGRESS / 4).await;
            slow.flow_control().release_capacity(size).unwrap();
        }
    }
}

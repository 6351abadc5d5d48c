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

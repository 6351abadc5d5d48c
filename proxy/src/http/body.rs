//! The one body type of the request path. It streams with back-pressure, holds nothing but what a retry may need, and
//! tells its [`Recorder`] how the stream ended. Reserved fields in trailers end here.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::{headers, patience::Reading};

/// A request's or a response's body.
pub struct Body {
    source: Source,
    recorder: Option<Box<dyn Recorder>>,
}

enum Source {
    Empty,
    Full(Bytes),
    Incoming(Arriving),
    Replay { shared: Arc<Mutex<Replay>>, next: usize },
}

/// What comes over a connection.
struct Arriving {
    incoming: Incoming,
    reading: Option<Reading>,
}

impl Arriving {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Some(reading) = &self.reading {
            reading.waits(polled.is_pending());
        }
        polled
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.waits(false);
        }
    }
}

/// What wants to know how a response's stream ended. Dropping it without [`Recorder::end`] means that the receiver
/// went away first.
pub trait Recorder: Send {
    /// The stream ended: with trailers, without, or with an error.
    fn end(self: Box<Self>, end: End<'_>);
}

/// How a stream ended.
pub enum End<'a> {
    Complete(Option<&'a HeaderMap>),
    Broken(&'a hyper::Error),
}

impl Body {
    pub fn empty() -> Self {
        Self { source: Source::Empty, recorder: None }
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { source: Source::Full(bytes.into()), recorder: None }
    }

    pub fn incoming(incoming: Incoming) -> Self {
        Self::arriving(Arriving { incoming, reading: None })
    }

    /// The body of a client's request: its connection learns when somebody waits for it.
    pub fn from_client(head: &mut request::Parts, incoming: Incoming) -> Self {
        Self::arriving(Arriving { incoming, reading: head.extensions.remove() })
    }

    fn arriving(arriving: Arriving) -> Self {
        let source = if arriving.incoming.is_end_stream() { Source::Empty } else { Source::Incoming(arriving) };
        Self { source, recorder: None }
    }

    /// The same body, which tells `recorder` about its end; at once, if there is nothing to stream.
    #[must_use]
    pub fn recorded(mut self, recorder: Box<dyn Recorder>) -> Self {
        if self.is_end_stream() {
            recorder.end(End::Complete(None));
        } else {
            self.recorder = Some(recorder);
        }
        self
    }

    /// Keeps what is streamed, so that [`ReplayHandle::again`] can send it once more. The caller makes sure that the
    /// declared length is small.
    pub fn replayable(self) -> (Self, ReplayHandle) {
        match self.source {
            Source::Incoming(incoming) => {
                let shared = Arc::new(Mutex::new(Replay { incoming, frames: Vec::new(), done: false, broken: false }));
                let body = Self { source: Source::Replay { shared: shared.clone(), next: 0 }, recorder: None };
                (body, ReplayHandle(Some(shared)))
            }
            // Nothing to stream: nothing to keep.
            Source::Empty | Source::Full(_) | Source::Replay { .. } => (self, ReplayHandle(None)),
        }
    }

    fn end(&mut self, end: End<'_>) {
        if let Some(recorder) = self.recorder.take() {
            recorder.end(end);
        }
    }
}

/// A request body that can be sent again.
pub struct ReplayHandle(Option<Arc<Mutex<Replay>>>);

struct Replay {
    incoming: Arriving,
    frames: Vec<Kept>,
    done: bool,
    /// It broke off: what was kept is not the whole.
    broken: bool,
}

enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl ReplayHandle {
    /// The whole body from its first byte; `None` if the client broke it off.
    pub fn again(&self) -> Option<Body> {
        let source = match &self.0 {
            Some(shared) if shared.lock().broken => return None,
            Some(shared) => Source::Replay { shared: shared.clone(), next: 0 },
            None => Source::Empty,
        };
        Some(Body { source, recorder: None })
    }
}

impl Replay {
    fn poll_frame(
        &mut self,
        next: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if *next == self.frames.len() && !self.done {
            match self.incoming.poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => {
                    self.broken = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => self.done = true,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.frames.push(Kept::Data(data)),
                    Err(frame) => self.frames.extend(frame.into_trailers().ok().map(Kept::Trailers)),
                },
            }
        }
        let frame = self.frames.get(*next).map(|kept| match kept {
            Kept::Data(data) => Frame::data(data.clone()),
            Kept::Trailers(trailers) => Frame::trailers(trailers.clone()),
        });
        *next += usize::from(frame.is_some());
        Poll::Ready(frame.map(Ok))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Empty => None,
            Source::Full(bytes) if bytes.is_empty() => None,
            Source::Full(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Source::Incoming(arriving) => std::task::ready!(arriving.poll_frame(cx)),
            Source::Replay { shared, next } => std::task::ready!(shared.lock().poll_frame(next, cx)),
        };
        let frame = match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                    this.end(End::Complete(Some(trailers)));
                } else if this.is_end_stream() {
                    this.end(End::Complete(None));
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.end(End::Broken(&error));
                Some(Err(error))
            }
            None => {
                this.end(End::Complete(None));
                None
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_empty(),
            Source::Incoming(arriving) => arriving.incoming.is_end_stream(),
            Source::Replay { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Incoming(arriving) => arriving.incoming.size_hint(),
            Source::Replay { shared, next: 0 } => {
                let replay = shared.lock();
                if replay.frames.is_empty() && !replay.done {
                    replay.incoming.incoming.size_hint()
                } else {
                    SizeHint::default()
                }
            }
            Source::Replay { .. } => SizeHint::default(),
        }
    }
}

//! The one body type of the request path. It streams with back-pressure, holds nothing but what a retry may need, and
//! tells its [`Record`] how the stream ended. Reserved fields in trailers end here.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::{headers, multiplexed::Waiting, patience::Turn};
use crate::record::{End, Record};

/// A request's or a response's body.
pub struct Body {
    source: Source,
    record: Option<Record>,
    /// The HTTP/1 connection that is busy with it.
    turn: Option<Turn>,
}

enum Source {
    Empty,
    Full(Bytes),
    Arriving(Arriving),
    Replay { shared: Arc<Mutex<Replay>>, next: usize },
}

/// What comes over a connection.
enum Arriving {
    /// An answer of a server.
    Http1(Incoming),
    /// A request of a client, whose connection learns when somebody waits for it.
    FromClient(Incoming, Turn),
    Http2 {
        stream: RecvStream,
        /// Of an answer.
        waiting: Option<Waiting>,
    },
}

/// How a message or its connection broke.
#[derive(Debug, thiserror::Error)]
pub enum Broke {
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    #[error("{0}")]
    Http2(#[from] h2::Error),
}

impl Broke {
    /// The same, to the other side of an HTTP/2 stream.
    pub fn reason(&self) -> Reason {
        let reset = match self {
            Self::Http1(_) => None,
            Self::Http2(error) => error.reason(),
        };
        reset.unwrap_or(Reason::INTERNAL_ERROR)
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, Broke>>>;

impl Arriving {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        match self {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Broke::Http1),
            Self::FromClient(incoming, turn) => {
                let polled = Pin::new(incoming).poll_frame(cx);
                turn.waits(polled.is_pending());
                polled.map_err(Broke::Http1)
            }
            Self::Http2 { stream, waiting } => poll_stream(stream, waiting.is_some(), cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) | Self::FromClient(incoming, _) => incoming.is_end_stream(),
            Self::Http2 { stream, .. } => stream.is_end_stream(),
        }
    }

    /// Over HTTP/2 the length is the head's business, and h2 holds the stream to it.
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) | Self::FromClient(incoming, _) => incoming.size_hint(),
            Self::Http2 { .. } => SizeHint::default(),
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Self::FromClient(_, turn) = self {
            turn.waits(false);
        }
    }
}

/// Data and then trailers of an HTTP/2 stream; what was taken makes room for more.
fn poll_stream(stream: &mut RecvStream, is_answer: bool, cx: &mut Context<'_>) -> Polled {
    let frame = match ready!(stream.poll_data(cx)) {
        Some(Ok(data)) => stream.flow_control().release_capacity(data.len()).map(|()| Some(Frame::data(data))),
        Some(Err(error)) => Err(error),
        None => ready!(stream.poll_trailers(cx)).map(|trailers| trailers.map(Frame::trailers)),
    };
    Poll::Ready(match frame {
        // A server may say so behind a whole answer to which the request's rest does not matter (RFC 9113, 8.1). A client that
        // does breaks its request off: that must not look whole to the app.
        Err(error)
            if is_answer && error.is_remote() && error.reason() == Some(Reason::NO_ERROR) && error.is_reset() =>
        {
            None
        }
        frame => frame.map_err(Broke::Http2).transpose(),
    })
}

impl Body {
    pub fn empty() -> Self {
        Self::of(Source::Empty)
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Source::Full(bytes.into()))
    }

    /// The body of an HTTP/1 answer.
    pub fn http1(incoming: Incoming) -> Self {
        Self::arriving(Arriving::Http1(incoming))
    }

    /// The body of an HTTP/1 client's request: its connection learns when somebody waits for it.
    pub fn from_client(incoming: Incoming, turn: &Turn) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self::arriving(Arriving::FromClient(incoming, turn.clone()))
    }

    /// The body of an HTTP/2 request.
    pub fn http2(stream: RecvStream) -> Self {
        Self::arriving(Arriving::Http2 { stream, waiting: None })
    }

    /// The body of an HTTP/2 answer.
    pub fn answer(stream: RecvStream, waiting: Waiting) -> Self {
        Self::arriving(Arriving::Http2 { stream, waiting: Some(waiting) })
    }

    fn arriving(arriving: Arriving) -> Self {
        Self::of(if arriving.is_end_stream() { Source::Empty } else { Source::Arriving(arriving) })
    }

    const fn of(source: Source) -> Self {
        Self { source, record: None, turn: None }
    }

    /// The same body, which tells `record` about its end; at once, if there is nothing to stream.
    #[must_use]
    pub fn recorded(mut self, record: Record) -> Self {
        if self.is_end_stream() {
            record.end(&End::Complete(None));
        } else {
            self.record = Some(record);
        }
        self
    }

    /// The same body, of an answer in whose time its connection serves nothing else.
    #[must_use]
    pub fn in_turn(mut self, turn: Turn) -> Self {
        self.turn = Some(turn);
        self
    }

    /// Keeps what is streamed, so that [`ReplayHandle::again`] can send it once more. The caller makes sure that the
    /// declared length is small.
    pub fn replayable(&mut self) -> ReplayHandle {
        match mem::replace(&mut self.source, Source::Empty) {
            Source::Arriving(arriving) => {
                let shared = Arc::new(Mutex::new(Replay { arriving, frames: Vec::new(), done: false, broken: false }));
                self.source = Source::Replay { shared: shared.clone(), next: 0 };
                ReplayHandle(Some(shared))
            }
            // Nothing to stream: nothing to keep.
            source @ (Source::Empty | Source::Full(_) | Source::Replay { .. }) => {
                self.source = source;
                ReplayHandle(None)
            }
        }
    }

    fn end(&mut self, end: &End<'_>) {
        if let Some(record) = self.record.take() {
            record.end(end);
        }
    }
}

/// A request body that can be sent again.
pub struct ReplayHandle(Option<Arc<Mutex<Replay>>>);

struct Replay {
    arriving: Arriving,
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
        Some(Body::of(source))
    }
}

impl Replay {
    fn poll_frame(&mut self, next: &mut usize, cx: &mut Context<'_>) -> Polled {
        if *next == self.frames.len() && !self.done {
            match self.arriving.poll_frame(cx) {
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
    type Error = Broke;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Empty => None,
            Source::Full(bytes) if bytes.is_empty() => None,
            Source::Full(bytes) => Some(Ok(Frame::data(mem::take(bytes)))),
            Source::Arriving(arriving) => ready!(arriving.poll_frame(cx)),
            Source::Replay { shared, next } => ready!(shared.lock().poll_frame(next, cx)),
        };
        let frame = match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                    this.end(&End::Complete(Some(trailers)));
                } else if this.is_end_stream() {
                    this.end(&End::Complete(None));
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.end(&End::Broken);
                Some(Err(error))
            }
            None => {
                this.end(&End::Complete(None));
                None
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_empty(),
            Source::Arriving(arriving) => arriving.is_end_stream(),
            Source::Replay { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Arriving(arriving) => arriving.size_hint(),
            Source::Replay { shared, next: 0 } => {
                let replay = shared.lock();
                if replay.frames.is_empty() && !replay.done { replay.arriving.size_hint() } else { SizeHint::default() }
            }
            Source::Replay { .. } => SizeHint::default(),
        }
    }
}

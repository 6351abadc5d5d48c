//! One warm HTTP/2 connection to a peer, shared by all requests to it: h2 itself, called where the request is. A request
//! without a body costs no task, channel or box of ours. Requests that certainly were not sent come back; what became of
//! the others is for `client.rs` to say.

use std::{
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::{Request, Response};
use http_body::Body as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use super::{Message, body::Body, flood::Guarded, pulse::Pulse, pump::pump};
use crate::config::{HEADER_LIST_MAX, PEER_CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW};

/// An upload may wait for its reader for as long as its client does.
const NEVER: Duration = Duration::MAX;

/// An open connection. When the last handle is gone, it ends after the streams that it has.
#[derive(Clone)]
pub struct Open(Arc<Inner>);

struct Inner {
    requests: SendRequest<Bytes>,
    pulse: Pulse,
    /// Of the requests that wait for the rest of their answers.
    waiting: Weak<()>,
    /// No new request can be sent.
    closed: Arc<AtomicBool>,
    /// Last, so that it is told when the others are gone.
    _unused: Unused,
}

/// Tells the connection's task that nobody will send anything any more: h2 does not wake it for that.
struct Unused(Arc<Notify>);

impl Drop for Unused {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Held while an answer has not ended: somebody waits, and should learn if the peer is dead.
pub struct Waiting {
    _counted: Option<Arc<()>>,
}

/// A request that was not answered, and the request itself if it was certainly not sent.
pub struct NotSent {
    pub error: h2::Error,
    pub request: Option<Box<Message>>,
}

impl Open {
    /// Opens a connection over `io`, and what keeps it going until it ends. `silence`: after so long without a byte while
    /// somebody waits, the peer is asked whether it is still there.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn handshake<I>(
        io: I,
        silence: Option<Duration>,
    ) -> Result<(Self, impl Future<Output = Result<(), h2::Error>> + Send), h2::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let pulse = Pulse::default();
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(PEER_CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let (requests, connection) = builder.handshake(Guarded::client(io, pulse.clone())).await?;
        let (closed, unused, waiting) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default(), Arc::new(()));
        let open = Inner {
            requests,
            pulse: pulse.clone(),
            waiting: Arc::downgrade(&waiting),
            closed: closed.clone(),
            _unused: Unused(unused.clone()),
        };
        let drive = async move {
            let somebody_waits = || Arc::strong_count(&waiting) > 1;
            let ended = drive(connection, pulse, silence, somebody_waits, &unused).await;
            closed.store(true, Relaxed);
            ended
        };
        Ok((Self(Arc::new(open)), drive))
    }

    /// Whether a new connection is needed.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Relaxed)
    }

    /// Sends one request and waits for the head of its answer. Dropped, it takes the request back.
    pub async fn send(&self, request: Box<Message>) -> Result<Response<Body>, NotSent> {
        let mut requests = self.0.requests.clone();
        if let Err(error) = poll_fn(|cx| requests.poll_ready(cx)).await {
            self.0.closed.store(true, Relaxed);
            return Err(NotSent { error, request: Some(request) });
        }
        let Message { head, body } = *request;
        let empty = body.is_end_stream();
        let waiting = Waiting { _counted: self.0.waiting.upgrade() };
        let lost = |error| NotSent { error, request: None };
        let (answer, to) = requests.send_request(Request::from_parts(head, ()), empty).map_err(lost)?;
        self.0.pulse.wake();
        if !empty {
            upload(body, to).await;
        }
        Ok(answer.await.map_err(lost)?.map(|stream| Body::answer(stream, waiting)))
    }
}

/// Sends a request's body: what is there already goes together with the head, the rest as it comes.
async fn upload(body: Body, to: h2::SendStream<Bytes>) {
    let mut upload = Box::pin(pump(body, to, NEVER));
    let done = poll_fn(|cx| Poll::Ready(upload.as_mut().poll(cx).is_ready())).await;
    if !done {
        tokio::spawn(upload);
    }
}

/// Keeps the connection going until it ends, the peer is dead, or nobody needs it.
async fn drive<I>(
    mut connection: Connection<Guarded<I>, Bytes>,
    pulse: Pulse,
    silence: Option<Duration>,
    somebody_waits: impl Fn() -> bool,
    unused: &Notify,
) -> Result<(), h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let pings = connection.ping_pong();
    let dead = async {
        match (pings, silence) {
            (Some(pings), Some(silence)) => {
                pulse.stops(pings, silence, somebody_waits).await;
            }
            _ => pending().await,
        }
    };
    let mut dead = pin!(dead);
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => return ended,
            () = &mut dead => {
                tracing::debug!("a peer did not answer a ping");
                return Ok(());
            }
            () = unused.notified() => {}
        }
    }
}

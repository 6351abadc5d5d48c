//! Owns the gRPC service: who may call what, and within which limits. Wire types stop in this folder.
//!
//! `Certify` is authenticated by its token (`certify`); `Watch` needs the certificate that the acceptor saw, and
//! answers only what concerns that identity (`subscriptions`). The connection itself is `listen`'s business.

mod certify;
mod convert;
pub mod streams;
mod subscriptions;

use std::{future::ready, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream as Answers, stream::unfold};

use lacewing_identity::SpiffeId;
pub use lacewing_proto::control::control_server::ControlServer as Server;
use lacewing_proto::control::{CertifyRequest, CertifyResponse, WatchRequest, WatchResponse, control_server::Control};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    identity::Identity,
    metrics::Metrics,
    publish::{Mailbox, Publisher},
    tokens::TokenReviewer,
};
use certify::Certifier;
use streams::Streams;
use subscriptions::Subscriptions;

/// Largest request message, in bytes: a token and a certificate request, with room.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// How often it is looked whether there is room for keys that were refused for want of it.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Who is at the other end of the connection, as its certificate says; nobody without one. The acceptor puts it into
/// every request's extensions.
#[derive(Debug, Clone)]
pub struct Peer(pub Option<SpiffeId>);

/// The control service.
pub struct Service<R> {
    publisher: Arc<Publisher>,
    certifier: Certifier<R>,
    streams: Arc<Streams>,
    stopping: watch::Receiver<bool>,
}

/// The service as the acceptor calls it, with the limit on messages.
pub fn server<R: TokenReviewer>(parts: Parts<R>) -> Server<Service<R>> {
    Server::new(Service::new(parts)).max_decoding_message_size(REQUEST_BYTES_MAX)
}

/// What the service is made of.
pub struct Parts<R> {
    pub publisher: Arc<Publisher>,
    pub identity: Arc<Identity>,
    pub reviewer: R,
    pub metrics: Arc<Metrics>,
    pub streams: Arc<Streams>,
    /// True once the controller stops: streams then end by themselves.
    pub stopping: watch::Receiver<bool>,
    /// Wall time in unix seconds.
    pub now: fn() -> u64,
}

impl<R: TokenReviewer> Service<R> {
    fn new(parts: Parts<R>) -> Self {
        let Parts { publisher, identity, reviewer, metrics, streams, stopping, now } = parts;
        let certifier = Certifier::new(identity, reviewer, metrics, now);
        Self { publisher, certifier, streams, stopping }
    }
}

#[tonic::async_trait]
impl<R: TokenReviewer> Control for Service<R> {
    type WatchStream = Pin<Box<dyn Answers<Item = Result<WatchResponse, Status>> + Send>>;

    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        self.certifier.certify(request.into_inner()).await.map(Response::new)
    }

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let Some(Peer(Some(peer))) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::unauthenticated("watching needs a certificate of this mesh: call Certify first"));
        };
        let subscriptions = Subscriptions::new(peer, self.publisher.clone(), self.streams.epoch());
        let mailbox = subscriptions.mailbox().clone();
        let subscriptions = Arc::new(Mutex::new(subscriptions));
        let mut retries = interval(RETRY_INTERVAL);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stream = Stream {
            _guard: self.streams.enter(&subscriptions),
            subscriptions,
            requests: request.into_inner(),
            mailbox,
            retries,
            stopping: self.stopping.clone(),
        };
        // Whoever writes to the proxy asks for the next answer: no task, and no queue in which answers grow old but for the
        // one chunk that waits for the proxy to read. It is dropped with its connection.
        let answers = unfold(stream, |mut stream| async {
            let answer = stream.next().await?;
            Some((Ok(answer), stream))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One watch stream and everything that it listens to.
struct Stream {
    _guard: streams::Guard,
    subscriptions: Arc<Mutex<Subscriptions>>,
    requests: Streaming<WatchRequest>,
    mailbox: Arc<Mailbox>,
    retries: Interval,
    stopping: watch::Receiver<bool>,
}

impl Stream {
    /// The next answer, of the moment at which it is taken; none once the stream has ended.
    async fn next(&mut self) -> Option<WatchResponse> {
        loop {
            let (due, accepts, waiting) = {
                let subscriptions = self.subscriptions.lock();
                (subscriptions.is_due(), subscriptions.accepts(), subscriptions.is_waiting())
            };
            tokio::select! {
                // One of several that are ready: requests are read however much there is to send.
                () = ready(()), if due => {
                    let next = self.subscriptions.lock().next();
                    if next.is_some() {
                        return next;
                    }
                }
                request = self.requests.message(), if accepts => match request {
                    Ok(Some(request)) => self.subscriptions.lock().handle(request),
                    Ok(None) | Err(_) => return None,
                },
                () = self.mailbox.rung() => self.subscriptions.lock().look_for_changes(),
                _ = self.retries.tick(), if waiting => self.subscriptions.lock().retry(),
                Ok(_) = self.stopping.wait_for(|stopping| *stopping) => return None,
            }
        }
    }
}

//! Owns the webhook's port: HTTPS on which the API server asks about each pod that is to be created (`/inject`). One
//! connection serves many requests over HTTP/1.1, so that what one replica holds open says nothing about the others.
//!
//! It refuses slow handshakes, large or slow bodies and everything but that question; where it cannot know the answer yet
//! it says so by status 503, and the webhook's failure policy decides. [`review`] is the form of question and answer, what
//! is answered decides `inject`.

pub mod review;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lacewing_crds::ObjectMeta;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    events::ObjectRef,
    inject::{self, Mesh, Outcome, Surroundings},
    listen::{DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, stopped},
    metrics::{Injection, Metrics},
    publish::Publisher,
};

/// Where the API server asks.
pub const PATH: &str = "/inject";
/// Open connections at a time: API servers keep a few each. More wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 128;
/// Requests whose bodies are being read or answered at a time; more wait.
pub const REQUESTS_MAX: usize = 16;
/// Largest question, in bytes: etcd holds objects up to 1.5 MiB, and a review repeats little of it.
pub const BODY_MAX: usize = 3 * 1024 * 1024;
/// A request's head, and then its body, must arrive within this; API servers give up after 5 s.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A Namespace that was made a moment ago may not have been seen yet: it is waited for as long.
pub const NAMESPACE_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked for meanwhile.
const NAMESPACE_LOOK: Duration = Duration::from_millis(50);
/// Pause after a failed accept (usually: no file descriptors), so that the loop cannot spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Answer = Response<Full<Bytes>>;
/// Makes known to people, about this object, why a pod got no proxy though somebody asked for one.
pub type Report = dyn Fn(ObjectRef, String) + Send + Sync;

/// What the port works with.
pub struct Webhook {
    pub publisher: Arc<Publisher>,
    /// The certificate of this moment; none until the trust root was read.
    pub tls: Box<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>,
    /// What pods of this moment get; none as above.
    pub mesh: Box<dyn Fn() -> Option<Mesh> + Send + Sync>,
    pub report: Box<Report>,
    pub metrics: Arc<Metrics>,
    pub stopping: watch::Receiver<bool>,
}

impl Webhook {
    /// Serves until `stopping`, then lets requests that are under way end.
    pub async fn serve(self, listener: TcpListener) {
        let mut stopping = self.stopping.clone();
        let (webhook, mut connections) = (Arc::new(self), JoinSet::new());
        let (slots, requests) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(REQUESTS_MAX)));
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                () = stopped(&mut stopping) => break,
                // Takes finished tasks out of the set; without any it is never ready.
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((socket, slot)) => {
                    let (webhook, requests) = (webhook.clone(), requests.clone());
                    connections.spawn(async move {
                        webhook.connection(socket, requests).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the webhook's port cannot accept a connection, trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        // Who is not done by then gets no answer, and the failure policy decides.
        let _ = timeout(DRAIN_TIMEOUT, drained).await;
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, requests: Arc<Semaphore>) {
        let Some(tls) = (self.tls)() else { return };
        let stream = match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(socket)).await {
            Ok(Ok(stream)) => stream,
            // API servers keep an old bundle for a moment after it has changed: a warning would cry wolf.
            Ok(Err(error)) => return tracing::debug!(%error, "the webhook refused a connection"),
            Err(_) => return tracing::debug!("the webhook refused a connection: the TLS handshake took too long"),
        };
        let mut stopping = self.stopping.clone();
        let answer = service_fn(move |request| {
            let (webhook, requests) = (self.clone(), requests.clone());
            async move { Ok::<_, Infallible>(webhook.answer(request, &requests).await) }
        });
        let mut connection = Box::pin(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), answer),
        );
        // How it ended concerns only the API server, which asks again or follows the failure policy.
        let _ = tokio::select! {
            ended = &mut connection => ended,
            () = stopped(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
    }

    async fn answer(&self, request: Request<Incoming>, requests: &Semaphore) -> Answer {
        if request.method() != Method::POST || request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, format!("here is {PATH}, for AdmissionReviews of pods\n"));
        }
        // The semaphore is never closed.
        let _under_way = requests.acquire().await;
        let read = timeout(READ_TIMEOUT, Limited::new(request.into_body(), BODY_MAX).collect()).await;
        let body = match read {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let why = format!("a review has at most {BODY_MAX} bytes\n");
                return self.failed(StatusCode::PAYLOAD_TOO_LARGE, why);
            }
            Ok(Err(error)) => return self.failed(StatusCode::BAD_REQUEST, format!("{error}\n")),
            Err(_) => return self.failed(StatusCode::REQUEST_TIMEOUT, "the body took too long\n".to_owned()),
        };
        let request = match review::read(&body) {
            Ok(request) => request,
            Err(why) => {
                tracing::warn!("the webhook was asked something else: {why}");
                return self.failed(StatusCode::BAD_REQUEST, format!("{why}\n"));
            }
        };
        drop(body);
        let Some(namespace) = self.namespace(&request.namespace).await else {
            let why = format!("the namespace {:?} is not known to this controller yet\n", request.namespace);
            return self.failed(StatusCode::SERVICE_UNAVAILABLE, why);
        };
        let Some(mesh) = (self.mesh)() else {
            return self.failed(StatusCode::SERVICE_UNAVAILABLE, "the trust root is not known yet\n".to_owned());
        };
        let (annotations, labels) = (namespace.annotations.to_map(), namespace.labels.to_map());
        let surroundings = Surroundings { annotations: &annotations, labels: &labels };
        let outcome = inject::inject(&request.object, surroundings, &mesh);
        self.note(&request, &outcome);
        let answer = review::answer(&request, &outcome).to_string();
        with_type(StatusCode::OK, "application/json", answer.into())
    }

    /// The Namespace of the pod; the webhook may be asked before the watch has brought it.
    async fn namespace(&self, name: &str) -> Option<ObjectMeta> {
        let deadline = Instant::now() + NAMESPACE_WAIT;
        let mut looks = interval(NAMESPACE_LOOK);
        loop {
            looks.tick().await;
            let found = self.publisher.with_world(|world| world.namespace(name).map(|found| found.metadata.clone()));
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
        }
    }

    /// Counts, and says what people should know.
    fn note(&self, request: &review::Request, outcome: &Outcome) {
        let about = request.about();
        let ObjectRef { namespace, kind, name, .. } = &about;
        match outcome {
            Outcome::Injected(_) => {
                self.metrics.injected(Injection::Injected);
                tracing::debug!(?namespace, ?kind, ?name, "injected");
            }
            Outcome::Skipped(skip) => {
                self.metrics.injected(Injection::Skipped(skip.word()));
                if skip.is_a_surprise() && !request.dry_run {
                    tracing::info!(?namespace, ?kind, ?name, "not injected: {skip}");
                    let message = format!("the pod gets no proxy: {skip}");
                    (self.report)(about, message);
                }
            }
            Outcome::Refused(why) => {
                self.metrics.injected(Injection::Refused);
                tracing::info!(?namespace, ?kind, ?name, "refused: {why}");
            }
        }
    }

    fn failed(&self, status: StatusCode, why: String) -> Answer {
        self.metrics.injected(Injection::Failed);
        text(status, why)
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    // Answers are small; a broken socket shows itself at the handshake.
    let _ = socket.set_nodelay(true);
    Ok((socket, slot))
}

fn text(status: StatusCode, body: String) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests;

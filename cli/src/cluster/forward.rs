//! Owns the way to an admin port of a pod: a port-forward through the API server, over which HTTP/1.1 is spoken.
//!
//! Kubernetes' RBAC decides who may (`create` of `pods/portforward`). A way stays open between questions, so that a
//! picture that is drawn every second does not dial every second. What is asked and how often is `live.rs`' business.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{sync::Mutex as AsyncMutex, time::timeout};

use super::{ApiError, Cluster};
use crate::output::plain;

/// Ways that are kept open at most.
const OPEN_MAX: usize = 50;

/// How long the kubelet's reason for a line that broke may come after the break.
const REASON_PATIENCE: Duration = Duration::from_millis(200);

/// A connection to an admin port, ready for a request.
pub struct Line {
    pub sender: SendRequest<Empty<Bytes>>,
    /// What the other end says when it cannot go on.
    reason: Pin<Box<dyn Future<Output = Option<String>> + Send>>,
}

impl Line {
    /// Why it broke, if the other end said so.
    pub async fn why(self) -> Option<String> {
        let said = timeout(REASON_PATIENCE, self.reason).await.ok().flatten()?;
        Some(plain(&said))
    }
}

/// The way to one port of one pod.
pub struct Forward {
    cluster: Cluster,
    namespace: String,
    pod: String,
    port: u16,
    open: AsyncMutex<Option<Line>>,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port-forward to {}/{}:{}", self.namespace, self.pod, self.port)
    }
}

impl Forward {
    pub fn new(cluster: &Cluster, namespace: &str, pod: &str, port: u16) -> Self {
        let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
        Self { cluster: cluster.clone(), namespace, pod, port, open: AsyncMutex::default() }
    }

    /// The connection that was left here, if it is still good; else none.
    pub async fn reuse(&self) -> Option<Line> {
        let mut line = self.open.lock().await.take()?;
        line.sender.ready().await.is_ok().then_some(line)
    }

    /// Leaves a connection for the next question.
    pub async fn keep(&self, line: Line) {
        *self.open.lock().await = Some(line);
    }

    /// Opens a new connection.
    ///
    /// # Errors
    /// Why not, in words: no right, no such pod.
    pub async fn connect(&self) -> Result<Line, String> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let mut forwarder =
            api.portforward(&self.pod, &[self.port]).await.map_err(|error| self.refused(&error).what)?;
        let stream = forwarder.take_stream(self.port).ok_or("the API server opened no stream")?;
        let reason = forwarder.take_error(self.port).ok_or("the API server opened no stream")?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Both end with the sender.
        tokio::spawn(connection);
        Ok(Line { sender, reason: Box::pin(reason) })
    }

    fn refused(&self, error: &kube::Error) -> ApiError {
        let path = format!("/api/v1/namespaces/{}/pods/{}/portforward", self.namespace, self.pod);
        let mut refused = ApiError::of_request(error, &Method::GET, &path, self.cluster.place());
        refused.what = plain(&refused.what);
        refused
    }
}

/// The ways that are open, by the pod's uid and port.
#[derive(Default)]
pub struct Forwards(Mutex<HashMap<(String, u16), Arc<Forward>>>);

impl Forwards {
    /// The way to `port` of the pod with this `uid`.
    pub fn to(&self, cluster: &Cluster, (namespace, pod, uid): (&str, &str, &str), port: u16) -> Arc<Forward> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (uid.to_owned(), port);
        if let Some(forward) = open.get(&key) {
            return forward.clone();
        }
        let forward = Arc::new(Forward::new(cluster, namespace, pod, port));
        // With more pods than that, some are dialled each time.
        if open.len() < OPEN_MAX {
            open.insert(key, forward.clone());
        }
        forward
    }
}

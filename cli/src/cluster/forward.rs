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

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Mutex as AsyncMutex,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{ApiError, Cluster};
use crate::output::plain;

/// Ways that are kept open at most.
const OPEN_MAX: usize = 50;

/// How long the kubelet's reason for a line that broke may come after the break.
const REASON_PATIENCE: Duration = Duration::from_millis(200);

/// Longest time for a TLS handshake through the API server.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to an admin port, ready for a request.
pub struct Line {
    pub sender: SendRequest<Empty<Bytes>>,
    /// What the other end says when it cannot go on.
    reason: Reason,
}

/// Ends with the kubelet's words, or with none when the line ends well.
type Reason = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

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
        let (stream, reason) = self.dial().await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Both end with the sender.
        tokio::spawn(connection);
        Ok(Line { sender, reason })
    }

    /// Shakes hands as the API server does with a webhook: TLS to `name`, whose certificate must be under `bundle` (PEM in
    /// base64).
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn shake_hands(&self, bundle: &str, name: &str) -> Result<(), String> {
        let pem = BASE64.decode(bundle).map_err(|error| format!("the caBundle is not base64: {error}"))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| format!("the caBundle is not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| format!("the caBundle has no certificate: {error}"))?;
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
        let shake = async {
            let (stream, reason) = self.dial().await?;
            match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    Err(timeout(REASON_PATIENCE, reason).await.ok().flatten().unwrap_or_else(|| error.to_string()))
                }
            }
        };
        let shaken = timeout(HANDSHAKE_TIMEOUT, shake).await;
        shaken
            .unwrap_or_else(|_| Err(format!("no answer within {}s", HANDSHAKE_TIMEOUT.as_secs())))
            .map_err(|why: String| plain(&why))
    }

    async fn dial(&self) -> Result<(impl AsyncRead + AsyncWrite + Unpin + Send + use<>, Reason), String> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let mut forwarder =
            api.portforward(&self.pod, &[self.port]).await.map_err(|error| self.refused(&error).what)?;
        let stream = forwarder.take_stream(self.port).ok_or("the API server opened no stream")?;
        let reason = forwarder.take_error(self.port).ok_or("the API server opened no stream")?;
        let reason: Reason = Box::pin(reason);
        Ok((stream, reason))
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

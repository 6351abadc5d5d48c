//! Owns the way to the API server: one client with its credentials, limits and timeouts, and errors in plain words.
//! Everybody who speaks to it has a clone. What is asked, and what an answer means, is the caller's business; so are
//! retries, since only the caller knows what may be done twice.

use std::{error::Error, fmt::Write, path::Path, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use tokio::time::timeout;
use tower::{BoxError, ServiceExt};

/// A connection must stand within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is gone without a word is noticed within about this; watches are silent for minutes.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// The kernel asks a silent peer whether it is there after this, and then as often.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A request and its whole answer; of a watch, the head of the answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of the explanation of an error no more than this is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Longest text of the API server that an error of ours repeats, in characters.
const QUOTED_MAX: usize = 500;

/// Server-side apply of a part of an object (KEP-555); JSON is YAML.
pub const APPLY: &str = "application/apply-patch+yaml";
/// A whole object.
pub const JSON: &str = "application/json";

/// Why the API server did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status, if it answered.
    pub status: Option<u16>,
    pub message: String,
}

impl ApiError {
    pub fn broken(message: impl Into<String>) -> Self {
        Self { status: None, message: message.into() }
    }

    pub fn is(&self, status: u16) -> bool {
        self.status == Some(status)
    }
}

/// A client of the API server. Clones share its connections.
#[derive(Clone)]
pub struct Cluster(Client);

impl Cluster {
    /// Prepares a client; it connects when it is used. Without a `kubeconfig` it is that of a pod. Works only within a
    /// runtime.
    ///
    /// # Errors
    /// Where the API server is, or how to prove who we are, cannot be read.
    pub async fn open(kubeconfig: Option<&Path>) -> Result<Self> {
        let config = match kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).with_context(|| format!("KUBECONFIG={}", path.display()))?;
                let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
                config.with_context(|| format!("KUBECONFIG={}", path.display()))?
            }
            None => Config::incluster().context(
                "this is no pod with a service account's token; outside a cluster set LACEWING_MANIFESTS, or KUBECONFIG",
            )?,
        };
        Self::new(&config).context("cannot prepare the connection to the API server")
    }

    /// As kube's own stack, but with signs of life on its sockets, and without retries and log lines of its own.
    fn new(config: &Config) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(DEAD_AFTER));
        let tls = config.rustls_https_connector_with_connector(tcp)?;
        let service = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(tls).map_err(BoxError::from);
        let builder = ClientBuilder::new(service, &config.default_namespace);
        let client = match config.auth_layer()? {
            Some(auth) => builder.with_layer(&auth).with_layer(&config.base_uri_layer()).build(),
            None => builder.with_layer(&config.base_uri_layer()).build(),
        };
        Ok(Self(client))
    }

    /// The client, for typed requests.
    pub fn client(&self) -> Client {
        self.0.clone()
    }

    /// Sends a request and reads the whole answer. `body` is its content type and its bytes.
    ///
    /// # Errors
    /// No answer within [`REQUEST_TIMEOUT`], one of more than [`ANSWER_BYTES_MAX`], or one that is no success.
    pub async fn request(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Bytes, ApiError> {
        let answer = async { whole(self.send(method, path, body).await?.into_body(), ANSWER_BYTES_MAX).await };
        timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| Err(too_late()))
    }

    /// Opens a stream of which only the head is waited for.
    ///
    /// # Errors
    /// No head within [`REQUEST_TIMEOUT`], or one that is no success.
    pub async fn stream(&self, path: &str) -> Result<Body, ApiError> {
        let head = timeout(REQUEST_TIMEOUT, self.send(Method::GET, path, None)).await;
        head.unwrap_or_else(|_| Err(too_late())).map(Response::into_body)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Response<Body>, ApiError> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some((content_type, _)) = body {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let body = body.map_or_else(Body::empty, |(_, bytes)| Body::from(bytes));
        let request = request.body(body).map_err(|error| ApiError::broken(format!("{path}: {error}")))?;
        let response = self.0.send(request).await.map_err(|error| ApiError::broken(chain(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(response).await)
    }
}

/// The whole body, of at most `limit` bytes.
async fn whole(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let body = Limited::new(body, limit).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| ApiError::broken(chain(&*error)))
}

/// What a `Status` object (the API server's form of an error) says.
#[derive(Deserialize)]
struct Said {
    message: Option<String>,
}

async fn refused(response: Response<Body>) -> ApiError {
    let status = response.status();
    let said = whole(response.into_body(), ERROR_BYTES_MAX).await.unwrap_or_default();
    let message = serde_json::from_slice::<Said>(&said).ok().and_then(|said| said.message);
    let message = message.map_or_else(|| quoted(&String::from_utf8_lossy(&said)), |message| quoted(&message));
    ApiError { status: Some(status.as_u16()), message: format!("the API server answers {status}: {message}") }
}

/// A text of somebody else's on one line, and not too long.
pub fn quoted(text: &str) -> String {
    text.trim().chars().take(QUOTED_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn too_late() -> ApiError {
    ApiError::broken(format!("the API server did not answer within {} s", REQUEST_TIMEOUT.as_secs()))
}

/// An error with its causes, each said once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    format!("cannot reach the API server: {}", quoted(&text))
}

#[cfg(test)]
impl Cluster {
    /// One whose API server is somewhere in this process.
    pub(crate) fn of(client: Client) -> Self {
        Self(client)
    }
}

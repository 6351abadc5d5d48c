//! Owns the command's way to a Kubernetes cluster: the flags that kubectl has, one client, typed reads and raw requests.
//!
//! Everything is done with the user's own rights. A request that fails says what was asked, where, the likely cause and
//! the next command (`error.rs`). `objects.rs` has the slim types, `forward.rs` the way to a pod's admin port. What the
//! answers mean is the business of `commands/` and `check/`.

mod error;
mod flags;
mod forward;
pub mod objects;

use std::{fmt::Write, sync::Arc, time::Duration};

use hyper::{Method, Request, header};
use kube::{Client, client::Body};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

pub use error::{ApiError, Cause};
pub use flags::Flags;
pub use forward::{Forward, Forwards};

/// Longest wait for the API server to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for one answer of the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Objects in one page of a list, and most pages: beyond that a laptop is the wrong place to add things up.
const PAGE: usize = 500;
const PAGES_MAX: usize = 100;

/// A cluster, and who the user is there. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    about: Arc<About>,
}

struct About {
    /// `context kind-dev (https://127.0.0.1:6443)`
    place: String,
    namespace: String,
}

/// What `/version` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// As in `v1.34.1`.
    pub version: String,
    /// The header `Date`, as sent.
    pub date: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionInfo {
    git_version: String,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
    #[serde(default)]
    metadata: PageMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageMeta {
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl Cluster {
    /// Reads the kubeconfig and prepares the client; nothing is asked yet.
    ///
    /// # Errors
    /// There is no kubeconfig, or no such context in it, or it cannot be used.
    pub async fn connect(flags: &Flags) -> Result<Self, ApiError> {
        let (mut config, context) = flags.config().await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let place = format!("{context} ({})", config.cluster_url.to_string().trim_end_matches('/'));
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| ApiError::of_client(&error, &place))?;
        let about = About { place, namespace };
        Ok(Self { client, about: Arc::new(about) })
    }

    /// The namespace of `-n`, or the context's, or `default`.
    pub fn namespace(&self) -> &str {
        &self.about.namespace
    }

    /// Which cluster it is, for people.
    pub fn place(&self) -> &str {
        &self.about.place
    }

    /// The object at `path`, such as `/apis/apps/v1/namespaces/lacewing/deployments/lacewing-controller`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.parse(path, &self.send(Method::GET, path, None).await?)
    }

    /// As [`Cluster::get`]; none if there is no such object (or no such kind).
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ApiError> {
        match self.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.cause == Cause::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of the collection at `path`, which may have a query (`…/pods?labelSelector=a%3Db`).
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        let (mut all, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let joint = if path.contains('?') { '&' } else { '?' };
            let from = if next.is_empty() { String::new() } else { format!("&continue={next}") };
            let page: Page<T> = self.get(&format!("{path}{joint}limit={PAGE}{from}")).await?;
            all.extend(page.items);
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(token) => next = query_value(&token),
                None => return Ok(all),
            }
        }
        let what = format!("there are more than {} objects at {path}", PAGE * PAGES_MAX);
        Err(ApiError::new(Cause::Other, what).hint("ask for one namespace with `-n NAME`"))
    }

    /// Creates what `body` says at `path` and reads the answer, as for access reviews.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ApiError> {
        self.parse(path, &self.send(Method::POST, path, Some(("application/json", body))).await?)
    }

    /// Sends any request; `body` comes with its content type. The answer's body, which nobody has parsed yet.
    pub async fn send(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<String, ApiError> {
        let mut request = Request::builder().method(&method).uri(path).header(header::ACCEPT, "application/json");
        if let Some((content_type, _)) = body {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let bytes = body.map_or_else(Vec::new, |(_, body)| body.to_string().into_bytes());
        let request = request.body(bytes).map_err(|error| ApiError::new(Cause::Other, format!("{path}: {error}")))?;
        match timeout(REQUEST_TIMEOUT, self.client.request_text(request)).await {
            Ok(answer) => answer.map_err(|error| ApiError::of_request(&error, &method, path, self.place())),
            Err(_) => Err(ApiError::timeout(self.place(), REQUEST_TIMEOUT)),
        }
    }

    /// Version and clock of the API server.
    pub async fn server(&self) -> Result<Server, ApiError> {
        let path = "/version";
        let request = Request::get(path).body(Body::empty());
        let request = request.map_err(|error| ApiError::new(Cause::Other, format!("{path}: {error}")))?;
        let ask = async {
            let failed = |error: &kube::Error| ApiError::of_request(error, &Method::GET, path, self.place());
            let answer = self.client.send(request).await.map_err(|error| failed(&error))?;
            let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
            // The version is asked for on its own: this answer may be an error, which is read there.
            let info: VersionInfo = self.get(path).await?;
            Ok(Server { version: info.git_version, date })
        };
        timeout(REQUEST_TIMEOUT, ask).await.unwrap_or_else(|_| Err(ApiError::timeout(self.place(), REQUEST_TIMEOUT)))
    }

    fn parse<T: DeserializeOwned>(&self, path: &str, text: &str) -> Result<T, ApiError> {
        serde_json::from_str(text).map_err(|error| {
            let what = format!("{}: {path} is not as expected: {error}", self.place());
            ApiError::new(Cause::Other, what).hint("is this a Kubernetes API server? see `kubectl version`")
        })
    }
}

/// `text` as the value of a query parameter.
pub fn query_value(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => value.push(byte.into()),
            _ => {
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    value
}

#[cfg(test)]
pub mod tests;

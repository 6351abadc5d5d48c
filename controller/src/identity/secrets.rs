//! Owns the trust root as a Secret of type `kubernetes.io/tls`, and beside it a Secret with the roots that an operator
//! has replaced. A Secret without `root.key` is the operator's (or cert-manager's): it is used as it is and never
//! written. Every write names the version that was read (`resourceVersion`), so that two leaders cannot undo each other.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use lacewing_identity::{Authority, SecretParts, TrustBundle, TrustDomain};
use serde_json::{Value, json};

use super::{
    store::{Found, StoreError},
    trust::Previous,
};
use crate::cluster::{ApiError, Cluster, JSON};

/// The trust root.
pub const ROOT_SECRET: &str = "lacewing-root";
/// Roots that were in the operator's Secret before.
pub const PREVIOUS_SECRET: &str = "lacewing-previous-roots";
/// On the Secret of the trust root, with any value: asks for a new root. It is removed when the change begins.
pub const ROTATE: &str = "lacewing.dev/rotate";
/// On the Secret of the previous roots: until when they are published, in unix seconds.
const UNTIL: &str = "lacewing.dev/until";
/// On what a controller made, so that it can be told from what somebody else made, and be removed with the mesh.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const MANAGER: &str = "lacewing-controller";

/// The Secrets of one namespace.
pub struct Secrets {
    cluster: Cluster,
    namespace: String,
    /// The trust root as it was read last.
    found: Option<Value>,
}

impl Secrets {
    pub fn new(cluster: Cluster, namespace: impl Into<String>) -> Self {
        Self { cluster, namespace: namespace.into(), found: None }
    }

    pub(super) fn place(&self) -> String {
        format!("Secret {}/{ROOT_SECRET}", self.namespace)
    }

    pub(super) async fn read(&mut self, trust_domain: &TrustDomain, now: u64) -> Result<Found, StoreError> {
        self.found = self.get(ROOT_SECRET).await?;
        let Some(secret) = &self.found else { return Ok(Found::Nothing) };
        let authority = parts(secret).and_then(|parts| Authority::from_secret(trust_domain, &parts, now));
        let authority = authority.map_err(|error| self.unusable(error))?;
        let wanted = secret["metadata"]["annotations"].get(ROTATE).is_some();
        Ok(Found::Kept { authority: Box::new(authority), wanted })
    }

    fn unusable(&self, error: lacewing_identity::Error) -> StoreError {
        let namespace = &self.namespace;
        let way_out = format!(
            "put a right one in its place (cert-manager: `kubectl -n {namespace} describe certificate`), or go back to the \
             mesh's own: `kubectl -n {namespace} delete secret {ROOT_SECRET}`; there is nothing to restart"
        );
        StoreError::Unusable { place: self.place(), error, way_out }
    }

    pub(super) async fn create(&mut self, authority: &Authority) -> Result<bool, StoreError> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": ROOT_SECRET, "labels": {MANAGED_BY: MANAGER}},
            "data": data(authority),
        });
        self.post(&secret).await
    }

    pub(super) async fn replace(&mut self, authority: &Authority, answered: bool) -> Result<bool, StoreError> {
        let Some(mut secret) = self.found.take() else { return Ok(false) };
        secret["data"] = data(authority);
        if let Some(annotations) = secret["metadata"]["annotations"].as_object_mut().filter(|_| answered) {
            annotations.remove(ROTATE);
        }
        self.put(ROOT_SECRET, &secret).await
    }

    pub(super) async fn previous(&self) -> Result<Option<Previous>, StoreError> {
        let Some(secret) = self.get(PREVIOUS_SECRET).await? else { return Ok(None) };
        let until = secret["metadata"]["annotations"][UNTIL].as_str().and_then(|until| until.parse().ok());
        let roots = entry(&secret, "ca.crt").and_then(|pem| TrustBundle::from_pem(&pem));
        match (roots, until) {
            (Ok(roots), Some(until)) => Ok(Some(Previous { roots, until })),
            (roots, _) => Err(StoreError::Unusable {
                place: format!("Secret {}/{PREVIOUS_SECRET}", self.namespace),
                error: roots.err().unwrap_or(lacewing_identity::Error::Bundle(format!("{UNTIL} is no time"))),
                way_out: format!("delete it: `kubectl -n {} delete secret {PREVIOUS_SECRET}`", self.namespace),
            }),
        }
    }

    /// Makes or replaces it: the leader alone writes it, and all of it.
    pub(super) async fn keep_previous(&self, previous: &Previous) -> Result<(), StoreError> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": PREVIOUS_SECRET,
                "labels": {MANAGED_BY: MANAGER},
                "annotations": {UNTIL: previous.until.to_string()},
            },
            "data": {"ca.crt": STANDARD.encode(previous.roots.to_pem())},
        });
        if !self.post(&secret).await? {
            self.put(PREVIOUS_SECRET, &secret).await?;
        }
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Option<Value>, StoreError> {
        match self.cluster.request(Method::GET, &self.path(name), None).await {
            Ok(body) => {
                let secret = serde_json::from_slice(&body);
                secret.map(Some).map_err(|error| self.failed(name, "read", &ApiError::broken(error.to_string())))
            }
            Err(error) if error.is(404) => Ok(None),
            Err(error) => Err(self.failed(name, "read", &error)),
        }
    }

    /// False: it is there already.
    async fn post(&self, secret: &Value) -> Result<bool, StoreError> {
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        match self.cluster.request(Method::POST, &path, Some((JSON, secret.to_string().into_bytes()))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(409) => Ok(false),
            Err(error) => Err(self.failed(secret["metadata"]["name"].as_str().unwrap_or_default(), "create", &error)),
        }
    }

    /// False: it was changed, or removed, since it was read.
    async fn put(&self, name: &str, secret: &Value) -> Result<bool, StoreError> {
        let body = (JSON, secret.to_string().into_bytes());
        match self.cluster.request(Method::PUT, &self.path(name), Some(body)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(409) || error.is(404) => Ok(false),
            Err(error) => Err(self.failed(name, "write", &error)),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace)
    }

    fn failed(&self, name: &str, what: &str, error: &ApiError) -> StoreError {
        StoreError::Api {
            place: format!("Secret {}/{name}", self.namespace),
            why: format!("cannot {what} it: {error}"),
        }
    }
}

/// The entries of a Secret as it came over the wire.
fn parts(secret: &Value) -> Result<SecretParts, lacewing_identity::Error> {
    let root_key = secret["data"].get("root.key").map(|_| entry(secret, "root.key")).transpose()?;
    Ok(SecretParts {
        chain: entry(secret, "tls.crt")?,
        key: entry(secret, "tls.key")?,
        roots: entry(secret, "ca.crt")?,
        root_key,
    })
}

fn entry(secret: &Value, name: &str) -> Result<String, lacewing_identity::Error> {
    let refuse = |why: &str| lacewing_identity::Error::Authority(format!("{name} {why}"));
    let encoded = secret["data"][name].as_str().ok_or_else(|| refuse("is missing"))?;
    let bytes = STANDARD.decode(encoded).map_err(|_| refuse("is not base64"))?;
    String::from_utf8(bytes).map_err(|_| refuse("is not text"))
}

fn data(authority: &Authority) -> Value {
    let parts = authority.to_secret();
    let mut data = json!({
        "tls.crt": STANDARD.encode(parts.chain),
        "tls.key": STANDARD.encode(parts.key),
        "ca.crt": STANDARD.encode(parts.roots),
    });
    if let Some(key) = parts.root_key {
        data["root.key"] = STANDARD.encode(key).into();
    }
    data
}

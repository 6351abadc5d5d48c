//! Owns the one field of the webhook's registration that the chart cannot know: `caBundle`, the roots under which the API
//! server finds the webhook's certificate. It is also where people and `mesh inject --manual` read the mesh's roots.
//! Written by server-side apply (KEP-555), so that it is the only field that is ours; everything else is the chart's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use lacewing_identity::TrustBundle;
use serde_json::{Value, json};

use crate::cluster::{APPLY, ApiError, Cluster};

const PATH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/lacewing-injector";
/// Who owns the field.
const MANAGER: &str = "lacewing-controller";

/// Puts the roots where they are not yet. `Ok(false)`: they were there.
///
/// # Errors
/// The registration is not there, or cannot be read or written.
pub async fn sync(cluster: &Cluster, bundle: &TrustBundle) -> Result<bool, String> {
    let body = cluster.request(Method::GET, PATH, None).await.map_err(|error| failed("read", &error))?;
    let registration: Value = serde_json::from_slice(&body).map_err(|error| format!("it is not readable: {error}"))?;
    let Some(patch) = patch(&registration, bundle) else { return Ok(false) };
    let path = format!("{PATH}?fieldManager={MANAGER}&force=true");
    let patched = cluster.request(Method::PATCH, &path, Some((APPLY, patch.to_string().into_bytes()))).await;
    patched.map(|_| true).map_err(|error| failed("write", &error))
}

fn failed(what: &str, error: &ApiError) -> String {
    if error.is(404) {
        return "it is not there, so no pod is injected: install the mesh anew (`mesh install | kubectl apply -f -`)"
            .to_owned();
    }
    format!("cannot {what} it: {error}")
}

/// What to apply, if any of the webhooks has other roots.
fn patch(registration: &Value, bundle: &TrustBundle) -> Option<Value> {
    let roots = STANDARD.encode(bundle.to_pem());
    let webhooks = registration["webhooks"].as_array()?;
    if webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"].as_str() == Some(&roots)) {
        return None;
    }
    let ours: Vec<_> =
        webhooks.iter().map(|webhook| json!({"name": webhook["name"], "clientConfig": {"caBundle": roots}})).collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "lacewing-injector"},
        "webhooks": ours,
    }))
}

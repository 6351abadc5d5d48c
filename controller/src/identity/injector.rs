//! Owns the one field of the webhook's registration that the chart cannot know: `caBundle`, the roots under which the API
//! server finds the webhook's certificate. It is also where people and `mesh inject --manual` read the mesh's roots.
//! Written by server-side apply (KEP-555), so that it is the only field that is ours; everything else is the chart's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use lacewing_identity::TrustBundle;
use serde_json::{Value, json};

use crate::cluster::{APPLY, Cluster};

const PATH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/lacewing-injector";
/// Who owns the field.
const MANAGER: &str = "lacewing-controller";

/// What the API server knows of the webhook.
#[derive(Debug, PartialEq, Eq)]
pub enum Registration {
    /// It can call it: the root of the webhook's certificate is there.
    Known,
    /// Nothing is registered, so nobody calls.
    Absent,
    /// It is registered and cannot be called (why), or nobody knows.
    Unknown(String),
}

/// Looks whether the API server can call the webhook; who `leads` puts all roots there, where any is missing.
pub async fn sync(cluster: &Cluster, bundle: &TrustBundle, leads: bool) -> Registration {
    let registration: Value = match cluster.request(Method::GET, PATH, None).await {
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(registration) => registration,
            Err(error) => return Registration::Unknown(format!("it is not readable: {error}")),
        },
        Err(error) if error.is(404) => return Registration::Absent,
        Err(error) => return Registration::Unknown(format!("cannot read it: {error}")),
    };
    let webhooks = registration["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    if webhooks.is_empty() {
        return Registration::Absent;
    }
    if !leads {
        let wait = "the root of this replica's certificate is not there yet; the replica that leads writes it";
        let known = webhooks.iter().all(|webhook| trusts(webhook, bundle));
        return if known { Registration::Known } else { Registration::Unknown(wait.to_owned()) };
    }
    let Some(patch) = patch(webhooks, bundle) else { return Registration::Known };
    let path = format!("{PATH}?fieldManager={MANAGER}&force=true");
    match cluster.request(Method::PATCH, &path, Some((APPLY, patch.to_string().into_bytes()))).await {
        Ok(_) => Registration::Known,
        Err(error) => Registration::Unknown(format!("cannot write it: {error}")),
    }
}

/// Whether the API server, told so, verifies certificates under our first root.
fn trusts(webhook: &Value, bundle: &TrustBundle) -> bool {
    let roots = webhook["clientConfig"]["caBundle"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let roots = roots.and_then(|pem| TrustBundle::from_pem(std::str::from_utf8(&pem).ok()?).ok());
    roots.is_some_and(|roots| roots.certificates().contains(&bundle.certificates()[0]))
}

/// What to apply, if any of the webhooks has other roots.
fn patch(webhooks: &[Value], bundle: &TrustBundle) -> Option<Value> {
    let roots = STANDARD.encode(bundle.to_pem());
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

//! Owns the form in which the API server asks and is answered: AdmissionReview of `admission.k8s.io/v1`, read strictly and
//! only as far as needed. Pure. What the answer is decides `inject`.

use base64::{Engine, engine::general_purpose::STANDARD};
use lacewing_ops::log::clip;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    events::ObjectRef,
    inject::{Injected, Outcome},
};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Longest warning that Kubernetes shows whole, in bytes; longer ones would be cut by it.
const WARNING_MAX: usize = 256;
/// Most warnings in an answer: Kubernetes drops all of them beyond 4,096 bytes.
const WARNINGS_MAX: usize = 8;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// A pod that is to be created.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// To be repeated in the answer.
    uid: String,
    kind: Kind,
    operation: String,
    #[serde(default)]
    pub namespace: String,
    /// Nothing will come of it: there must be no traces.
    #[serde(default)]
    pub dry_run: bool,
    /// The pod; its name is empty where the API server will make one up.
    pub object: Value,
}

#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    kind: String,
}

impl Request {
    /// Where people look for what is said about the pod, which has no name yet where somebody makes many of them: its
    /// owner, or else itself.
    pub fn about(&self) -> ObjectRef {
        let metadata = &self.object["metadata"];
        let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.clone().find(|owner| owner["controller"] == true).or_else(|| owners.clone().next());
        let text = |value: &Value| clip(value.as_str().unwrap_or_default()).to_owned();
        let (api_version, kind, name, uid) = match owner {
            Some(owner) => (text(&owner["apiVersion"]), text(&owner["kind"]), &owner["name"], text(&owner["uid"])),
            None => ("v1".to_owned(), "Pod".to_owned(), &metadata["name"], String::new()),
        };
        let name = if name.is_string() { text(name) } else { text(&metadata["generateName"]) };
        ObjectRef { api_version, kind, namespace: self.namespace.clone(), name, uid }
    }
}

/// Reads what the API server sent.
///
/// # Errors
/// It is no review of a pod's creation: why, in words for an operator.
pub fn read(body: &[u8]) -> Result<Request, String> {
    let review: Review = serde_json::from_slice(body).map_err(|error| format!("this is no {KIND}: {error}"))?;
    if review.kind != KIND || review.api_version != API_VERSION {
        let (kind, version) = (clip(&review.kind), clip(&review.api_version));
        return Err(format!("expected {KIND} of {API_VERSION}, got {kind:?} of {version:?}"));
    }
    let request = review.request.ok_or("the review has no request")?;
    let is_pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
    if !is_pod || request.operation != "CREATE" {
        let (operation, kind) = (clip(&request.operation), clip(&request.kind.kind));
        return Err(format!(
            "asked about {operation:?} of {kind:?}: the webhook's rules must name CREATE of pods alone"
        ));
    }
    Ok(request)
}

/// The answer.
pub fn answer(request: &Request, outcome: &Outcome) -> Value {
    let response = match outcome {
        Outcome::Injected(Injected { patch, warnings, .. }) => {
            let warnings: Vec<&str> = warnings.iter().take(WARNINGS_MAX).map(|text| cut(text, WARNING_MAX)).collect();
            json!({
                "uid": request.uid,
                "allowed": true,
                "patchType": "JSONPatch",
                "patch": STANDARD.encode(json!(patch).to_string()),
                "warnings": warnings,
            })
        }
        Outcome::Skipped(_) => json!({ "uid": request.uid, "allowed": true }),
        Outcome::Refused(why) => json!({
            "uid": request.uid,
            "allowed": false,
            "status": { "code": 403, "reason": "Forbidden", "message": why },
        }),
    };
    json!({ "apiVersion": API_VERSION, "kind": KIND, "response": response })
}

/// The start of a text, cut at a character.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::Skip;

    fn review(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut review = json!({
            "apiVersion": API_VERSION, "kind": KIND,
            "request": {
                "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
                "namespace": "shop", "dryRun": false, "userInfo": {}, "object": {"metadata": {"generateName": "web-"}},
            },
        });
        change(&mut review);
        review.to_string().into_bytes()
    }

    #[test]
    fn what_is_no_creation_of_a_pod_is_refused_with_a_reason() {
        for (body, part) in [
            (Vec::new(), "no AdmissionReview"),
            (b"[]".to_vec(), "no AdmissionReview"),
            (review(|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1")), "v1beta1"),
            (review(|review| review["request"] = Value::Null), "no request"),
            (review(|review| review["request"]["operation"] = json!("UPDATE")), "\"UPDATE\" of \"Pod\""),
            (review(|review| review["request"]["kind"]["kind"] = json!("Deployment")), "CREATE of pods alone"),
            (review(|review| review["request"]["kind"]["group"] = json!("x")), "CREATE of pods alone"),
            (review(|review| review["request"]["uid"] = json!(1)), "no AdmissionReview"),
        ] {
            let error = read(&body).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn answers_repeat_the_uid_and_have_the_form_of_version_1() {
        let request = read(&review(|_| {})).unwrap();
        assert_eq!((request.namespace.as_str(), request.dry_run), ("shop", false));
        let skipped = answer(&request, &Outcome::Skipped(Skip::NotWanted));
        assert_eq!(skipped["response"], json!({"uid": "u-1", "allowed": true}));
        let refused = answer(&request, &Outcome::Refused("no \"such\" thing".to_owned()));
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["message"], "no \"such\" thing");
        let patch: json_patch::Patch =
            serde_json::from_value(json!([{"op": "add", "path": "/metadata/x~1y", "value": 1}])).unwrap();
        let warnings = vec!["ä".repeat(WARNING_MAX); WARNINGS_MAX + 1];
        let injected = Outcome::Injected(Injected { patch: patch.clone(), pod: Value::Null, warnings });
        let injected = answer(&request, &injected);
        assert_eq!((&injected["kind"], &injected["apiVersion"]), (&json!(KIND), &json!(API_VERSION)));
        let sent = STANDARD.decode(injected["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<json_patch::Patch>(&sent).unwrap(), patch);
        assert_eq!(injected["response"]["warnings"].as_array().unwrap().len(), WARNINGS_MAX);
        assert_eq!(injected["response"]["warnings"][0].as_str().unwrap().len(), WARNING_MAX);
    }
}

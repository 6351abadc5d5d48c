//! Owns TokenReview: the API server says whose a token is. It is always asked for the mesh's audience, and its answer
//! must name it: with an empty list it would take tokens that were made for itself (and so could be anybody's who reads
//! a pod's default mount). Nothing is remembered: a token is shown once in some 12 hours, and may be revoked meanwhile.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{AUDIENCE, Caller, Refusal, TOKEN_BYTES_MAX, TokenReviewer, jwt::Invalid};
use crate::cluster::{Cluster, JSON, quoted};

/// A review must be over within this; how many are under way is limited by who asks (`grpc::certify::CONCURRENCY_MAX`).
pub const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// What the user name of a service account starts with.
const USER_PREFIX: &str = "system:serviceaccount:";
/// Where the answer names the pod to which a token is bound; there for every projected token.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Reviews tokens at the API server.
pub struct ReviewedTokens(Cluster);

impl ReviewedTokens {
    pub fn new(cluster: Cluster) -> Self {
        Self(cluster)
    }
}

impl TokenReviewer for ReviewedTokens {
    async fn review(&self, token: &str, _now: u64) -> Result<Caller, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Invalid::Long.into());
        }
        // The API server takes a review of nothing for a mistake of ours, not for a token that is bad.
        if token.is_empty() {
            return Err(Invalid::Malformed.into());
        }
        let body = question(token).map_err(|error| Refusal::Unavailable(error.to_string()))?;
        let answer = timeout(REVIEW_TIMEOUT, self.0.request(Method::POST, PATH, Some((JSON, body)))).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unavailable(&error.message)),
            Err(_) => return Err(unavailable(&format!("no answer within {} s", REVIEW_TIMEOUT.as_secs()))),
        };
        let answer = serde_json::from_slice(&answer);
        caller(answer.map_err(|error| unavailable(&format!("an answer that is none: {error}")))?)
    }
}

/// The caller is told no more than that: why is the operator's business.
fn unavailable(why: &str) -> Refusal {
    tracing::warn!(%why, "cannot review tokens");
    Refusal::Unavailable("the API server gives no answer; see the controller's log".to_owned())
}

fn question(token: &str) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Review<'a> {
        api_version: &'a str,
        kind: &'a str,
        spec: Spec<'a>,
    }
    #[derive(Serialize)]
    struct Spec<'a> {
        token: &'a str,
        audiences: [&'a str; 1],
    }
    let spec = Spec { token, audiences: [AUDIENCE] };
    serde_json::to_vec(&Review { api_version: "authentication.k8s.io/v1", kind: "TokenReview", spec })
}

#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    audiences: Vec<String>,
    error: String,
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}

fn caller(Answer { status }: Answer) -> Result<Caller, Refusal> {
    let refused = |why: String| Err(Refusal::Review(why));
    if !status.authenticated {
        let why = if status.error.is_empty() { "the API server does not know it" } else { &status.error };
        return refused(quoted(why));
    }
    if !status.audiences.iter().any(|audience| audience == AUDIENCE) {
        return refused(format!("it is not for the audience {AUDIENCE}"));
    }
    let User { username, mut extra } = status.user;
    let account = username.strip_prefix(USER_PREFIX).and_then(|account| account.split_once(':'));
    let Some((namespace, service_account)) =
        account.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    else {
        return refused("it is not a service account's".to_owned());
    };
    let pod = extra.remove(POD_NAME).and_then(|mut names| names.pop()).filter(|name| !name.is_empty());
    let Some(pod) = pod else {
        return refused("it is not bound to a pod: use the projected token of the pod".to_owned());
    };
    Ok(Caller { namespace: namespace.to_owned(), service_account: service_account.to_owned(), pod })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#""extra":{"authentication.kubernetes.io/pod-name":["web-1"],"x":["y"]}"#;

    fn answer(status: &str) -> Result<Caller, Refusal> {
        caller(serde_json::from_str(&format!(r#"{{"kind":"TokenReview","spec":{{}},"status":{{{status}}}}}"#)).unwrap())
    }

    fn good(audiences: &str, user: &str, extra: &str) -> Result<Caller, Refusal> {
        answer(&format!(
            r#""authenticated":true,"audiences":{audiences},"user":{{"username":"{user}","uid":"1","groups":[],{extra}}}"#
        ))
    }

    #[test]
    fn the_question_always_names_the_audience() {
        let body: serde_json::Value = serde_json::from_slice(&question("t").unwrap()).unwrap();
        assert_eq!(body["spec"], serde_json::json!({"token": "t", "audiences": ["lacewing.dev/identity"]}));
    }

    #[test]
    fn only_a_pods_own_token_for_the_mesh_proves_anything() {
        let ours = r#"["lacewing.dev/identity"]"#;
        let caller = good(ours, "system:serviceaccount:emojivoto:web", POD).unwrap();
        assert_eq!(
            (caller.namespace.as_str(), caller.service_account.as_str(), caller.pod.as_str()),
            ("emojivoto", "web", "web-1")
        );
        assert!(good(r#"["other","lacewing.dev/identity"]"#, "system:serviceaccount:a:b", POD).is_ok());
        for (audiences, user, extra, part) in [
            ("[]", "system:serviceaccount:a:b", POD, "audience"),
            (r#"["https://kubernetes.default.svc"]"#, "system:serviceaccount:a:b", POD, "audience"),
            (r#"["lacewing.dev/identity2"]"#, "system:serviceaccount:a:b", POD, "audience"),
            (ours, "admin", POD, "not a service account"),
            (ours, "system:serviceaccount:a", POD, "not a service account"),
            (ours, "system:serviceaccount::b", POD, "not a service account"),
            (ours, "system:serviceaccount:a:", POD, "not a service account"),
            (ours, "system:node:n", POD, "not a service account"),
            (ours, "system:serviceaccount:a:b", r#""extra":{}"#, "bound to a pod"),
            (ours, "system:serviceaccount:a:b", r#""extra":{"authentication.kubernetes.io/pod-name":[]}"#, "bound"),
        ] {
            let error = good(audiences, user, extra).unwrap_err().to_string();
            assert!(error.contains(part), "{audiences} {user} {extra}: {error}");
        }
        let error = answer(r#""error":"[invalid bearer token,\n expired]""#).unwrap_err().to_string();
        assert_eq!(error, "token refused: [invalid bearer token,  expired]");
        assert!(answer(r#""authenticated":false,"user":{"username":"system:serviceaccount:a:b"}"#).is_err());
        assert!(answer("").is_err());
    }
}

//! What is deleted, what stays, and when it is refused, against an API server of canned answers.

use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::tests::{Fake, status},
    demo::state::tests::Scratch,
    installed::KNOWN,
};

fn object(labels: &Value) -> Value {
    json!({ "metadata": { "name": "x", "labels": labels } })
}

/// An install by `mesh install`, with its namespace and the controller's root; without what only other values make.
fn installed() -> Vec<(String, u16, Value)> {
    let there = KNOWN.iter().filter(|known| !["PodMonitor", "PodDisruptionBudget"].contains(&known.kind));
    let labels =
        json!({ "app.kubernetes.io/part-of": "lacewing", "app.kubernetes.io/managed-by": "lacewing-controller" });
    let mut answers: Vec<_> = there.map(|known| (format!("GET {}", known.path()), 200, object(&labels))).collect();
    answers.push(("GET /api/v1/pods".to_owned(), 200, json!({ "items": [] })));
    answers
}

fn replace(answers: &mut [(String, u16, Value)], end: &str, code: u16, body: Value) {
    let at = answers.iter().position(|(key, ..)| key.ends_with(end)).unwrap_or_else(|| panic!("{end}"));
    (answers[at].1, answers[at].2) = (code, body);
}

async fn looked(name: &str, answers: Vec<(String, u16, Value)>) -> Result<(Vec<Found>, Vec<String>), Failure> {
    let scratch = Scratch::new(name);
    let fake = Fake::start(answers);
    let cluster = Cluster::connect(&fake.flags(&scratch)).await?;
    let (_, found, pods) = look(&cluster).await?;
    Ok((found, pods))
}

fn kinds(found: &[&Found]) -> Vec<&'static str> {
    found.iter().map(|found| found.known.kind).collect()
}

#[tokio::test]
async fn everything_of_ours_goes_in_an_order_that_lets_nothing_come_back() {
    let (found, pods) = looked("uninstall-all", installed()).await.expect("answers");
    let (ours, notes) = choose(&found);
    let expected = [
        "MutatingWebhookConfiguration",
        "Deployment",
        "Service",
        "RoleBinding",
        "Role",
        "ClusterRoleBinding",
        "ClusterRole",
        "ServiceAccount",
        "Lease",
        "Secret",
        "Secret",
        "Namespace",
    ];
    assert_eq!((kinds(&ours), notes.len(), pods.len()), (expected.to_vec(), 0, 0));
    assert_eq!(installed::helm_release(&found), None);
}

#[tokio::test]
async fn what_others_made_stays() {
    let mut answers = installed();
    replace(&mut answers, "/secrets/lacewing-root", 200, object(&json!({})));
    let (found, _) = looked("uninstall-root", answers).await.expect("answers");
    let (ours, notes) = choose(&found);
    assert!(!kinds(&ours).contains(&"Namespace") && kinds(&ours).contains(&"Lease"));
    assert_eq!(ours.iter().filter(|found| found.known.kind == "Secret").count(), 1, "the previous roots only");
    assert!(notes[0].contains("lacewing-root is yours and stays"), "{notes:?}");

    let mut answers = installed();
    replace(&mut answers, "/namespaces/lacewing", 200, object(&json!({})));
    let (found, _) = looked("uninstall-namespace", answers).await.expect("answers");
    let (ours, notes) = choose(&found);
    assert!(!kinds(&ours).contains(&"Namespace"));
    assert!(notes[0].contains("was not made by the install"), "{notes:?}");
}

#[tokio::test]
async fn pods_that_have_a_proxy_are_named() {
    let pod = |name: &str, phase: &str| json!({ "metadata": { "name": name, "namespace": "shop" }, "status": { "phase": phase } });
    let mut answers = installed();
    let pods = json!({ "items": [pod("web-2", "Running"), pod("web-1", "Pending"), pod("job", "Succeeded")] });
    replace(&mut answers, "GET /api/v1/pods", 200, pods);
    let (_, pods) = looked("uninstall-pods", answers).await.expect("answers");
    assert_eq!(meshed(&pods), "2 pods still have a proxy, which would lose its certificate: shop/web-1, shop/web-2");
    let many: Vec<String> = (10..=40).map(|n| format!("a/p{n}")).collect();
    assert!(meshed(&many).ends_with("a/p29 and 11 more"), "{}", meshed(&many));
    assert!(meshed(&many[..1]).starts_with("1 pod still has a proxy"));
}

#[tokio::test]
async fn who_may_not_look_learns_what_is_missing() {
    let mut answers = installed();
    replace(&mut answers, "GET /api/v1/pods", 403, status(403, "Forbidden", "no"));
    let failure = looked("uninstall-forbidden", answers).await.expect_err("refused").to_string();
    assert!(failure.contains("you may not list pods"), "{failure}");
    let (found, _) = looked("uninstall-none", vec![("GET /api/v1/pods".to_owned(), 200, json!({ "items": [] }))])
        .await
        .expect("answers");
    assert!(found.is_empty());
}

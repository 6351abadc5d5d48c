//! Which values an upgrade starts from, and what it says.

use serde_json::json;

use super::*;
use crate::{cluster::objects::Meta, installed::KNOWN};

fn found(kind: &str, metadata: &Value) -> Found {
    let known = *KNOWN.iter().find(|known| known.kind == kind).expect("a known kind");
    let object: Meta = serde_json::from_value(json!({ "metadata": metadata })).expect("metadata");
    Found { known, object }
}

fn deployment(annotations: &Value) -> Found {
    found("Deployment", &json!({ "annotations": annotations, "labels": { "app.kubernetes.io/version": "0.0.9" } }))
}

#[test]
fn the_values_of_the_install_are_kept() {
    let table = [
        (json!({}), json!({})),
        (
            json!({ "lacewing.dev/values": r#"{"controller":{"replicas":3}}"# }),
            json!({ "controller": { "replicas": 3 } }),
        ),
    ];
    for (annotations, given) in table {
        let read = current(&[deployment(&annotations)], "here").expect("values");
        assert_eq!(read, (given, "0.0.9".to_owned()));
    }
}

#[test]
fn what_is_typed_lies_over_what_is_kept_and_is_kept_itself() {
    let kept = json!({ "lacewing.dev/values": r#"{"controller":{"replicas":3,"logLevel":"debug"}}"# });
    let (mut given, _) = current(&[deployment(&kept)], "here").expect("values");
    let more = Values { set: vec!["controller.replicas=2".to_owned()], ..Values::default() };
    install::add(&mut given, &more).expect("good");
    let manifests = install::render(given, &Values::default()).expect("it renders").manifests;
    assert!(
        manifests.contains(r#"lacewing.dev/values: "{\"controller\":{\"logLevel\":\"debug\",\"replicas\":2}}""#),
        "{manifests}"
    );
    assert!(manifests.contains("  replicas: 2\n"));
}

#[test]
fn what_cannot_be_upgraded_says_what_to_do() {
    let helm = json!({ "meta.helm.sh/release-name": "lacewing" });
    let broken = json!({ "lacewing.dev/values": "[" });
    for (found, exit, parts) in [
        (vec![], Exit::NotInstalled, ["Lacewing is not installed in here", "mesh install | kubectl apply"]),
        (
            vec![deployment(&helm)],
            Exit::Error,
            ["Helm has installed Lacewing in here, as \"lacewing\"", "helm upgrade"],
        ),
        (
            vec![deployment(&broken)],
            Exit::Error,
            ["lacewing.dev/values of deployment/lacewing-controller", "mesh install -f"],
        ),
    ] {
        let failure = current(&found, "here").expect_err("refused");
        let text = failure.to_string();
        assert!(failure.exit() == exit && parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn what_an_upgrade_leaves_over_is_named() {
    let there: Vec<Found> = ["PodDisruptionBudget", "Deployment", "Lease", "Secret", "Namespace", "PodMonitor"]
        .map(|kind| found(kind, &json!({})))
        .into();
    let one = install::render(json!({}), &Values::default()).expect("it renders");
    let notes = obsolete(&there, &one);
    assert_eq!(
        notes,
        [
            "note: no longer needed: `kubectl delete poddisruptionbudget lacewing-controller -n lacewing`",
            "note: no longer needed: `kubectl delete podmonitor lacewing-controller -n lacewing`",
        ]
    );
    let more = json!({ "controller": { "replicas": 3 }, "podMonitor": { "enabled": true } });
    assert_eq!(obsolete(&there, &install::render(more, &Values::default()).expect("it renders")), Vec::<String>::new());
}

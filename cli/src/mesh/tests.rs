//! Which mesh is chosen, and who is in the list of a cluster's pods.

use serde_json::json;

use super::*;
use crate::{
    cluster::{
        Flags,
        tests::{Fake, status},
    },
    demo::state::tests::Scratch,
    output::Printer,
};

fn pod(namespace: &str, name: &str, meshed: bool) -> serde_json::Value {
    let annotations = if meshed { json!({ "lacewing.dev/proxy-version": "0.1.0" }) } else { json!({}) };
    let owner = json!([{ "kind": "ReplicaSet", "name": "web-5d4", "controller": true }]);
    json!({
        "metadata": { "namespace": namespace, "name": name, "uid": name, "annotations": annotations,
            "labels": { "pod-template-hash": "5d4" }, "ownerReferences": owner },
        "status": { "phase": "Running", "initContainerStatuses": [{ "name": "lacewing-proxy", "state": { "running": {} } }] },
    })
}

fn items(items: &[serde_json::Value]) -> serde_json::Value {
    json!({ "items": items })
}

#[tokio::test]
async fn the_roll_has_the_namespace_and_its_clients_from_elsewhere() {
    let scratch = Scratch::new("mesh-roll");
    let finished = json!({ "metadata": { "namespace": "shop", "name": "job" }, "status": { "phase": "Succeeded" } });
    let fake = Fake::start([
        (
            "GET /api/v1/namespaces/shop/pods",
            200,
            items(&[pod("shop", "web-1", true), pod("shop", "web-2", false), finished]),
        ),
        ("GET /api/v1/pods", 200, items(&[pod("shop", "web-1", true), pod("front", "ui", true)])),
        (
            "GET /api/v1/namespaces/shop/services",
            200,
            items(&[json!({ "metadata": { "namespace": "shop", "name": "web" } })]),
        ),
    ]);
    let cluster = Cluster::connect(&fake.flags(&scratch)).await.expect("a cluster");
    let roll = Mesh::of(cluster).roll(Some("shop"), true).await.expect("a roll");
    let pods: Vec<_> = roll.pods.iter().map(|pod| (&*pod.name, pod.has_proxy, pod.proxy.is_some())).collect();
    assert_eq!(pods, [("web-1", Some(true), true), ("web-2", Some(false), false), ("ui", Some(true), true)]);
    assert_eq!((&*roll.pods[0].owner.kind, &*roll.pods[0].owner.name), ("deployment", "web"));
    assert_eq!(roll.services, [("shop".to_owned(), "web".to_owned())]);
    assert!(roll.notes.is_empty());
}

#[tokio::test]
async fn labels_choose_the_pods() {
    let scratch = Scratch::new("mesh-labels");
    let path = "GET /api/v1/namespaces/shop/pods?labelSelector=app%20in%20%28web%2Cui%29&limit=500";
    let fake = Fake::start([(path, 200, items(&[pod("shop", "web-1", true)]))]);
    let cluster = Cluster::connect(&fake.flags(&scratch)).await.expect("a cluster");
    let roll = Mesh::of(cluster).labelled(Some("shop"), "app in (web,ui)").await.expect("a roll");
    assert_eq!(roll.pods.iter().map(|pod| &*pod.name).collect::<Vec<_>>(), ["web-1"]);
    assert!(roll.services.is_empty());
    let demo = Mesh::Demo(crate::demo::state::Layout::new(Some("/nowhere".into()), |_| None));
    let refused = demo.labelled(None, "app=web").await.map(|_| ()).expect_err("it has no labels");
    assert!(refused.exit() == Exit::Usage && refused.to_string().contains("no labels"), "{refused}");
}

#[tokio::test]
async fn with_rights_in_one_namespace_only_the_rest_is_said_to_be_missing() {
    let scratch = Scratch::new("mesh-rights");
    let forbidden = status(403, "Forbidden", "pods is forbidden");
    let fake = Fake::start([
        ("GET /api/v1/namespaces/shop/pods", 200, items(&[pod("shop", "web-1", true)])),
        ("GET /api/v1/pods", 403, forbidden.clone()),
        ("GET /api/v1/namespaces/shop/services", 403, forbidden.clone()),
    ]);
    let cluster = Cluster::connect(&fake.flags(&scratch)).await.expect("a cluster");
    let mesh = Mesh::of(cluster);
    let roll = mesh.roll(Some("shop"), true).await.expect("a roll");
    assert_eq!((roll.pods.len(), roll.notes.len()), (1, 2));
    assert!(roll.notes[0].contains("calls from other namespaces are not counted, since you may not list pods"));
    let refused = mesh.roll(None, true).await.map(|_| ()).expect_err("all namespaces");
    assert!(refused.to_string().contains("kubectl auth can-i list pods"), "{refused}");
}

#[tokio::test]
async fn flags_win_then_the_demo_then_the_kubeconfig() {
    let scratch = Scratch::new("mesh-choice");
    let fake = Fake::start([("GET /version", 200, json!({}))]);
    let kubeconfig = fake.flags(&scratch);
    for (flags, dir_asked, expected) in [
        (kubeconfig.clone(), false, Ok("cluster")),
        (kubeconfig, true, Err(Exit::Usage)),
        (Flags::default(), true, Err(Exit::NotInstalled)),
    ] {
        let layout = Layout::new(Some(scratch.join("none")), |_| None);
        let mut printer = Printer::to(Box::new(std::io::sink()), Box::new(std::io::sink()));
        let mut context = Context { layout, dir_asked, flags, now: 1, printer: &mut printer };
        let chosen = Mesh::choose(&mut context).await.map_err(|failure| failure.exit());
        let chosen = chosen.map(|mesh| if matches!(mesh, Mesh::Demo(_)) { "demo" } else { "cluster" });
        assert_eq!(chosen, expected);
    }
}

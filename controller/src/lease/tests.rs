//! The election: what is decided and written, and a lease that is given back.

use std::fs;

use lacewing_tests::api::Api;
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::source::directory::tests::TempDir;

const NAMESPACE: &str = "lacewing";
const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/lacewing/leases/lacewing-controller";

fn at(now: u64) -> String {
    clock::micro_time(now)
}

async fn cluster(kubeconfig: &str) -> Cluster {
    let temp = TempDir::new();
    let file = temp.0.join("kubeconfig");
    fs::write(&file, kubeconfig).unwrap();
    Cluster::open(Some(&file)).await.unwrap()
}

/// Writes into the double that `holder` has the Lease.
fn put(api: &Api, holder: &str) {
    api.put(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3}}));
}

fn spec(api: &Api) -> Value {
    api.get(PATH).unwrap()["spec"].clone()
}

async fn release_as(own: &str, cluster: Cluster, led: bool) {
    release(cluster, NAMESPACE.into(), own.into(), watch::channel(led).1, || 7).await;
}

fn held(by: Option<&str>, seconds: Option<u32>) -> Spec {
    Spec { holder_identity: by.map(str::to_owned), lease_duration_seconds: seconds, ..Spec::default() }
}

#[test]
fn a_lease_is_taken_only_when_its_holder_was_not_heard_of() {
    for (holder, seconds, unchanged, decision) in [
        (None, None, 0, Decision::Take),
        (Some(""), Some(15), 0, Decision::Take),
        (Some("me"), Some(15), 0, Decision::Renew),
        (Some("me"), Some(15), 100, Decision::Renew),
        (Some("you"), Some(15), 14, Decision::Wait),
        (Some("you"), Some(15), 15, Decision::Take),
        (Some("you"), Some(60), 15, Decision::Wait),
        (Some("you"), None, 14, Decision::Wait),
        (Some("you"), None, 15, Decision::Take),
    ] {
        let spec = held(holder, seconds);
        assert_eq!(decide(&spec, "me", Duration::from_secs(unchanged)), decision, "{spec:?} {unchanged}");
    }
}

#[test]
fn what_is_written_says_since_when_and_how_often() {
    let first = next(&Spec::default(), "me", 1);
    assert_eq!((first.acquire_time.as_deref(), first.lease_transitions), (Some(at(1).as_str()), Some(0)));
    let kept = next(&first, "me", 2);
    assert_eq!(
        (kept.acquire_time.as_deref(), kept.renew_time.as_deref()),
        (Some(at(1).as_str()), Some(at(2).as_str()))
    );
    let taken = next(&kept, "you", 3);
    assert_eq!((taken.acquire_time.as_deref(), taken.lease_transitions), (Some(at(3).as_str()), Some(1)));
    assert_eq!(taken.lease_duration_seconds, Some(15));
}

#[test]
fn the_holder_stops_before_anybody_may_take_over() {
    // A holder notices after a step, or after the pause that follows it, whichever it is in.
    assert!(RENEW_DEADLINE + STEP_TIMEOUT.max(RETRY.mul_f64(1.25)) < DURATION);
}

#[test]
fn only_its_holder_gives_a_lease_back_and_then_anybody_takes_it_at_once() {
    for holder in [None, Some(""), Some("you"), Some("me2"), Some("m")] {
        assert_eq!(released(&held(holder, Some(15)), "me", 9), None, "{holder:?}");
    }
    let mine = next(&held(Some("you"), Some(15)), "me", 1);
    let free = released(&mine, "me", 9).unwrap();
    assert_eq!((free.holder_identity.as_deref(), free.lease_duration_seconds), (Some(""), Some(1)));
    assert_eq!((&free.renew_time, free.lease_transitions), (&Some(at(9)), Some(1)));
    for own in ["me", "you"] {
        assert_eq!(decide(&free, own, Duration::ZERO), Decision::Take, "{own}");
    }
    assert_eq!(next(&free, "you", 10).lease_transitions, Some(2), "it has changed hands");
}

#[tokio::test]
async fn a_lease_is_given_back_in_the_cluster_by_the_one_that_led_alone() {
    let api = Api::start();
    let cluster = cluster(&api.kubeconfig()).await;
    release_as("me", cluster.clone(), true).await;
    assert!(api.get(PATH).is_none(), "where there is none, none is made");
    put(&api, "you");
    release_as("me", cluster.clone(), true).await;
    assert_eq!(spec(&api)["holderIdentity"], "you");
    put(&api, "me");
    release_as("me", cluster.clone(), false).await;
    assert_eq!(spec(&api)["holderIdentity"], "me", "who does not lead asks nothing");
    release_as("me", cluster, true).await;
    let spec = spec(&api);
    let free = (&json!(""), &json!(1), &json!(3), &json!(at(7)));
    assert_eq!(
        (&spec["holderIdentity"], &spec["leaseDurationSeconds"], &spec["leaseTransitions"], &spec["renewTime"]),
        free
    );
}

#[tokio::test]
async fn a_lease_that_somebody_has_taken_since_it_was_read_stays_theirs() {
    let api = Api::start();
    let place = Place { cluster: cluster(&api.kubeconfig()).await, namespace: NAMESPACE.into() };
    put(&api, "me");
    let read = place.read().await.unwrap().unwrap();
    put(&api, "you");
    let free = released(&read.spec, "me", 9).unwrap();
    let refused = place.write(Some(read.metadata.resource_version), &free).await.unwrap_err();
    assert!(refused.is(409), "{refused}");
    assert_eq!(spec(&api)["holderIdentity"], "you");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_silent_keeps_nobody_from_stopping() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = silent.local_addr().unwrap();
    let cluster = cluster(&format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters: [{{name: it, cluster: {{server: \
         'http://{server}'}}}}]\nusers: [{{name: it, user: {{}}}}]\ncontexts: [{{name: it, context: {{cluster: it, \
         user: it}}}}]\n"
    ))
    .await;
    let began = Instant::now();
    release_as("me", cluster, true).await;
    let took = began.elapsed();
    assert!(took >= RELEASE_TIMEOUT && took < RELEASE_TIMEOUT * 2, "{took:?}");
}

//! From a cluster without a mesh to the first golden metric of one's own traffic, with the commands that a user types, timed.

use std::time::{Duration, Instant};

use lacewing_tests::cluster::{PATIENCE, Space, apply, await_some, get, kubectl, run_mesh};

use super::mesh::{CLIENT, WEB, assert_meshed, manifests, row, start_load};

/// The promise.
const AT_MOST: Duration = Duration::from_secs(120);
/// Objects in a default install are fewer.
const OBJECTS_MAX: usize = 30;

#[test]
#[allow(clippy::print_stdout, reason = "a figure")]
fn two_minutes_from_nothing_to_the_first_golden_metric() {
    assert!(kubectl(&["get", "namespace", "lacewing"]).code != Some(0), "there is a mesh already: uninstall it first");
    let space = Space::plain("first");
    space.apply(WEB);
    space.apply(CLIENT);
    space.ready("deployment/web");
    start_load(&space, "web", 20);

    let started = Instant::now();
    apply(&manifests(&[]));
    run_mesh(&["check", "--wait", "60s"], "").good();
    let installed = started.elapsed();
    kubectl(&["annotate", "namespace", space.name(), "lacewing.dev/inject=enabled"]).good();
    space.kubectl(&["rollout", "restart", "deployment"]);
    for deployment in ["deployment/web", "deployment/load", "deployment/client"] {
        space.ready(deployment);
    }
    let row = await_some("a row with traffic", PATIENCE, || {
        row(&space, "deploy", "web").filter(|row| row["rps"].as_f64() > Some(0.0))
    });
    let took = started.elapsed();
    println!("from nothing to the first golden metric: {took:.1?}, of which {installed:.1?} to install; {row}");
    assert_eq!(row["success_rate"].as_f64(), Some(1.0), "{row}");
    assert_eq!(row["meshed"], "2/2", "{row}");
    assert!(took < AT_MOST, "{took:?}");
    space.pods("app=web").iter().for_each(assert_meshed);
}

#[test]
fn few_objects_are_made_and_one_deployment() {
    let manifests = manifests(&[]);
    let kinds: Vec<_> = manifests.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
    assert!(kinds.len() < OBJECTS_MAX, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "Deployment").count(), 1, "{kinds:?}");
    let deployments = get(&["deployments", "--namespace", "lacewing"]);
    assert!(deployments["items"].as_array().unwrap().len() <= 1);
}

//! What the modules share once there is a mesh: how it is installed, pods of other people's programs, load and its count.

use std::{sync::Once, time::Duration};

use lacewing_tests::cluster::{Answer, MESH, PATIENCE, Space, apply, await_some, kubectl_input, run_mesh};
use serde_json::Value;

/// nginx behind the Service `web`.
pub const WEB: &str = include_str!("manifests/web.yaml");
/// A shell with curl.
pub const CLIENT: &str = include_str!("manifests/client.yaml");
/// nginx that asks `web`.
pub const FRONT: &str = include_str!("manifests/front.yaml");
const LOAD: &str = include_str!("manifests/load.yaml");

/// The shortest life that certificates can have, so that renewals and a rotation happen while the ring runs.
const SETTINGS: [&str; 6] = [
    "--set",
    "proxy.image=localhost/lacewing-proxy:test",
    "--set",
    "controller.image=localhost/lacewing-controller:test",
    "--set",
    "leafLifetime=2m",
];

/// What `mesh install` renders for this ring.
pub fn manifests(more: &[&str]) -> String {
    run_mesh(&[&["install"], &SETTINGS[..], more].concat(), "").good()
}

/// Runs curl in the pod of [`CLIENT`].
pub fn curl(space: &Space, arguments: &[&str]) -> Answer {
    space.exec("deployment/client", "shell", &[&["curl", "-sS", "--max-time", "10"], arguments].concat())
}

/// The pod has our containers, first in the list.
#[track_caller]
pub fn assert_meshed(pod: &Value) {
    let name = &pod["metadata"]["name"];
    let init = pod["spec"]["initContainers"].as_array().unwrap_or_else(|| panic!("{name} is not meshed"));
    let names: Vec<_> = init.iter().filter_map(|container| container["name"].as_str()).take(2).collect();
    assert_eq!(names, ["lacewing-init", "lacewing-proxy"], "{name}");
}

/// Times that the containers of the pod were started again.
pub fn restarts(pod: &Value) -> u64 {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|list| pod["status"][list].as_array());
    lists.iter().flatten().flat_map(|list| list.iter()).filter_map(|one| one["restartCount"].as_u64()).sum()
}

/// What the load has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    pub sent: u64,
    pub failed: u64,
}

/// Starts `rps` requests a second for `service`, which go on until the space is gone.
pub fn start_load(space: &Space, service: &str, rps: u32) {
    let address = space.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}"]);
    let manifest = LOAD.replace("ADDRESS", &address).replace("HOST", service).replace("RPS", &rps.to_string());
    space.apply(&manifest);
    space.ready("deployment/load");
    sent_more(space, u64::from(rps));
}

/// The last totals that the load has written.
pub fn total(space: &Space) -> Option<Total> {
    let log = space.kubectl(&["logs", "deployment/load", "-c", "load", "--tail=20"]);
    let line = log.lines().rfind(|line| line.starts_with("total "))?;
    let words: Vec<_> = line.split(' ').collect();
    Some(Total { sent: words[2].parse().unwrap(), failed: words[4].parse().unwrap() })
}

/// Waits until the load has sent `more` requests than it had.
#[track_caller]
pub fn sent_more(space: &Space, more: u64) {
    let before = total(space).map_or(0, |total| total.sent);
    await_some("the load goes on", PATIENCE, || total(space).filter(|total| total.sent >= before + more));
}

/// No request of the load has failed, and there were at least `least`.
#[track_caller]
pub fn assert_clean(space: &Space, least: u64) {
    let Total { sent, failed } = total(space).expect("the load has written its totals");
    let log = || space.kubectl(&["logs", "deployment/load", "-c", "load"]);
    let failures = || log().lines().filter(|line| line.starts_with("failure")).take(10).collect::<Vec<_>>().join("\n");
    assert!(failed == 0, "{failed} of {sent} requests failed:\n{}", failures());
    assert!(sent >= least, "only {sent} requests were sent, not {least}");
}

/// nginx, nginx before it, and a load of 200 requests a second on that.
pub fn shop(name: &str) -> Space {
    let space = Space::meshed(name);
    space.apply(WEB);
    space.ready("deployment/web");
    space.apply(FRONT);
    space.ready("deployment/front");
    start_load(&space, "front", 200);
    space
}

/// How long something is away, and with `LACEWING_TEST_LONG`: longer than the certificates of this ring live, so that those of
/// pods that start from now on live as long as they do elsewhere.
pub fn away() -> Duration {
    static LIVE_LONG: Once = Once::new();
    if std::env::var_os("LACEWING_TEST_LONG").is_none_or(|long| long.is_empty()) {
        return Duration::from_secs(30);
    }
    LIVE_LONG.call_once(|| {
        upgrade(&["--set", "leafLifetime=24h"]);
    });
    Duration::from_secs(300)
}

/// Changes the mesh as a user does; the commands that remove what is no longer needed.
pub fn upgrade(options: &[&str]) -> Vec<String> {
    let answer = run_mesh(&[&["upgrade"], options].concat(), "");
    let quoted = |line: &str| line.strip_prefix("note: no longer needed: `")?.strip_suffix('`').map(str::to_owned);
    let obsolete = answer.err.lines().filter_map(quoted).collect();
    apply(&answer.good());
    controller_is_back();
    obsolete
}

/// Waits until as many controllers are ready as there should be.
pub fn controller_is_back() {
    let status = ["-n", MESH, "rollout", "status", "deployment/lacewing-controller", "--timeout=60s"];
    kubectl_input(&status, "").good();
}

/// The row of `mesh stat KIND/NAME -o json`, once there is one.
pub fn row(space: &Space, kind: &str, name: &str) -> Option<Value> {
    let answer = run_mesh(&["stat", &format!("{kind}/{name}"), "-n", space.name(), "-o", "json"], "");
    let all: Value = serde_json::from_str(&answer.out).ok()?;
    all["rows"].as_array()?.iter().find(|row| row["name"] == name).cloned()
}

/// From a change in the cluster to its end, e.g. until a new controller leads.
pub const SOON: Duration = Duration::from_secs(60);

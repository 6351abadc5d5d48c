//! What only a node of the ring's own can show, since it is no cluster's business to allow it: its API server stops, and its
//! processes are looked at. With `--context`, `tests/run` leaves this module out and says so.

use std::fs;

use lacewing_tests::{
    cluster::{PATIENCE, await_some, kubectl, run},
    history::run_for,
};

use super::mesh::{SOON, assert_clean, assert_meshed, away, sent_more, shop};

/// Most memory of a controller, in MB: one that was built for debugging, so that what ships is smaller.
const RSS_MAX: f64 = 60.0;
/// Its name, as far as the kernel keeps it.
const CONTROLLER: &str = "Name:\tlacewing-contro\n";

/// The folder of the node.
///
/// # Panics
/// There is none.
fn folder() -> String {
    // Somebody else's API server is not ours to stop.
    std::env::var("LACEWING_NODE").expect("LACEWING_NODE is set in a node of the ring's own, and only there this runs")
}

fn daemon(order: &str, name: &str) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/node");
    run(program, &[order, &folder(), name], "", SOON).good();
}

/// Prints what the controller has of the node's memory, and its peak.
#[allow(clippy::print_stdout, reason = "a figure")]
fn measure(when: &str) {
    folder();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|process| Some(process.ok()?.path().join("status")));
    let controllers: Vec<String> = processes
        .filter_map(|status| fs::read_to_string(status).ok())
        .filter(|text| text.starts_with(CONTROLLER))
        .collect();
    let [controller] = &controllers[..] else { panic!("{} controllers run", controllers.len()) };
    let figure = |name: &str| {
        let kb = controller.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        kb.and_then(|kb| kb.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {name}")) / 1_024.0
    };
    let (now, anonymous, peak) = (figure("VmRSS:"), figure("RssAnon:"), figure("VmHWM:"));
    println!(
        "the controller, built for debugging, {when}: {now:.1} MB, {anonymous:.1} MB of it its own; peak {peak:.1} MB"
    );
    assert!(peak < RSS_MAX, "{peak} MB");
}

#[test]
fn an_idle_controller_is_small() {
    measure("idle");
}

#[test]
fn the_controller_stays_small() {
    measure("after the ring");
}

#[test]
fn the_api_server_is_away_and_no_request_fails() {
    folder();
    let away = away();
    let space = shop("apiserver");
    daemon("stop", "kube-apiserver");
    run_for(away);
    daemon("start", "kube-apiserver");
    await_some("the API server is back", PATIENCE, || {
        (kubectl(&["get", "--raw", "/readyz"]).code == Some(0)).then_some(())
    });
    sent_more(&space, 400);
    assert_clean(&space, 4_000);
    // And the controller has seen it come back: what changes now is served.
    space.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    space.ready("deployment/web");
    space.pods("app=web").iter().for_each(assert_meshed);
    sent_more(&space, 400);
    assert_clean(&space, 4_000);
}

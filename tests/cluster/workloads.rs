//! What meshed pods of every kind do, with other people's programs in them; each test has a namespace of its own.

use lacewing_tests::cluster::{PATIENCE, Space, await_some, run_mesh};

use super::mesh::{CLIENT, WEB, assert_meshed, curl, restarts};

const WORKLOADS: &str = include_str!("manifests/workloads.yaml");
const PROBES: &str = include_str!("manifests/probes.yaml");
const UDP: &str = include_str!("manifests/udp.yaml");
const CAPTURE: &str = include_str!("manifests/capture.yaml");

/// A word of a request that must not be read on the way.
const SECRET: &str = "tell-nobody-of-this-word";

fn pair(name: &str) -> Space {
    let space = Space::meshed(name);
    space.apply(WEB);
    space.apply(CLIENT);
    space.ready("deployment/web");
    space.ready("deployment/client");
    space
}

#[test]
fn a_server_learns_who_asks_and_nobody_on_the_way_learns_what() {
    let space = pair("pair");
    let plain = Space::plain("capture");
    plain.apply(WEB);
    plain.ready("deployment/web");
    space.pods("app=web").iter().chain(&space.pods("app=client")).for_each(assert_meshed);
    let client = space.pods("app=client").remove(0);
    let address = client["status"]["podIP"].as_str().unwrap().to_owned();
    plain.apply(&CAPTURE.replace("CLIENT", &address));
    plain.wait_for("Ready", "pod/capture");
    // What goes to a server without a proxy is seen: otherwise the capture would prove nothing.
    let open = format!("http://web.{}/", plain.name());
    let seen = || plain.logs("pod/capture", "tcpdump");
    await_some("the capture sees what is not encrypted", PATIENCE, || {
        curl(&space, &["-H", "x-open: not-a-secret", &open]).good();
        seen().contains("not-a-secret").then_some(())
    });
    let identity = format!("to spiffe://cluster.local/ns/{}/sa/default", space.name());
    for _ in 0..20 {
        let answer = curl(&space, &["-H", &format!("x-secret: {SECRET}"), "http://web/"]).good();
        assert!(answer.starts_with("hello from web-") && answer.trim_end().ends_with(&identity), "{answer:?}");
    }
    // Later than the last answer: so that everything before it has been written.
    await_some("the capture has seen everything", PATIENCE, || {
        curl(&space, &["-H", "x-open: the-last-one", &open]).good();
        seen().contains("the-last-one").then_some(())
    });
    let seen = seen();
    assert!(!seen.contains(SECRET), "the request was read on the way");
    for server in space.pods("app=web") {
        let server = server["status"]["podIP"].as_str().unwrap();
        assert!(seen.contains(&format!("{server}.8080")), "{server} was not asked, or not at its own port");
    }
}

#[test]
fn every_kind_of_workload_is_meshed_and_works() {
    let space = Space::meshed("workloads");
    space.apply(WEB);
    space.ready("deployment/web");
    space.apply(CLIENT);
    space.apply(WORKLOADS);
    space.wait_for("complete", "job/once");
    assert!(space.logs("job/once", "shell").contains("hello from web-"));
    for what in ["statefulset/store", "daemonset/agent", "deployment/prepared", "deployment/client"] {
        space.ready(what);
    }
    assert!(space.logs("deployment/prepared", "shell").contains("hello from web-"));
    for number in 0..2 {
        let url = format!("http://store-{number}.store:8080/");
        let answer = curl(&space, &[&url]).good();
        assert!(answer.starts_with(&format!("hello from store-{number} to spiffe://")), "{answer:?}");
    }
    for pod in space.get(&["pods"])["items"].as_array().unwrap() {
        assert_meshed(pod);
        assert_eq!(restarts(pod), 0, "{}", pod["metadata"]["name"]);
    }
}

#[test]
fn probes_keep_their_meaning() {
    let space = Space::meshed("probes");
    space.apply(PROBES);
    space.wait_for("Ready", "pod/alive");
    await_some("the probe of the dead app fails", PATIENCE, || {
        let events = space.kubectl(&["get", "events", "--field-selector", "involvedObject.name=dead"]);
        events.contains("Readiness probe failed").then_some(())
    });
    let dead = space.pods("app=dead").remove(0);
    assert_meshed(&dead);
    let ready = dead["status"]["containerStatuses"][0]["ready"].clone();
    assert_eq!(ready, false, "{dead}");
}

#[test]
fn udp_passes_as_without_the_mesh_and_people_are_told() {
    let space = pair("udp");
    space.apply(UDP);
    space.ready("deployment/files");
    let files = space.pods("app=files").remove(0);
    assert_meshed(&files);
    let client = space.pods("app=client").remove(0);
    // curl asks again by itself what got lost.
    let answer = curl(&space, &["tftp://files/any"]).good();
    assert_eq!(answer.trim_end(), format!("hello {}", client["status"]["podIP"].as_str().unwrap()));
    let endpoints = run_mesh(&["diagnostics", "endpoints", "files", "-n", space.name(), "-o", "json"], "");
    assert!(endpoints.err.contains("port 69 is UDP; the mesh carries TCP"), "{endpoints:?}");
    let all: serde_json::Value = serde_json::from_str(&endpoints.good()).unwrap();
    let meshed: Vec<_> = all["rows"].as_array().unwrap().iter().map(|row| row["meshed"].as_bool()).collect();
    assert!(meshed.contains(&Some(true)) && meshed.contains(&Some(false)), "{all}");
    let inject = run_mesh(&["inject", "-"], UDP);
    assert!(inject.err.contains("UDP port 6969 of container \"files\" is not in the mesh"), "{inject:?}");
}

#[test]
fn a_server_of_another_maker_under_load_of_another() {
    let space = pair("wrk");
    let report =
        space.exec("deployment/client", "shell", &["wrk", "-t", "1", "-c", "8", "-d", "3s", "http://web:80/"]).good();
    assert!(report.contains("Requests/sec"), "{report}");
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
}

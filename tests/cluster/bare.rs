//! The cluster itself, before there is a mesh: what fails here is the ring's fault and not the product's.

use std::io::{Read, Write};

use lacewing_tests::cluster::{Forward, PATIENCE, Space, await_some, get};

use super::mesh::{CLIENT, WEB};

/// The ring is for this Kubernetes and later.
const OLDEST: u64 = 29;

#[test]
fn services_names_exec_logs_and_port_forward_work() {
    let space = Space::plain("bare");
    space.apply(WEB);
    space.apply(CLIENT);
    space.ready("deployment/web");
    space.ready("deployment/client");
    let name = format!("http://web.{}.svc.cluster.local/", space.name());
    for url in ["http://web/", &name] {
        let answer = space.exec("deployment/client", "shell", &["curl", "-sS", "--max-time", "5", url]).good();
        assert!(answer.starts_with("hello from web-"), "{answer:?}");
    }
    await_some("both pods behind the Service", PATIENCE, || {
        let ten = "for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS http://web/ || exit; done";
        let answer = space.exec("deployment/client", "shell", &["sh", "-c", ten]).good();
        let mut hosts = answer.lines().collect::<Vec<_>>();
        hosts.sort_unstable();
        hosts.dedup();
        (hosts.len() == 2).then_some(())
    });
    assert!(space.logs("deployment/web", "nginx").is_empty(), "nginx complains");
    let forward = Forward::open(&space, "service/web", 80);
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", forward.port)).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[test]
fn a_token_with_an_audience_is_good_for_that_audience_alone() {
    let space = Space::plain("bare-tokens");
    let token = space.kubectl(&["create", "token", "default", "--audience", "lacewing.dev/identity"]);
    let review = |audience: &str| {
        let review = format!(
            r#"{{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {{"name": "x"}},
                "spec": {{"token": "{}", "audiences": ["{audience}"]}}}}"#,
            token.trim()
        );
        let answer = lacewing_tests::cluster::create(&review);
        (answer["status"]["authenticated"] == true, answer["status"]["user"]["username"].clone())
    };
    let name = format!("system:serviceaccount:{}:default", space.name());
    assert_eq!(review("lacewing.dev/identity"), (true, name.into()));
    assert!(!review("somebody-else").0);
}

#[test]
fn the_cluster_is_new_enough() {
    let version = lacewing_tests::cluster::kubectl(&["get", "--raw", "/version"]).good();
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    let minor = version["minor"].as_str().unwrap().trim_end_matches('+').parse::<u64>().unwrap();
    assert!(minor >= OLDEST, "Kubernetes 1.{minor} has no native sidecars by default; 1.{OLDEST} is needed");
    let nodes = get(&["nodes"]);
    assert!(!nodes["items"].as_array().unwrap().is_empty(), "no node");
}

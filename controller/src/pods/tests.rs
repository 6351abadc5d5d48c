//! Pods that claim addresses, in tables: who has one must be certain, and so must be who answers there.

use super::*;
use crate::world::tests::{domain, world};

const MESHED: &str = "lacewing.dev/proxy-version: v1";
const DELETED: &str = ", deletionTimestamp: 2026-11-22T04:00:00Z";

fn pod(name: &str, annotations: &str, more: &str, phase: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, annotations: {{{annotations}}}{more}}}\n\
         status: {{phase: {phase}, podIPs: [{{ip: 10.0.0.1}}, {{ip: 'fd00::1'}}]}}\n---\n"
    )
}

#[test]
fn an_address_belongs_to_the_pod_that_stays() {
    let staying = |name: &str| pod(name, "", "", "Running");
    let leaving = |name: &str| pod(name, MESHED, DELETED, "Running");
    let finished = |name: &str, phase: &str| pod(name, MESHED, "", phase);
    for (case, pods, names) in [
        ("nobody", vec![], &[][..]),
        ("one", vec![staying("p")], &["p"]),
        ("one that starts", vec![pod("p", "", "", "Pending")], &["p"]),
        ("one of which nothing is heard", vec![pod("p", "", "", "Unknown")], &["p"]),
        ("one that leaves", vec![leaving("p")], &["p"]),
        ("one that has finished", vec![finished("p", "Succeeded")], &[]),
        ("used again", vec![leaving("p"), finished("q", "Failed"), staying("r")], &["r"]),
        ("used again by one that leaves", vec![finished("p", "Succeeded"), leaving("q")], &["q"]),
        ("deleted after it finished", vec![pod("p", "", DELETED, "Succeeded"), leaving("q")], &["q"]),
        ("two that stay", vec![staying("p"), leaving("q"), staying("r")], &["p", "r"]),
        ("two that leave", vec![leaving("p"), leaving("q")], &["p", "q"]),
    ] {
        let world = world(&pods.concat());
        for ip in ["10.0.0.1", "fd00::1"] {
            let found: Vec<&str> = match holder(&world, ip.parse().unwrap()) {
                Holder::Nobody => vec![],
                Holder::One(name, _) => vec![&name.name],
                Holder::Several(pods) => pods.iter().map(|(name, _)| name.name.as_str()).collect(),
            };
            assert_eq!(found, names, "{case}, {ip}");
        }
        assert_eq!(holder(&world, "10.0.0.2".parse().unwrap()), Holder::Nobody, "{case}");
    }
}

/// The endpoint of pod `p` at a port, for Service `a/web` or none.
fn endpoint_of(annotations: &str, more: &str, port: u16, service: Result<&Name, &str>) -> Result<Endpoint, String> {
    let world = world(&pod("p", annotations, more, "Running"));
    let name = Name::new("a", "p");
    let address = SocketAddr::new("fd00::1".parse().unwrap(), port);
    endpoint(&domain(), (&name, world.pod(&name).unwrap()), address, None, service)
}

#[test]
fn a_proxy_that_is_not_redirected_to_needs_a_service_to_be_told() {
    let direct = format!("{MESHED}, lacewing.dev/proxy-address: '127.0.0.2:4143'");
    let web = Name::new("a", "web");
    let found = endpoint_of(&direct, "", 8080, Ok(&web)).unwrap().direct.unwrap();
    assert_eq!((found.proxy_address.to_string().as_str(), &*found.sni), ("127.0.0.2:4143", "p8080.web.a.lacewing"));
    let why = endpoint_of(&direct, "", 8080, Err("no Service selects Pod a/p")).unwrap_err();
    assert!(why.contains("only through its proxy") && why.contains("no Service selects Pod a/p"), "{why}");
    let redirected = endpoint_of(MESHED, "", 8080, Err("none")).unwrap();
    assert_eq!((redirected.identity.is_some(), redirected.direct), (true, None));
    let plain = endpoint_of("lacewing.dev/proxy-address: '127.0.0.2:4143'", "", 8080, Err("none")).unwrap();
    assert_eq!((plain.identity, plain.direct), (None, None), "without a proxy the address means nothing");
}

#[test]
fn the_ports_of_the_proxy_itself_have_no_mesh_tls() {
    for (annotations, own) in [(MESHED, true), ("", false)] {
        for port in PROXY_PORTS {
            assert_eq!(endpoint_of(annotations, "", port, Err("none")).unwrap().identity, None);
        }
        assert_eq!(endpoint_of(annotations, "", 4142, Err("none")).unwrap().identity.is_some(), own);
    }
}

#[test]
fn the_zone_is_that_of_the_slice_or_of_the_pod() {
    let labelled = ", labels: {topology.kubernetes.io/zone: east}";
    let world = world(&pod("p", "", labelled, "Running"));
    let name = Name::new("a", "p");
    let at = |zone| {
        let address = "10.0.0.1:80".parse().unwrap();
        endpoint(&domain(), (&name, world.pod(&name).unwrap()), address, zone, Err("none")).unwrap().zone
    };
    assert_eq!((at(Some("west")), at(None)), ("west".to_owned(), "east".to_owned()));
    assert_eq!(endpoint_of("", "", 80, Err("none")).unwrap().zone, "");
}

#[test]
fn what_says_it_has_a_proxy_but_not_legibly_is_an_error() {
    let name = Name::new("a", "p");
    let world = world(&pod("p", MESHED, "", "Running"));
    let good = world.pod(&name).unwrap().clone();
    assert_eq!(why_left_out(&domain(), &name, &good), None);
    let annotated = |value: &str| {
        let mut pod = good.clone();
        pod.metadata.annotations.insert(labels::PROXY_ADDRESS, value);
        pod
    };
    let mut account = good.clone();
    account.spec.service_account_name = Some("not/a/name".into());
    for bad in [annotated("nonsense"), annotated("10.0.0.1:0"), annotated(""), account] {
        let why = why_left_out(&domain(), &name, &bad).unwrap();
        assert!(why.contains("a/p gets no traffic"), "{why}");
        let address = "10.0.0.1:8080".parse().unwrap();
        assert_eq!(endpoint(&domain(), (&name, &bad), address, None, Ok(&Name::new("a", "web"))), Err(why));
        let mut unmeshed = bad.clone();
        unmeshed.metadata.annotations.retain(|name| name != labels::PROXY_VERSION);
        assert_eq!(why_left_out(&domain(), &name, &unmeshed), None);
    }
}

#[test]
fn workloads_are_named_by_their_owners() {
    let owner =
        |kind: &str, name: &str| format!(", ownerReferences: [{{kind: {kind}, name: {name}, controller: true}}]");
    let hash = ", labels: {pod-template-hash: 6d4}";
    for (more, workload) in [
        (String::new(), "pod/p"),
        (owner("ReplicaSet", "web-6d4") + hash, "deployment/web"),
        (owner("ReplicaSet", "web-6d4"), "replicaset/web-6d4"),
        (owner("ReplicaSet", "web-7e5") + hash, "replicaset/web-7e5"),
        (owner("ReplicaSet", "-6d4") + hash, "replicaset/-6d4"),
        (owner("StatefulSet", "db"), "statefulset/db"),
        (owner("DaemonSet", "log"), "daemonset/log"),
        (owner("Job", "backup-1"), "job/backup-1"),
    ] {
        let endpoint = endpoint_of(MESHED, &more, 8080, Err("none")).unwrap();
        assert_eq!((endpoint.workload.as_str(), endpoint.service_account.as_str()), (workload, "default"), "{more}");
    }
}

//! Where a client runs, what slices hint, and who is on the way out, in tables: what kube-proxy would offer.

use super::*;
use crate::{
    destination::Backend,
    endpoints::endpoints,
    world::tests::{domain, world},
};

/// Service `a/web` with more in its spec, and a slice of these endpoints on port 8080.
fn cluster(spec: &str, endpoints: &[&str]) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: a}}\nspec: {{ports: [{{port: 80}}]{spec}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: a, labels: \
         {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{}]\n---\n",
        endpoints.join(", ")
    )
}

/// The last numbers of the addresses that a client at `place` is offered.
fn offered(yaml: &str, node: &str, zone: &str) -> Vec<u8> {
    let backend = Backend { namespace: "a".into(), service: "web".into(), port: 80 };
    let place = Place { node: node.to_owned(), zone: zone.to_owned() };
    let all = endpoints(&world(yaml), &domain(), &backend);
    let last = |endpoint: &Endpoint| match endpoint.address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(ip) => ip.octets()[15],
    };
    all.near(&place).iter().map(last).collect()
}

#[test]
fn a_node_local_service_is_what_is_on_the_clients_node() {
    let endpoints = [
        "{addresses: [10.0.0.1], nodeName: n1}",
        "{addresses: [10.0.0.2], nodeName: n2}",
        "{addresses: [10.0.0.3], nodeName: n2, conditions: {ready: false, serving: true, terminating: true}}",
        "{addresses: [10.0.0.4], nodeName: n3, conditions: {ready: false, serving: true, terminating: true}}",
        "{addresses: [10.0.0.5], nodeName: n4, conditions: {ready: false, serving: false, terminating: true}}",
        "{addresses: [10.0.0.6]}",
    ];
    let local = cluster(", internalTrafficPolicy: Local", &endpoints);
    for (node, expected) in [("n1", &[1_u8][..]), ("n2", &[2]), ("n3", &[4]), ("n4", &[]), ("n9", &[]), ("", &[6])] {
        assert_eq!(offered(&local, node, "x"), expected, "on {node:?}");
    }
    for everywhere in ["", ", internalTrafficPolicy: Cluster", ", internalTrafficPolicy: Nearby"] {
        assert_eq!(offered(&cluster(everywhere, &endpoints), "n1", ""), [1, 2, 6], "{everywhere}");
    }
}

#[test]
fn an_endpoint_without_a_node_is_where_its_pod_is() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a}\nspec: {nodeName: n1}\nstatus: {podIP: \
               10.0.0.1}\n---\n";
    let listed = "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}}";
    let yaml = cluster(", internalTrafficPolicy: Local", &[listed]) + pod;
    assert_eq!((offered(&yaml, "n1", ""), offered(&yaml, "n2", "")), (vec![1], vec![]));
}

#[test]
fn hints_prefer_and_do_not_forbid() {
    let hinted = |n: u8, zones: &[&str], nodes: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| format!("{{name: {name}}}")).collect::<Vec<_>>().join(", ");
        format!("{{addresses: [10.0.0.{n}], hints: {{forZones: [{}], forNodes: [{}]}}}}", list(zones), list(nodes))
    };
    let zones = [hinted(1, &["east"], &[]), hinted(2, &["west"], &[]), hinted(3, &["east", "west"], &[])];
    let both = [hinted(1, &["east"], &["n1"]), hinted(2, &["west"], &["n2"])];
    let some = [hinted(1, &["east"], &[]), hinted(2, &[], &[])];
    let unhinted = "{addresses: [10.0.0.4]}".to_owned();
    let unready = "{addresses: [10.0.0.4], conditions: {ready: false}}".to_owned();
    let leaving = "{addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}".to_owned();
    let with = |list: &[String], more: &String| [list, std::slice::from_ref(more)].concat();
    for (case, endpoints, node, zone, expected) in [
        ("same zone", zones.to_vec(), "n1", "east", &[1_u8, 3][..]),
        ("another zone", zones.to_vec(), "n1", "west", &[2, 3]),
        ("a zone without hints", zones.to_vec(), "n1", "north", &[1, 2, 3]),
        ("no zone", zones.to_vec(), "n1", "", &[1, 2, 3]),
        ("same node before same zone", both.to_vec(), "n1", "west", &[1]),
        ("no such node, then same zone", both.to_vec(), "n9", "west", &[2]),
        ("neither", both.to_vec(), "n9", "north", &[1, 2]),
        ("only some have hints", some.to_vec(), "n1", "east", &[1, 2]),
        ("one without hints", with(&zones, &unhinted), "n1", "east", &[1, 2, 3, 4]),
        ("one that is not ready does not count", with(&zones, &unready), "n1", "east", &[1, 3]),
        ("nor does one that leaves", with(&zones, &leaving), "n1", "east", &[1, 3]),
    ] {
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        assert_eq!(offered(&cluster("", &endpoints), node, zone), expected, "{case}");
    }
    let only = leaving.replace("conditions", "hints: {forZones: [{name: west}]}, conditions");
    assert_eq!(offered(&cluster("", &[&only]), "n1", "east"), [4], "the last that serves is for everybody");
}

#[test]
fn what_leaves_is_offered_while_there_is_nothing_else() {
    let leaving = "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}";
    let done = "{addresses: [10.0.0.2], conditions: {ready: false, serving: false, terminating: true}}";
    let silent = "{addresses: [10.0.0.3], conditions: {ready: false, terminating: true}}";
    let ready = "{addresses: [10.0.0.4]}";
    let unready = "{addresses: [10.0.0.5], conditions: {ready: false}}";
    for (endpoints, expected) in [
        (&[leaving, done, silent][..], &[1_u8][..]),
        (&[leaving, unready], &[1]),
        (&[leaving, ready], &[4]),
        (&[done, silent, unready], &[]),
    ] {
        assert_eq!(offered(&cluster("", endpoints), "", ""), expected, "{endpoints:?}");
    }
    let all = &[leaving, done, silent, unready];
    assert_eq!(offered(&cluster(", publishNotReadyAddresses: true", all), "", ""), [5]);
    assert_eq!(offered(&cluster(", publishNotReadyAddresses: true", &all[..3]), "", ""), [1, 2, 3]);
    // While an endpoint moves between slices, the one that stays is the newer word, whichever comes first.
    let moved = leaving.replace("10.0.0.1", "10.0.0.4");
    let second = cluster("", &[&moved]).replace("name: web-1", "name: web-0");
    assert_eq!(offered(&(cluster("", &[ready]) + &second), "", ""), [4]);
}

#[test]
fn a_pod_that_is_deleted_leaves_before_its_slices_say_so() {
    let pod = |name: &str, ip: &str, meta: &str, phase: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a{meta}}}\nstatus: {{podIP: {ip}, phase: \
             {phase}}}\n---\n"
        )
    };
    let deleted = ", deletionTimestamp: 2026-11-22T04:00:00Z";
    let listed = |n: u8, name: &str| format!("{{addresses: [10.0.0.{n}], targetRef: {{kind: Pod, name: {name}}}}}");
    let both = cluster("", &[&listed(1, "p"), &listed(2, "q")]);
    for (case, p, q, expected) in [
        ("one of two", (deleted, "Running"), ("", "Running"), &[2_u8][..]),
        ("both", (deleted, "Running"), (deleted, "Running"), &[1, 2]),
        ("one is deleted, the other has finished", (deleted, "Running"), ("", "Succeeded"), &[1]),
        ("both have finished", (deleted, "Failed"), ("", "Succeeded"), &[]),
    ] {
        let yaml = both.clone() + &pod("p", "10.0.0.1", p.0, p.1) + &pod("q", "10.0.0.2", q.0, q.1);
        assert_eq!(offered(&yaml, "", ""), expected, "{case}");
    }
}

#[test]
fn a_client_is_where_its_pod_says_or_its_node_is() {
    let pod = |spec: &str, labels: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: a, labels: {{{labels}}}}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let slices =
        cluster("", &["{addresses: [10.0.0.1], nodeName: n1, zone: east}", "{addresses: [10.0.0.2], nodeName: n2}"]);
    for (spec, labels, node, zone) in [
        ("", "", "", ""),
        ("nodeName: n1", "", "n1", "east"),
        ("nodeName: n1", "topology.kubernetes.io/zone: west", "n1", "west"),
        ("nodeName: n2", "", "n2", ""),
        ("nodeName: n0", "", "n0", ""),
        ("nodeName: n3", "", "n3", ""),
    ] {
        let world = world(&(slices.clone() + &pod(spec, labels)));
        let found = Place::of(&world, world.pod(&lacewing_crds::Name::new("a", "p")).unwrap());
        assert_eq!((&*found.node, &*found.zone), (node, zone), "{spec} {labels}");
    }
}

//! Slices and pods in tables; the list must hold what is ready, know who answers, and never promise an identity that
//! is not certain.

use super::*;
use crate::world::tests::world;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a}
spec:
  ports: [{name: http, port: 80, targetPort: web}, {name: admin, port: 9000}]
---
";

fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: a, labels: \
         {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}, {{name: admin, \
         port: 9001}}]\nendpoints: [{endpoints}]\n---\n"
    )
}

fn pod(name: &str, ip: &str, annotations: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, annotations: {{{annotations}}}{more}}}\n\
         spec: {{serviceAccountName: web}}\nstatus: {{podIP: {ip}}}\n---\n"
    )
}

fn at(ip: &str, name: &str) -> String {
    format!("{{addresses: [{ip}], targetRef: {{kind: Pod, name: {name}}}}}")
}

fn list(yaml: &str, port: u16) -> Vec<Endpoint> {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let backend = Backend { namespace: "a".into(), service: "web".into(), port };
    endpoints(&world(yaml), &domain, &backend)
}

fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

const MESHED: &str = "lacewing.dev/proxy-version: v1";

#[test]
fn only_ready_endpoints_are_listed_sorted_and_once() {
    let first = slice(
        "web-1",
        "{addresses: [10.0.0.9]}, {addresses: [10.0.0.2], conditions: {ready: true}}, {addresses: [10.0.0.3], conditions: \
         {ready: false}}, {addresses: [10.0.0.4], conditions: {ready: true, serving: true, terminating: true}}",
    );
    let second = slice("web-2", "{addresses: [10.0.0.2]}, {addresses: [10.0.0.10], conditions: {ready: null}}");
    let yaml = format!("{SERVICE}{first}{second}");
    assert_eq!(addresses(&list(&yaml, 80)), ["10.0.0.2:8080", "10.0.0.9:8080", "10.0.0.10:8080"]);
    assert_eq!(addresses(&list(&yaml, 9000))[0], "10.0.0.2:9001", "each port has its own number");
    assert_eq!(list(&yaml, 81), []);
    let unready = yaml.replace("spec:\n  ports", "spec:\n  publishNotReadyAddresses: true\n  ports");
    assert_eq!(addresses(&list(&unready, 80)).len(), 4, "not ready is good enough, terminating is not");
}

#[test]
fn slices_of_other_services_and_namespaces_do_not_count() {
    let other = slice("db-1", "{addresses: [10.0.0.1]}").replace("service-name: web", "service-name: db");
    let elsewhere = slice("web-1", "{addresses: [10.0.0.2]}").replace("namespace: a", "namespace: b");
    let unnamed = slice("web-2", "{addresses: [10.0.0.3]}").replace("name: http", "name: https");
    assert_eq!(list(&format!("{SERVICE}{other}{elsewhere}{unnamed}"), 80), []);
}

#[test]
fn only_a_pod_with_a_proxy_at_its_own_address_has_an_identity() {
    let id = Some("spiffe://cluster.local/ns/a/sa/web");
    let host = pod("p", "10.0.0.1", MESHED, "").replace("spec: {", "spec: {hostNetwork: true, ");
    for (case, pod, identity) in [
        ("meshed", pod("p", "10.0.0.1", MESHED, ""), id),
        ("injection alone proves nothing", pod("p", "10.0.0.1", "lacewing.dev/inject: enabled", ""), None),
        ("on the host network", host, None),
    ] {
        let endpoints = list(&format!("{SERVICE}{}{pod}", slice("web-1", &at("10.0.0.1", "p"))), 80);
        let [endpoint] = &endpoints[..] else { panic!("{case}: {endpoints:?}") };
        assert_eq!(endpoint.identity.as_ref().map(SpiffeId::as_str), identity, "{case}");
        assert_eq!(endpoint.direct, None, "{case}");
    }
}

#[test]
fn where_a_proxy_may_be_nothing_is_offered_in_plain_text() {
    let known = pod("p", "10.0.0.1", MESHED, ", uid: u2");
    let other_uid = "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p, uid: u1}}";
    let named = at("10.0.0.1", "p");
    for (case, listed, pod, why) in [
        ("an address that the pod does not have (yet)", &*named, pod("p", "10.0.0.7", MESHED, ""), "not this address"),
        ("no pod of that name (yet)", &named, pod("q", "10.0.0.1", MESHED, ""), "no Pod p is known"),
        ("the pod was made again", other_uid, known, "no Pod p with the uid u1 is known"),
    ] {
        let yaml = format!("{SERVICE}{}{pod}", slice("web-1", listed));
        assert_eq!(list(&yaml, 80), [], "{case}");
        let world = world(&yaml);
        let (name, slice) = world.slices().next().unwrap();
        let [reason] = &why_addresses_left_out(&world, &name.namespace, slice)[..] else { panic!("{case}") };
        assert!(reason.contains("10.0.0.1") && reason.contains(why), "{case}: {reason}");
    }
    // What is known to have no proxy, or is no pod, is plain whatever its address is.
    let unmeshed = pod("p", "10.0.0.7", "", "");
    for listed in
        [named.as_str(), "{addresses: [10.0.0.1], targetRef: {kind: Node, name: n}}", "{addresses: [10.0.0.1]}"]
    {
        let endpoints = list(&format!("{SERVICE}{}{unmeshed}", slice("web-1", listed)), 80);
        assert!(matches!(&endpoints[..], [endpoint] if endpoint.identity.is_none()), "{listed}");
    }
}

#[test]
fn a_pod_without_redirection_is_reached_through_its_proxy() {
    let annotations = format!("{MESHED}, lacewing.dev/proxy-address: '127.1.0.2:4143'");
    let yaml = format!("{SERVICE}{}{}", slice("web-1", &at("127.1.0.2", "p")), pod("p", "127.1.0.2", &annotations, ""));
    let endpoint = list(&yaml, 80).remove(0);
    let direct = Direct { proxy_address: "127.1.0.2:4143".parse().unwrap(), sni: "p8080.web.a.lacewing".into() };
    assert_eq!(endpoint.direct, Some(direct), "the name carries the endpoint's port, not the Service's");
}

#[test]
fn what_says_it_is_meshed_is_never_offered_in_plain_text() {
    let mut world =
        world(&format!("{SERVICE}{}{}", slice("web-1", &at("10.0.0.1", "p")), pod("p", "10.0.0.1", MESHED, "")));
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let backend = Backend { namespace: "a".into(), service: "web".into(), port: 80 };
    let name = Name::new("a", "p");
    let good = world.pod(&name).unwrap().clone();
    assert_eq!(why_left_out(&domain, &name, &good), None);
    let mut address = good.clone();
    address.metadata.annotations.insert(labels::PROXY_ADDRESS.into(), "nonsense".into());
    let mut account = good.clone();
    account.spec.service_account_name = Some("not/a/name".into());
    for bad in [address, account] {
        assert!(why_left_out(&domain, &name, &bad).is_some());
        world.apply(lacewing_crds::Object::Pod(bad));
        assert_eq!(endpoints(&world, &domain, &backend), []);
    }
}

#[test]
fn the_same_address_twice_keeps_the_meshed_one() {
    let stale = slice("web-1", "{addresses: [10.0.0.1]}");
    let fresh = slice("web-2", &at("10.0.0.1", "p"));
    let endpoints = list(&format!("{SERVICE}{stale}{fresh}{}", pod("p", "10.0.0.1", MESHED, "")), 80);
    assert_eq!(endpoints.len(), 1);
    assert!(endpoints[0].identity.is_some());
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
        let yaml = format!("{SERVICE}{}{}", slice("web-1", &at("10.0.0.1", "p")), pod("p", "10.0.0.1", MESHED, &more));
        let endpoint = list(&yaml, 80).remove(0);
        assert_eq!((endpoint.workload.as_str(), endpoint.service_account.as_str()), (workload, "web"), "{more}");
    }
}

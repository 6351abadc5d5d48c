//! Slices and pods in tables; the list must hold what is ready, know who answers, and never promise an identity that
//! is not certain.

use lacewing_crds::labels;

use super::*;
use crate::{
    endpoints::Direct,
    locality::Place,
    world::tests::{domain, world},
};

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
    let backend = Backend { namespace: "a".into(), service: "web".into(), port };
    endpoints(&world(yaml), &domain(), &backend).near(&Place::default()).into_owned()
}

fn addresses_of(endpoints: &[Endpoint]) -> Vec<String> {
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
    assert_eq!(addresses_of(&list(&yaml, 80)), ["10.0.0.2:8080", "10.0.0.9:8080", "10.0.0.10:8080"]);
    assert_eq!(addresses_of(&list(&yaml, 9000))[0], "10.0.0.2:9001", "each port has its own number");
    assert_eq!(list(&yaml, 81), []);
    let unready = yaml.replace("spec:\n  ports", "spec:\n  publishNotReadyAddresses: true\n  ports");
    let listed = ["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.9:8080", "10.0.0.10:8080"];
    assert_eq!(addresses_of(&list(&unready, 80)), listed, "not ready is good enough, terminating is not");
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
    let backend = Backend { namespace: "a".into(), service: "web".into(), port: 80 };
    let good = world.pod(&Name::new("a", "p")).unwrap().clone();
    let mut address = good.clone();
    address.metadata.annotations.insert(labels::PROXY_ADDRESS, "nonsense");
    let mut account = good.clone();
    account.spec.service_account_name = Some("not/a/name".into());
    for bad in [address, account] {
        world.apply(lacewing_crds::Object::Pod(bad));
        assert_eq!(*endpoints(&world, &domain(), &backend).near(&Place::default()), []);
    }
}

/// Who is offered at each address: `address pod`, with `tls` where it must prove itself.
fn offers(yaml: &str) -> Vec<String> {
    let one = |endpoint: Endpoint| {
        let tls = if endpoint.identity.is_some() { " tls" } else { "" };
        format!("{} {}{tls}", endpoint.address, endpoint.pod)
    };
    list(yaml, 80).into_iter().map(one).collect()
}

fn why(yaml: &str) -> Vec<String> {
    let world = world(yaml);
    world.slices().flat_map(|(name, slice)| why_addresses_left_out(&world, &name.namespace, slice)).collect()
}

#[test]
fn an_address_without_a_pods_name_is_that_of_the_pod_that_has_it() {
    let meshed = |name: &str, ip: &str| pod(name, ip, MESHED, "");
    let plain = |name: &str, ip: &str| pod(name, ip, "", "");
    let deleted = |name: &str, ip: &str| pod(name, ip, MESHED, ", deletionTimestamp: 2026-11-22T04:00:00Z");
    let finished = |name: &str, ip: &str| meshed(name, ip).replace("podIP:", "phase: Succeeded, podIP:");
    let elsewhere = |name: &str, ip: &str| meshed(name, ip).replace("namespace: a", "namespace: b");
    let host = |name: &str, ip: &str| meshed(name, ip).replace("spec: {", "spec: {hostNetwork: true, ");
    for (case, pods, offered) in [
        ("outside the cluster", vec![], &["10.0.0.1:8080 "][..]),
        ("meshed", vec![meshed("p", "10.0.0.1")], &["10.0.0.1:8080 p tls"]),
        ("meshed, of another namespace", vec![elsewhere("p", "10.0.0.1")], &["10.0.0.1:8080 p tls"]),
        ("not meshed", vec![plain("p", "10.0.0.1")], &["10.0.0.1:8080 p"]),
        ("a node", vec![host("p", "10.0.0.1")], &["10.0.0.1:8080 "]),
        ("on its way out, and the only one", vec![deleted("p", "10.0.0.1")], &["10.0.0.1:8080 p tls"]),
        ("finished", vec![finished("p", "10.0.0.1")], &["10.0.0.1:8080 "]),
        ("used again", vec![deleted("p", "10.0.0.1"), meshed("q", "10.0.0.1")], &["10.0.0.1:8080 q tls"]),
        ("used again without a proxy", vec![finished("p", "10.0.0.1"), plain("q", "10.0.0.1")], &["10.0.0.1:8080 q"]),
        ("two have it", vec![meshed("p", "10.0.0.1"), plain("q", "10.0.0.1")], &[]),
    ] {
        for listed in ["{addresses: [10.0.0.1]}", "{addresses: [10.0.0.1], targetRef: {kind: Node, name: n}}"] {
            let yaml = format!("{SERVICE}{}{}", slice("web-1", listed), pods.concat());
            assert_eq!(offers(&yaml), offered, "{case}: {listed}");
            let reasons = why(&yaml);
            assert_eq!(reasons.len(), usize::from(case == "two have it"), "{case}: {reasons:?}");
            assert!(reasons.iter().all(|why| why.contains("more than one Pod: a/p, a/q")), "{reasons:?}");
        }
    }
    let endpoint =
        list(&format!("{SERVICE}{}{}", slice("web-1", "{addresses: [10.0.0.1]}"), elsewhere("p", "10.0.0.1")), 80);
    assert_eq!(endpoint[0].identity.as_ref().map(SpiffeId::as_str), Some("spiffe://cluster.local/ns/b/sa/web"));
    assert_eq!((endpoint[0].namespace.as_str(), endpoint[0].workload.as_str()), ("b", "pod/p"));
}

#[test]
fn a_pod_is_not_offered_in_plain_text_at_an_address_that_a_proxy_has() {
    let listed = slice("web-1", &at("10.0.0.1", "p"));
    let deleted = ", deletionTimestamp: 2026-11-22T04:00:00Z";
    for (case, pods, offered, reason) in [
        (
            "the listed pod has another address",
            vec![pod("p", "10.0.0.7", "", ""), pod("q", "10.0.0.1", MESHED, "")],
            &[][..],
            "listed for Pod a/p, but Pod a/q has it",
        ),
        ("both claim it", vec![pod("p", "10.0.0.1", "", ""), pod("q", "10.0.0.1", MESHED, "")], &[], "Pod a/q has it"),
        (
            "the one with the proxy is on its way out",
            vec![pod("p", "10.0.0.1", "", ""), pod("q", "10.0.0.1", MESHED, deleted)],
            &["10.0.0.1:8080 p"],
            "",
        ),
        ("no proxy", vec![pod("p", "10.0.0.1", "", ""), pod("q", "10.0.0.1", "", "")], &["10.0.0.1:8080 p"], ""),
        (
            "the listed pod proves itself",
            vec![pod("p", "10.0.0.1", MESHED, ""), pod("q", "10.0.0.1", "", "")],
            &["10.0.0.1:8080 p tls"],
            "",
        ),
    ] {
        let yaml = format!("{SERVICE}{listed}{}", pods.concat());
        assert_eq!(offers(&yaml), offered, "{case}");
        let reasons = why(&yaml);
        assert_eq!(reasons.len(), usize::from(offered.is_empty()), "{case}: {reasons:?}");
        assert!(reasons.iter().all(|why| why.contains(reason)), "{case}: {reasons:?}");
    }
}

#[test]
fn a_pod_on_its_way_out_is_not_offered_whatever_the_slice_says() {
    let deleted = ", deletionTimestamp: 2026-11-22T04:00:00Z";
    for annotations in [MESHED, ""] {
        let leaving = pod("p", "10.0.0.1", annotations, deleted);
        let finished = pod("q", "10.0.0.2", annotations, "").replace("podIP:", "phase: Failed, podIP:");
        let staying = pod("r", "10.0.0.3", annotations, "");
        for conditions in ["", ", conditions: {ready: true}", ", conditions: {ready: true, terminating: false}"] {
            let one = |ip: &str, name: &str| at(ip, name).replace("}}", &format!("}}{conditions}}}"));
            let all = [one("10.0.0.1", "p"), one("10.0.0.2", "q"), one("10.0.0.3", "r")].join(", ");
            for service in [SERVICE.to_owned(), SERVICE.replace("spec:", "spec:\n  publishNotReadyAddresses: true")] {
                let yaml = format!("{service}{}{leaving}{finished}{staying}", slice("web-1", &all));
                assert_eq!(addresses_of(&list(&yaml, 80)), ["10.0.0.3:8080"], "{conditions}");
                assert_eq!(why(&yaml), Vec::<String>::new(), "that is as it should be");
            }
        }
    }
}

#[test]
fn the_same_address_in_two_slices_is_there_once() {
    let pods = pod("p", "10.0.0.1", MESHED, "") + &pod("q", "10.0.0.7", "", "");
    let (stale, fresh) = (at("10.0.0.1", "q"), at("10.0.0.1", "p"));
    for (first, second) in [(&stale, &fresh), (&fresh, &stale), (&fresh, &fresh)] {
        let yaml = format!("{SERVICE}{}{}{pods}", slice("web-1", first), slice("web-2", second));
        assert_eq!(offers(&yaml), ["10.0.0.1:8080 p tls"]);
    }
}

#[test]
fn a_pod_of_both_families_is_one_endpoint() {
    // An IPv4 address in IPv6 clothes is still that address.
    let mapped = at("'::ffff:10.0.0.1'", "both");
    let v6 = |endpoints: &str| {
        slice("web-v6", &format!("{endpoints}, {mapped}")).replace("addressType: IPv4", "addressType: IPv6")
    };
    let slices = slice("web-v4", &format!("{}, {}", at("10.0.0.1", "both"), at("10.0.0.2", "old")))
        + &v6(&format!("{}, {}, {{addresses: ['fd00::9']}}", at("'fd00::1'", "both"), at("'fd00::3'", "new")));
    let dual = |name: &str, ips: &str| pod(name, "10.0.0.99", "", "").replace("podIP: 10.0.0.99", ips);
    let pods = dual("both", "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]")
        + &dual("old", "podIPs: [{ip: 10.0.0.2}]")
        + &dual("new", "podIPs: [{ip: 'fd00::3'}]");
    for (service, expected) in [
        (SERVICE.to_owned(), ["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::3]:8080", "[fd00::9]:8080"]),
        (
            SERVICE.replace("spec:", "spec:\n  clusterIP: 'fd00:96::1'"),
            ["10.0.0.2:8080", "[fd00::1]:8080", "[fd00::3]:8080", "[fd00::9]:8080"],
        ),
    ] {
        assert_eq!(addresses_of(&list(&format!("{service}{slices}{pods}"), 80)), expected);
    }
}

/// Ports of slices differ where pods name theirs differently, and a headless Service has no address to go by.
#[test]
fn each_slice_has_its_own_number_behind_a_name() {
    let other = slice("web-2", "{addresses: [10.0.0.2]}").replace("port: 8080", "port: 8090");
    let none = slice("web-3", "{addresses: [10.0.0.3]}").replace("port: 8080", "port: null");
    let yaml = format!("{SERVICE}{}{other}{none}", slice("web-1", "{addresses: [10.0.0.1]}"));
    assert_eq!(addresses_of(&list(&yaml, 80)), ["10.0.0.1:8080", "10.0.0.2:8090"]);
    let v6 = slice("web-2", "{addresses: ['fd00::1'], targetRef: {kind: Pod, name: p}}");
    let both = slice("web-1", &at("10.0.0.1", "p")) + &v6.replace("addressType: IPv4", "addressType: IPv6");
    let dual = pod("p", "10.0.0.1", "", "").replace("podIP: 10.0.0.1", "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]");
    for (families, first) in
        [("[IPv4, IPv6]", "10.0.0.1:8080"), ("[IPv6, IPv4]", "[fd00::1]:8080"), ("[]", "10.0.0.1:8080")]
    {
        let headless = SERVICE.replace("spec:", &format!("spec:\n  clusterIP: None\n  ipFamilies: {families}"));
        assert_eq!(addresses_of(&list(&format!("{headless}{both}{dual}"), 80)), [first], "{families}");
    }
}

#[test]
fn ports_that_skip_the_proxy_are_plain() {
    let named = at("10.0.0.1", "p");
    for (annotated, plain) in [
        ("'8080'", true),
        ("'25, 8000-8100'", true),
        ("'25'", false),
        ("''", false),
        ("'web'", false),
        ("'8080, x'", false),
    ] {
        let annotations = format!("{MESHED}, config.lacewing.dev/skip-inbound-ports: {annotated}");
        // The directory source refuses what cannot be read; a cluster may hold it.
        let mut world = world(&format!("{SERVICE}{}{}", slice("web-1", &named), pod("p", "10.0.0.1", MESHED, "")));
        let mut pod = world.pod(&Name::new("a", "p")).unwrap().clone();
        let annotated = annotated.trim_matches('\'').to_owned();
        pod.metadata.annotations.insert(labels::SKIP_INBOUND_PORTS, &annotated);
        world.apply(lacewing_crds::Object::Pod(pod));
        let backend = |port| Backend { namespace: "a".into(), service: "web".into(), port };
        let identity = |port: u16| {
            let all = endpoints(&world, &domain(), &backend(port));
            let [endpoint] = &*all.near(&Place::default()) else { panic!("{annotations}: {all:?}") };
            endpoint.identity.is_some()
        };
        assert_eq!((identity(80), identity(9000)), (!plain, true), "{annotations}");
    }
}

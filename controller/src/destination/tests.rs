//! One small cluster, and every way to name something in it.

use super::*;
use crate::world::tests::{domain, world};

const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: voting, namespace: emojivoto}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00::1']
  ports:
  - {name: grpc, port: 8080, appProtocol: grpc}
  - {name: http, port: 80, appProtocol: http}
  - {name: h2c, port: 81, appProtocol: kubernetes.io/h2c}
  - {name: db, port: 82, appProtocol: lacewing.dev/opaque}
  - {name: raw, port: 83, appProtocol: tcp}
  - {name: plain, port: 84}
  - {name: odd, port: 85, appProtocol: example.com/odd}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: shop}
spec: {type: ExternalName, externalName: example.com}
";

fn found(namespace: &str, service: &str, port: u16, protocol: Protocol) -> Target {
    Target::Service { backend: Backend { namespace: namespace.into(), service: service.into(), port }, protocol }
}

#[test]
fn names_and_addresses_find_their_service() {
    let world = world(CLUSTER);
    for target in [
        "voting:80",
        "voting.emojivoto:80",
        "voting.emojivoto.svc:80",
        "voting.emojivoto.svc.cluster.local:80",
        "voting.emojivoto.svc.cluster.local.:80",
        "Voting.EMOJIVOTO:80",
        "10.96.0.1:80",
        "[fd00::1]:80",
        "[::ffff:10.96.0.1]:80",
    ] {
        assert_eq!(
            resolve(&world, &domain(), "emojivoto", target),
            found("emojivoto", "voting", 80, Protocol::Http),
            "{target}"
        );
    }
    assert_eq!(resolve(&world, &domain(), "shop", "web:80"), found("shop", "web", 80, Protocol::Detect));
    assert_eq!(resolve(&world, &domain(), "emojivoto", "web.shop:80"), found("shop", "web", 80, Protocol::Detect));
}

#[test]
fn ports_declare_their_protocol() {
    let world = world(CLUSTER);
    for (port, protocol) in [
        (8080, Protocol::Http2),
        (80, Protocol::Http),
        (81, Protocol::Http2),
        (82, Protocol::Opaque),
        (83, Protocol::Opaque),
        (84, Protocol::Detect),
        (85, Protocol::Detect),
    ] {
        assert_eq!(
            resolve(&world, &domain(), "emojivoto", &format!("voting:{port}")),
            found("emojivoto", "voting", port, protocol)
        );
    }
    assert_eq!(Protocol::declared(Some("example.com/odd")), None);
}

#[test]
fn what_is_not_there_is_answered_with_the_reason() {
    let world = world(CLUSTER);
    for (target, reason) in [
        ("votng:80", "no Service votng in namespace emojivoto; did you mean voting?"),
        ("web:80", "there is one in shop: write web.shop"),
        ("voting.emojivto:80", "there is one in emojivoto: write voting.emojivoto"),
        ("emoji.emojivto:80", "did you mean the namespace emojivoto?"),
        ("database:80", "no Service database in namespace emojivoto"),
        ("voting:9", "Service emojivoto/voting has no TCP port 9, only 8080 (grpc), 80 (http), "),
        ("voting:53", "has no TCP port 53"),
        ("10.96.0.1:9", "Service emojivoto/voting has no TCP port 9, only 8080 (grpc), 80 (http), "),
        ("elsewhere.shop:80", "external name example.com"),
        ("web-1.voting.emojivoto.svc.cluster.local:80", "names one pod"),
        ("voting.cluster.local:80", "is no name of a Service"),
        ("example.com.:80", "no Service example in namespace com"),
        ("www.example.com:80", "is no name of a Service"),
    ] {
        let Target::NotFound(found) = resolve(&world, &domain(), "emojivoto", target) else { panic!("{target}") };
        assert!(found.contains(reason), "{target}: {found}");
    }
}

#[test]
fn malformed_targets_are_refused() {
    let world = world(CLUSTER);
    let long = format!("{}:80", "a".repeat(TARGET_BYTES_MAX));
    let long_label = format!("{}.emojivoto:80", "a".repeat(HOST_LABEL_BYTES_MAX + 1));
    let long_host = format!("{}a:80", "a.".repeat(HOST_BYTES_MAX / 2 + 1));
    for target in [
        "",
        ":",
        "voting",
        "voting:",
        "voting:0",
        "voting:+80",
        "voting:65536",
        ":80",
        ".:80",
        "a..b:80",
        "::1",
        "10.96.0.1:0",
        "[::1:80",
        &long,
        &long_label,
        &long_host,
    ] {
        let Target::NotFound(reason) = resolve(&world, &domain(), "emojivoto", target) else { panic!("{target}") };
        assert!(reason.contains("is not host:port") || reason.contains("longer than"), "{target}: {reason}");
    }
}

/// Pods of namespace `shop`, labelled `app: web`, with the container port `http` = 8080.
fn pod(name: &str, ips: &[&str], meta: &str, more: &str) -> String {
    let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web}}{meta}}}\nspec: \
         {{serviceAccountName: web, containers: [{{name: app, ports: [{{name: http, containerPort: 8080}}]}}]{more}}}\n\
         status: {{phase: Running, podIPs: [{}]}}\n---\n",
        ips.join(", ")
    )
}

const MESHED: &str = ", annotations: {lacewing.dev/proxy-version: v1}";

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n---\n")
}

fn ask(yaml: &str, target: &str) -> Target {
    // Whoever asks: an address means the same everywhere.
    let found = resolve(&world(yaml), &domain(), "shop", target);
    assert_eq!(found, resolve(&world(yaml), &domain(), "elsewhere", target));
    found
}

#[test]
fn an_address_of_a_pod_is_that_pod() {
    let dual = ["10.0.0.1", "fd00:1::1"];
    let headless = service("db", "clusterIP: None, selector: {app: web}, ports: [{port: 8080, appProtocol: tcp}]");
    let web = service("front", "clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]");
    let deleted = format!("{MESHED}, deletionTimestamp: 2026-11-22T04:00:00Z");
    let backend = |service: &str, port| Ok(Backend { namespace: "shop".into(), service: service.into(), port });
    let none = || Err("no Service selects Pod shop/web-1".to_owned());
    for (case, meta, services, service, protocol, meshed) in [
        ("meshed, no Service", MESHED, String::new(), none(), Protocol::Detect, true),
        ("plain, no Service", "", String::new(), none(), Protocol::Detect, false),
        ("headless", MESHED, headless.clone(), backend("db", 8080), Protocol::Opaque, true),
        ("with a ClusterIP", MESHED, web.clone(), backend("front", 80), Protocol::Detect, true),
        ("plain, with a Service", "", web.clone(), backend("front", 80), Protocol::Detect, false),
        ("on its way out", &deleted, web.clone(), backend("front", 80), Protocol::Detect, true),
        (
            "several Services",
            MESHED,
            headless + &web,
            Err("Services db and front both lead to port 8080 of Pod shop/web-1: none applies".to_owned()),
            Protocol::Detect,
            true,
        ),
    ] {
        let yaml = pod("web-1", &dual, meta, "") + &services;
        for (target, address) in [
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[fd00:1::1]:8080", "[fd00:1::1]:8080"),
            ("[::ffff:10.0.0.1]:8080", "10.0.0.1:8080"),
        ] {
            let Target::Pod { endpoint, service: found, protocol: spoken } = ask(&yaml, target) else {
                panic!("{case}: {target}")
            };
            assert_eq!((found, spoken), (service.clone(), protocol), "{case}: {target}");
            assert_eq!(endpoint.address.to_string(), address, "{case}");
            let identity = meshed.then_some("spiffe://cluster.local/ns/shop/sa/web");
            assert_eq!(endpoint.identity.as_ref().map(lacewing_identity::SpiffeId::as_str), identity, "{case}");
            let who = (&*endpoint.namespace, &*endpoint.pod, &*endpoint.workload, &*endpoint.service_account);
            assert_eq!(who, ("shop", "web-1", "pod/web-1", "web"), "{case}");
            assert_eq!(endpoint.direct, None, "{case}");
        }
    }
}

#[test]
fn a_pods_address_gives_the_endpoint_that_its_service_lists() {
    let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: front-x, namespace: shop, labels: {kubernetes.io/service-name: front}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.0.0.2], zone: west}
- {addresses: [10.0.0.1], zone: east, conditions: {ready: READY}, targetRef: {kind: Pod, name: web-1}}
---
";
    let service = service("front", "selector: {app: web}, ports: [{port: 80, targetPort: http}]");
    let direct = ", annotations: {lacewing.dev/proxy-version: v1, lacewing.dev/proxy-address: '127.0.0.2:4143'}";
    let backend = Backend { namespace: "shop".into(), service: "front".into(), port: 80 };
    let listed = |yaml: &str| {
        let all = endpoints::endpoints(&world(yaml), &domain(), &backend);
        all.near(&crate::locality::Place::default()).into_owned()
    };
    for meta in [MESHED, direct, ""] {
        let yaml = pod("web-1", &["10.0.0.1"], meta, "") + &service + slice;
        let ready = yaml.replace("READY", "true");
        let first = listed(&ready).remove(0);
        assert_eq!((&*first.zone, first.direct.is_some()), ("east", meta == direct));
        let expected =
            Target::Pod { endpoint: Box::new(first), service: Ok(backend.clone()), protocol: Protocol::Detect };
        assert_eq!(ask(&ready, "10.0.0.1:8080"), expected, "{meta}");
        let not_ready = yaml.replace("READY", "false");
        assert_eq!(listed(&not_ready).len(), 1);
        assert_eq!(ask(&not_ready, "10.0.0.1:8080"), expected, "the dial is the app's own choice");
    }
}

#[test]
fn what_may_have_a_proxy_is_never_answered_as_without() {
    let direct = ", annotations: {lacewing.dev/proxy-version: v1, lacewing.dev/proxy-address: '127.0.0.2:4143'}";
    let two = service("front", "selector: {app: web}, ports: [{port: 80, targetPort: http}, ]")
        + &service("back", "selector: {app: web}, ports: [{port: 8080}]");
    let one = |name: &str, meta: &str| pod(name, &["10.0.0.1"], meta, "");
    for (case, yaml, reason) in [
        ("two claim it", one("p", MESHED) + &one("q", ""), "more than one Pod: shop/p, shop/q"),
        ("two with proxies", one("p", MESHED) + &one("q", MESHED), "10.0.0.1 is the address of more than one Pod"),
        ("no Service to name", one("p", direct), "only through its proxy (lacewing.dev/proxy-address), which"),
        ("no Service to name for certain", one("p", direct) + &two, "Services back and front both lead to port 8080"),
    ] {
        let Target::NotFound(found) = ask(&yaml, "10.0.0.1:8080") else { panic!("{case}") };
        assert!(found.contains(reason), "{case}: {found}");
    }
    let mut world = world(&one("p", MESHED));
    let good = world.pod(&Name::new("shop", "p")).unwrap().clone();
    let mut account = good.clone();
    account.spec.service_account_name = Some("not/a/name".into());
    let mut address = good;
    address.metadata.annotations.insert(labels::PROXY_ADDRESS, "nonsense");
    for bad in [account, address] {
        world.apply(lacewing_crds::Object::Pod(bad));
        let found = resolve(&world, &domain(), "shop", "10.0.0.1:8080");
        assert!(matches!(&found, Target::NotFound(why) if why.contains("shop/p gets no traffic")), "{found:?}");
    }
}

#[test]
fn an_address_that_is_used_again_is_that_of_the_pod_that_stays() {
    let deleted = format!("{MESHED}, deletionTimestamp: 2026-11-22T04:00:00Z");
    let old = pod("old", &["10.0.0.1", "fd00:1::1"], &deleted, "");
    let done = pod("done", &["10.0.0.1"], MESHED, "").replace("Running", "Succeeded");
    let new = pod("new", &["10.0.0.1"], "", "");
    for (yaml, target, found) in [
        (format!("{old}{done}{new}"), "10.0.0.1:8080", Some("new")),
        (format!("{old}{done}{new}"), "[fd00:1::1]:8080", Some("old")),
        (format!("{old}{done}"), "10.0.0.1:8080", Some("old")),
        (done, "10.0.0.1:8080", None),
    ] {
        match (ask(&yaml, target), found) {
            (Target::Pod { endpoint, .. }, Some(name)) => assert_eq!(endpoint.pod, name, "{target}"),
            (Target::Unknown, None) => {}
            (other, _) => panic!("{target}: {other:?}"),
        }
    }
}

#[test]
fn what_nothing_in_the_world_has_is_unknown() {
    let node = pod("node", &["192.168.0.1", "fd00:9::1"], MESHED, ", hostNetwork: true");
    let yaml = format!("{CLUSTER}---\n{node}{}", pod("web-1", &[], MESHED, ""));
    for target in ["10.96.0.9:80", "[fd00::2]:80", "[::ffff:10.0.0.1]:80", "192.168.0.1:8080", "[fd00:9::1]:8080"] {
        assert_eq!(ask(&yaml, target), Target::Unknown, "{target}");
    }
    // A Service has its address before any pod does.
    let claims = pod("web-1", &["10.96.0.1"], MESHED, "");
    assert_eq!(
        ask(&format!("{CLUSTER}---\n{claims}"), "10.96.0.1:80"),
        found("emojivoto", "voting", 80, Protocol::Http)
    );
    let other = ask(&format!("{CLUSTER}---\n{claims}"), "10.96.0.1:9");
    assert!(matches!(&other, Target::NotFound(why) if why.contains("no TCP port 9")), "{other:?}");
}

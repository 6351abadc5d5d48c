//! One small cluster, and every way to name something in it.

use super::*;
use crate::world::tests::world;

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
        assert_eq!(resolve(&world, "emojivoto", target), found("emojivoto", "voting", 80, Protocol::Http), "{target}");
    }
    assert_eq!(resolve(&world, "shop", "web:80"), found("shop", "web", 80, Protocol::Detect));
    assert_eq!(resolve(&world, "emojivoto", "web.shop:80"), found("shop", "web", 80, Protocol::Detect));
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
            resolve(&world, "emojivoto", &format!("voting:{port}")),
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
        ("10.96.0.9:80", "no Service has the address 10.96.0.9"),
        ("elsewhere.shop:80", "external name example.com"),
        ("web-1.voting.emojivoto.svc.cluster.local:80", "names one pod"),
        ("voting.cluster.local:80", "is no name of a Service"),
        ("example.com.:80", "no Service example in namespace com"),
        ("www.example.com:80", "is no name of a Service"),
    ] {
        let Target::NotFound(found) = resolve(&world, "emojivoto", target) else { panic!("{target}") };
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
        let Target::NotFound(reason) = resolve(&world, "emojivoto", target) else { panic!("{target}") };
        assert!(reason.contains("is not host:port") || reason.contains("longer than"), "{target}: {reason}");
    }
}

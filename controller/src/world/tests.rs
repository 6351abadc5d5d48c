//! Objects go in and out in tables; the lookups must follow. Also the builder of small worlds for other tests.

use super::*;

/// A world of the objects in these YAML documents, for tests.
pub fn world(yaml: &str) -> World {
    let mut world = World::default();
    for parsed in crate::source::manifest::parse(yaml).unwrap_or_else(|e| panic!("{e:?}")) {
        world.apply(parsed.object);
    }
    world
}

/// The trust domain of all tests.
pub fn domain() -> lacewing_identity::TrustDomain {
    lacewing_identity::TrustDomain::parse("cluster.local").unwrap()
}

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: a, uid: u1}
status: {podIP: 10.0.0.1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn lookups_follow_what_is_applied_and_removed() {
    let mut world = world(OBJECTS);
    let web = Name::new("a", "web");
    assert_eq!(world.service_by_ip(ip("10.96.0.1")).unwrap().0, &web);
    assert_eq!(world.slices_of(&web).count(), 1);
    assert_eq!(world.namespaces_with_service("web").collect::<Vec<_>>(), ["a"]);

    let mut service = world.service(&web).unwrap().clone();
    service.spec.cluster_ip.0 = Some(ip("10.96.0.2"));
    world.apply(Object::Service(service));
    assert!(world.service_by_ip(ip("10.96.0.1")).is_none(), "the old address must be forgotten");
    assert_eq!(world.service_by_ip(ip("10.96.0.2")).unwrap().0, &web);

    for (kind, name) in [(Kind::Pod, "web-1"), (Kind::Service, "web"), (Kind::EndpointSlice, "web-x")] {
        world.remove(&ObjectKey { kind, name: Name::new("a", name) });
        assert_eq!(world.count(kind), 0);
    }
    assert!(world.service_by_ip(ip("10.96.0.2")).is_none());
    assert_eq!(world.slices_of(&web).count(), 0);
    assert!(
        world.services_by_name.0.is_empty()
            && world.services_by_ip.0.is_empty()
            && world.slices_by_service.0.is_empty()
            && world.pods_by_ip.0.is_empty()
    );
}

#[test]
fn pods_are_found_by_every_address_of_their_own() {
    let pod = |name: &str, spec: &str, ips: &[&str]| {
        let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a}}\nspec: {{{spec}}}\nstatus: {{podIPs: \
             [{}]}}\n---\n",
            ips.join(", ")
        )
    };
    let mut world = world(
        &[
            pod("dual", "", &["10.0.0.1", "fd00::1"]),
            pod("again", "", &["10.0.0.1"]),
            pod("mapped", "", &["::ffff:10.0.0.2"]),
            pod("node", "hostNetwork: true", &["192.168.0.1", "fd00::9"]),
        ]
        .concat(),
    );
    let names = |world: &World, at: &str| -> Vec<String> {
        world.pods_by_ip(ip(at)).map(|(name, _)| name.name.clone()).collect()
    };
    for (at, found) in [
        ("10.0.0.1", &["again", "dual"][..]),
        ("fd00::1", &["dual"]),
        ("10.0.0.2", &["mapped"]),
        ("192.168.0.1", &[]),
        ("fd00::9", &[]),
        ("10.0.0.3", &[]),
    ] {
        assert_eq!(names(&world, at), found, "{at}");
    }
    // A pod may lose its addresses, and may turn out to be on the host network.
    let mut moved = world.pod(&Name::new("a", "dual")).unwrap().clone();
    moved.status.pod_ips = moved.status.pod_ips[..1].into();
    world.apply(Object::Pod(moved));
    assert_eq!((names(&world, "fd00::1"), names(&world, "10.0.0.1").len()), (vec![], 2));
    world.remove(&ObjectKey { kind: Kind::Pod, name: Name::new("a", "again") });
    assert_eq!(names(&world, "10.0.0.1"), ["dual"]);
}

#[test]
fn services_are_found_by_namespace_and_by_name() {
    let names = ["a/web", "a/x", "a-b/web", "b/y", "b/z"].map(|name| name.split_once('/').unwrap());
    let yaml = names.map(|(space, name)| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {space}}}\n---\n")
    });
    let world = world(&yaml.concat());
    let within = |space: &str| world.services_in(space).map(|(name, _)| name.name.clone()).collect::<Vec<_>>();
    assert_eq!((within("a"), within("a-b"), within("")), (vec!["web".into(), "x".into()], vec!["web".into()], vec![]));
    assert_eq!(world.namespaces_with_services().collect::<Vec<_>>(), ["a", "a-b", "b"]);
    assert_eq!(world.namespaces_with_service("web").collect::<Vec<_>>(), ["a", "a-b"]);
}

#[test]
fn a_slice_that_changes_its_service_moves() {
    let mut world = world(OBJECTS);
    let mut slice = world.slices().next().unwrap().1.clone();
    slice.metadata.labels.insert(lacewing_crds::labels::SERVICE_NAME, "voting");
    world.apply(Object::EndpointSlice(slice));
    assert_eq!(world.slices_of(&Name::new("a", "web")).count(), 0);
    assert_eq!(world.slices_of(&Name::new("a", "voting")).count(), 1);
}

#[test]
fn a_target_reference_finds_only_the_same_pod() {
    let world = world(OBJECTS);
    let target = |kind: &str, namespace: Option<&str>, uid: Option<&str>| TargetRef {
        is_pod: kind == "Pod",
        name: "web-1".to_owned(),
        namespace: namespace.map(str::to_owned),
        uid: uid.map(str::to_owned),
    };
    for (target, found) in [
        (target("Pod", None, None), true),
        (target("Pod", Some("a"), Some("u1")), true),
        (target("Pod", Some(""), None), true),
        (target("Pod", Some("b"), None), false),
        (target("Pod", None, Some("u0")), false),
        (target("Node", None, None), false),
    ] {
        assert_eq!(world.pod_of(&target, "a").is_some(), found, "{target:?}");
    }
}

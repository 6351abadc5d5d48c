//! Pods, Namespaces and Services in tables; the answer must fail closed and never name the proxy's own ports.

use lacewing_crds::Object;

use super::*;
use crate::world::tests::world;

fn cluster(pod_annotations: &str, namespace_annotations: &str, services: &str) -> World {
    world(&format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: a, annotations: {{{namespace_annotations}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web-1, namespace: a, labels: {{app: web}}, annotations: {{{pod_annotations}}}}}
spec:
  containers:
  - name: web
    ports: [{{name: http, containerPort: 8080}}, {{containerPort: 53, protocol: UDP}}, {{containerPort: 4191}}, {{containerPort: 4143}}]
  initContainers:
  - {{name: setup, ports: [{{containerPort: 7000}}]}}
  - {{name: sidecar, restartPolicy: Always, ports: [{{containerPort: 9000}}]}}
---
{services}"
    ))
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{{spec}}}\n---\n")
}

fn answer(world: &World) -> InboundPorts {
    inbound(world, &Name::new("a", "web-1")).unwrap()
}

#[test]
fn the_pod_wins_over_its_namespace_and_that_over_the_mesh() {
    use InboundMode::{Permissive, Strict};
    let strict = "config.lacewing.dev/inbound: strict";
    let permissive = "config.lacewing.dev/inbound: permissive";
    for (pod, namespace, mesh, mode) in [
        ("", "", None, Permissive),
        ("", "", Some(Strict), Strict),
        ("", strict, None, Strict),
        ("", permissive, Some(Strict), Permissive),
        (permissive, strict, Some(Strict), Permissive),
        (strict, permissive, Some(Permissive), Strict),
    ] {
        let mut world = cluster(pod, namespace, "");
        if let Some(mode) = mesh {
            world.set_default_inbound(mode);
        }
        assert_eq!(answer(&world).mode, mode, "{pod} {namespace} {mesh:?}");
    }
}

#[test]
fn an_unreadable_mode_fails_closed() {
    let mut world = cluster("", "", "");
    let name = Name::new("a", "web-1");
    let mut pod = world.pod(&name).unwrap().clone();
    pod.metadata.annotations.insert(labels::INBOUND, "Permissive");
    assert!(mode(&world, &name, &pod).unwrap_err().to_string().contains(labels::INBOUND));
    world.apply(Object::Pod(pod));
    assert_eq!(answer(&world).mode, InboundMode::Strict);
}

#[test]
fn ports_are_those_of_containers_that_stay_and_never_the_proxys() {
    let ports: Vec<u16> = answer(&cluster("", "", "")).ports.into_keys().collect();
    assert_eq!(ports, [8080, 9000]);
    assert_eq!(inbound(&cluster("", "", ""), &Name::new("a", "web-2")), None);
    assert_eq!(inbound(&cluster("", "", ""), &Name::new("b", "web-1")), None);
}

#[test]
fn a_pod_is_terminating_from_the_wish_to_delete_it() {
    let mut world = cluster("", "", "");
    assert!(!answer(&world).terminating);
    let mut pod = world.pod(&Name::new("a", "web-1")).unwrap().clone();
    pod.metadata.deletion_timestamp = Some("2026-11-22T04:00:00Z".into());
    world.apply(Object::Pod(pod));
    let terminating = answer(&world);
    assert!(terminating.terminating);
    assert_eq!(terminating.ports.len(), 2, "it serves on meanwhile");
}

#[test]
fn services_say_what_a_port_speaks_unless_they_disagree() {
    let http = service("a1", "selector: {app: web}, ports: [{port: 80, targetPort: http, appProtocol: http}]");
    let grpc = service("a2", "selector: {app: web}, ports: [{port: 81, targetPort: 8080, appProtocol: grpc}]");
    let same = service("a3", "selector: {app: web}, ports: [{port: 8080, appProtocol: http}]");
    let other = service("a4", "selector: {app: db}, ports: [{port: 8080, appProtocol: tcp}]");
    let blind = service("a5", "ports: [{port: 8080, appProtocol: tcp}]");
    for (services, protocol) in [
        (String::new(), Protocol::Detect),
        (http.clone(), Protocol::Http),
        (grpc.clone(), Protocol::Http2),
        (format!("{http}{same}{other}{blind}"), Protocol::Http),
        (format!("{http}{grpc}"), Protocol::Detect),
    ] {
        assert_eq!(answer(&cluster("", "", &services)).ports[&8080], protocol, "{services}");
    }
}

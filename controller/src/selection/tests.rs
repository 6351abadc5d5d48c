//! One pod, and Services in tables: at most one leads to a port, and the reason is given where none does.

use super::*;
use crate::world::tests::world;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: a, labels: {app: web, tier: front}}
spec:
  containers:
  - name: web
    ports: [{name: http, containerPort: 5353, protocol: UDP}, {name: http, containerPort: 8080}]
  - name: other
    ports: [{name: http, containerPort: 9999}]
  initContainers:
  - {name: setup, ports: [{name: setup, containerPort: 7000}]}
---
";

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{{spec}}}\n---\n")
}

fn only(services: &[String], port: u16) -> Result<(String, u16, Protocol), String> {
    let world = world(&(POD.to_owned() + &services.concat()));
    let name = Name::new("a", "web-1");
    let (backend, protocol) = only_backend(&world, &name, world.pod(&name).unwrap(), port)?;
    assert_eq!(backend.namespace, "a");
    Ok((backend.service, backend.port, protocol))
}

#[test]
fn the_only_service_that_leads_to_a_port_is_found() {
    let unrelated = [
        service("other", "selector: {app: db}, ports: [{port: 8080}]"),
        service("stricter", "selector: {app: web, tier: back}, ports: [{port: 8080}]"),
        service("blind", "ports: [{port: 8080}]"),
        service("name", "type: ExternalName, externalName: x.example, selector: {app: web}, ports: [{port: 8080}]"),
        service("udp", "selector: {app: web}, ports: [{port: 8080, protocol: UDP}]"),
        service("unnamed", "selector: {app: web}, ports: [{port: 80, targetPort: setup}]"),
        service("web", "selector: {app: web}, ports: [{port: 8080}]").replace("namespace: a", "namespace: b"),
    ];
    for (spec, port, protocol) in [
        ("ports: [{port: 8080}]", 8080, Protocol::Detect),
        ("ports: [{port: 80, targetPort: 8080, appProtocol: http}]", 80, Protocol::Http),
        ("ports: [{port: 80, targetPort: http, appProtocol: grpc}]", 80, Protocol::Http2),
        ("clusterIP: None, ports: [{port: 80, targetPort: http, appProtocol: tcp}]", 80, Protocol::Opaque),
        ("ports: [{name: a, port: 81, targetPort: 9000}, {name: b, port: 82, targetPort: 8080}]", 82, Protocol::Detect),
        (
            "ports: [{name: a, port: 53, targetPort: 8080, protocol: UDP}, {name: b, port: 8080}]",
            8080,
            Protocol::Detect,
        ),
    ] {
        let mut services = vec![service("web", &format!("selector: {{app: web}}, {spec}"))];
        services.extend(unrelated.iter().cloned());
        assert_eq!(only(&services, 8080), Ok(("web".to_owned(), port, protocol)), "{spec}");
    }
}

#[test]
fn none_applies_where_there_is_none_or_more_than_one() {
    let web = |name: &str, ports: &str| service(name, &format!("selector: {{app: web}}, ports: [{ports}]"));
    let many: Vec<String> = (1..=8).map(|n| web(&format!("s{n}"), "{port: 8080}")).collect();
    for (services, why) in [
        (vec![], "no Service selects Pod a/web-1"),
        (vec![service("db", "selector: {app: db}, ports: [{port: 8080}]")], "no Service selects Pod a/web-1"),
        (
            vec![web("x", "{port: 80}"), web("y", "{port: 81}")],
            "no Service leads to port 8080 of Pod a/web-1; those that select it (x, y) lead elsewhere",
        ),
        (
            vec![web("x", "{port: 80, targetPort: 8080}"), web("y", "{port: 8080}"), web("z", "{port: 1}")],
            "Services x and y both lead to port 8080 of Pod a/web-1: none applies",
        ),
        (
            vec![web("x", "{port: 80, targetPort: http}"), web("y", "{port: 8080}"), web("z", "{port: 8080}")],
            "Services x, y and z all lead to port 8080 of Pod a/web-1: none applies",
        ),
        (
            vec![web("x", "{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8080}")],
            "ports 80 and 81 of Service x lead to port 8080 of Pod a/web-1: none applies",
        ),
        (
            vec![
                web("x", "{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8080}"),
                web("y", "{port: 8080}"),
            ],
            "Services x and y both lead to port 8080 of Pod a/web-1: none applies",
        ),
        (many, "Services s1, s2, s3, s4, s5 and 3 more all lead to port 8080 of Pod a/web-1: none applies"),
    ] {
        assert_eq!(only(&services, 8080), Err(why.to_owned()));
    }
}

#[test]
fn a_services_own_port_says_nothing_about_the_pod() {
    let web = service("web", "selector: {app: web}, ports: [{port: 80, targetPort: http}]");
    assert!(only(std::slice::from_ref(&web), 8080).is_ok());
    assert!(only(&[web], 80).unwrap_err().contains("(web) lead elsewhere"));
}

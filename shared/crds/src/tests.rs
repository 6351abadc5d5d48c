//! Tables of objects as Kubernetes writes them, read into the slim types.

use std::net::IpAddr;

use crate::{
    ClusterIp, EndpointSlice, Kind, Name, Namespace, Object, Pod, PortTarget, Service, Transport,
    labels::{InboundMode, Inject},
};

fn read<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

#[test]
fn reads_a_pod_as_kubernetes_writes_it() {
    let pod: Pod = read(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web-1","namespace":"emojivoto","labels":null,
        "ownerReferences":[{"kind":"X","name":"x"},{"kind":"ReplicaSet","name":"web-6d4","controller":true}]},
        "spec":{"serviceAccountName":"web","containers":[{"name":"web","image":"x","ports":[
        {"containerPort":8080,"name":"http","protocol":"TCP"},{"containerPort":53,"protocol":"UDP"}]}],
        "initContainers":[{"name":"once","ports":[{"containerPort":1}]},
        {"name":"side","restartPolicy":"Always","ports":[{"containerPort":9090}]}]},
        "status":{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],"phase":"Running"}}"#,
    );
    let ips: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(pod.ips().collect::<Vec<_>>(), ips);
    assert_eq!(pod.service_account(), "web");
    assert_eq!(pod.metadata.controller().unwrap().name, "web-6d4");
    let running = pod.long_running_containers().flat_map(|container| &container.ports);
    assert_eq!(running.map(|port| port.container_port).collect::<Vec<_>>(), [8080, 53, 9090]);
    assert_eq!(pod.spec.containers[0].ports[1].protocol, Transport::Udp);
}

#[test]
fn a_pod_says_where_it_is_and_whether_it_still_runs() {
    let ips = |pod: &Pod| pod.own_ips().map(|ip| ip.to_string()).collect::<Vec<_>>();
    let (dual, v4) = (r#""podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}]"#, r#""podIP":"10.0.0.1""#);
    for (spec, status, own) in [
        ("", format!("{v4},{dual}"), vec!["10.0.0.1", "fd00::1"]),
        ("", dual.to_owned(), vec!["10.0.0.1", "fd00::1"]),
        ("", v4.to_owned(), vec!["10.0.0.1"]),
        ("", r#""podIP":"::ffff:10.0.0.1","podIPs":[{"ip":"10.0.0.1"}]"#.to_owned(), vec!["10.0.0.1"]),
        (r#""hostNetwork":true"#, format!("{v4},{dual}"), vec![]),
        ("", String::new(), vec![]),
    ] {
        let pod: Pod = read(&format!(r#"{{"spec":{{{spec}}},"status":{{{status}}}}}"#));
        assert_eq!(ips(&pod), own, "{spec} {status}");
    }
    for (phase, finished) in
        [("\"Pending\"", false), ("\"Running\"", false), ("null", false), ("\"Succeeded\"", true), ("\"Failed\"", true)]
    {
        let pod: Pod = read(&format!(r#"{{"status":{{"phase":{phase}}}}}"#));
        assert_eq!(pod.has_finished(), finished, "{phase}");
    }
    for (meta, deleted) in [
        ("{}", false),
        (r#"{"deletionTimestamp":null}"#, false),
        (r#"{"deletionTimestamp":"2026-11-22T04:00:00Z"}"#, true),
    ] {
        let pod: Pod = read(&format!(r#"{{"metadata":{meta}}}"#));
        assert_eq!(pod.metadata.is_being_deleted(), deleted, "{meta}");
    }
}

#[test]
fn reads_a_service_as_kubernetes_writes_it() {
    let service: Service = read(
        r#"{"metadata":{"name":"web"},"spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1","fd00::9"],
        "selector":{"app":"web"},"ports":[{"port":80,"targetPort":"http","appProtocol":"http"},
        {"port":81,"targetPort":8081},{"port":53,"protocol":"UDP"}]}}"#,
    );
    assert_eq!(service.cluster_ips().count(), 2);
    assert_eq!(service.tcp_ports().map(|port| port.port).collect::<Vec<_>>(), [80, 81]);
    assert_eq!(service.spec.ports[0].target_port, Some(PortTarget::Name("http".into())));
    assert_eq!(service.spec.ports[1].target_port, Some(PortTarget::Number(8081)));
    let mapped: Service = read(r#"{"spec":{"clusterIP":"::ffff:10.96.0.1","clusterIPs":["10.96.0.1"]}}"#);
    assert_eq!(mapped.cluster_ips().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["10.96.0.1"]);
    let headless: Service = read(r#"{"metadata":{"name":"db"},"spec":{"clusterIP":"None","clusterIPs":["None"]}}"#);
    assert_eq!(headless.spec.cluster_ip, ClusterIp(None));
    assert_eq!(headless.cluster_ips().count(), 0);
}

#[test]
fn empty_values_are_what_kubernetes_makes_of_them() {
    for target in ["0", "\"\"", "null"] {
        let service: Service = read(&format!(r#"{{"spec":{{"ports":[{{"port":80,"targetPort":{target}}}]}}}}"#));
        assert_eq!(service.spec.ports[0].target_port, None, "{target}");
    }
    let pod: Pod = read(r#"{"metadata":{"labels":{"a":null,"b":"x"},"annotations":{"note":null}}}"#);
    assert_eq!((pod.metadata.label("a"), pod.metadata.label("b")), (Some(""), Some("x")));
    assert_eq!(pod.metadata.annotation("note"), Some(""));
}

#[test]
fn the_old_name_of_the_service_account_counts_where_the_new_one_is_empty() {
    for (spec, account) in [
        (r#"{"serviceAccount":"old"}"#, "old"),
        (r#"{"serviceAccountName":"","serviceAccount":"old"}"#, "old"),
        (r#"{"serviceAccountName":"new","serviceAccount":"old"}"#, "new"),
        (r#"{"serviceAccountName":null,"serviceAccount":null}"#, "default"),
    ] {
        let pod: Pod = read(&format!(r#"{{"spec":{spec}}}"#));
        assert_eq!(pod.service_account(), account, "{spec}");
    }
}

#[test]
fn refuses_values_that_no_cluster_could_hold() {
    for bad in [
        r#"{"spec":{"clusterIP":"web"}}"#,
        r#"{"spec":{"ports":[{"port":70000}]}}"#,
        r#"{"spec":{"ports":[{"targetPort":80}]}}"#,
        r#"{"spec":{"ports":[{"port":80,"targetPort":-1}]}}"#,
        r#"{"spec":{"ports":[{"port":80,"targetPort":65536}]}}"#,
        r#"{"spec":{"ports":[{"port":80,"protocol":"tcp"}]}}"#,
    ] {
        assert!(serde_json::from_str::<Service>(bad).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<Pod>(r#"{"status":{"podIP":"10.0.0.300"}}"#).is_err());
    assert!(serde_json::from_str::<EndpointSlice>(r#"{"addressType":"ipv4"}"#).is_err());
}

#[test]
fn reads_a_slice_and_finds_its_service() {
    let slice: EndpointSlice = read(
        r#"{"metadata":{"name":"web-x","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
        "ports":[{"name":"","port":8080}],"endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":null},
        "targetRef":{"kind":"Pod","name":"web-1"}},{"addresses":["10.0.0.2"],"conditions":null}]}"#,
    );
    assert_eq!(slice.service(), Some("web"));
    assert_eq!(slice.endpoints[0].conditions.ready, None);
    let hinted: EndpointSlice = read(
        r#"{"endpoints":[{"addresses":["10.0.0.1"],"nodeName":"n1","zone":"east","hints":{"forZones":[{"name":"east"}],
        "forNodes":null}},{"addresses":["10.0.0.2"],"hints":null}]}"#,
    );
    let hints = hinted.endpoints[0].hints.as_ref().unwrap();
    assert_eq!((hints.for_zones[0].name.as_str(), hints.for_nodes.len()), ("east", 0));
    assert_eq!((hinted.endpoints[0].node_name.as_deref(), &hinted.endpoints[1].hints), (Some("n1"), &None));
}

#[test]
fn a_service_has_a_first_family() {
    for (spec, v6) in [
        (r#""clusterIP":"10.96.0.1","ipFamilies":["IPv4","IPv6"]"#, false),
        (r#""clusterIP":"fd00::9""#, true),
        (r#""clusterIP":"None","ipFamilies":["IPv6","IPv4"]"#, true),
        (r#""clusterIP":"None","ipFamilies":["IPv4","IPv6"]"#, false),
        (r#""clusterIP":"None","ipFamilies":null"#, false),
    ] {
        let service: Service = read(&format!(r#"{{"spec":{{{spec}}}}}"#));
        assert_eq!(service.prefers_ipv6(), v6, "{spec}");
    }
}

#[test]
fn keys_name_objects_as_the_cluster_would() {
    let pod = Object::Pod(read(r#"{"metadata":{"name":"a"}}"#));
    assert_eq!(pod.key().name, Name::new("default", "a"));
    assert_eq!(pod.key().to_string(), "Pod default/a");
    let namespace = Object::Namespace(read::<Namespace>(r#"{"metadata":{"name":"prod","namespace":"odd"}}"#));
    assert_eq!(namespace.key().to_string(), "Namespace prod");
    for kind in Kind::ALL {
        assert_eq!(Kind::from_name(kind.as_str()), Some(kind));
    }
    assert_eq!(Kind::from_name("pod"), None);
}

#[test]
fn annotation_values_are_exact_and_errors_name_the_key() {
    assert_eq!("strict".parse(), Ok(InboundMode::Strict));
    assert_eq!("ingress".parse(), Ok(Inject::Ingress));
    for bad in ["Strict", "", "strict ", "yes"] {
        let error = bad.parse::<InboundMode>().unwrap_err();
        assert!(error.to_string().contains("config.lacewing.dev/inbound") && error.to_string().contains("permissive"));
        let error = bad.parse::<Inject>().unwrap_err();
        assert!(error.to_string().contains("lacewing.dev/inject"), "{error}");
    }
}

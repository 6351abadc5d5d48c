//! Tables of NetworkPolicies: what selects whom, what is opened to whom at which port, and the words where it is not.

use serde_json::{Value, from_value, json};

use super::*;
use crate::check::{
    Outcome::{self, Error, Success, Warning},
    tests::{all_good, one_is, told},
};

fn namespace(name: &str) -> Meta {
    from_value(json!({ "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } } })).expect("one")
}

fn pod(namespace: &str, name: &str, address: &str, app: &str, ports: &Value) -> Pod {
    let version = if namespace == "shop" { json!({ "lacewing.dev/proxy-version": "0.1.0" }) } else { json!({}) };
    let labels = if app == "kube-dns" { json!({ "k8s-app": app }) } else { json!({ "app": app }) };
    from_value(json!({
        "metadata": { "namespace": namespace, "name": name, "labels": labels, "annotations": version },
        "spec": { "containers": [{ "name": "c", "ports": ports }] },
        "status": { "podIP": address },
    }))
    .expect("a pod")
}

fn facts(policies: &[Value]) -> Facts {
    let grpc = json!([{ "name": "grpc", "containerPort": 8080 }, { "name": "webhook", "containerPort": 8443 }]);
    let controller = pod("lacewing", "lacewing-controller-1", "10.2.0.9", "controller", &grpc);
    let dns =
        pod("kube-system", "coredns-1", "10.2.0.53", "kube-dns", &json!([{ "containerPort": 53, "protocol": "UDP" }]));
    let service = json!({ "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": 443 }] } });
    let endpoints = json!([{ "addresses": ["192.168.0.1"] }, { "addresses": ["192.168.0.2"] }]);
    let slice = json!({ "endpoints": endpoints, "ports": [{ "port": 6443 }] });
    let slice: EndpointSlice = from_value(slice).expect("a slice");
    Facts {
        policies: Ok(policies.iter().map(|policy| from_value(policy.clone()).expect("a policy")).collect()),
        namespaces: Ok(["lacewing", "shop", "kube-system"].map(namespace).to_vec()),
        pods: Ok(vec![pod("shop", "web-1", "10.2.1.1", "web", &json!([])), controller.clone(), dns]),
        controllers: Ok(vec![controller]),
        server: [Ok(Door::of_service(&from_value(service).expect("a service"))), Ok(Door::of_slices(&[slice]))],
        cilium: false,
    }
}

fn policy(namespace: &str, spec: &Value) -> Value {
    json!({ "metadata": { "namespace": namespace, "name": "p" }, "spec": spec })
}

/// A policy in `lacewing` that lets the API server in, and `rule`.
fn in_by(rule: &Value) -> Value {
    policy("lacewing", &json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 8443 }] }, rule] }))
}

/// A policy in `shop` that lets DNS out, and `rule`.
fn out_by(rule: &Value) -> Value {
    let dns = json!({ "ports": [{ "port": 53, "protocol": "UDP" }] });
    policy("shop", &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [dns, rule] }))
}

fn of(name: &str) -> Value {
    json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } })
}

/// What the check of the proxies says.
fn proxies_are(policies: &[Value]) -> Outcome {
    let checks = judge(&facts(policies));
    assert_eq!((checks[0].result, checks[2].result), (Success, Success), "{:#?}", told(&checks));
    checks[1].result
}

#[test]
fn peers_of_a_rule_mean_what_kubernetes_means() {
    let app = |name: &str| json!({ "matchLabels": { "app": name } });
    let own = |key: &str, operator: &str, values: &[&str]| json!({ "namespaceSelector": { "matchExpressions": [{ "key": key, "operator": operator, "values": values }] } });
    let name = "kubernetes.io/metadata.name";
    for (peer, expected) in [
        (of("shop"), Success),
        (of("other"), Error),
        (json!({ "namespaceSelector": {} }), Success),
        (json!({ "namespaceSelector": {}, "podSelector": app("web") }), Success),
        (json!({ "namespaceSelector": {}, "podSelector": app("db") }), Error),
        // Without a namespaceSelector the pods of the policy's own namespace are meant.
        (json!({ "podSelector": app("web") }), Error),
        (json!({ "podSelector": {} }), Error),
        (own(name, "In", &["shop", "till"]), Success),
        (own(name, "NotIn", &["shop"]), Error),
        (own("team", "NotIn", &["a"]), Success),
        (own("team", "Exists", &[]), Error),
        (own("team", "DoesNotExist", &[]), Success),
        (json!({ "ipBlock": { "cidr": "10.2.0.0/16" } }), Success),
        (json!({ "ipBlock": { "cidr": "10.3.0.0/16" } }), Error),
        (json!({ "ipBlock": { "cidr": "10.2.0.0/16", "except": ["10.2.1.0/24"] } }), Error),
        (json!({ "ipBlock": { "cidr": "::/0" } }), Error),
        (json!({ "ipBlock": { "cidr": "10.2.1.1/16" } }), Warning),
    ] {
        assert_eq!(proxies_are(&[in_by(&json!({ "from": [&peer] }))]), expected, "{peer}");
        let others = [of("elsewhere"), peer.clone()];
        assert_eq!(proxies_are(&[in_by(&json!({ "from": others }))]), expected, "any of them: {peer}");
    }
    let mut cilium = facts(&[in_by(&json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }] }))]);
    all_good(&judge(&cilium));
    cilium.cilium = true;
    one_is(&judge(&cilium), Warning, &["lacewing/p may or may not let TCP 8080 in from shop/web-1", "Cilium"]);
}

#[test]
fn ports_are_numbers_ranges_or_names_of_the_one_that_is_reached() {
    let controller = of("lacewing");
    for (ports, expected) in [
        (json!([]), Success),
        (json!(null), Success),
        (json!([{ "port": 8080 }]), Success),
        (json!([{ "port": 8080, "protocol": "TCP" }]), Success),
        (json!([{ "protocol": "TCP" }]), Success),
        (json!([{ "port": 8000, "endPort": 9000 }]), Success),
        (json!([{ "port": "grpc" }]), Success),
        (json!([{ "port": 443 }, { "port": 8080 }]), Success),
        (json!([{ "port": 443 }]), Error),
        (json!([{ "port": "webhook" }]), Error),
        (json!([{ "port": 8080, "protocol": "UDP" }]), Error),
        (json!([{ "protocol": "UDP" }]), Error),
        (json!([{ "port": 8081, "endPort": 9000 }]), Error),
    ] {
        assert_eq!(proxies_are(&[out_by(&json!({ "ports": &ports, "to": [&controller] }))]), expected, "out: {ports}");
        assert_eq!(proxies_are(&[in_by(&json!({ "ports": &ports, "from": [of("shop")] }))]), expected, "in: {ports}");
    }
}

#[test]
fn what_closes_and_what_opens() {
    let nothing = json!({ "podSelector": {}, "policyTypes": ["Ingress"] });
    one_is(
        &judge(&facts(&[in_by(&json!({ "from": [of("till")] }))])),
        Error,
        &[
            "lacewing/p does not let TCP 8080 in from shop/web-1",
            "`kubectl edit networkpolicy p -n lacewing`: let TCP 8080 in",
        ],
    );
    // What another policy opens is open.
    all_good(&judge(&facts(&[policy("lacewing", &nothing), in_by(&json!({ "ports": [{ "port": 8080 }] }))])));
    // Not of this pod, not of this namespace, not of this direction.
    for harmless in [
        policy("shop", &json!({ "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Egress"] })),
        policy("till", &json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] })),
        policy("shop", &nothing),
        policy("shop", &json!({ "podSelector": {} })),
        policy("lacewing", &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": [{}] })),
    ] {
        all_good(&judge(&facts(&[harmless])));
    }
    // Egress is closed by having a rule, too, where no types are written.
    let untyped = policy("shop", &json!({ "podSelector": {}, "egress": [{ "to": [of("kube-system")] }] }));
    one_is(&judge(&facts(&[untyped])), Error, &["shop/p does not let TCP 8080 out from shop/web-1", "-n shop`"]);
    all_good(&judge(&facts(&[])));
}

#[test]
fn before_anything_is_meshed_only_a_wall_is_an_error() {
    let mut none = facts(&[in_by(&json!({ "from": [of("till")] }))]);
    none.pods = Ok(Vec::new());
    all_good(&judge(&none));
    none = facts(&[in_by(&json!({ "ports": [{ "port": 9990 }] }))]);
    none.pods = Ok(Vec::new());
    one_is(&judge(&none), Error, &["does not let TCP 8080 in from whoever asks"]);
}

#[test]
fn the_api_server_is_no_pod() {
    let from = |peer: &Value| {
        let webhook = json!({ "ports": [{ "port": "webhook" }], "from": [peer] });
        policy("lacewing", &json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 8080 }] }, webhook] }))
    };
    let closed = ["does not let TCP 8443 in from the API server", "`kubectl edit networkpolicy p -n lacewing`"];
    let unsure = ["may or may not let TCP 8443 in from the API server", "cannot be known"];
    one_is(&judge(&facts(&[from(&json!({ "podSelector": {} }))])), Error, &closed);
    one_is(&judge(&facts(&[from(&of("kube-system"))])), Warning, &unsure);
    one_is(&judge(&facts(&[from(&json!({ "ipBlock": { "cidr": "10.0.0.0/8" } }))])), Warning, &unsure);
    all_good(&judge(&facts(&[from(&json!({ "ipBlock": { "cidr": "192.168.0.0/24" } }))])));
    let mut hidden = facts(&[from(&json!({ "ipBlock": { "cidr": "192.168.0.0/24" } }))]);
    hidden.server[0] = Err(forbidden());
    all_good(&judge(&hidden));
    hidden.server[1] = Err(forbidden());
    one_is(&judge(&hidden), Warning, &["may or may not let TCP 8443 in from the API server", "you may not list it"]);
}

#[test]
fn the_way_to_the_api_server_is_by_its_service_and_by_what_is_behind_it() {
    let out = |rules: Value| {
        let spec = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": rules });
        facts(&[policy("lacewing", &spec)])
    };
    let block = |cidr: &str| json!({ "ipBlock": { "cidr": cidr } });
    let (service, behind) = (block("10.96.0.0/12"), block("192.168.0.0/30"));
    let [one, two] = ["192.168.0.1/32", "192.168.0.2/32"].map(block);
    for (rules, expected) in [
        (json!([{ "ports": [{ "port": 443 }, { "port": 6443 }] }]), Success),
        (json!([{ "to": [block("0.0.0.0/0")] }]), Success),
        (json!([{ "to": [service, behind] }]), Success),
        (json!([{ "to": [service], "ports": [{ "port": 443 }] }, { "to": [behind] }]), Success),
        (json!([{ "to": [service, one, two] }]), Success),
        (json!([{ "to": [service] }, { "to": [one] }, { "to": [two] }]), Success),
        // A part of the ways: it depends on who judges.
        (json!([{ "to": [service, one] }]), Warning),
        (json!([{ "ports": [{ "port": 6443 }] }]), Warning),
        (json!([{ "ports": [{ "port": 443 }] }]), Warning),
        (json!([{ "to": [behind] }]), Warning),
        (json!([{ "to": [service] }]), Warning),
        (json!([{ "to": [{ "namespaceSelector": {} }] }]), Warning),
        (json!([{ "ports": [{ "port": 80 }] }]), Error),
        (json!([{ "ports": [{ "port": "https" }] }]), Error),
        (json!([{ "to": [block("172.16.0.0/12")] }]), Error),
        (json!([{ "to": [service], "ports": [{ "port": 6443 }] }]), Error),
        (json!([{ "to": [{ "podSelector": {} }] }]), Error),
    ] {
        let checks = judge(&out(rules.clone()));
        let checks = &checks[..1];
        match expected {
            Success => all_good(checks),
            Warning => one_is(checks, Warning, &["may or may not let TCP to the API server out", "default/kubernetes"]),
            Error => one_is(checks, Error, &["TCP to the API server out from lacewing-controller-1", "443 and 6443"]),
        }
        let [check, ..] = &judge(&blind(out(rules.clone())))[..] else { panic!("{rules}") };
        let is_open = rules == json!([{ "ports": [{ "port": 443 }, { "port": 6443 }] }]);
        assert_eq!(check.result, if is_open { Success } else { Warning }, "{rules}");
    }
    one_is(
        &judge(&blind(out(json!([{ "to": [behind] }]))))[..1],
        Warning,
        &["where the API server listens cannot be known: you may not list it"],
    );
    let mut cilium = out(json!([{ "to": [block("0.0.0.0/0")] }]));
    cilium.cilium = true;
    one_is(&judge(&cilium)[..1], Warning, &["may or may not let TCP to the API server out"]);
}

fn blind(facts: Facts) -> Facts {
    Facts { server: [Err(forbidden()), Err(forbidden())], ..facts }
}

#[test]
fn what_is_to_be_let_out_is_where_the_api_server_listens() {
    let egress = json!([{ "ports": [{ "port": 443 }, { "port": 6443 }] }]);
    let spec = json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": egress });
    let mut elsewhere = facts(&[policy("lacewing", &spec)]);
    for door in &mut elsewhere.server {
        door.as_mut().expect("known").ports.iter_mut().filter(|port| **port == 6443).for_each(|port| *port = 16_443);
    }
    one_is(&judge(&elsewhere)[..1], Warning, &["let TCP 443 and 16443 out"]);
}

#[test]
fn without_dns_a_proxy_does_not_find_the_controller() {
    let out = |rules: Value| policy("shop", &json!({ "podSelector": {}, "policyTypes": ["Egress"], "egress": rules }));
    let grpc = || json!({ "to": [of("lacewing")], "ports": [{ "port": 8080 }] });
    let dns = |to: Value| json!({ "to": to, "ports": [{ "port": 53, "protocol": "UDP" }] });
    one_is(
        &judge(&facts(&[out(json!([grpc()]))])),
        Error,
        &["shop/p does not let UDP 53 out from shop/web-1", "kube-system"],
    );
    all_good(&judge(&facts(&[out(json!([grpc(), dns(json!([of("kube-system")]))]))])));
    let elsewhere = facts(&[out(json!([grpc(), dns(json!([{ "ipBlock": { "cidr": "169.254.20.10/32" } }]))]))]);
    one_is(&judge(&elsewhere), Warning, &["may or may not let UDP 53 out", "k8s-app=kube-dns"]);
}

fn forbidden() -> ApiError {
    ApiError::new(crate::cluster::Cause::Forbidden, "you may not list it").hint("`kubectl auth`")
}

#[test]
fn what_may_not_be_read_is_a_warning() {
    one_is(&judge(&Facts { policies: Err(forbidden()), ..facts(&[]) }), Warning, &["you may not list it"]);
    one_is(&judge(&Facts { namespaces: Err(forbidden()), ..facts(&[]) }), Warning, &["you may not list it"]);
}

/// Those of `docs/install.md`, beside policies that close everything.
#[test]
fn the_policies_of_the_documentation_open_what_is_needed() {
    let page = include_str!("../../../../docs/install.md");
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let documented: Vec<Value> = blocks
        .filter(|block| block.contains("kind: NetworkPolicy"))
        .flat_map(|block| block.split("---\n"))
        .map(|text| serde_yaml::from_str(text).expect("YAML"))
        .collect();
    assert_eq!(documented.len(), 2);
    let mut all: Vec<Value> = ["lacewing", "shop"]
        .map(|home| policy(home, &json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] })))
        .to_vec();
    let closed = judge(&facts(&all));
    assert!(closed.iter().all(|check| check.result == Error), "{:#?}", told(&closed));
    all.extend(documented);
    all_good(&judge(&facts(&all)));
}

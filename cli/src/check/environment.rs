//! Owns the checks of what the cluster does to the mesh from outside: nodes and their kernels, a CNI that balances at
//! the socket, NetworkPolicies that keep proxies from the controller.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Check, install::controllers, some_of};
use crate::cluster::{
    ApiError, Cluster,
    objects::{ConfigMap, NetworkPolicy, NetworkPolicyRule, Node, Pod, Selector},
};

/// nf_tables with what the redirection needs came with this kernel.
const KERNEL_MIN: (u32, u32) = (5, 0);
const CILIUM: &str = "/api/v1/namespaces/kube-system/configmaps/cilium-config";
/// Ports of the controller that must be open: to proxies, and to the API server.
const CONTROLLER_PORTS: [u16; 2] = [8080, 8443];
const GRPC_PORT: u16 = 8080;

pub struct Facts {
    pub nodes: Result<Vec<Node>, ApiError>,
    pub cilium: Result<Option<ConfigMap>, ApiError>,
    pub policies: Result<Vec<NetworkPolicy>, ApiError>,
    pub controllers: Result<Vec<Pod>, ApiError>,
    pub meshed: Result<Vec<Pod>, ApiError>,
}

pub async fn gather(cluster: &Cluster) -> Facts {
    let (nodes, cilium, policies, controllers, pods) = tokio::join!(
        cluster.list("/api/v1/nodes"),
        cluster.find(CILIUM),
        cluster.list("/apis/networking.k8s.io/v1/networkpolicies"),
        controllers(cluster),
        cluster.list::<Pod>("/api/v1/pods")
    );
    let meshed = |pods: Vec<Pod>| pods.into_iter().filter(|pod| pod.is_meshed() && pod.is_staying()).collect();
    Facts { nodes, cilium, policies, controllers, meshed: pods.map(meshed) }
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    vec![nodes(&facts.nodes), sockets(&facts.cilium), to_the_controller(facts), from_the_proxies(facts)]
}

fn nodes(nodes: &Result<Vec<Node>, ApiError>) -> Check {
    let (major, minor) = KERNEL_MIN;
    let description = format!("the nodes run Linux {major}.{minor} or later");
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return Check::unknown(description, error),
    };
    let is_new = |kernel: &str| {
        let mut parts = kernel.split(['.', '-']).map(str::parse::<u32>);
        matches!((parts.next(), parts.next()), (Some(Ok(a)), Some(Ok(b))) if (a, b) >= KERNEL_MIN)
    };
    let others: Vec<String> = nodes
        .iter()
        .map(|node| (&node.metadata.name, &node.status.node_info))
        .filter(|(_, info)| info.operating_system != "linux" || !is_new(&info.kernel_version))
        .map(|(name, info)| format!("{name} ({} {})", info.operating_system, info.kernel_version))
        .collect();
    if others.is_empty() {
        return Check::good(format!("{description} ({})", nodes.len()));
    }
    let fix = "keep meshed pods off these nodes (nodeSelector kubernetes.io/os: linux), or renew them";
    Check::bad(description, some_of(&others), fix).mild()
}

fn sockets(cilium: &Result<Option<ConfigMap>, ApiError>) -> Check {
    let description = "no CNI chooses endpoints before the proxy can";
    let data = match cilium {
        Ok(Some(config)) => &config.data,
        Ok(None) => return Check::good(description),
        Err(error) => return Check::unknown(description, error),
    };
    let says = |key: &str, values: &[&str]| data.get(key).is_some_and(|value| values.contains(&value.as_str()));
    let at_socket = says("kube-proxy-replacement", &["true", "strict"]) || says("bpf-lb-sock", &["true"]);
    if !at_socket || says("bpf-lb-sock-hostns-only", &["true"]) {
        return Check::good(description);
    }
    let message = "Cilium balances at the socket inside pods: the proxy sees a pod's address instead of the Service's, and \
                   each connection stays with one endpoint";
    Check::bad(description, message, "`cilium config set bpf-lb-sock-hostns-only true`, then restart the meshed pods")
        .mild()
}

fn to_the_controller(facts: &Facts) -> Check {
    let description = "no NetworkPolicy closes the controller's ports";
    let (policies, controllers) = match (&facts.policies, &facts.controllers) {
        (Ok(policies), Ok(controllers)) => (policies, controllers),
        (Err(error), _) | (_, Err(error)) => return Check::unknown(description, error),
    };
    for pod in controllers {
        for port in CONTROLLER_PORTS {
            if let Some(names) = closed(policies, pod, port, Way::In) {
                let message = format!("nothing may come in at port {port} of {}: {}", pod.name(), some_of(&names));
                let fix = "allow TCP 8080 from meshed pods and TCP 8443 from the API server in namespace lacewing";
                return Check::bad(description, message, fix);
            }
        }
    }
    Check::good(description)
}

fn from_the_proxies(facts: &Facts) -> Check {
    let description = "no NetworkPolicy keeps proxies from the controller";
    let (policies, meshed) = match (&facts.policies, &facts.meshed) {
        (Ok(policies), Ok(meshed)) => (policies, meshed),
        (Err(error), _) | (_, Err(error)) => return Check::unknown(description, error),
    };
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in meshed {
        if let Some(names) = closed(policies, pod, GRPC_PORT, Way::Out) {
            held.entry(format!("{}/{}", pod.namespace(), pod.name())).or_insert(names);
        }
    }
    let Some((_, policies)) = held.first_key_value() else { return Check::good(description) };
    let message = format!(
        "{} and others hold back TCP {GRPC_PORT} of: {}",
        some_of(policies),
        some_of(&held.keys().collect::<Vec<_>>())
    );
    let message = message.replacen(" and others", "", usize::from(policies.len() == 1));
    Check::bad(description, message, format!("allow egress to namespace lacewing at TCP {GRPC_PORT}, and to DNS"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// The policies that together leave nobody at all through at `port`; none if some rule may let somebody. Whom a rule
/// means is not judged: what may be open counts as open.
fn closed(policies: &[NetworkPolicy], pod: &Pod, port: u16, way: Way) -> Option<Vec<String>> {
    let kind = if way == Way::In { "Ingress" } else { "Egress" };
    let applies = |policy: &&NetworkPolicy| {
        let spec = &policy.spec;
        let typed = match (spec.policy_types.is_empty(), way) {
            (true, Way::In) => true,
            (true, Way::Out) => !spec.egress.is_empty(),
            (false, _) => spec.policy_types.iter().any(|typed| typed == kind),
        };
        typed
            && policy.metadata.namespace.as_deref() == Some(pod.namespace())
            && selects(&spec.pod_selector, &pod.metadata.labels.to_map())
    };
    let applying: Vec<&NetworkPolicy> = policies.iter().filter(applies).collect();
    let rules =
        |policy: &NetworkPolicy| if way == Way::In { policy.spec.ingress.clone() } else { policy.spec.egress.clone() };
    if applying.is_empty() || applying.iter().any(|policy| rules(policy).iter().any(|rule| may_open(rule, port))) {
        return None;
    }
    Some(applying.iter().map(|policy| format!("{}/{}", pod.namespace(), policy.metadata.name)).collect())
}

fn may_open(rule: &NetworkPolicyRule, port: u16) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|allowed| {
            let tcp = allowed.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            let matches = match &allowed.port {
                Some(Value::Number(first)) => {
                    let first = first.as_u64().unwrap_or_default();
                    let last = allowed.end_port.map_or(first, u64::from);
                    (first..=last).contains(&port.into())
                }
                // No port is all of them; a name may be the one.
                _ => true,
            };
            tcp && matches
        })
}

fn selects(selector: &Selector, labels: &BTreeMap<String, String>) -> bool {
    let expression = |expression: &Value| {
        let own = expression["key"].as_str().and_then(|key| labels.get(key));
        let listed = expression["values"].as_array().is_some_and(|values| {
            values.iter().any(|value| value.as_str() == own.map(String::as_str) && own.is_some())
        });
        match expression["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("Exists") => own.is_some(),
            Some("DoesNotExist") => own.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(expression)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::check::{
        Outcome::{Error, Warning},
        tests::{all_good, one_is},
    };

    fn pod(namespace: &str, name: &str) -> Pod {
        from_value(json!({ "metadata": { "namespace": namespace, "name": name, "labels": { "app": "web" } } }))
            .expect("a pod")
    }

    fn node(os: &str, kernel: &str) -> Node {
        from_value(json!({ "metadata": { "name": "n1" }, "status": { "nodeInfo": { "operatingSystem": os, "kernelVersion": kernel } } }))
            .expect("a node")
    }

    #[allow(clippy::needless_pass_by_value, reason = "reads well where it is called")]
    fn policy(namespace: &str, spec: Value) -> NetworkPolicy {
        from_value(json!({ "metadata": { "namespace": namespace, "name": "p" }, "spec": spec })).expect("a policy")
    }

    #[allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "as it was asked for")]
    fn cilium(data: Value) -> Result<Option<ConfigMap>, ApiError> {
        Ok(Some(from_value(json!({ "data": data })).expect("a config map")))
    }

    fn facts() -> Facts {
        Facts {
            nodes: Ok(vec![node("linux", "6.1.0-18-amd64"), node("linux", "5.10.0")]),
            cilium: Ok(None),
            policies: Ok(Vec::new()),
            controllers: Ok(vec![pod("lacewing", "lacewing-controller-1")]),
            meshed: Ok(vec![pod("shop", "web-1")]),
        }
    }

    #[test]
    fn nodes_and_the_cni_are_looked_at() {
        all_good(&judge(&facts()));
        one_is(
            &judge(&Facts { nodes: Ok(vec![node("windows", "10.0.20348")]), ..facts() }),
            Warning,
            &["n1 (windows", "nodeSelector"],
        );
        one_is(
            &judge(&Facts { nodes: Ok(vec![node("linux", "4.19.0-26")]), ..facts() }),
            Warning,
            &["n1 (linux 4.19.0-26)"],
        );
        let replaced = || cilium(json!({ "kube-proxy-replacement": "true" }));
        one_is(
            &judge(&Facts { cilium: replaced(), ..facts() }),
            Warning,
            &["at the socket", "bpf-lb-sock-hostns-only true"],
        );
        all_good(&judge(&Facts {
            cilium: cilium(json!({ "kube-proxy-replacement": "true", "bpf-lb-sock-hostns-only": "true" })),
            ..facts()
        }));
        all_good(&judge(&Facts { cilium: cilium(json!({ "kube-proxy-replacement": "false" })), ..facts() }));
    }

    #[test]
    fn policies_that_cut_the_mesh_off_are_named() {
        let with = |policies: Vec<NetworkPolicy>| judge(&Facts { policies: Ok(policies), ..facts() });
        let deny_all = policy("lacewing", json!({ "podSelector": {}, "policyTypes": ["Ingress"] }));
        one_is(
            &with(vec![deny_all.clone()]),
            Error,
            &["nothing may come in at port 8080", "lacewing/p", "TCP 8443 from the API server"],
        );
        let open = policy(
            "lacewing",
            json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 8080, "endPort": 9000 }] }] }),
        );
        all_good(&with(vec![deny_all, open]));
        let egress = |ports: Value| {
            policy(
                "shop",
                json!({ "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"], "egress": [{ "ports": ports }] }),
            )
        };
        one_is(
            &with(vec![egress(json!([{ "port": 443 }]))]),
            Error,
            &["shop/p hold back TCP 8080 of: shop/web-1", "allow egress"],
        );
        one_is(&with(vec![egress(json!([{ "port": 8080, "protocol": "UDP" }]))]), Error, &["shop/web-1"]);
        for may in [json!([{ "port": "grpc" }]), json!([{ "port": 8080 }]), json!([])] {
            all_good(&with(vec![egress(may)]));
        }
    }

    #[test]
    fn selectors_mean_what_kubernetes_means() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        for (selector, expected) in [
            (json!({}), true),
            (json!({ "matchLabels": { "app": "db" } }), false),
            (json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["web", "db"] }] }), true),
            (json!({ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["web"] }] }), false),
            (json!({ "matchExpressions": [{ "key": "zone", "operator": "NotIn", "values": ["a"] }] }), true),
            (json!({ "matchExpressions": [{ "key": "zone", "operator": "Exists" }] }), false),
            (json!({ "matchExpressions": [{ "key": "zone", "operator": "DoesNotExist" }] }), true),
        ] {
            let selector: Selector = from_value(selector.clone()).expect("a selector");
            assert_eq!(selects(&selector, &labels), expected, "{selector:?}");
        }
    }
}

//! Owns the checks of what the cluster does to the mesh from outside: nodes and their kernels, a CNI that balances at
//! the socket. NetworkPolicies are `network.rs`' business.

use super::{Check, some_of};
use crate::cluster::{
    ApiError, Cluster,
    objects::{ConfigMap, Node},
};

/// nf_tables with what the redirection needs came with this kernel.
const KERNEL_MIN: (u32, u32) = (5, 0);
pub const CILIUM: &str = "/api/v1/namespaces/kube-system/configmaps/cilium-config";

pub struct Facts {
    pub nodes: Result<Vec<Node>, ApiError>,
    pub cilium: Result<Option<ConfigMap>, ApiError>,
}

pub async fn gather(cluster: &Cluster) -> Facts {
    let (nodes, cilium) = tokio::join!(cluster.list("/api/v1/nodes"), cluster.find(CILIUM));
    Facts { nodes, cilium }
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    vec![nodes(&facts.nodes), sockets(&facts.cilium)]
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
    let fix = "keep meshed pods off these nodes (nodeSelector kubernetes.io/os: linux), or renew them; see them with \
               `kubectl get nodes -o wide`";
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::check::{
        Outcome::Warning,
        tests::{all_good, one_is},
    };

    fn node(os: &str, kernel: &str) -> Node {
        from_value(json!({ "metadata": { "name": "n1" }, "status": { "nodeInfo": { "operatingSystem": os, "kernelVersion": kernel } } }))
            .expect("a node")
    }

    #[allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "as it was asked for")]
    fn cilium(data: Value) -> Result<Option<ConfigMap>, ApiError> {
        Ok(Some(from_value(json!({ "data": data })).expect("a config map")))
    }

    fn facts() -> Facts {
        Facts { nodes: Ok(vec![node("linux", "6.1.0-18-amd64"), node("linux", "5.10.0")]), cilium: Ok(None) }
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
}

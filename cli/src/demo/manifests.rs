//! Owns what the demo tells the controller: the manifests that a cluster would hold, as YAML files in a directory.
//!
//! EndpointSlices are written again when a pod comes or goes, as the endpoint controller of Kubernetes would do.

use std::{collections::BTreeSet, fmt::Write, io, path::Path};

use crate::demo::{
    cast::{NAMESPACE, Pod, Port, WORKLOADS, Workload},
    state::write_atomically,
};

/// What the node would be called.
const NODE: &str = "this-machine";
/// Where the addresses of the Services lie; nothing listens there.
const CLUSTER_IP_PREFIX: &str = "10.96.7.";

/// Writes all manifests.
pub fn write(manifests: &Path, pods: &[Pod]) -> io::Result<()> {
    write_atomically(&manifests.join("namespace.yaml"), &namespace())?;
    for workload in &WORKLOADS {
        let mut text = String::new();
        if let Some(port) = &workload.port {
            text.push_str(&service(workload, port));
            write_slice(manifests, workload, pods, &BTreeSet::new())?;
        }
        for pod in pods_of(workload, pods) {
            text.push_str(&pod_manifest(workload, pod));
        }
        write_atomically(&manifests.join(format!("{}.yaml", workload.name())), &text)?;
    }
    Ok(())
}

/// Writes the EndpointSlice of `workload`; the pods named in `unready` get no traffic.
pub fn write_slice(manifests: &Path, workload: &Workload, pods: &[Pod], unready: &BTreeSet<String>) -> io::Result<()> {
    let Some(port) = &workload.port else { return Ok(()) };
    let text = endpoint_slice(workload, port, pods, unready);
    write_atomically(&manifests.join(format!("{}-endpoints.yaml", workload.name())), &text)
}

fn pods_of<'a>(workload: &'a Workload, pods: &'a [Pod]) -> impl Iterator<Item = &'a Pod> {
    pods.iter().filter(|pod| pod.workload == workload.name())
}

fn namespace() -> String {
    format!(
        "\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  annotations:
    lacewing.dev/inject: enabled
    config.lacewing.dev/inbound: strict
"
    )
}

fn service(workload: &Workload, port: &Port) -> String {
    let name = workload.name();
    let host = WORKLOADS.iter().position(|other| other.app == workload.app).unwrap_or_default() + 1;
    format!(
        "\
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {NAMESPACE}
spec:
  type: ClusterIP
  clusterIP: {CLUSTER_IP_PREFIX}{host}
  selector:
    app: {name}
  ports:
    - name: {port_name}
      port: {number}
      targetPort: {port_name}
      protocol: TCP
{app_protocol}",
        port_name = port.name,
        number = port.number,
        app_protocol = app_protocol(port, "      "),
    )
}

fn app_protocol(port: &Port, indent: &str) -> String {
    port.app_protocol.map_or_else(String::new, |protocol| format!("{indent}appProtocol: {protocol}\n"))
}

fn pod_manifest(workload: &Workload, pod: &Pod) -> String {
    let (app, hash) = (workload.name(), workload.template_hash);
    let ports = workload.port.as_ref().map_or_else(String::new, |port| {
        format!(
            "      ports:\n        - name: {}\n          containerPort: {}\n          protocol: TCP\n",
            port.name, port.number
        )
    });
    format!(
        "\
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels:
    app: {app}
    pod-template-hash: {hash:?}
  annotations:
    lacewing.dev/proxy-version: {version:?}
    lacewing.dev/proxy-address: {proxy}
  ownerReferences:
    - apiVersion: apps/v1
      kind: ReplicaSet
      name: {app}-{hash}
      uid: 5eed0000-0000-4000-8000-{uid:012x}
      controller: true
spec:
  serviceAccountName: {app}
  nodeName: {NODE}
  terminationGracePeriodSeconds: 30
  containers:
    - name: {app}
      image: lacewing.dev/demo/{app}
{ports}status:
  phase: Running
  podIP: {ip}
  podIPs:
    - ip: {ip}
  conditions:
    - type: Ready
      status: \"True\"
",
        name = pod.name,
        version = env!("CARGO_PKG_VERSION"),
        proxy = pod.inbound(),
        uid = workload.app as u8 + 1,
        ip = pod.ip,
    )
}

fn endpoint_slice(workload: &Workload, port: &Port, pods: &[Pod], unready: &BTreeSet<String>) -> String {
    let name = workload.name();
    let mut text = format!(
        "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-demo
  namespace: {NAMESPACE}
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
  - name: {port_name}
    port: {number}
    protocol: TCP
{app_protocol}endpoints:
",
        port_name = port.name,
        number = port.number,
        app_protocol = app_protocol(port, "    "),
    );
    for pod in pods_of(workload, pods) {
        let ready = !unready.contains(&pod.name);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - addresses:
      - {ip}
    conditions:
      ready: {ready}
      serving: {ready}
      terminating: false
    nodeName: {NODE}
    targetRef:
      kind: Pod
      name: {pod_name}
      namespace: {NAMESPACE}
",
            ip = pod.ip,
            pod_name = pod.name,
        );
    }
    text
}

#[cfg(test)]
mod tests;

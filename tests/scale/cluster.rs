//! A cluster in numbers: Services with their pods and slices, as an API server would write them, and one change after
//! another. Pure; every endpoint is known by the number of its Service and its place in the slice.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::{Value, json};

/// Namespaces over which the Services are spread.
pub const NAMESPACES: usize = 10;
/// Changes after which an endpoint that went comes back.
const AWAY: usize = 50;

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub services: usize,
    /// Of each Service.
    pub endpoints: usize,
}

/// What one endpoint is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Since this change, which its zone names.
    Ready(u32),
    NotReady,
    Absent,
}

/// One change: endpoint `at` of `service` is what `state` says.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub number: u32,
    pub service: usize,
    pub at: usize,
    pub state: State,
}

pub struct Cluster {
    pub size: Size,
    pub endpoints: Vec<Vec<State>>,
    away: VecDeque<(usize, usize)>,
    steps: u32,
    next: usize,
}

pub fn namespace(service: usize) -> String {
    format!("team-{}", service % NAMESPACES)
}

pub fn service_name(service: usize) -> String {
    format!("service-{service}")
}

pub fn pod_name(service: usize, at: usize) -> String {
    format!("service-{service}-7d9c5b8f6d-{at:05}")
}

pub fn cluster_ip(service: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, (service / 250) as u8, (service % 250 + 1) as u8)
}

fn pod_ip(service: usize, at: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 100 + (service / 250) as u8, (service % 250) as u8, (at + 1) as u8)
}

/// Which endpoint has this address.
pub fn endpoint_at(address: &str) -> Option<(usize, usize)> {
    let [_, high, low, at] = match address.parse::<SocketAddr>().ok()? {
        SocketAddr::V4(address) => address.ip().octets(),
        SocketAddr::V6(_) => return None,
    };
    Some((usize::from(high - 100) * 250 + usize::from(low), usize::from(at) - 1))
}

/// The change that a zone names; none that was there from the start.
pub fn change_of(zone: &str) -> Option<u32> {
    zone.strip_prefix("zone-")?.parse().ok()
}

impl Cluster {
    pub fn new(size: Size) -> Self {
        let endpoints = vec![vec![State::Ready(0); size.endpoints]; size.services];
        Self { size, endpoints, away: VecDeque::new(), steps: 0, next: 0 }
    }

    /// Makes the next change: in turn one endpoint goes (by readiness, or from the list), and one that went comes back.
    pub fn step(&mut self) -> Step {
        self.steps += 1;
        let back = if self.steps.is_multiple_of(2) && self.away.len() > AWAY { self.away.pop_front() } else { None };
        let (service, at, state) = if let Some((service, at)) = back {
            (service, at, State::Ready(self.steps))
        } else {
            // Each Service in turn, and of each its endpoints in turn: far more than come back meanwhile.
            let service = self.next % self.size.services;
            let at = self.next / self.size.services % self.size.endpoints;
            self.next += 1;
            self.away.push_back((service, at));
            (service, at, if self.next.is_multiple_of(2) { State::NotReady } else { State::Absent })
        };
        self.endpoints[service][at] = state;
        Step { number: self.steps, service, at, state }
    }

    /// Endpoints that are ready, and since which change.
    pub fn truth(&self, service: usize) -> BTreeSet<(usize, u32)> {
        let ready = |(at, state): (usize, &State)| match state {
            State::Ready(since) => Some((at, *since)),
            State::NotReady | State::Absent => None,
        };
        self.endpoints[service].iter().enumerate().filter_map(ready).collect()
    }

    pub fn slice(&self, service: usize) -> Value {
        let one = |(at, state): (usize, &State)| {
            let zone = match state {
                State::Ready(since) => format!("zone-{since}"),
                State::NotReady => "zone-0".to_owned(),
                State::Absent => return None,
            };
            let ready = matches!(state, State::Ready(_));
            Some(json!({
                "addresses": [pod_ip(service, at)], "nodeName": node(service, at), "zone": zone,
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace(service), "name": pod_name(service, at), "uid": uid(service, at)},
            }))
        };
        let name = service_name(service);
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-x7k2p"), "namespace": namespace(service), "generateName": format!("{name}-"),
                "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "uid": uid(service, 999), "controller": true}],
            },
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": self.endpoints[service].iter().enumerate().filter_map(one).collect::<Vec<_>>(),
        })
    }
}

fn node(service: usize, at: usize) -> String {
    format!("node-{}.internal.example.com", (service * 7 + at) % 100)
}

fn uid(service: usize, at: usize) -> String {
    format!("5f0c0d2e-{service:04x}-4a11-9c3d-{at:012x}")
}

pub fn namespaces() -> Vec<Value> {
    let one = |number: usize| {
        let annotations = json!({"lacewing.dev/inject": "enabled"});
        json!({"metadata": {"name": namespace(number), "annotations": annotations, "labels": {"kubernetes.io/metadata.name": namespace(number)}}})
    };
    (0..NAMESPACES).map(one).collect()
}

pub fn service(service: usize) -> Value {
    let (name, ip) = (service_name(service), cluster_ip(service));
    json!({
        "metadata": {"name": name, "namespace": namespace(service), "uid": uid(service, 999), "labels": {"app": name}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "appProtocol": "http"}],
        },
    })
}

/// A meshed pod with all that nobody reads: some 5 KB, as Kubernetes has them.
pub fn pod(service: usize, at: usize) -> Value {
    let (name, ip) = (service_name(service), pod_ip(service, at));
    let env: Vec<Value> = (0..12)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("a value of some length, number {n}, as apps have them")}))
        .collect();
    let container = |container: &str, image: &str, port: u16| {
        json!({
            "name": container, "image": image, "env": env, "imagePullPolicy": "IfNotPresent",
            "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
        })
    };
    let mut sidecar = container("lacewing-proxy", "ghcr.io/lacewing/proxy:0.1.0", 4143);
    sidecar["restartPolicy"] = json!("Always");
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-11-22T04:00:00Z"});
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "metadata": {
            "name": pod_name(service, at), "namespace": namespace(service), "uid": uid(service, at),
            "generateName": format!("{name}-7d9c5b8f6d-"), "creationTimestamp": "2026-11-22T04:00:00Z",
            "labels": {"app": name, "pod-template-hash": "7d9c5b8f6d", "lacewing.dev/meshed": "true", "version": "v1"},
            "annotations": {"lacewing.dev/proxy-version": "0.1.0", "kubectl.kubernetes.io/restartedAt": "2026-11-22T04:00:00Z",
                "prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-7d9c5b8f6d"),
                "uid": uid(service, 998), "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}, "f:pod-template-hash": {}}}, "f:spec": {"f:containers": {}}}}],
        },
        "spec": {
            "serviceAccountName": name, "serviceAccount": name, "nodeName": node(service, at), "schedulerName": "default-scheduler",
            "containers": [container("app", &format!("registry.example.com/team/{name}:1.2.3"), 8080)],
            "initContainers": [container("lacewing-init", "ghcr.io/lacewing/proxy:0.1.0", 1), sidecar],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.168.0.1", "qosClass": "Burstable",
            "conditions": conditions,
        },
    })
}

//! Owns the Kubernetes objects as this command reads them: only the fields that it looks at.
//!
//! They are read only. What pods mean to the controller is in `lacewing_crds`; here is what people ask about: who owns
//! a pod, whether it is ready and, if not, why.

use std::collections::BTreeMap;

use lacewing_crds::{ObjectMeta, labels};
use serde::{Deserialize, Deserializer};

/// `null` reads as the default.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Any object, of which only the metadata matter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Meta {
    pub metadata: ObjectMeta,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub host_network: bool,
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub ports: Vec<ContainerPort>,
    pub env: Vec<Variable>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Variable {
    pub name: String,
    /// None where it comes from elsewhere.
    pub value: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    pub name: Option<String>,
    #[serde(rename = "containerPort")]
    pub number: u16,
    pub protocol: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: Option<String>,
    pub reason: Option<String>,
    pub message: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    pub conditions: Vec<Condition>,
    pub container_statuses: Vec<ContainerStatus>,
    pub init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: String,
    pub ready: bool,
    pub restart_count: u32,
    pub state: BTreeMap<String, ContainerState>,
}

/// The value under `waiting`, `running` or `terminated`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerState {
    pub reason: Option<String>,
    pub message: Option<String>,
    pub exit_code: Option<i32>,
}

/// What a pod is a replica of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// In lower case, as in `deployment`.
    pub kind: String,
    pub name: String,
}

impl Pod {
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// It has a proxy.
    pub fn is_meshed(&self) -> bool {
        self.proxy_version().is_some() && !self.spec.host_network
    }

    pub fn proxy_version(&self) -> Option<&str> {
        self.metadata.annotation(labels::PROXY_VERSION)
    }

    /// A setting of its proxy, as it was written when the pod was made.
    pub fn proxy_setting(&self, name: &str) -> Option<&str> {
        let mut all = self.spec.init_containers.iter().chain(&self.spec.containers);
        let proxy = all.find(|container| container.name == "lacewing-proxy")?;
        proxy.env.iter().find(|variable| variable.name == name)?.value.as_deref()
    }

    /// All its containers have ended for good.
    pub fn has_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// It takes part: neither finished nor being deleted.
    pub fn is_staying(&self) -> bool {
        !self.has_finished() && !self.metadata.is_being_deleted()
    }

    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    /// Its proxy's container runs.
    pub fn proxy_runs(&self) -> bool {
        let mut all = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        all.any(|status| status.name == "lacewing-proxy" && status.state.contains_key("running"))
    }

    /// Why it is not ready, as its containers or conditions say.
    pub fn why_not_ready(&self) -> String {
        let statuses = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        for status in statuses {
            for (state, detail) in &status.state {
                let ended_well = state == "terminated" && detail.exit_code == Some(0);
                if state == "running" || ended_well || detail.reason.as_deref() == Some("PodInitializing") {
                    continue;
                }
                let reason = detail.reason.as_deref().unwrap_or(state);
                let code = detail.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
                let message = detail.message.as_deref().map_or_else(String::new, |words| format!(": {words}"));
                return format!("container {} is {reason}{code}{message}", status.name);
            }
        }
        let failing = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        if let Some(status) = failing.into_iter().find(|status| !status.ready && status.state.contains_key("running")) {
            return format!("container {} runs but is not ready", status.name);
        }
        let said =
            |condition: &Condition| Some(format!("{}: {}", condition.reason.as_ref()?, condition.message.as_ref()?));
        let condition = self.status.conditions.iter().filter(|condition| condition.status != "True").find_map(said);
        condition.or_else(|| self.status.message.clone()).unwrap_or_else(|| "it has not said why".to_owned())
    }

    /// What it is a replica of; itself where it has no owner.
    pub fn owner(&self) -> Owner {
        let Some(owner) = self.metadata.controller() else {
            return Owner { kind: "pod".to_owned(), name: self.metadata.name.clone() };
        };
        // A ReplicaSet of a Deployment is named after it and the hash of the pods' template.
        let deployment = self
            .metadata
            .label(labels::POD_TEMPLATE_HASH)
            .and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-').filter(|_| owner.kind == "ReplicaSet"));
        match deployment {
            Some(name) => Owner { kind: "deployment".to_owned(), name: name.to_owned() },
            None => Owner { kind: owner.kind.to_lowercase(), name: owner.name.clone() },
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Deployment {
    pub metadata: ObjectMeta,
    pub spec: DeploymentSpec,
    pub status: DeploymentStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeploymentSpec {
    #[serde(deserialize_with = "nullable")]
    pub replicas: u32,
    pub template: Template,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Template {
    pub spec: PodSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    pub ready_replicas: u32,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: u16,
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub conditions: EndpointConditions,
    pub target_ref: Option<TargetRef>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    pub kind: String,
    pub name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    pub name: Option<String>,
    pub port: Option<u16>,
    pub protocol: Option<String>,
}

/// A MutatingWebhookConfiguration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WebhookConfiguration {
    pub metadata: ObjectMeta,
    pub webhooks: Vec<Webhook>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Webhook {
    pub client_config: ClientConfig,
    pub failure_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConfig {
    /// PEM, in base64.
    pub ca_bundle: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Secret {
    pub metadata: ObjectMeta,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
}

impl Secret {
    /// The controller made it, and so renews what is in it.
    pub fn is_the_controllers(&self) -> bool {
        self.metadata.label("app.kubernetes.io/managed-by") == Some("lacewing-controller")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: ObjectMeta,
    pub status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    pub node_info: NodeInfo,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    pub kernel_version: String,
    pub operating_system: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    pub metadata: ObjectMeta,
    pub involved_object: TargetRef,
    pub message: String,
    /// Who says it; older and newer events have it in different places.
    pub reporting_component: Option<String>,
    pub source: EventSource,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EventSource {
    pub component: Option<String>,
}

impl Event {
    /// Whether somebody whose name begins with `who` says it.
    pub fn is_from(&self, who: &str) -> bool {
        [&self.reporting_component, &self.source.component].into_iter().flatten().any(|name| name.starts_with(who))
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NetworkPolicy {
    pub metadata: ObjectMeta,
    pub spec: NetworkPolicySpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    pub pod_selector: Selector,
    pub policy_types: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<Rule>,
    #[serde(deserialize_with = "nullable")]
    pub egress: Vec<Rule>,
}

/// What a NetworkPolicy lets through: any of the ports, from or to any of the peers; all where there are none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rule {
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<NetworkPolicyPort>,
    #[serde(alias = "from", alias = "to", deserialize_with = "nullable")]
    pub peers: Vec<NetworkPolicyPeer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPort {
    pub port: Option<PortName>,
    pub end_port: Option<u16>,
    pub protocol: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum PortName {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPeer {
    pub ip_block: Option<IpBlock>,
    pub namespace_selector: Option<Selector>,
    pub pod_selector: Option<Selector>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct IpBlock {
    pub cidr: String,
    #[serde(deserialize_with = "nullable")]
    pub except: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    #[serde(deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<Requirement>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Requirement {
    pub key: String,
    pub operator: String,
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<String>,
}

/// The answer to "may I".
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AccessReview {
    pub status: AccessReviewStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AccessReviewStatus {
    pub allowed: bool,
}

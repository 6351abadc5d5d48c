//! Owns the two containers and two volumes that make a pod meshed, built from typed objects. Both containers come first in
//! the list, so that other init containers have the mesh: the init step makes the kernel redirect, then the proxy starts and
//! is ready before anything else runs. The proxy satisfies the Pod Security level `restricted`; the init step alone has
//! NET_ADMIN.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
        ObjectFieldSelector, Pod, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext,
        ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use lacewing_crds::labels::{self, config::Becomes};
use lacewing_ops::settings::duration;
use serde_json::json;

use super::{
    INIT_CONTAINER, Mesh, PROXY_CONTAINER, PROXY_UID, STATE_VOLUME, TOKEN_VOLUME,
    edit::Edit,
    probes::{ADMIN_PORT, Probes},
    settings::Effective,
};

/// The audience of the token by which the controller knows a pod.
const TOKEN_AUDIENCE: &str = "lacewing.dev/identity";
/// How long a token is good for, in seconds; the kubelet renews it at 80 %.
const TOKEN_LIFETIME: i64 = 86_400;
const TOKEN_DIR: &str = "/var/run/lacewing/token";
const STATE_DIR: &str = "/var/run/lacewing/state";
/// Room for what a restarted container should still know: trust roots.
const STATE_SIZE: &str = "1Mi";
/// Seconds from the start of the proxy until the kubelet gives it up: the controller may be starting, too.
const STARTUP_S: i32 = 120;
/// What Kubernetes gives a pod that names no grace, in seconds.
const GRACE_DEFAULT_S: i64 = 30;
/// The drain ends this long before the kubelet kills, in seconds.
const GRACE_MARGIN_S: i64 = 2;
/// Longest drain, in seconds.
const DRAIN_MAX_S: i64 = 120;
/// The name of the public admin port, for those who scrape it.
const ADMIN_PORT_NAME: &str = "lacewing-admin";
const CONTROLLER_PORT: u16 = 8080;

/// Adds containers, volumes, annotation and label.
///
/// # Errors
/// The pod has not the shape in which it was read.
pub fn add(
    edit: &mut Edit,
    pod: &Pod,
    effective: &Effective<'_>,
    probes: &Probes,
    mesh: &Mesh,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let controller = controller(pod, mesh, warnings);
    let environment = environment(pod, effective, probes, mesh, controller);
    for container in [proxy(effective, environment), init(effective)] {
        edit.add_below(&["spec", "initContainers", "0"], json!([]), container)?;
    }
    for volume in [token(), state()] {
        edit.add_below(&["spec", "volumes", "-"], json!([]), volume)?;
    }
    edit.add_below(&["metadata", "annotations", labels::PROXY_VERSION], json!({}), env!("CARGO_PKG_VERSION"))?;
    edit.add_below(&["metadata", "labels", labels::MESHED], json!({}), "true")
}

/// `host:port` of the controller, which the pod's search list completes in any cluster's domain.
fn controller(pod: &Pod, mesh: &Mesh, warnings: &mut Vec<String>) -> String {
    let policy = pod.spec.as_ref().and_then(|spec| spec.dns_policy.as_deref());
    let name = format!("lacewing-controller.{}.svc", mesh.namespace);
    if let Some(policy) = policy.filter(|policy| matches!(*policy, "Default" | "None")) {
        warnings.push(format!(
            "dnsPolicy: {policy} leaves the cluster's DNS out, and the proxy is not ready until {name} has an address there"
        ));
    }
    format!("{name}:{CONTROLLER_PORT}")
}

fn environment(pod: &Pod, effective: &Effective<'_>, probes: &Probes, mesh: &Mesh, controller: String) -> Vec<EnvVar> {
    let mut environment = vec![
        field("LACEWING_POD_NAME", "metadata.name"),
        field("LACEWING_POD_NAMESPACE", "metadata.namespace"),
        field("LACEWING_POD_IPS", "status.podIPs"),
        value("LACEWING_CONTROLLER_ADDR", controller),
        value("LACEWING_TRUST_DOMAIN", mesh.trust_domain.clone()),
        value("LACEWING_TRUST_BUNDLE", mesh.bundle.clone()),
        value("LACEWING_STATE_DIR", STATE_DIR),
        value("LACEWING_TOKEN_FILE", format!("{TOKEN_DIR}/token")),
        value("LACEWING_DRAIN_TIMEOUT", format!("{}ms", drain(pod, effective).as_millis())),
    ];
    for (name, list) in [("LACEWING_PROBES", probes.let_through()), ("LACEWING_TCP_PROBES", probes.to_dial())] {
        environment.extend((!list.is_empty()).then(|| value(name, list)));
    }
    environment.extend(effective.proxy().map(|(name, given)| value(name, given)));
    environment
}

/// The pod's grace less a margin, unless an annotation says shorter.
fn drain(pod: &Pod, effective: &Effective<'_>) -> Duration {
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE_DEFAULT_S);
    let most = grace.saturating_sub(GRACE_MARGIN_S).clamp(0, DRAIN_MAX_S);
    let most = Duration::from_secs(most.unsigned_abs());
    let wanted = effective.get(Becomes::Drain).and_then(|text| duration(text).ok());
    wanted.map_or(most, |wanted| wanted.min(most))
}

fn init(effective: &Effective<'_>) -> Container {
    Container {
        name: INIT_CONTAINER.to_owned(),
        args: Some(vec!["init".to_owned()]),
        env: Some(effective.init().map(|(name, given)| value(name, given)).collect::<Vec<_>>())
            .filter(|environment| !environment.is_empty()),
        // A capability takes effect for root alone, unless the image's file carries it.
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            ..bounded(Some(vec!["NET_ADMIN".to_owned()]))
        }),
        ..common(effective)
    }
}

fn proxy(effective: &Effective<'_>, environment: Vec<EnvVar>) -> Container {
    let mount = |name: &str, path: &str, read_only| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    Container {
        name: PROXY_CONTAINER.to_owned(),
        restart_policy: Some("Always".to_owned()),
        env: Some(environment),
        ports: Some(vec![ContainerPort {
            name: Some(ADMIN_PORT_NAME.to_owned()),
            container_port: ADMIN_PORT.into(),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(STARTUP_S), ..asks("/ready") }),
        readiness_probe: Some(asks("/ready")),
        liveness_probe: Some(asks("/live")),
        security_context: Some(SecurityContext {
            run_as_user: Some(PROXY_UID),
            run_as_group: Some(PROXY_UID),
            run_as_non_root: Some(true),
            ..bounded(None)
        }),
        volume_mounts: Some(vec![mount(TOKEN_VOLUME, TOKEN_DIR, Some(true)), mount(STATE_VOLUME, STATE_DIR, None)]),
        ..common(effective)
    }
}

fn common(effective: &Effective<'_>) -> Container {
    let resources = effective.resources();
    Container {
        image: Some(effective.image().to_owned()),
        image_pull_policy: Some(effective.pull_policy().to_owned()),
        resources: (resources != ResourceRequirements::default()).then_some(resources),
        // So that `kubectl describe` says why it failed.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// Nothing that a container need not have, but these capabilities.
fn bounded(add: Option<Vec<String>>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".to_owned()]) }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..SecurityContext::default()
    }
}

fn asks(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(ADMIN_PORT.into()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

/// A variable with this value: `$` would begin a reference to another one.
fn value(name: &str, value: impl AsRef<str>) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.as_ref().replace('$', "$$")), value_from: None }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: None });
    let value_from = Some(EnvVarSource { field_ref, ..EnvVarSource::default() });
    EnvVar { name: name.to_owned(), value: None, value_from }
}

fn token() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_LIFETIME),
        path: "token".to_owned(),
    };
    let source = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
    Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(vec![source]), default_mode: None }),
        ..Volume::default()
    }
}

fn state() -> Volume {
    let size_limit = Some(Quantity(STATE_SIZE.to_owned()));
    Volume {
        name: STATE_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit }),
        ..Volume::default()
    }
}

//! Owns the checks of what an installation made: its objects, the controller's pods, their version, the Service, and
//! the webhook configuration with the roots in it. The certificates themselves are `identity.rs`' business.

use super::{Check, Outcome, some_of};
use crate::{
    cluster::{
        ApiError, Cluster,
        objects::{Deployment, EndpointSlice, Meta, Pod, WebhookConfiguration},
    },
    commands::CONTROLLER,
};

/// Label with the version of what an object belongs to.
pub const VERSION_LABEL: &str = "app.kubernetes.io/version";
/// The objects of an installation that have nothing to tell but that they are there.
const OBJECTS: [(&str, &str); 6] = [
    ("ServiceAccount", "/api/v1/namespaces/lacewing/serviceaccounts/lacewing-controller"),
    ("Service", "/api/v1/namespaces/lacewing/services/lacewing-controller"),
    ("ClusterRole", "/apis/rbac.authorization.k8s.io/v1/clusterroles/lacewing-controller"),
    ("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/lacewing-controller"),
    ("Role", "/apis/rbac.authorization.k8s.io/v1/namespaces/lacewing/roles/lacewing-controller"),
    ("RoleBinding", "/apis/rbac.authorization.k8s.io/v1/namespaces/lacewing/rolebindings/lacewing-controller"),
];
pub const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/lacewing-injector";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/lacewing/endpointslices\
                      ?labelSelector=kubernetes.io%2Fservice-name%3Dlacewing-controller";
/// What mends an installation from which something is missing.
const AGAIN: &str = "apply it again: `mesh install | kubectl apply -f -`";

type Known<T> = Result<T, ApiError>;

pub struct Facts {
    pub deployment: Known<Option<Deployment>>,
    /// The controller's pods.
    pub pods: Known<Vec<Pod>>,
    /// Kinds of the other objects, and whether they are there.
    pub objects: Vec<(&'static str, Known<bool>)>,
    pub webhook: Known<Option<WebhookConfiguration>>,
    pub slices: Known<Vec<EndpointSlice>>,
    /// The version of this command.
    pub client: &'static str,
}

impl Facts {
    /// Nothing is installed, as far as one may know.
    pub fn is_absent(&self) -> bool {
        matches!(self.deployment, Ok(None))
    }
}

pub async fn gather(cluster: &Cluster) -> Facts {
    let objects = async {
        let mut found = Vec::new();
        for (kind, path) in OBJECTS {
            found.push((kind, cluster.find::<Meta>(path).await.map(|object| object.is_some())));
        }
        found
    };
    let (deployment, pods, objects, webhook, slices) = tokio::join!(
        cluster.find(CONTROLLER),
        controllers(cluster),
        objects,
        cluster.find(WEBHOOK),
        cluster.list(SLICES)
    );
    Facts { deployment, pods, objects, webhook, slices, client: env!("CARGO_PKG_VERSION") }
}

/// The controller's pods.
pub async fn controllers(cluster: &Cluster) -> Known<Vec<Pod>> {
    let pods: Vec<Pod> = cluster.list("/api/v1/namespaces/lacewing/pods").await?;
    let of_controller = |pod: &Pod| pod.owner().name == "lacewing-controller" && pod.is_staying();
    Ok(pods.into_iter().filter(of_controller).collect())
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    let installed = "the controller is installed";
    let deployment = match &facts.deployment {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            let message = "there is no Deployment lacewing-controller in namespace lacewing";
            return vec![Check::bad(installed, message, "install it: `mesh install | kubectl apply -f -`")];
        }
        // Nothing that follows would mean anything: not knowing must not look like success.
        Err(error) => return vec![Check { result: Outcome::Error, ..Check::unknown(installed, error) }],
    };
    let mut checks = vec![Check::good(installed), objects(&facts.objects), available(deployment, &facts.pods)];
    checks.extend(facts.pods.as_ref().ok().filter(|pods| pods.len() > 1).map(|pods| apart(pods)));
    checks.extend([version(deployment, facts.client), endpoints(&facts.slices), webhook(&facts.webhook)]);
    checks
}

fn objects(objects: &[(&'static str, Known<bool>)]) -> Check {
    let description = "its other objects are there";
    let missing: Vec<&str> =
        objects.iter().filter(|(_, there)| matches!(there, Ok(false))).map(|(kind, _)| *kind).collect();
    if !missing.is_empty() {
        let message = format!("{} lacewing-controller: not there", missing.join(", "));
        return Check::bad(description, message, AGAIN);
    }
    match objects.iter().find_map(|(_, there)| there.as_ref().err()) {
        Some(error) => Check::unknown(description, error),
        None => Check::good(description),
    }
}

fn available(deployment: &Deployment, pods: &Known<Vec<Pod>>) -> Check {
    let (ready, wanted) = (deployment.status.ready_replicas, deployment.spec.replicas);
    let description = "its replicas are ready";
    if ready >= wanted && wanted > 0 {
        return Check::good(format!("{description} ({ready} of {wanted})"));
    }
    if wanted == 0 {
        let fix = "`kubectl -n lacewing scale deployment/lacewing-controller --replicas=1`";
        return Check::bad(description, "it is scaled to 0", fix);
    }
    let why = pods.as_ref().ok().and_then(|pods| pods.iter().find(|pod| !pod.is_ready()));
    let why = why.map_or_else(
        || said(deployment).unwrap_or_else(|| "it has no pod that says why".to_owned()),
        |pod| format!("{}: {}", pod.name(), pod.why_not_ready()),
    );
    let message = format!("{ready} of {wanted} are ready; {why}");
    let fix = "see `kubectl -n lacewing describe pods` and `kubectl -n lacewing logs deployment/lacewing-controller`";
    let check = Check::bad(description, message, fix);
    if ready > 0 { check.mild() } else { check }
}

/// Several replicas on one node end with it.
fn apart(pods: &[Pod]) -> Check {
    let description = "its replicas are not all on one node";
    let mut nodes = pods.iter().map(|pod| pod.spec.node_name.as_deref());
    match nodes.next().flatten() {
        Some(first) if nodes.all(|node| node == Some(first)) => {
            let message = format!("all {} are on {first}, and end with it", pods.len());
            let fix = "with another node there: `kubectl -n lacewing rollout restart deployment/lacewing-controller`";
            Check::bad(description, message, fix).mild()
        }
        _ => Check::good(description),
    }
}

/// What the Deployment's conditions say of a failure, as where pods are refused.
fn said(deployment: &Deployment) -> Option<String> {
    let failing = |condition: &&crate::cluster::objects::Condition| {
        condition.kind == "ReplicaFailure" || condition.status == "False"
    };
    deployment.status.conditions.iter().find(failing)?.message.clone()
}

fn version(deployment: &Deployment, client: &str) -> Check {
    let description = "it has the version of this command";
    match deployment.metadata.label(VERSION_LABEL) {
        Some(version) if version == client => Check::good(format!("{description} ({client})")),
        Some(version) => {
            let message = format!("the controller is {version}, this command {client}");
            Check::bad(description, message, "`mesh upgrade | kubectl apply -f -` with the newer of the two").mild()
        }
        None => Check::bad(description, format!("the Deployment has no label {VERSION_LABEL}"), AGAIN).mild(),
    }
}

fn endpoints(slices: &Known<Vec<EndpointSlice>>) -> Check {
    let description = "its Service leads to a pod that is ready";
    let slices = match slices {
        Ok(slices) => slices,
        Err(error) => return Check::unknown(description, error),
    };
    let mut all = slices.iter().flat_map(|slice| &slice.endpoints);
    if all.any(|endpoint| endpoint.conditions.ready != Some(false) && !endpoint.addresses.is_empty()) {
        return Check::good(description);
    }
    let message = "Service lacewing-controller has no ready endpoint: proxies cannot reach the controller";
    Check::bad(description, message, "see `kubectl -n lacewing get pods,endpointslices`")
}

fn webhook(webhook: &Known<Option<WebhookConfiguration>>) -> Check {
    let description = "the injection webhook is there and trusts the mesh";
    let configuration = match webhook {
        Ok(Some(configuration)) => configuration,
        Ok(None) => {
            return Check::bad(
                description,
                "there is no MutatingWebhookConfiguration lacewing-injector: no pod gets a proxy",
                AGAIN,
            );
        }
        Err(error) => return Check::unknown(description, error),
    };
    let empty = |bundle: &Option<String>| bundle.as_ref().is_none_or(String::is_empty);
    if configuration.webhooks.is_empty() {
        return Check::bad(description, "the configuration lists no webhook", AGAIN);
    }
    if configuration.webhooks.iter().any(|webhook| empty(&webhook.client_config.ca_bundle)) {
        let message =
            "it has no caBundle yet, so the API server cannot call it: the controller writes it when it is ready";
        return Check::bad(description, message, "see `kubectl -n lacewing logs deployment/lacewing-controller`");
    }
    Check::good(description)
}

/// The pods that are not ready, for a message.
pub fn names(pods: &[&Pod]) -> String {
    let names: Vec<String> = pods.iter().map(|pod| format!("{}/{}", pod.namespace(), pod.name())).collect();
    some_of(&names)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::{
        check::tests::{all_good, one_is},
        cluster::Cause,
    };

    fn deployment(ready: u32, wanted: u32, version: &str) -> Deployment {
        from_value(json!({
            "metadata": { "name": "lacewing-controller", "labels": { "app.kubernetes.io/version": version } },
            "spec": { "replicas": wanted }, "status": { "readyReplicas": ready },
        }))
        .expect("a deployment")
    }

    fn webhook(bundle: &str) -> WebhookConfiguration {
        from_value(json!({ "webhooks": [{ "clientConfig": { "caBundle": bundle } }] })).expect("a configuration")
    }

    fn slice(ready: bool) -> EndpointSlice {
        from_value(json!({ "endpoints": [{ "addresses": ["10.0.0.9"], "conditions": { "ready": ready } }] }))
            .expect("a slice")
    }

    fn waiting() -> Pod {
        from_value(json!({
            "metadata": { "name": "lacewing-controller-1" },
            "status": { "containerStatuses": [{ "name": "controller",
                "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }] },
        }))
        .expect("a pod")
    }

    fn on(node: &str) -> Pod {
        from_value(json!({ "metadata": { "name": "lacewing-controller-1" }, "spec": { "nodeName": node } }))
            .expect("a pod")
    }

    fn facts() -> Facts {
        Facts {
            deployment: Ok(Some(deployment(1, 1, "0.1.0"))),
            pods: Ok(Vec::new()),
            objects: vec![("Role", Ok(true)), ("Service", Ok(true))],
            webhook: Ok(Some(webhook("LS0t"))),
            slices: Ok(vec![slice(false), slice(true)]),
            client: "0.1.0",
        }
    }

    #[test]
    fn each_part_that_is_missing_is_named_with_what_mends_it() {
        use Outcome::{Error, Warning};
        all_good(&judge(&facts()));
        all_good(&judge(&Facts { pods: Ok(vec![on("a")]), ..facts() }));
        all_good(&judge(&Facts { pods: Ok(vec![on("a"), on("b"), on("a")]), ..facts() }));
        let forbidden =
            || ApiError::new(Cause::Forbidden, "you may not get roles").hint("`kubectl auth can-i get roles`");
        let table: Vec<(Facts, Outcome, &[&str])> = vec![
            (Facts { deployment: Ok(None), ..facts() }, Error, &["no Deployment", "mesh install | kubectl apply"]),
            (Facts { deployment: Err(forbidden()), ..facts() }, Error, &["you may not get roles", "can-i"]),
            (
                Facts { objects: vec![("Role", Ok(false))], ..facts() },
                Error,
                &["Role lacewing-controller: not there", "mesh install"],
            ),
            (Facts { objects: vec![("Role", Err(forbidden()))], ..facts() }, Warning, &["may not get roles"]),
            (
                Facts { deployment: Ok(Some(deployment(0, 1, "0.1.0"))), pods: Ok(vec![waiting()]), ..facts() },
                Error,
                &[
                    "0 of 1 are ready",
                    "container controller is ImagePullBackOff: no such image",
                    "kubectl -n lacewing logs",
                ],
            ),
            (Facts { deployment: Ok(Some(deployment(2, 3, "0.1.0"))), ..facts() }, Warning, &["2 of 3"]),
            (
                Facts { deployment: Ok(Some(deployment(0, 0, "0.1.0"))), ..facts() },
                Error,
                &["scaled to 0", "--replicas=1"],
            ),
            (Facts { deployment: Ok(Some(deployment(1, 1, "0.2.0"))), ..facts() }, Warning, &["0.2.0", "mesh upgrade"]),
            (Facts { slices: Ok(vec![slice(false)]), ..facts() }, Error, &["no ready endpoint", "endpointslices"]),
            (Facts { pods: Ok(vec![on("a"), on("a")]), ..facts() }, Warning, &["all 2 are on a", "rollout restart"]),
            (Facts { webhook: Ok(None), ..facts() }, Error, &["no pod gets a proxy", "mesh install"]),
            (Facts { webhook: Ok(Some(webhook(""))), ..facts() }, Error, &["no caBundle yet", "logs"]),
        ];
        for (facts, result, parts) in table {
            one_is(&judge(&facts), result, parts);
        }
        assert!(Facts { deployment: Ok(None), ..facts() }.is_absent() && !facts().is_absent());
    }
}

//! Owns the list of everything that an install can have in a cluster: what the chart makes (a test holds the list to it), and
//! what the controller makes at run time. Looks for each by its name; changes nothing.

use crate::{
    chart::RELEASE,
    cluster::{ApiError, Cluster, objects::Meta},
};

/// What Helm writes on each object of a release.
pub const HELM_RELEASE: &str = "meta.helm.sh/release-name";
/// Who made an object that is not in the chart.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on what the controller made.
const CONTROLLER: &str = "lacewing-controller";
/// The label of what the chart made.
const PART_OF: &str = "app.kubernetes.io/part-of";

/// One object of ours, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub api_version: &'static str,
    pub kind: &'static str,
    /// The kind in a path.
    plural: &'static str,
    namespaced: bool,
    pub name: &'static str,
    pub maker: Maker,
}

/// Who makes an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    Chart,
    /// The chart, or somebody before; only with our label it is ours.
    ChartIfLabelled,
    /// The controller, at run time.
    Controller,
    /// The controller, or the operator; only with the controller's label it is ours.
    ControllerIfLabelled,
}

const fn chart(api_version: &'static str, kind: &'static str, plural: &'static str, namespaced: bool) -> Known {
    Known { api_version, kind, plural, namespaced, name: CONTROLLER, maker: Maker::Chart }
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const MONITORING: &str = "monitoring.coreos.com/v1";

/// In the order in which they can be deleted: no pod is injected any more, then nobody is there to make anything anew.
pub const KNOWN: [Known; 15] = [
    Known {
        name: "lacewing-injector",
        ..chart(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            false,
        )
    },
    chart("apps/v1", "Deployment", "deployments", true),
    chart("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", true),
    chart("v1", "Service", "services", true),
    chart(RBAC, "RoleBinding", "rolebindings", true),
    chart(RBAC, "Role", "roles", true),
    chart(RBAC, "ClusterRoleBinding", "clusterrolebindings", false),
    chart(RBAC, "ClusterRole", "clusterroles", false),
    chart("v1", "ServiceAccount", "serviceaccounts", true),
    chart(MONITORING, "PodMonitor", "podmonitors", true),
    Known { name: "lacewing-proxy", ..chart(MONITORING, "PodMonitor", "podmonitors", true) },
    Known { maker: Maker::Controller, ..chart("coordination.k8s.io/v1", "Lease", "leases", true) },
    Known { name: "lacewing-previous-roots", maker: Maker::Controller, ..ROOT },
    ROOT,
    Known { name: RELEASE, maker: Maker::ChartIfLabelled, ..chart("v1", "Namespace", "namespaces", false) },
];

const ROOT: Known =
    Known { name: "lacewing-root", maker: Maker::ControllerIfLabelled, ..chart("v1", "Secret", "secrets", true) };

impl Known {
    /// Where the API server has it.
    pub fn path(&self) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        let namespace = if self.namespaced { format!("namespaces/{RELEASE}/") } else { String::new() };
        format!("/{root}/{}/{namespace}{}/{}", self.api_version, self.plural, self.name)
    }

    /// A YAML document that names it and no more, for `kubectl delete -f -`.
    pub fn document(&self) -> String {
        let namespace = if self.namespaced { format!("  namespace: {RELEASE}\n") } else { String::new() };
        let Self { api_version, kind, name, .. } = self;
        format!("---\napiVersion: {api_version}\nkind: {kind}\nmetadata:\n  name: {name}\n{namespace}")
    }

    /// The command that deletes it.
    pub fn delete_command(&self) -> String {
        let namespace = if self.namespaced { format!(" -n {RELEASE}") } else { String::new() };
        format!("kubectl delete {} {}{namespace}", self.kind.to_lowercase(), self.name)
    }
}

/// An object that is there.
#[derive(Debug)]
pub struct Found {
    pub known: Known,
    pub object: Meta,
}

impl Found {
    /// Made by an install, or by the controller since; not by somebody who was there before.
    pub fn is_ours(&self) -> bool {
        let label = |name| self.object.metadata.label(name);
        match self.known.maker {
            Maker::Chart | Maker::Controller => true,
            Maker::ChartIfLabelled => label(PART_OF) == Some(RELEASE),
            Maker::ControllerIfLabelled => label(MANAGED_BY) == Some(CONTROLLER),
        }
    }
}

/// All of [`KNOWN`] that are there, in that order.
pub async fn look(cluster: &Cluster) -> Result<Vec<Found>, ApiError> {
    let mut found = Vec::new();
    for known in KNOWN {
        if let Some(object) = cluster.find(&known.path()).await? {
            found.push(Found { known, object });
        }
    }
    Ok(found)
}

/// The Helm release that the objects belong to, if Helm made them.
pub fn helm_release(found: &[Found]) -> Option<&str> {
    found.iter().find_map(|found| found.object.metadata.annotation(HELM_RELEASE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chart::{self, values};

    #[test]
    fn everything_that_the_chart_can_make_is_known() {
        let all =
            json!({ "createNamespace": true, "controller": { "replicas": 3 }, "podMonitor": { "enabled": true } });
        let rendered = chart::render(all).expect("it renders").manifests;
        let mut made = Vec::new();
        for text in rendered.split("---\n").filter(|text| !text.is_empty()) {
            let object = values::read(text).expect("YAML");
            let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
            let id = (text(&object["apiVersion"]), text(&object["kind"]), text(&object["metadata"]["name"]));
            let namespaced = object["metadata"]["namespace"].is_string();
            let known = KNOWN.iter().find(|known| (known.api_version, known.kind, known.name) == (&id.0, &id.1, &id.2));
            assert_eq!(known.map(|known| known.namespaced), Some(namespaced), "{id:?}");
            made.push((id.1, id.2));
        }
        let run_time = [Maker::Controller, Maker::ControllerIfLabelled];
        for known in KNOWN.iter().filter(|known| !run_time.contains(&known.maker)) {
            assert!(made.contains(&(known.kind.to_owned(), known.name.to_owned())), "{known:?} is made no more");
        }
    }

    #[test]
    fn objects_have_their_places() {
        let path = |kind: &str| KNOWN.iter().find(|known| known.kind == kind).map(Known::path).expect(kind);
        assert_eq!(path("Deployment"), crate::commands::CONTROLLER);
        assert_eq!(path("Namespace"), "/api/v1/namespaces/lacewing");
        assert_eq!(path("Secret"), "/api/v1/namespaces/lacewing/secrets/lacewing-previous-roots");
        assert_eq!(path("ClusterRole"), "/apis/rbac.authorization.k8s.io/v1/clusterroles/lacewing-controller");
        assert_eq!(
            ROOT.document(),
            "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: lacewing-root\n  namespace: lacewing\n"
        );
        assert_eq!(ROOT.delete_command(), "kubectl delete secret lacewing-root -n lacewing");
    }
}

//! Owns why there is nothing to show in a cluster, and what to run next: is Lacewing there, the namespace, pods in it,
//! proxies in them? What is asked of the cluster is thin; the reasoning is a pure function.

use crate::{
    cluster::{
        ApiError, Cluster,
        objects::{Deployment, Meta},
    },
    failure::{Exit, Failure},
    live::Pod,
};

/// What is known where nothing is to be shown. `None`: the user may not know.
#[derive(Debug, Default)]
pub struct Emptiness {
    pub place: String,
    pub namespace: Option<String>,
    pub namespace_exists: Option<bool>,
    pub installed: Option<bool>,
    /// Ready replicas of the controller.
    pub controllers: Option<u32>,
    /// Pods there, and how many of them have a proxy.
    pub pods: usize,
    pub meshed: usize,
}

impl Emptiness {
    /// The failure to end with; none if something is meshed, so that the reason lies elsewhere.
    pub fn explain(&self) -> Option<Failure> {
        let no_data = |what: String| Failure::new(Exit::NoData, what);
        if self.installed == Some(false) && self.meshed == 0 {
            let what = format!("Lacewing is not installed in {}", self.place);
            return Some(
                Failure::new(Exit::NotInstalled, what).hint("install it with `mesh install | kubectl apply -f -`"),
            );
        }
        if self.namespace_exists == Some(false) {
            let name = self.namespace.as_deref().unwrap_or_default();
            let what = format!("there is no namespace {name:?} in {}", self.place);
            return Some(
                no_data(what)
                    .hint("see those there are with `kubectl get namespaces`, or all meshes with `mesh stat -A`"),
            );
        }
        if self.meshed > 0 {
            return None;
        }
        let Some(name) = &self.namespace else {
            return Some(no_data(format!("no pod in {} has a proxy", self.place)).hint(inject("NAMESPACE")));
        };
        if self.pods == 0 {
            let what = format!("no pods run in namespace {name:?} of {}", self.place);
            return Some(no_data(what).hint("choose another with `-n NAME`, or look at all with `-A`"));
        }
        let pods = if self.pods == 1 { "the one pod".to_owned() } else { format!("none of the {} pods", self.pods) };
        let has = if self.pods == 1 { "has no proxy" } else { "has a proxy" };
        if self.controllers == Some(0) {
            let what =
                format!("{pods} in namespace {name:?} {has}, and the controller, which injects it, is not ready");
            return Some(no_data(what).hint("see why with `mesh check`"));
        }
        Some(no_data(format!("{pods} in namespace {name:?} {has}")).hint(inject(name)))
    }
}

fn inject(namespace: &str) -> String {
    format!(
        "put one beside each: `kubectl annotate namespace {namespace} lacewing.dev/inject=enabled`, then \
         `kubectl rollout restart deployment -n {namespace}`; `mesh check --proxy` says what stands in the way"
    )
}

/// Asks the cluster why nothing of `pods` in `namespace` (none: in any) can be shown.
pub async fn why_empty(cluster: &Cluster, namespace: Option<&str>, pods: &[Pod]) -> Option<Failure> {
    let namespace_path = format!("/api/v1/namespaces/{}", namespace.unwrap_or_default());
    let exists = async {
        match namespace {
            Some(_) => cluster.find::<Meta>(&namespace_path).await.map(|found| found.is_some()),
            None => Ok(true),
        }
    };
    let controller = cluster.find::<Deployment>(crate::commands::CONTROLLER);
    let (exists, controller): (Result<bool, ApiError>, _) = tokio::join!(exists, controller);
    let here = |pod: &&Pod| namespace.is_none_or(|name| pod.namespace == name);
    Emptiness {
        place: cluster.place().to_owned(),
        namespace: namespace.map(str::to_owned),
        // What may not be known is not guessed.
        namespace_exists: exists.ok(),
        installed: controller.as_ref().ok().map(Option::is_some),
        controllers: controller.ok().flatten().map(|deployment| deployment.status.ready_replicas),
        pods: pods.iter().filter(here).count(),
        meshed: pods.iter().filter(here).filter(|pod| pod.has_proxy == Some(true)).count(),
    }
    .explain()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_is_missing_is_named_with_what_mends_it() {
        let facts = |(installed, controllers), namespace_exists, pods, meshed| Emptiness {
            place: "context dev (http://x)".to_owned(),
            namespace: Some("shop".to_owned()),
            namespace_exists,
            installed,
            controllers,
            pods,
            meshed,
        };
        for (facts, exit, parts) in [
            (
                facts((Some(false), None), Some(true), 3, 0),
                Exit::NotInstalled,
                ["not installed in context dev", "mesh install | kubectl"],
            ),
            (
                facts((Some(true), Some(1)), Some(false), 0, 0),
                Exit::NoData,
                ["no namespace \"shop\"", "kubectl get namespaces"],
            ),
            (
                facts((Some(true), Some(1)), Some(true), 0, 0),
                Exit::NoData,
                ["no pods run in namespace \"shop\"", "-n NAME"],
            ),
            (
                facts((Some(true), Some(1)), Some(true), 3, 0),
                Exit::NoData,
                ["none of the 3 pods", "annotate namespace shop lacewing.dev/inject=enabled"],
            ),
            (
                facts((Some(true), Some(0)), Some(true), 1, 0),
                Exit::NoData,
                ["the controller, which injects it, is not ready", "mesh check"],
            ),
            (
                facts((None, None), None, 3, 0),
                Exit::NoData,
                ["none of the 3 pods", "rollout restart deployment -n shop"],
            ),
        ] {
            let failure = facts.explain().expect("a reason");
            assert_eq!(failure.exit(), exit, "{failure}");
            assert!(parts.iter().all(|part| failure.to_string().contains(part)), "{failure}");
        }
        assert!(facts((Some(true), Some(1)), Some(true), 3, 2).explain().is_none());
        assert!(facts((Some(false), None), Some(true), 3, 2).explain().is_none(), "what is there can be shown");
        let anywhere = Emptiness { namespace: None, ..facts((Some(true), Some(1)), Some(true), 3, 0) };
        assert!(anywhere.explain().is_some_and(|failure| failure.to_string().contains("no pod in context dev")));
    }
}

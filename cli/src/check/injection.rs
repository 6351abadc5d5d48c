//! Owns the checks of injection: pods that should have a proxy have one, those that cannot have one are named with the
//! reason, Pod Security lets the init step run, and nothing was refused lately.

use std::collections::{BTreeMap, BTreeSet};

use lacewing_controller::inject::{self, Mesh, Outcome, Surroundings, settings::ProxySettings};
use lacewing_crds::{ObjectMeta, labels};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

use super::{Check, some_of};
use crate::{
    cluster::{
        ApiError, Cause, Cluster,
        objects::{Event, Meta, Pod},
    },
    output::plain,
};

/// Where the injector never looks.
const NEVER: [&str; 2] = ["kube-system", "lacewing"];
/// What the names in events of a refused pod have in common.
const OURS: &str = "lacewing";
const PSA: &str = "pod-security.kubernetes.io/enforce";

/// A pod: what this command reads of it, and all of it for the injector to judge.
pub struct Found {
    pod: Pod,
    whole: Value,
}

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Value::deserialize(deserializer)?;
        let pod = Pod::deserialize(&whole).map_err(D::Error::custom)?;
        Ok(Self { pod, whole })
    }
}

pub struct Facts {
    pub namespaces: Result<Vec<Meta>, ApiError>,
    pub pods: Result<Vec<Found>, ApiError>,
    pub events: Result<Vec<Event>, ApiError>,
}

/// Looks at one namespace, or at all.
pub async fn gather(cluster: &Cluster, namespace: Option<&str>) -> Facts {
    let scope = namespace.map_or_else(String::new, |name| format!("/namespaces/{name}"));
    let namespaces = async {
        match namespace {
            Some(name) => {
                let found = cluster.find::<Meta>(&format!("/api/v1/namespaces/{name}")).await;
                found.and_then(|found| found.map(|found| vec![found]).ok_or_else(|| no_namespace(name)))
            }
            None => cluster.list("/api/v1/namespaces").await,
        }
    };
    let (pods, events) =
        (format!("/api/v1{scope}/pods"), format!("/api/v1{scope}/events?fieldSelector=type%3DWarning"));
    let (namespaces, pods, events) = tokio::join!(namespaces, cluster.list(&pods), cluster.list(&events));
    Facts { namespaces, pods, events }
}

fn no_namespace(name: &str) -> ApiError {
    ApiError::new(Cause::NotFound, format!("there is no namespace {name:?}"))
        .hint("see those there are with `kubectl get namespaces`")
}

/// What somebody wants for a pod, and what became of it.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It has a proxy, or nobody wants one.
    Right,
    /// It should have one.
    Escaped,
    /// It cannot have one.
    Cannot(String),
}

/// Asks what the injector would have done: the code is its own. Its answer about Pod Security is a check of its own here.
fn fate(found: &Found, namespace: &ObjectMeta, mesh: &Mesh) -> Fate {
    let pod = &found.pod;
    if pod.is_meshed() || !pod.is_staying() || NEVER.contains(&pod.namespace()) {
        return Fate::Right;
    }
    let annotations = namespace.annotations.to_map();
    let surroundings = Surroundings { annotations: &annotations, labels: &BTreeMap::new() };
    match inject::inject(&found.whole, surroundings, mesh) {
        Outcome::Injected(_) => Fate::Escaped,
        Outcome::Skipped(skip) if skip.is_a_surprise() => Fate::Cannot(skip.to_string()),
        Outcome::Skipped(_) => Fate::Right,
        Outcome::Refused(why) => Fate::Cannot(plain(&why)),
    }
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    let all_have = "pods that should have a proxy have one";
    let (namespaces, pods) = match (&facts.namespaces, &facts.pods) {
        (Ok(namespaces), Ok(pods)) => (namespaces, pods),
        (Err(error), _) | (_, Err(error)) => return vec![Check::unknown(all_have, error)],
    };
    let by_name: BTreeMap<&str, &ObjectMeta> =
        namespaces.iter().map(|namespace| (&*namespace.metadata.name, &namespace.metadata)).collect();
    let mesh = Mesh {
        settings: ProxySettings::default(),
        bundle: String::new(),
        trust_domain: String::new(),
        namespace: String::new(),
    };
    let (mut escaped, mut cannot) = (Vec::new(), Vec::new());
    for found in pods {
        let pod = &found.pod;
        let Some(namespace) = by_name.get(pod.namespace()) else { continue };
        match fate(found, namespace, &mesh) {
            Fate::Right => {}
            Fate::Escaped => escaped.push(pod),
            Fate::Cannot(why) => cannot.push((pod, why)),
        }
    }
    let meshed = pods.iter().filter(|found| found.pod.is_meshed() && found.pod.is_staying()).count();
    let mut checks = vec![if escaped.is_empty() {
        Check::good(format!("{all_have} ({meshed})"))
    } else {
        missed(all_have, &escaped)
    }];
    checks.extend(cannot.first().map(|(first, _)| {
        let told = cannot.iter().map(|(pod, why)| format!("{}/{}: {why}", pod.namespace(), pod.name()));
        let fix = format!("mend what is named, or let it be: {}", without(first));
        Check::bad("all that ask for a proxy can have one", some_of(&told.collect::<Vec<_>>()), fix).mild()
    }));
    checks.push(pod_security(namespaces, pods));
    checks.push(refused(&facts.events));
    checks
}

/// The command that says for good that a workload shall have no proxy.
fn without(pod: &Pod) -> String {
    let (owner, namespace) = (pod.owner(), pod.namespace());
    match owner.kind.as_str() {
        "deployment" | "statefulset" | "daemonset" => format!(
            "`kubectl -n {namespace} patch {} {} -p \
             '{{\"spec\":{{\"template\":{{\"metadata\":{{\"annotations\":{{\"{}\":\"disabled\"}}}}}}}}}}'`",
            owner.kind,
            owner.name,
            labels::INJECT
        ),
        _ => format!(
            "{}: disabled in what made it; `kubectl -n {namespace} describe pod {}`",
            labels::INJECT,
            pod.name()
        ),
    }
}

fn missed(description: &str, escaped: &[&Pod]) -> Check {
    let owners: BTreeSet<(String, String)> = escaped
        .iter()
        .map(|pod| {
            let owner = pod.owner();
            let what = match owner.kind.as_str() {
                "deployment" | "statefulset" | "daemonset" => {
                    format!("kubectl rollout restart {}/{} -n {}", owner.kind, owner.name, pod.namespace())
                }
                _ => format!("kubectl delete pod {} -n {}", pod.name(), pod.namespace()),
            };
            (format!("{}/{}", pod.namespace(), pod.name()), what)
        })
        .collect();
    let names: Vec<&String> = owners.iter().map(|(name, _)| name).collect();
    let commands: BTreeSet<&String> = owners.iter().map(|(_, command)| command).collect();
    let commands: Vec<String> = commands.into_iter().map(|command| format!("`{command}`")).collect();
    let message = format!(
        "{} run without, though their namespace or annotation asks for one: {}; they were made before that, or while no \
         controller answered",
        escaped.len(),
        some_of(&names)
    );
    Check::bad(description, message, some_of(&commands)).mild()
}

/// Where injection is on but the namespace enforces a level that refuses the init step.
fn pod_security(namespaces: &[Meta], pods: &[Found]) -> Check {
    let description = "Pod Security lets the init step run";
    let wants = |namespace: &Meta| {
        let on = |meta: &ObjectMeta| meta.annotation(labels::INJECT).is_some_and(|value| value == "enabled");
        let mut own = pods.iter().map(|found| &found.pod).filter(|pod| pod.namespace() == namespace.metadata.name);
        !NEVER.contains(&&*namespace.metadata.name) && (on(&namespace.metadata) || own.any(|pod| on(&pod.metadata)))
    };
    let strict: Vec<&str> = namespaces
        .iter()
        .filter(|namespace| {
            matches!(namespace.metadata.label(PSA), Some("baseline" | "restricted")) && wants(namespace)
        })
        .map(|namespace| namespace.metadata.name.as_str())
        .collect();
    let Some(first) = strict.first() else { return Check::good(description) };
    let message = format!("the init step needs NET_ADMIN, which the enforced level refuses in: {}", some_of(&strict));
    Check::bad(description, message, format!("`kubectl label namespace {first} {PSA}=privileged --overwrite`"))
}

fn refused(events: &Result<Vec<Event>, ApiError>) -> Check {
    let description = "no pod was refused or left out lately";
    let events = match events {
        Ok(events) => events,
        Err(error) => return Check::unknown(description, error),
    };
    let ours = |event: &&Event| event.is_from(OURS) || event.message.contains("injector.lacewing.dev");
    let told: Vec<String> = events
        .iter()
        .filter(ours)
        .map(|event| {
            let place = event.metadata.namespace.as_deref().unwrap_or_default();
            format!("{place}/{}: {}", event.involved_object.name, plain(&event.message))
        })
        .collect();
    if told.is_empty() {
        return Check::good(description);
    }
    Check::bad(
        description,
        some_of(&told),
        "mend what they name; `kubectl get events -A --field-selector type=Warning` has all of the last hour",
    )
    .mild()
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::check::{
        Outcome::{Error as Bad, Warning},
        tests::{all_good, one_is},
    };

    fn namespace(name: &str, inject: Option<&str>, level: Option<&str>) -> Meta {
        let annotations = inject.map_or_else(|| json!({}), |inject| json!({ "lacewing.dev/inject": inject }));
        let labels = level.map_or_else(|| json!({}), |level| json!({ "pod-security.kubernetes.io/enforce": level }));
        from_value(json!({ "metadata": { "name": name, "annotations": annotations, "labels": labels } }))
            .expect("a namespace")
    }

    fn pod(name: &str, annotations: &Value, host_network: bool) -> Found {
        from_value(json!({
            "metadata": { "namespace": "shop", "name": name, "annotations": annotations,
                "labels": { "pod-template-hash": "5d4" },
                "ownerReferences": [{ "kind": "ReplicaSet", "name": "web-5d4", "controller": true }] },
            "spec": { "hostNetwork": host_network, "containers": [{ "name": "app", "image": "x" }] },
            "status": { "phase": "Running" },
        }))
        .expect("a pod")
    }

    fn facts(namespace: Meta, pods: Vec<Found>) -> Facts {
        Facts { namespaces: Ok(vec![namespace]), pods: Ok(pods), events: Ok(Vec::new()) }
    }

    #[test]
    fn pods_that_escaped_are_listed_with_the_command_that_catches_them() {
        let on = || namespace("shop", Some("enabled"), None);
        let meshed = pod("web-1", &json!({ "lacewing.dev/proxy-version": "0.1.0" }), false);
        let off = pod("web-2", &json!({ "lacewing.dev/inject": "disabled" }), false);
        all_good(&judge(&facts(on(), vec![meshed, off])));
        all_good(&judge(&facts(namespace("shop", None, None), vec![pod("web-1", &json!({}), false)])));
        let checks = judge(&facts(on(), vec![pod("web-1", &json!({}), false), pod("web-2", &json!({}), false)]));
        one_is(
            &checks,
            Warning,
            &["2 run without", "shop/web-1, shop/web-2", "`kubectl rollout restart deployment/web -n shop`"],
        );
        let own = facts(
            namespace("shop", Some("disabled"), None),
            vec![pod("web-1", &json!({ "lacewing.dev/inject": "enabled" }), false)],
        );
        one_is(&judge(&own), Warning, &["1 run without"]);
    }

    #[test]
    fn pods_that_cannot_have_a_proxy_say_why() {
        let on = || namespace("shop", Some("enabled"), None);
        one_is(&judge(&facts(on(), vec![pod("web-1", &json!({}), true)])), Warning, &["on the host network"]);
        let bad = pod("web-1", &json!({ "lacewing.dev/inject": "yes" }), false);
        one_is(&judge(&facts(on(), vec![bad])), Warning, &["lacewing.dev/inject: \"yes\" is not enabled"]);
    }

    #[test]
    fn levels_that_refuse_the_init_step_are_an_error() {
        let strict = namespace("shop", Some("enabled"), Some("restricted"));
        one_is(&judge(&facts(strict, Vec::new())), Bad, &["NET_ADMIN", "shop", "enforce=privileged --overwrite"]);
        all_good(&judge(&facts(namespace("shop", None, Some("restricted")), Vec::new())));
    }

    #[test]
    fn refusals_are_told_from_events() {
        let event: Event = from_value(json!({
            "metadata": { "namespace": "shop" }, "involvedObject": { "kind": "ReplicaSet", "name": "web-5d4" },
            "reason": "FailedCreate", "source": { "component": "replicaset-controller" },
            "message": "admission webhook \"injector.lacewing.dev\" denied the request: lacewing.dev/inject: \"yes\"",
        }))
        .expect("an event");
        let other = Event { message: "Back-off pulling image".to_owned(), ..Event::default() };
        let mut facts = facts(namespace("shop", None, None), Vec::new());
        facts.events = Ok(vec![event, other]);
        one_is(&judge(&facts), Warning, &["shop/web-5d4: admission webhook", "denied the request"]);
    }
}

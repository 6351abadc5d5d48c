//! Owns the checks of the proxies (`--proxy`): ready, of the controller's version, with a valid certificate and the
//! current roots, connected to a controller, and acting on what it sent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use lacewing_identity::TrustBundle;

use super::{
    Check,
    install::{VERSION_LABEL, WEBHOOK, controllers, names},
    some_of,
};
use crate::{
    cluster::{
        ApiError, Cluster, Forward,
        objects::{Deployment, Pod, WebhookConfiguration},
    },
    commands::CONTROLLER,
    live::{self, Destinations, Identity, Reading, Stream, Way},
    mesh::{self, Mesh},
    output::plain,
};

const CONTROLLER_ADMIN_PORT: u16 = 9990;
/// What was sent a moment ago may be under way: it is asked for again after this.
const APPLYING: Duration = Duration::from_secs(1);

pub struct Facts {
    pub now: u64,
    /// The meshed pods, as the API knows them.
    pub pods: Vec<Pod>,
    pub identities: Vec<Reading<Identity>>,
    pub destinations: Vec<Reading<Destinations>>,
    /// The controller's version.
    pub version: Option<String>,
    /// The webhook's caBundle: first the root that is signed under.
    pub roots: Option<TrustBundle>,
    /// Per identity and key: versions that were sent twice in a row and are not applied.
    pub behind: Result<Vec<String>, String>,
}

/// Asks the proxies of one namespace, or of all.
///
/// # Errors
/// The pods may not be listed.
pub async fn gather(cluster: &Cluster, namespace: Option<&str>, now: u64) -> Result<Facts, ApiError> {
    let scope = namespace.map_or_else(String::new, |name| format!("/namespaces/{name}"));
    let pods_path = format!("/api/v1{scope}/pods");
    let (pods, deployment, webhook, behind) = tokio::join!(
        cluster.list::<Pod>(&pods_path),
        cluster.find::<Deployment>(CONTROLLER),
        cluster.find::<WebhookConfiguration>(WEBHOOK),
        behind(cluster)
    );
    let pods: Vec<Pod> = pods?.into_iter().filter(|pod| pod.is_meshed() && pod.is_staying()).collect();
    let mesh = Mesh::of(cluster.clone());
    let asked: Vec<live::Pod> = pods.iter().filter_map(|pod| mesh.pod(pod)).take(mesh::PODS_MAX).collect();
    let (identities, destinations) = tokio::join!(live::identities(&asked), live::destinations(&asked));
    let label = |found: Deployment| found.metadata.label(VERSION_LABEL).map(str::to_owned);
    Ok(Facts {
        now,
        pods,
        identities,
        destinations,
        version: deployment.ok().flatten().and_then(label),
        roots: webhook.ok().flatten().and_then(|configuration| roots(&configuration)),
        behind,
    })
}

fn roots(configuration: &WebhookConfiguration) -> Option<TrustBundle> {
    let bundle = configuration.webhooks.first()?.client_config.ca_bundle.as_ref()?;
    TrustBundle::from_pem(&String::from_utf8(BASE64.decode(bundle).ok()?).ok()?).ok()
}

/// What the controllers sent and nobody has applied, twice in a row.
async fn behind(cluster: &Cluster) -> Result<Vec<String>, String> {
    let pods = controllers(cluster).await.map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for pod in pods.iter().filter(|pod| pod.is_ready()) {
        let way = Way::Forward(Arc::new(Forward::new(cluster, pod.namespace(), pod.name(), CONTROLLER_ADMIN_PORT)));
        let first = live::streams(&way).await?;
        if first.iter().all(|stream| lagging(stream).next().is_none()) {
            continue;
        }
        tokio::time::sleep(APPLYING).await;
        all.extend(still_behind(&first, &live::streams(&way).await?));
    }
    Ok(all)
}

/// Keys that have not been applied, with the version that was sent.
fn lagging(stream: &Stream) -> impl Iterator<Item = (&str, u64)> {
    stream.keys.iter().filter(|key| key.applied < key.sent).map(|key| (key.key.as_str(), key.sent))
}

/// What was sent at `first` and is not applied `later`.
fn still_behind(first: &[Stream], later: &[Stream]) -> Vec<String> {
    let mut sent: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for stream in first {
        sent.extend(lagging(stream).map(|(key, version)| ((stream.peer.as_str(), key), version)));
    }
    let mut behind = Vec::new();
    for stream in later {
        for key in &stream.keys {
            let before = sent.get(&(stream.peer.as_str(), key.key.as_str()));
            if before.is_some_and(|sent| key.applied < *sent) {
                behind.push(format!(
                    "{} has version {} of {}, not {}",
                    plain(&stream.peer),
                    key.applied,
                    plain(&key.key),
                    key.sent
                ));
            }
        }
    }
    behind
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    let there = "there are pods with a proxy";
    if facts.pods.is_empty() {
        let fix = "`kubectl annotate namespace NAMESPACE lacewing.dev/inject=enabled`, then `kubectl rollout restart deployment -n NAMESPACE`";
        return vec![Check::bad(there, "no pod has one", fix).mild()];
    }
    let mut checks = vec![Check::good(format!("{there} ({})", facts.pods.len())), ready(&facts.pods)];
    checks.extend(facts.version.as_ref().map(|version| versions(&facts.pods, version)));
    checks.extend([
        answered(&facts.identities),
        certificates(&facts.identities, facts.now),
        streams(&facts.destinations),
    ]);
    if let Some(roots) = &facts.roots {
        checks.extend([trusted(&facts.identities, roots.certificates().len() as u64), made(&facts.pods, roots)]);
    }
    checks.push(applied(&facts.behind));
    checks
}

fn ready(pods: &[Pod]) -> Check {
    let description = "they are ready";
    let unready: Vec<&Pod> = pods.iter().filter(|pod| !pod.is_ready()).collect();
    let Some(first) = unready.first() else { return Check::good(description) };
    let message =
        format!("{} are not: {}; {}: {}", unready.len(), names(&unready), first.name(), plain(&first.why_not_ready()));
    let place = format!("{} -n {}", first.name(), first.namespace());
    Check::bad(
        description,
        message,
        format!("`kubectl describe pod {place}`, `kubectl logs {place} -c lacewing-proxy`"),
    )
}

fn versions(pods: &[Pod], version: &str) -> Check {
    let description = format!("their proxies have the controller's version ({})", plain(version));
    let other: Vec<&Pod> = pods.iter().filter(|pod| pod.proxy_version().is_some_and(|own| own != version)).collect();
    let Some(first) = other.first() else { return Check::good(description) };
    let owner = first.owner();
    let message = format!("{} have another one: {}", other.len(), names(&other));
    let fix = format!("`kubectl rollout restart {}/{} -n {}`, and so on", owner.kind, owner.name, first.namespace());
    Check::bad(description, message, fix).mild()
}

fn answered<T>(readings: &[Reading<T>]) -> Check {
    let description = "their proxies can be asked";
    let silent: Vec<String> = readings.iter().filter_map(|r| Some(format!("{}: {}", place(r), r.silence()?))).collect();
    if silent.is_empty() {
        return Check::good(description);
    }
    let all = readings.iter().filter(|reading| reading.pod.proxy.is_some()).count();
    let message = format!("{} of {all} did not answer: {}", silent.len(), some_of(&silent));
    Check::bad(
        description,
        message,
        "may you? `kubectl auth can-i get pods/portforward` (since Kubernetes 1.35: create); else see the proxy's log",
    )
    .mild()
}

fn place<T>(reading: &Reading<T>) -> String {
    format!("{}/{}", reading.pod.namespace, reading.pod.name)
}

fn certificates(readings: &[Reading<Identity>], now: u64) -> Check {
    let description = "their certificates are valid and renewed in time";
    let told = || readings.iter().filter_map(|reading| Some((reading, reading.answer.as_ref().ok()?)));
    let expired: Vec<String> =
        told().filter(|(_, id)| id.not_after <= now).map(|(reading, _)| place(reading)).collect();
    let fix = "is the controller reachable from there? see the proxy's log: `kubectl logs POD -c lacewing-proxy`";
    if !expired.is_empty() {
        return Check::bad(description, format!("expired: {}", some_of(&expired)), fix);
    }
    let late: Vec<String> = told().filter(|(_, id)| id.renew_until < now).map(|(reading, _)| place(reading)).collect();
    if !late.is_empty() {
        return Check::bad(description, format!("overdue: {}", some_of(&late)), fix).mild();
    }
    Check::good(description)
}

fn trusted(readings: &[Reading<Identity>], roots: u64) -> Check {
    let description = "they trust the current roots";
    let told = readings.iter().filter_map(|reading| Some((reading, reading.answer.as_ref().ok()?)));
    let other: Vec<String> = told
        .filter(|(_, identity)| identity.roots != roots)
        .map(|(reading, identity)| format!("{} trusts {}", place(reading), identity.roots))
        .collect();
    if other.is_empty() {
        return Check::good(description);
    }
    let message = format!("the mesh has {roots}, but {}", some_of(&other));
    Check::bad(
        description,
        message,
        "a rotation takes a minute to reach everybody: check again with `mesh check --proxy --wait 2m`",
    )
    .mild()
}

/// Whether they could start once more with what they were made with. A container that is restarted knows more; a pod that
/// never ran, or whose node was restarted, does not.
fn made(pods: &[Pod], roots: &TrustBundle) -> Check {
    let description = "they could start again as they were made";
    let knows =
        |pem: &str| TrustBundle::from_pem(pem).is_ok_and(|made| made.certificates().contains(&roots.certificates()[0]));
    let is_old = |pod: &&Pod| pod.proxy_setting("LACEWING_TRUST_BUNDLE").is_some_and(|pem| !knows(pem));
    let (ready, stuck): (Vec<&Pod>, Vec<&Pod>) = pods.iter().filter(is_old).partition(|pod| pod.is_ready());
    let before = "made before the mesh's root was replaced";
    if let Some(first) = stuck.first() {
        let message = format!("{} not ready, {before}, cannot know the controller: {}", stuck.len(), names(&stuck));
        let fix = format!("`kubectl delete pod {} -n {}`, and so on", first.name(), first.namespace());
        return Check::bad(description, message, fix);
    }
    let Some(first) = ready.first() else { return Check::good(description) };
    let owner = first.owner();
    let message = format!("{} would not after a restart of their node, {before}: {}", ready.len(), names(&ready));
    let fix = format!("`kubectl rollout restart {}/{} -n {}`, and so on", owner.kind, owner.name, first.namespace());
    Check::bad(description, message, fix).mild()
}

fn streams(readings: &[Reading<Destinations>]) -> Check {
    let description = "they hear from a controller";
    let down: Vec<String> = readings
        .iter()
        .filter_map(|reading| Some((reading, reading.answer.as_ref().ok()?)))
        .filter(|(_, destinations)| destinations.control_stream != "up")
        .map(|(reading, destinations)| format!("{}: {}", place(reading), plain(&destinations.control_stream)))
        .collect();
    if down.is_empty() {
        return Check::good(description);
    }
    let fix = "they run on what they knew last; see the categories install and network of `mesh check`";
    Check::bad(description, format!("{} do not: {}", down.len(), some_of(&down)), fix)
}

fn applied(behind: &Result<Vec<String>, String>) -> Check {
    let description = "they act on what the controllers sent";
    match behind {
        Ok(behind) if behind.is_empty() => Check::good(description),
        Ok(behind) => Check::bad(description, some_of(behind), "see `mesh diagnostics applied`").mild(),
        Err(why) => {
            let fix = "`kubectl auth can-i get pods/portforward -n lacewing` (since Kubernetes 1.35: create) tells whether you may ask";
            Check::bad(description, format!("the controllers cannot be asked: {}", plain(why)), fix).mild()
        }
    }
}

#[cfg(test)]
mod tests {
    use lacewing_identity::{Authority, TrustDomain};
    use serde_json::{from_value, json};

    use super::*;
    use crate::{
        check::{
            Outcome::{Error, Warning},
            tests::{all_good, one_is},
        },
        cluster::objects::Owner,
    };

    fn pod(ready: bool, version: &str) -> Pod {
        from_value(json!({
            "metadata": { "namespace": "shop", "name": "web-1", "annotations": { "lacewing.dev/proxy-version": version },
                "ownerReferences": [{ "kind": "StatefulSet", "name": "web", "controller": true }] },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
                "initContainerStatuses": [{ "name": "lacewing-proxy", "ready": ready, "state": { "running": {} } }] },
        }))
        .expect("a pod")
    }

    fn reading<T>(answer: Result<T, String>) -> Reading<T> {
        let pod = live::Pod {
            namespace: "shop".to_owned(),
            name: "web-1".to_owned(),
            owner: Owner { kind: "statefulset".to_owned(), name: "web".to_owned() },
            has_proxy: Some(true),
            proxy: Some(Way::Address(([127, 0, 0, 1], 1).into())),
        };
        Reading { pod, answer }
    }

    fn identity(not_after: u64, renew_until: u64, roots: u64) -> Reading<Identity> {
        reading(Ok(Identity {
            id: "spiffe://x/ns/shop/sa/web".to_owned(),
            not_before: 0,
            not_after,
            renew_from: 0,
            renew_until,
            roots,
        }))
    }

    fn destinations(control_stream: &str) -> Reading<Destinations> {
        reading(Ok(Destinations { control_stream: control_stream.to_owned(), backends: Vec::new() }))
    }

    fn bundle() -> TrustBundle {
        let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
        Authority::generate(&domain, 1_795_300_000).expect("a root").bundle().clone()
    }

    /// As injection makes it.
    fn made_with(roots: &TrustBundle, ready: bool) -> Pod {
        let mut pod = pod(ready, "0.1.0");
        let container = json!([{ "name": "lacewing-proxy", "env": [{ "name": "LACEWING_POD_NAME", "valueFrom": {} },
            { "name": "LACEWING_TRUST_BUNDLE", "value": roots.to_pem() }] }]);
        pod.spec.init_containers = from_value(container).expect("a container");
        pod
    }

    #[test]
    fn who_was_made_before_the_root_was_replaced_is_named() {
        let (old, new) = (bundle(), bundle());
        let both = TrustBundle::from_pem(&(new.to_pem() + &old.to_pem())).expect("both");
        all_good(&[made(&[made_with(&new, true), made_with(&both, false), pod(false, "0.1.0")], &new)]);
        all_good(&[made(&[made_with(&both, true)], &both)]);
        // The old one is still trusted, but nothing is signed under it any more.
        for roots in [&new, &both] {
            one_is(
                &[made(&[made_with(&old, true)], roots)],
                Warning,
                &["1 would not", "restart statefulset/web -n shop"],
            );
            let both = [made_with(&old, true), made_with(&old, false)];
            one_is(&[made(&both, roots)], Error, &["1 not ready", "kubectl delete pod web-1 -n shop"]);
        }
    }

    fn facts() -> Facts {
        Facts {
            now: 1_000,
            pods: vec![pod(true, "0.1.0")],
            identities: vec![identity(2_000, 1_500, 1)],
            destinations: vec![destinations("up")],
            version: Some("0.1.0".to_owned()),
            roots: Some(bundle()),
            behind: Ok(Vec::new()),
        }
    }

    #[test]
    fn each_thing_that_is_wrong_with_a_proxy_is_named() {
        all_good(&judge(&facts()));
        let table: Vec<(Facts, super::super::Outcome, &[&str])> = vec![
            (Facts { pods: Vec::new(), ..facts() }, Warning, &["no pod has one", "annotate namespace"]),
            (
                Facts { pods: vec![pod(false, "0.1.0")], ..facts() },
                Error,
                &["shop/web-1", "lacewing-proxy runs but is not ready", "kubectl describe pod web-1 -n shop"],
            ),
            (
                Facts { pods: vec![pod(true, "0.0.9")], ..facts() },
                Warning,
                &["another one: shop/web-1", "rollout restart statefulset/web -n shop"],
            ),
            (Facts { identities: vec![identity(900, 800, 1)], ..facts() }, Error, &["expired: shop/web-1"]),
            (Facts { identities: vec![identity(2_000, 900, 1)], ..facts() }, Warning, &["overdue: shop/web-1"]),
            (
                Facts { identities: vec![identity(2_000, 1_500, 2)], ..facts() },
                Warning,
                &["the mesh has 1, but shop/web-1 trusts 2"],
            ),
            (
                Facts { identities: vec![reading(Err("refused".to_owned()))], ..facts() },
                Warning,
                &["1 of 1 did not answer: shop/web-1: refused", "can-i get pods/portforward"],
            ),
            (
                Facts { destinations: vec![destinations("down: no route")], ..facts() },
                Error,
                &["shop/web-1: down: no route"],
            ),
            (
                Facts { behind: Ok(vec!["spiffe://x has version 1 of y, not 2".to_owned()]), ..facts() },
                Warning,
                &["mesh diagnostics applied"],
            ),
            (Facts { behind: Err("no right".to_owned()), ..facts() }, Warning, &["cannot be asked: no right"]),
        ];
        for (facts, result, parts) in table {
            one_is(&judge(&facts), result, parts);
        }
    }

    #[test]
    fn what_is_under_way_is_not_behind() {
        let stream = |sent, applied| -> Vec<Stream> {
            from_value(json!([{ "peer": "spiffe://a", "keys": [{ "key": "endpoints:shop/web", "sent": sent, "applied": applied }] }]))
                .expect("streams")
        };
        assert!(still_behind(&stream(2, 1), &stream(2, 2)).is_empty());
        assert!(still_behind(&stream(2, 1), &stream(3, 2)).is_empty(), "the newer one is under way");
        assert!(still_behind(&stream(2, 2), &stream(3, 2)).is_empty());
        assert_eq!(
            still_behind(&stream(2, 1), &stream(2, 1)),
            ["spiffe://a has version 1 of endpoints:shop/web, not 2"]
        );
    }
}

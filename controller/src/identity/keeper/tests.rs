//! The care for trust in a cluster, with an API server in memory that knows what the real one does to these objects:
//! versions, conflicts, and server-side apply of the one field that is ours.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use lacewing_identity::{KeyAndCsr, Leaf, SecretParts, SpiffeId};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    super::{
        secrets::Secrets,
        tests::{DAY, NOW, domain, keeper, problems, set_time},
    },
    *,
};

const ROOT: &str = "/api/v1/namespaces/lacewing/secrets/lacewing-root";
const PREVIOUS: &str = "/api/v1/namespaces/lacewing/secrets/lacewing-previous-roots";
const INJECTOR: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/lacewing-injector";
const WEBHOOK: &str = "lacewing-controller.lacewing.svc";

/// Objects by their path.
#[derive(Default)]
struct Api {
    objects: Mutex<BTreeMap<String, Value>>,
    writes: Mutex<Vec<String>>,
    down: AtomicBool,
    /// Writing the webhook's registration is refused.
    no_right: AtomicBool,
}

impl Api {
    fn new() -> Arc<Self> {
        let api = Arc::new(Self::default());
        let injector =
            json!({"metadata": {"name": "lacewing-injector"}, "webhooks": [{"name": "inject.lacewing.dev"}]});
        api.objects.lock().insert(INJECTOR.to_owned(), injector);
        api
    }

    fn cluster(self: &Arc<Self>) -> Cluster {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                if api.down.load(Ordering::Relaxed) {
                    return Err(std::io::Error::other("connection refused"));
                }
                let (head, body) = request.into_parts();
                let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let (status, answer) = api.answer(&head.method, head.uri.path(), head.uri.query(), body);
                Ok(Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).unwrap())
            }
        });
        Cluster::of(kube::Client::new(service, "lacewing"))
    }

    fn answer(&self, method: &Method, path: &str, query: Option<&str>, body: Value) -> (StatusCode, Value) {
        let mut objects = self.objects.lock();
        let said = |status: StatusCode| (status, json!({"kind": "Status", "message": status.to_string()}));
        if *method != Method::GET {
            self.writes.lock().push(format!("{method} {path}"));
        }
        let version = self.writes.lock().len().to_string();
        match *method {
            Method::GET => {
                objects.get(path).map_or_else(|| said(StatusCode::NOT_FOUND), |o| (StatusCode::OK, o.clone()))
            }
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if objects.contains_key(&path) {
                    return said(StatusCode::CONFLICT);
                }
                (StatusCode::CREATED, put(&mut objects, path, body, &version))
            }
            Method::PUT => match (objects.get(path), body["metadata"].get("resourceVersion")) {
                (None, _) => said(StatusCode::NOT_FOUND),
                (Some(there), Some(read)) if there["metadata"]["resourceVersion"] != *read => {
                    said(StatusCode::CONFLICT)
                }
                _ => (StatusCode::OK, put(&mut objects, path.to_owned(), body, &version)),
            },
            Method::PATCH if self.no_right.load(Ordering::Relaxed) => said(StatusCode::FORBIDDEN),
            Method::PATCH => {
                assert_eq!(query, Some("fieldManager=lacewing-controller&force=true"));
                let mut object = objects[path].clone();
                for ours in body["webhooks"].as_array().unwrap() {
                    let webhooks = object["webhooks"].as_array_mut().unwrap();
                    let theirs = webhooks.iter_mut().find(|webhook| webhook["name"] == ours["name"]).unwrap();
                    theirs["clientConfig"]["caBundle"] = ours["clientConfig"]["caBundle"].clone();
                }
                (StatusCode::OK, put(&mut objects, path.to_owned(), object, &version))
            }
            _ => said(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    /// What an operator or a tool does with kubectl.
    fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.objects.lock().get_mut(path).unwrap());
    }

    fn swap(&self, parts: &SecretParts) {
        let data = json!({
            "tls.crt": STANDARD.encode(&parts.chain),
            "tls.key": STANDARD.encode(&parts.key),
            "ca.crt": STANDARD.encode(&parts.roots),
        });
        let secret = json!({"metadata": {"name": "lacewing-root", "resourceVersion": "x"}, "data": data});
        self.objects.lock().insert(ROOT.to_owned(), secret);
    }

    fn ca_bundle(&self) -> String {
        let objects = self.objects.lock();
        let encoded = objects[INJECTOR]["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap();
        String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
    }

    fn replica(self: &Arc<Self>, leads: bool) -> Keeper {
        let store = Store::Secrets(Secrets::new(self.cluster(), "lacewing"));
        let mut keeper = keeper(store, leads, Some(WEBHOOK));
        keeper.injector = Some(self.cluster());
        keeper
    }

    fn writes_to(&self, path: &str) -> usize {
        self.writes.lock().iter().filter(|write| write.ends_with(path)).count()
    }
}

fn put(objects: &mut BTreeMap<String, Value>, path: String, mut object: Value, version: &str) -> Value {
    object["metadata"]["resourceVersion"] = version.into();
    objects.insert(path, object.clone());
    object
}

/// As an operator gives it.
fn given(now: u64) -> SecretParts {
    SecretParts { root_key: None, ..Authority::generate(&domain(), now).unwrap().to_secret() }
}

/// A workload's certificate from this replica, and the roots that it trusts.
fn certify(keeper: &Keeper, now: u64) -> (Leaf, TrustBundle) {
    let (key, csr) = KeyAndCsr::generate().unwrap();
    let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
    let (issued, bundle) = keeper.identity.issue(&csr, &id, now).unwrap();
    (key.with_chain(issued.chain, issued.not_before, issued.not_after).unwrap(), bundle)
}

fn holds(leaf: &Leaf, bundle: &TrustBundle) -> bool {
    let one = |root: &[u8]| TrustBundle::from_der([root.to_vec()]).unwrap();
    bundle.certificates().iter().any(|root| leaf.is_under_first(&one(root)))
}

async fn look(keeper: &mut Keeper, now: u64) {
    set_time(now);
    let _ = keeper.look().await;
}

#[tokio::test]
async fn of_several_that_start_one_makes_the_root() {
    set_time(NOW);
    let api = Api::new();
    let (mut a, mut b, mut c) = (api.replica(true), api.replica(false), api.replica(false));
    let (one, two, three) = tokio::join!(a.look(), b.look(), c.look());
    one.and(two).and(three).unwrap();
    for other in [&b, &c] {
        assert_eq!(a.identity.bundle(), other.identity.bundle());
        assert_eq!(a.identity.levels().unwrap().issuer_not_after, other.identity.levels().unwrap().issuer_not_after);
    }
    let secret = api.objects.lock()[ROOT].clone();
    assert_eq!(
        (&secret["type"], &secret["metadata"]["labels"]),
        (&json!("kubernetes.io/tls"), &json!({"app.kubernetes.io/managed-by": "lacewing-controller"}))
    );
    assert!(a.identity.webhook_tls().is_some() && a.identity.unready(NOW).is_none());
    assert_eq!(api.ca_bundle(), a.identity.bundle().unwrap().to_pem());
    assert_eq!(api.writes_to(INJECTOR), 1, "only the leader writes, and once");
}

#[tokio::test]
async fn a_root_is_rotated_by_the_leader_and_nobody_is_refused() {
    let api = Api::new();
    let (mut leader, mut follower) = (api.replica(true), api.replica(false));
    look(&mut leader, NOW).await;
    look(&mut follower, NOW).await;
    let old = leader.identity.bundle().unwrap();
    api.edit(ROOT, |secret| secret["metadata"]["annotations"] = json!({"lacewing.dev/rotate": "now", "kept": "x"}));
    let mut proxies: Vec<(Leaf, TrustBundle)> = vec![certify(&leader, NOW), certify(&follower, NOW)];
    let (mut now, mut phases) = (NOW, Vec::new());
    while now < NOW + 3 * DAY {
        now += DAY / 48;
        look(&mut leader, now).await;
        // The other looks some seconds later.
        look(&mut follower, now + 4).await;
        let phase = leader.identity.levels().unwrap().phase.label();
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
        // Proxies have the bundle from their stream at once, and renew late.
        for (proxy, from) in proxies.iter_mut().zip([&leader, &follower]) {
            proxy.1 = from.identity.bundle().unwrap();
            if proxy.0.renew_at(1.0) <= now {
                *proxy = certify(from, now + 4);
            }
        }
        for (leaf, _) in &proxies {
            for (_, bundle) in &proxies {
                assert!(holds(leaf, bundle), "{} s after the wish", now - NOW);
            }
        }
        assert_eq!(api.ca_bundle(), leader.identity.bundle().unwrap().to_pem());
    }
    assert_eq!(phases, ["publishing", "retiring", "stable"]);
    let new = leader.identity.bundle().unwrap();
    assert!(new.certificates().len() == 1 && new != old && follower.identity.bundle().unwrap() == new);
    assert_eq!(api.objects.lock()[ROOT]["metadata"]["annotations"], json!({"kept": "x"}));
    assert_eq!(api.writes_to(ROOT), 3, "one for each step");
    assert!(!api.objects.lock().contains_key(PREVIOUS));
}

#[tokio::test]
async fn an_operators_secret_is_used_and_never_written() {
    let api = Api::new();
    api.swap(&given(NOW));
    let (mut leader, mut follower) = (api.replica(true), api.replica(false));
    look(&mut leader, NOW).await;
    look(&mut follower, NOW).await;
    let before = certify(&leader, NOW + DAY);
    let next = given(NOW);
    api.swap(&next);
    for replica in [&mut follower, &mut leader] {
        look(replica, NOW + DAY).await;
        // Still the old issuer; both roots.
        assert!(certify(replica, NOW + DAY).0.is_under_first(&before.1));
        assert_eq!(replica.identity.bundle().unwrap().certificates().len(), 2);
    }
    assert_eq!(api.writes_to("secrets"), 1, "the leader keeps the old root for whoever starts next");
    let mut restarted = api.replica(false);
    look(&mut restarted, NOW + DAY + 60).await;
    let after = certify(&restarted, NOW + DAY + 60);
    assert!(holds(&before.0, &after.1) && !holds(&after.0, &before.1));
    for replica in [&mut leader, &mut follower, &mut restarted] {
        look(replica, NOW + 2 * DAY).await;
        assert_eq!(certify(replica, NOW + 2 * DAY).1.certificates().len(), 2);
        look(replica, NOW + 4 * DAY).await;
        let (leaf, bundle) = certify(replica, NOW + 4 * DAY);
        assert_eq!(bundle.to_pem(), next.roots);
        assert!(leaf.is_under_first(&bundle));
    }
    assert_eq!(api.writes_to(ROOT), 0);
}

#[tokio::test]
async fn a_bad_secret_is_named_and_changes_nothing() {
    let api = Api::new();
    let mut expired = given(NOW - 370 * DAY);
    api.swap(&expired);
    let mut replica = api.replica(true);
    look(&mut replica, NOW).await;
    let why = replica.identity.unready(NOW).unwrap();
    for part in ["has not been read", "tls.crt expired", "kubectl -n lacewing"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let [problem] = &problems(&replica)[..] else { panic!("one problem") };
    assert_eq!(problem.place, "Secret lacewing/lacewing-root");
    // Mended while it runs; bad again while it runs.
    api.swap(&given(NOW));
    look(&mut replica, NOW).await;
    assert!(replica.identity.unready(NOW).is_none() && replica.identity.problems().is_empty());
    let good = replica.identity.bundle().unwrap();
    expired.key = given(NOW).key;
    api.swap(&expired);
    look(&mut replica, NOW + 60).await;
    let [problem] = &problems(&replica)[..] else { panic!("one problem") };
    assert!(problem.cause.contains("key does not belong") && problem.in_force.contains("last good"), "{problem}");
    assert_eq!((replica.identity.unready(NOW), replica.identity.bundle().unwrap()), (None, good));
    assert_eq!(api.writes_to(ROOT), 0);
}

#[tokio::test]
async fn a_wish_that_cannot_be_granted_is_said() {
    let api = Api::new();
    api.swap(&given(NOW));
    api.edit(ROOT, |secret| secret["metadata"]["annotations"] = json!({"lacewing.dev/rotate": "1"}));
    let mut replica = api.replica(true);
    look(&mut replica, NOW).await;
    let [problem] = &problems(&replica)[..] else { panic!("one problem") };
    assert!(problem.cause.contains("root's key is not here"), "{problem}");
    assert_eq!(api.writes_to(ROOT), 0);
}

#[tokio::test]
async fn what_vanishes_is_put_back_by_the_leader_if_it_was_ours() {
    let api = Api::new();
    let (mut leader, mut follower) = (api.replica(true), api.replica(false));
    look(&mut leader, NOW).await;
    look(&mut follower, NOW).await;
    let before = leader.identity.bundle().unwrap();
    api.objects.lock().remove(ROOT);
    look(&mut follower, NOW).await;
    let [problem] = &problems(&follower)[..] else { panic!("one problem") };
    assert!(problem.cause.contains("it is gone"), "{problem}");
    look(&mut leader, NOW).await;
    look(&mut follower, NOW).await;
    assert!(follower.identity.problems().is_empty() && api.objects.lock().contains_key(ROOT));
    assert_eq!((leader.identity.bundle().unwrap(), follower.identity.bundle().unwrap()), (before.clone(), before));
}

#[tokio::test]
async fn without_the_api_server_everything_goes_on() {
    let api = Api::new();
    let mut replica = api.replica(true);
    look(&mut replica, NOW).await;
    let first = replica.identity.tls().unwrap();
    api.down.store(true, Ordering::Relaxed);
    look(&mut replica, NOW + DAY * 3 / 4).await;
    assert!(!Arc::ptr_eq(&first, &replica.identity.tls().unwrap()), "its own certificate is renewed");
    assert_eq!(replica.identity.unready(NOW + DAY * 3 / 4), None);
    assert!(problems(&replica).iter().all(|problem| problem.cause.contains("connection refused")));
    let mut late = api.replica(false);
    look(&mut late, NOW).await;
    assert!(late.identity.unready(NOW).unwrap().contains("connection refused"));
    api.down.store(false, Ordering::Relaxed);
    look(&mut replica, NOW + DAY).await;
    assert!(replica.identity.problems().is_empty());
}

#[tokio::test]
async fn two_that_lead_for_a_moment_do_not_undo_each_other() {
    let api = Api::new();
    let (mut one, mut two) = (api.replica(true), api.replica(true));
    look(&mut one, NOW).await;
    look(&mut two, NOW).await;
    api.edit(ROOT, |secret| secret["metadata"]["annotations"] = json!({"lacewing.dev/rotate": "1"}));
    let (wanted, _) = (one.read(NOW, true).await.unwrap(), two.read(NOW, true).await.unwrap());
    assert!(wanted);
    one.rotate(NOW, true, true).await.ok().unwrap();
    two.rotate(NOW, true, true).await.ok().unwrap();
    look(&mut one, NOW + 5).await;
    look(&mut two, NOW + 5).await;
    assert_eq!(one.identity.bundle(), two.identity.bundle());
    assert_eq!(one.identity.bundle().unwrap().certificates().len(), 2, "one new root, not two");
}

#[tokio::test]
async fn the_registration_has_our_roots_whoever_takes_them_out() {
    let api = Api::new();
    let mut leader = api.replica(true);
    look(&mut leader, NOW).await;
    let bundle = leader.identity.bundle().unwrap().to_pem();
    for theirs in [Value::Null, json!("c29tZWJvZHkncw==")] {
        api.edit(INJECTOR, |object| object["webhooks"][0]["clientConfig"]["caBundle"] = theirs);
        look(&mut leader, NOW).await;
        assert_eq!(api.ca_bundle(), bundle);
    }
    look(&mut leader, NOW).await;
    assert_eq!(api.writes_to(INJECTOR), 3, "nothing is written that is there");
    api.objects.lock().remove(INJECTOR);
    look(&mut leader, NOW).await;
    let [problem] = &problems(&leader)[..] else { panic!("one problem") };
    assert!(problem.to_string().contains("mesh install"), "{problem}");
}

fn unready(keeper: &Keeper) -> String {
    keeper.identity.unready(NOW).unwrap_or_default()
}

#[tokio::test]
async fn ready_is_whom_the_api_server_can_call() {
    let api = Api::new();
    let (mut leader, mut follower) = (api.replica(true), api.replica(false));
    look(&mut follower, NOW).await;
    let why = unready(&follower);
    assert!(why.contains("webhook's certificate") && why.contains("replica that leads writes it"), "{why}");
    assert_eq!(api.writes_to(INJECTOR), 0);
    look(&mut leader, NOW).await;
    look(&mut follower, NOW).await;
    assert_eq!((unready(&leader), unready(&follower)), (String::new(), String::new()));
    assert!(follower.identity.problems().is_empty());
    // Not taken back by what happens later, and not looked at again by who does not lead.
    api.edit(INJECTOR, |object| object["webhooks"][0]["clientConfig"]["caBundle"] = json!("c29tZWJvZHkncw=="));
    look(&mut follower, NOW).await;
    assert!(unready(&follower).is_empty() && follower.identity.problems().is_empty());
    // Somebody else's roots are not ours.
    let mut late = api.replica(false);
    look(&mut late, NOW).await;
    assert!(unready(&late).contains("not there yet"), "{}", unready(&late));
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_comes_after_the_controller_is_waited_for() {
    for gone in [Value::Null, json!([])] {
        let api = Api::new();
        let installed = api.objects.lock()[INJECTOR]["webhooks"].clone();
        api.edit(INJECTOR, |object| object["webhooks"] = gone.clone());
        set_time(NOW);
        let leader = api.replica(true);
        let identity = leader.identity.clone();
        let running = tokio::spawn(leader.run());
        sleep(REGISTRATION_PATIENCE / 2).await;
        assert!(identity.unready(NOW).is_some(), "nobody could be injected: {gone}");
        let problems: Vec<_> = identity.problems().into_values().collect();
        assert!(problems[0].to_string().contains("mesh install"), "{problems:?}");
        if gone.is_null() {
            api.edit(INJECTOR, |object| object["webhooks"] = installed);
            sleep(FIRST_LOOK_INTERVAL * 2).await;
            assert!(identity.problems().is_empty() && !api.ca_bundle().is_empty());
        } else {
            sleep(REGISTRATION_PATIENCE).await;
            assert_eq!(identity.problems().len(), 1, "it is never registered, and said so");
        }
        assert_eq!(identity.unready(NOW), None);
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_cannot_be_written_is_waited_for_and_then_reported() {
    let api = Api::new();
    api.no_right.store(true, Ordering::Relaxed);
    set_time(NOW);
    let leader = api.replica(true);
    let identity = leader.identity.clone();
    let began = Instant::now();
    let running = tokio::spawn(leader.run());
    while identity.unready(NOW).is_some() {
        let why = identity.unready(NOW).unwrap();
        assert!(began.elapsed() < REGISTRATION_PATIENCE + FIRST_LOOK_INTERVAL, "{why}");
        sleep(FIRST_LOOK_INTERVAL).await;
    }
    assert!(began.elapsed() >= REGISTRATION_PATIENCE);
    let [problem] = &identity.problems().into_values().collect::<Vec<_>>()[..] else { panic!("one problem") };
    assert!(problem.cause.contains("cannot write it") && problem.cause.contains("403"), "{problem}");
    api.no_right.store(false, Ordering::Relaxed);
    sleep(LOOK_INTERVAL).await;
    assert!(identity.problems().is_empty() && api.ca_bundle() == identity.bundle().unwrap().to_pem());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn who_begins_to_lead_tells_the_api_server_at_once() {
    let api = Api::new();
    let mut before = api.replica(true);
    look(&mut before, NOW).await;
    let (lead, leading) = watch::channel(false);
    let next = Keeper { leading, ..api.replica(false) };
    let identity = next.identity.clone();
    let running = tokio::spawn(next.run());
    while identity.unready(NOW).is_some() {
        sleep(Duration::from_millis(1)).await;
    }
    api.edit(INJECTOR, |object| object["webhooks"][0]["clientConfig"]["caBundle"] = Value::Null);
    let writes = api.writes_to(INJECTOR);
    lead.send_replace(true);
    let since = Instant::now();
    while api.writes_to(INJECTOR) == writes {
        sleep(Duration::from_millis(1)).await;
        assert!(since.elapsed() < LOOK_INTERVAL / 5, "it slept on");
    }
    assert_eq!(api.ca_bundle(), identity.bundle().unwrap().to_pem());
    // The election is gone: it goes on looking, and does not spin.
    drop(lead);
    sleep(LOOK_INTERVAL * 2).await;
    running.abort();
}

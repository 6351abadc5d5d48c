//! What is followed gets the right answer at the right time, and nothing more.

use super::*;
use crate::source::manifest;

fn publisher() -> Publisher {
    Publisher::new(TrustDomain::parse("cluster.local").unwrap())
}

fn changes(yaml: &str) -> Vec<Change> {
    manifest::parse(yaml).unwrap().into_iter().map(|parsed| Change::Apply(parsed.object)).collect()
}

fn target(target: &str) -> Query {
    Query::Target { namespace: "a".into(), target: target.into() }
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{ports: [{{port: 80}}]}}\n---\n"
    )
}

fn is_found(live: &mut Live) -> bool {
    let answer = live.borrow_and_update().clone();
    matches!(answer.as_deref(), Some(Answer::Target(Target::Service { .. })))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_before_the_source_was_read() {
    let publisher = publisher();
    let mut live = publisher.follow(target("web:80")).unwrap();
    assert_eq!(*live.borrow_and_update(), None);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(60), live.changed()).await.is_err());
    publisher.apply(vec![]);
    live.changed().await.unwrap();
    assert!(matches!(live.borrow().as_deref(), Some(Answer::Target(Target::NotFound(_)))));
}

#[tokio::test(start_paused = true)]
async fn only_who_gets_another_answer_is_woken() {
    let publisher = publisher();
    publisher.apply(changes(&service("web")));
    let mut web = publisher.follow(target("web:80")).unwrap();
    let mut voting = publisher.follow(target("voting:80")).unwrap();
    let mut generation = publisher.generation();
    assert!(is_found(&mut web) && !is_found(&mut voting));
    publisher.apply(changes(&service("voting")));
    generation.changed().await.unwrap();
    voting.changed().await.unwrap();
    assert!(is_found(&mut voting));
    assert!(!web.has_changed().unwrap());
    publisher.apply(changes(&service("unrelated")));
    assert!(!generation.has_changed().unwrap() && !web.has_changed().unwrap() && !voting.has_changed().unwrap());
}

/// A meshed pod, with more in its metadata.
fn pod(meta: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-1, namespace: a, annotations: {{lacewing.dev/proxy-version: \
         v1}}{meta}}}\nstatus: {{podIP: 10.0.0.1}}\n---\n"
    )
}

#[tokio::test(start_paused = true)]
async fn an_address_is_followed_from_nothing_to_a_pod_and_back() {
    let publisher = publisher();
    publisher.apply(vec![]);
    let mut live = publisher.follow(target("10.0.0.1:8080")).unwrap();
    let mut now = || match live.borrow_and_update().as_deref() {
        Some(Answer::Target(Target::Unknown)) => None,
        Some(Answer::Target(Target::Pod { endpoint, .. })) => endpoint.identity.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(now(), None);
    publisher.apply(changes(&pod("")));
    assert_eq!(now().unwrap().to_string(), "spiffe://cluster.local/ns/a/sa/default");
    let key = lacewing_crds::ObjectKey { kind: lacewing_crds::Kind::Pod, name: Name::new("a", "web-1") };
    publisher.apply(vec![Change::Remove(key)]);
    assert_eq!(now(), None);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_told_and_taken_out_at_once() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-x, namespace: a, labels: \
                 {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: \
                 [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}}, {addresses: [10.0.0.2]}]\n---\n";
    let publisher = publisher();
    publisher.apply(changes(&(service("web") + slice + &pod(""))));
    let backend = Backend { namespace: "a".into(), service: "web".into(), port: 80 };
    let mut endpoints = publisher.follow(Query::Endpoints(backend)).unwrap();
    let query = Query::Inbound { pod: Name::new("a", "web-1"), service_account: "default".into() };
    let mut inbound = publisher.follow(query).unwrap();
    let mut now = || match (endpoints.borrow_and_update().as_deref(), inbound.borrow_and_update().as_deref()) {
        (Some(Answer::Endpoints(endpoints)), Some(Answer::Inbound(inbound, _))) => {
            (endpoints.near(&Place::default()).len(), inbound.terminating)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(now(), (2, false));
    publisher.apply(changes(&pod(", deletionTimestamp: 2026-11-22T04:00:00Z")));
    assert_eq!(now(), (1, true));
}

#[test]
fn addresses_that_nothing_has_count_as_any_question() {
    let publisher = publisher();
    publisher.apply(vec![]);
    let id = |name: &str| SpiffeId::parse(&format!("spiffe://cluster.local/ns/a/sa/{name}")).unwrap();
    let unknown = |n: usize| target(&format!("10.1.{}.{}:80", n / 250, n % 250));
    let followed: Vec<Followed> =
        (0..QUERIES_PER_IDENTITY_MAX).map(|n| publisher.follow_as(&id("web"), unknown(n)).unwrap()).collect();
    assert!(followed.iter().all(|one| one.live.borrow().as_deref() == Some(&Answer::Target(Target::Unknown))));
    assert!(publisher.follow_as(&id("web"), unknown(followed.len())).is_err());
    assert!(publisher.follow_as(&id("voting"), unknown(followed.len())).is_ok(), "others are not affected");
    drop(followed);
    assert!(publisher.follow_as(&id("web"), unknown(0)).is_ok());
}

#[test]
fn questions_that_nobody_follows_are_forgotten() {
    let publisher = publisher();
    for number in 0..10 * SWEEP_MIN {
        drop(publisher.follow(target(&format!("web-{number}:80"))).unwrap());
    }
    assert!(publisher.state.lock().answers.len() <= SWEEP_MIN + 1, "sweeping must not wait for a change of the world");
    let kept = publisher.follow(target("kept:80")).unwrap();
    publisher.apply(changes(&service("web")));
    assert_eq!(publisher.state.lock().answers.keys().collect::<Vec<_>>(), [&target("kept:80")]);
    drop(kept);
}

#[test]
fn a_pod_is_answered_only_to_its_own_account() {
    let publisher = publisher();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: a}\nspec: {serviceAccountName: web}\n";
    publisher.apply(changes(pod));
    let ask = |name: &str, account: &str| {
        let query = Query::Inbound { pod: Name::new("a", name), service_account: account.into() };
        publisher.follow(query).unwrap().borrow().clone().unwrap()
    };
    assert!(matches!(&*ask("web-1", "web"), Answer::Inbound(..)));
    assert!(matches!(&*ask("web-1", "voting"), Answer::Refused(why) if why.contains("does not run as")));
    assert!(matches!(&*ask("web-2", "web"), Answer::Refused(why) if why.contains("no Pod a/web-2")));
    // A pod made again under another account is another pod.
    let mut live =
        publisher.follow(Query::Inbound { pod: Name::new("a", "web-1"), service_account: "web".into() }).unwrap();
    publisher.apply(changes(&pod.replace("serviceAccountName: web", "serviceAccountName: other")));
    assert!(matches!(live.borrow_and_update().as_deref(), Some(Answer::Refused(_))));
}

#[test]
fn trust_is_answered_as_soon_as_it_is_there() {
    let publisher = publisher();
    let mut live = publisher.follow(Query::Trust).unwrap();
    publisher.apply(vec![]);
    assert_eq!(*live.borrow_and_update(), None);
    let authority = lacewing_identity::Authority::generate(publisher.trust_domain(), 1_795_300_000).unwrap();
    publisher.trust(authority.bundle());
    assert!(matches!(live.borrow_and_update().as_deref(), Some(Answer::Trust(roots)) if roots.len() == 1));
}

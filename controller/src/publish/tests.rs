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

/// Somebody who follows questions and is told.
#[derive(Default)]
struct Asker {
    mailbox: Arc<Mailbox>,
    next: u32,
}

impl Asker {
    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/a/sa/{name}")).unwrap()
    }

    /// Follows under the next number, from 0 on.
    fn follow(&mut self, publisher: &Publisher, query: Query) -> Followed {
        self.follow_as(publisher, "web", query).unwrap()
    }

    #[expect(clippy::needless_pass_by_value, reason = "questions are made where they are asked")]
    fn follow_as(&mut self, publisher: &Publisher, name: &str, query: Query) -> Result<Followed, String> {
        let number = self.next;
        self.next += 1;
        publisher.follow(&publisher.quota(&Self::id(name)), &query, &self.mailbox, number)
    }

    /// The numbers that were told since the last time.
    fn told(&self) -> Vec<u32> {
        self.mailbox.take().into_iter().collect()
    }
}

fn is_found(followed: &Followed) -> bool {
    matches!(followed.answer().as_deref(), Some(Answer::Target(Target::Service { .. })))
}

#[test]
fn nothing_is_answered_before_the_source_was_read() {
    let (publisher, mut asker) = (publisher(), Asker::default());
    let followed = asker.follow(&publisher, target("web:80"));
    assert_eq!((followed.answer(), asker.told()), (None, vec![]));
    publisher.apply(vec![]);
    assert_eq!(asker.told(), [0]);
    assert!(matches!(followed.answer().as_deref(), Some(Answer::Target(Target::NotFound(_)))));
}

#[tokio::test(start_paused = true)]
async fn only_who_gets_another_answer_is_woken() {
    let publisher = publisher();
    publisher.apply(changes(&service("web")));
    let (mut one, mut other) = (Asker::default(), Asker::default());
    let (web, voting) = (one.follow(&publisher, target("web:80")), other.follow(&publisher, target("voting:80")));
    let (_none, again) = (one.follow(&publisher, Query::Trust), one.follow(&publisher, target("voting:80")));
    assert!(is_found(&web) && !is_found(&voting));
    publisher.apply(changes(&service("voting")));
    other.mailbox.rung().await;
    one.mailbox.rung().await;
    assert_eq!((one.told(), other.told()), (vec![2], vec![0]));
    assert!(is_found(&voting) && is_found(&again));
    publisher.apply(changes(&(service("unrelated") + &service("web"))));
    assert_eq!((one.told(), other.told()), (vec![], vec![]));
    drop(again);
    publisher.apply(changes(&service("voting").replace("80", "81")));
    assert_eq!((one.told(), other.told()), (vec![], vec![0]), "who has gone is not told");
}

/// A meshed pod, with more in its metadata.
fn pod(meta: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-1, namespace: a, annotations: {{lacewing.dev/proxy-version: \
         v1}}{meta}}}\nstatus: {{podIP: 10.0.0.1}}\n---\n"
    )
}

#[test]
fn an_address_is_followed_from_nothing_to_a_pod_and_back() {
    let (publisher, mut asker) = (publisher(), Asker::default());
    publisher.apply(vec![]);
    let followed = asker.follow(&publisher, target("10.0.0.1:8080"));
    let now = || match followed.answer().as_deref() {
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

#[test]
fn a_deleted_pod_is_told_and_taken_out_at_once() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-x, namespace: a, labels: \
                 {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: \
                 [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}}, {addresses: [10.0.0.2]}]\n---\n";
    let publisher = publisher();
    publisher.apply(changes(&(service("web") + slice + &pod(""))));
    let backend = Backend { namespace: "a".into(), service: "web".into(), port: 80 };
    let mut asker = Asker::default();
    let endpoints = asker.follow(&publisher, Query::Endpoints(backend));
    let query = Query::Inbound { pod: Name::new("a", "web-1"), service_account: "default".into() };
    let inbound = asker.follow(&publisher, query);
    let now = || match (endpoints.answer().as_deref(), inbound.answer().as_deref()) {
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
    let mut asker = Asker::default();
    let unknown = |n: usize| target(&format!("10.1.{}.{}:80", n / 250, n % 250));
    let followed: Vec<Followed> = (0..QUERIES_PER_IDENTITY_MAX).map(|n| asker.follow(&publisher, unknown(n))).collect();
    assert!(followed.iter().all(|one| one.answer().as_deref() == Some(&Answer::Target(Target::Unknown))));
    assert!(asker.follow_as(&publisher, "web", unknown(followed.len())).is_err());
    assert!(asker.follow_as(&publisher, "voting", unknown(followed.len())).is_ok(), "others are not affected");
    drop(followed);
    assert!(asker.follow_as(&publisher, "web", unknown(0)).is_ok());
}

#[test]
fn questions_that_nobody_follows_are_forgotten() {
    let (publisher, mut asker) = (publisher(), Asker::default());
    publisher.apply(vec![]);
    let kept = asker.follow(&publisher, target("kept:80"));
    let again = asker.follow(&publisher, target("kept:80"));
    drop((asker.follow(&publisher, target("web:80")), again));
    assert_eq!(publisher.state.lock().questions.len(), 1);
    publisher.apply(changes(&service("kept")));
    assert!(is_found(&kept));
    drop(kept);
    let mut state = publisher.state.lock();
    let topics: HashSet<Topic> = [Topic::Service(Name::new("a", "kept")), Topic::ServiceNames].into();
    assert_eq!((state.questions.len(), state.questions.on(&topics)), (0, HashSet::new()));
    drop(std::mem::take(&mut *state));
}

#[test]
fn a_pod_is_answered_only_to_its_own_account() {
    let publisher = publisher();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: a}\nspec: {serviceAccountName: web}\n";
    publisher.apply(changes(pod));
    let mut asker = Asker::default();
    let mut ask = |name: &str, account: &str| {
        let query = Query::Inbound { pod: Name::new("a", name), service_account: account.into() };
        asker.follow(&publisher, query).answer().unwrap()
    };
    assert!(matches!(&*ask("web-1", "web"), Answer::Inbound(..)));
    assert!(matches!(&*ask("web-1", "voting"), Answer::Refused(why) if why.contains("does not run as")));
    assert!(matches!(&*ask("web-2", "web"), Answer::Refused(why) if why.contains("no Pod a/web-2")));
    // A pod made again under another account is another pod.
    let followed =
        asker.follow(&publisher, Query::Inbound { pod: Name::new("a", "web-1"), service_account: "web".into() });
    publisher.apply(changes(&pod.replace("serviceAccountName: web", "serviceAccountName: other")));
    assert!(matches!(followed.answer().as_deref(), Some(Answer::Refused(_))));
}

#[test]
fn trust_is_answered_as_soon_as_it_is_there() {
    let (publisher, mut asker) = (publisher(), Asker::default());
    let followed = asker.follow(&publisher, Query::Trust);
    publisher.apply(vec![]);
    assert_eq!((followed.answer(), asker.told()), (None, vec![]));
    let authority = lacewing_identity::Authority::generate(publisher.trust_domain(), 1_795_300_000).unwrap();
    publisher.trust(authority.bundle());
    assert!(matches!(followed.answer().as_deref(), Some(Answer::Trust(roots)) if roots.len() == 1));
    assert_eq!(asker.told(), [0]);
}

#[test]
fn a_slice_that_goes_to_another_service_takes_what_it_says_along() {
    let (publisher, mut asker) = (publisher(), Asker::default());
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: a, labels: \
                 {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.1], zone: east}]\n---\n";
    let selecting = service("web").replace("spec: {", "spec: {selector: {app: x}, ");
    publisher.apply(changes(&(selecting + slice + &pod(", labels: {app: x}"))));
    let followed = asker.follow(&publisher, target("10.0.0.1:80"));
    let zone = || match followed.answer().as_deref() {
        Some(Answer::Target(Target::Pod { endpoint, .. })) => endpoint.zone.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(zone(), "east");
    publisher.apply(changes(&slice.replace("service-name: web", "service-name: db")));
    assert_eq!(zone(), "");
}

/// Random numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

const SPACES: [&str; 2] = ["a", "b"];
const SERVICES: [&str; 3] = ["web", "wab", "db"];
const PODS: [&str; 3] = ["p", "q", "r"];
const IPS: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "'fd00::1'"];

fn random_object(dice: &mut Dice) -> String {
    let (space, service, pod) = (dice.one(&SPACES), dice.one(&SERVICES), dice.one(&PODS));
    match dice.roll(8) {
        0 => format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {space}, annotations: {{{}}}}}\n",
            dice.one(&["", "config.lacewing.dev/inbound: strict"])
        ),
        1 | 2 => format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: {space}}}\nspec: {{ports: [{{port: \
             80, targetPort: {}}}], selector: {{app: {}}}, clusterIP: {}, internalTrafficPolicy: {}}}\n",
            dice.one(&["8080", "8081"]),
            dice.one(&["x", "y"]),
            dice.one(&["None", "10.96.0.1", "10.96.0.2", "10.0.0.3"]),
            dice.one(&["Local", "Cluster", "Cluster"]),
        ),
        3..=5 => format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: {space}, labels: {{app: {}}}, annotations: \
             {{{}}}{}}}\nspec: {{nodeName: {}, hostNetwork: {}}}\nstatus: {{podIP: {}, phase: {}}}\n",
            dice.one(&["x", "y"]),
            dice.one(&["", "lacewing.dev/proxy-version: v1"]),
            dice.one(&["", "", ", deletionTimestamp: 2026-11-22T04:00:00Z"]),
            dice.one(&["n1", "n2"]),
            dice.one(&["false", "false", "true"]),
            dice.one(&IPS),
            dice.one(&["Running", "Running", "Failed"]),
        ),
        _ => {
            let entries: Vec<String> = (0..dice.roll(4)).map(|_| random_entry(dice)).collect();
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {}, namespace: {space}, labels: \
                 {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{}]\n",
                dice.one(&["s1", "s2"]),
                entries.join(", ")
            )
        }
    }
}

fn random_entry(dice: &mut Dice) -> String {
    format!(
        "{{addresses: [{}], nodeName: {}, {} conditions: {{ready: {}}}{}}}",
        dice.one(&IPS[..3]),
        dice.one(&["n1", "n2"]),
        dice.one(&["zone: east,", "zone: west,", ""]),
        dice.one(&["true", "true", "false"]),
        match dice.one(&["", "p", "q", "b/r"]).rsplit_once('/').unwrap_or(("", "")) {
            ("", _) => dice.one(&["", ", targetRef: {kind: Pod, name: p}"]).to_owned(),
            (space, name) => format!(", targetRef: {{kind: Pod, name: {name}, namespace: {space}}}"),
        }
    )
}

/// The one test of `topics`: whatever changes, every answer is what it would be if it were made from nothing.
#[test]
fn answers_that_are_kept_are_those_that_would_be_made() {
    let (publisher, mut asker) = (publisher(), Asker::default());
    publisher.apply(vec![]);
    let mut queries: Vec<Query> = Vec::new();
    for space in SPACES {
        let target = |target: String| Query::Target { namespace: space.into(), target };
        queries.extend(SERVICES.map(|name| target(format!("{name}:80"))));
        queries.extend(SERVICES.map(|name| target(format!("{name}.b.svc:80"))));
        queries.extend(["wob:80", "web.c:80", "x.y.z.svc:80", "nonsense"].map(|name| target(name.into())));
        queries.extend(
            SERVICES.map(|service| {
                Query::Endpoints(Backend { namespace: space.into(), service: service.into(), port: 80 })
            }),
        );
        queries
            .extend(PODS.map(|pod| Query::Inbound { pod: Name::new(space, pod), service_account: "default".into() }));
    }
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "[fd00::1]", "10.96.0.1", "10.96.0.2", "10.9.9.9"];
    queries.extend(addresses.map(|ip| target(&format!("{ip}:8080"))));
    let followed: Vec<(Query, Followed)> =
        queries.into_iter().map(|query| (query.clone(), asker.follow(&publisher, query))).collect();
    let mut dice = Dice(7);
    let mut told = 0;
    for step in 0..2_000 {
        let yaml = random_object(&mut dice);
        let mut change = changes(&yaml).remove(0);
        if dice.roll(3) == 0
            && let Change::Apply(object) = &change
        {
            change = Change::Remove(object.key());
        }
        publisher.apply(vec![change]);
        let told_now = asker.told();
        let state = publisher.state.lock();
        for (number, (query, followed)) in followed.iter().enumerate() {
            let fresh = state.known.make(publisher.trust_domain(), query);
            let told = if told_now.contains(&(number as u32)) { "told" } else { "not told" };
            assert_eq!(followed.answer().as_deref(), fresh.as_ref(), "step {step}, {told}: {query:?} after\n{yaml}");
        }
        told += told_now.len();
    }
    assert!(told > 2_000, "answers did change: {told}");
}

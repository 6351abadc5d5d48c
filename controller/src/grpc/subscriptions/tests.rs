//! One stream's view of a changing world: what is sent must always lead from what was sent before to what is now.

use std::collections::BTreeMap;

use super::*;
use crate::{
    destination::Backend,
    publish::{Publisher, QUERIES_PER_IDENTITY_MAX},
    source::{Change, manifest},
};
use lacewing_crds::Name;
use lacewing_identity::TrustDomain;

const EPOCH: u64 = 42;

struct Fixture {
    publisher: Arc<Publisher>,
    stream: Subscriptions,
    /// What a proxy that applies every message holds.
    held: BTreeMap<String, String>,
}

fn service() -> &'static str {
    "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: a}\nspec: {ports: [{port: 80, targetPort: 80}]}\n---\n"
}

/// A slice of `count` endpoints in the given zone, from the given number on.
fn slice(name: &str, from: usize, count: usize, zone: &str) -> String {
    let one = |n: usize| format!("{{addresses: [10.{}.{}.{}], zone: {zone}}}", n / 62_500, n / 250 % 250, n % 250);
    let list: Vec<String> = (from..from + count).map(one).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: a, labels: \
         {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{}]\n---\n",
        list.join(", ")
    )
}

fn backend() -> Query {
    Query::Endpoints(Backend { namespace: "a".into(), service: "web".into(), port: 80 })
}

fn target(target: impl Into<String>) -> Query {
    Query::Target { namespace: "a".into(), target: target.into() }
}

fn request(action: Action) -> wire::WatchRequest {
    wire::WatchRequest { action: Some(action) }
}

impl Fixture {
    fn new() -> Self {
        let publisher = Arc::new(Publisher::new(TrustDomain::parse("cluster.local").unwrap()));
        let peer = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/web").unwrap();
        Self::with(publisher, peer)
    }

    /// A stream of this identity.
    fn with(publisher: Arc<Publisher>, peer: SpiffeId) -> Self {
        let stream = Subscriptions::new(peer, publisher.clone(), EPOCH);
        Self { publisher, stream, held: BTreeMap::new() }
    }

    fn apply(&mut self, yaml: &str) {
        let objects = manifest::parse(yaml).unwrap().into_iter();
        self.publisher.apply(objects.map(|parsed| Change::Apply(parsed.object)).collect());
        self.stream.look_for_changes();
    }

    fn subscribe(&mut self, query: &Query) {
        self.stream.handle(request(Action::Subscribe(convert::key(query))));
    }

    /// Sends all that is due, as to a proxy that reads at once; says in how many messages.
    fn drain(&mut self) -> Vec<wire::WatchResponse> {
        let mut messages = Vec::new();
        while let Some(message) = self.stream.next() {
            self.take(&message);
            messages.push(message);
        }
        assert!(!self.stream.is_due());
        messages
    }

    fn take(&mut self, message: &wire::WatchResponse) {
        match message.answer.clone().unwrap() {
            WireAnswer::Snapshot(snapshot) => {
                self.held.extend(snapshot.endpoints.into_iter().map(|e| (e.address, e.zone)));
            }
            WireAnswer::Delta(delta) => {
                for address in delta.removed {
                    assert!(self.held.remove(&address).is_some(), "{address} was never there");
                }
                self.held.extend(delta.upserted.into_iter().map(|e| (e.address, e.zone)));
            }
            _ => {}
        }
    }

    fn truth(&self) -> BTreeMap<String, String> {
        let Query::Endpoints(backend) = backend() else { unreachable!() };
        let domain = self.publisher.trust_domain().clone();
        let list = self.publisher.with_world(|world| crate::endpoints::endpoints(world, &domain, &backend));
        let near = list.near(self.stream.place());
        near.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.zone.clone())).collect()
    }
}

fn counter(message: &wire::WatchResponse) -> u64 {
    let version = message.version.unwrap();
    assert_eq!(version.epoch, EPOCH);
    version.counter
}

#[test]
fn the_first_answer_is_a_chunked_snapshot_and_later_ones_are_deltas() {
    let mut fixture = Fixture::new();
    fixture.apply(&(service().to_owned() + &slice("one", 0, 2 * ENDPOINTS_PER_MESSAGE + 1, "x")));
    fixture.subscribe(&backend());
    let messages = fixture.drain();
    let more: Vec<bool> = messages.iter().map(|message| message.more).collect();
    assert_eq!(more, [true, true, false]);
    assert!(messages.iter().all(|m| counter(m) == 1 && matches!(m.answer, Some(WireAnswer::Snapshot(_)))));
    assert_eq!(fixture.held, fixture.truth());

    fixture.apply(&slice("two", 5_000, 2, "y"));
    let messages = fixture.drain();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((counter(message), message.more), (2, false));
    assert!(
        matches!(&message.answer, Some(WireAnswer::Delta(delta)) if delta.upserted.len() == 2 && delta.removed.is_empty())
    );

    // Everything changes at once: the delta is chunked too.
    fixture.apply(&slice("one", 2_000, 2 * ENDPOINTS_PER_MESSAGE, "z"));
    let messages = fixture.drain();
    assert_eq!(messages.iter().map(|message| message.more).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(fixture.held, fixture.truth());
}

#[test]
fn whatever_happens_between_two_messages_the_proxy_ends_at_the_truth() {
    let mut random = 7_u64;
    let mut next = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    let mut fixture = Fixture::new();
    fixture.apply(service());
    fixture.subscribe(&backend());
    for step in 0..100 {
        match next(3) {
            0 => fixture.apply(&slice("one", next(50), next(1_200), ["x", "y"][next(2)])),
            1 => fixture.apply(&slice("two", next(2_000), next(30), ["x", "y"][next(2)])),
            // The proxy reads a little, perhaps half of an answer.
            _ => {
                for _ in 0..next(4) {
                    if let Some(message) = fixture.stream.next() {
                        fixture.take(&message);
                    }
                }
            }
        }
        if step % 20 == 19 {
            fixture.stream.look_for_changes();
            fixture.drain();
            fixture.stream.look_for_changes();
            fixture.drain();
            assert_eq!(fixture.held, fixture.truth(), "step {step}");
        }
    }
}

#[test]
fn values_that_nobody_read_are_never_sent() {
    let mut fixture = Fixture::new();
    fixture.apply(service());
    fixture.subscribe(&backend());
    fixture.drain();
    for count in 1..=100 {
        fixture.apply(&slice("one", 0, count, "x"));
    }
    assert_eq!(fixture.drain().len(), 100_usize.div_ceil(ENDPOINTS_PER_MESSAGE), "one value");
    assert_eq!(fixture.held, fixture.truth());
    // There and back again is nothing new.
    fixture.apply(&slice("one", 0, 7, "x"));
    fixture.apply(&slice("one", 0, 100, "x"));
    assert_eq!(fixture.drain(), vec![]);
}

#[test]
fn what_a_client_is_offered_follows_where_its_pod_runs() {
    let pod = |node: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-1, namespace: a}}\nspec: {{serviceAccountName: web, \
             nodeName: {node}}}\n---\n"
        )
    };
    let local = service().replace("spec: {", "spec: {internalTrafficPolicy: Local, ");
    let on = |node: &str, from, count| {
        slice(&format!("on-{node}"), from, count, "x").replace("zone: x", &format!("zone: x, nodeName: {node}"))
    };
    let mut fixture = Fixture::new();
    fixture.apply(&(local + &pod("n1") + &on("n1", 0, 3) + &on("n2", 10, 4)));
    fixture.subscribe(&backend());
    fixture.drain();
    assert_eq!(fixture.held.len(), 0, "nobody knows where it runs");
    fixture.subscribe(&Query::Inbound { pod: Name::new("a", "web-1"), service_account: "web".into() });
    assert_eq!(fixture.drain().len(), 2, "its inbound side, and what is near it");
    assert_eq!((fixture.held.len(), &fixture.held), (3, &fixture.truth()));

    fixture.apply(&on("n2", 10, 2));
    assert_eq!(fixture.drain(), vec![], "what happens elsewhere does not concern it");
    fixture.apply(&on("n1", 1, 3));
    let messages = fixture.drain();
    assert!(matches!(&messages[..], [m] if matches!(&m.answer, Some(WireAnswer::Delta(d)) if d.upserted.len() == 1)));
    assert_eq!(fixture.held, fixture.truth());
    let applied = wire::Applied { key: Some(convert::key(&backend())), version: messages[0].version };
    fixture.stream.handle(request(Action::Applied(applied)));
    let endpoints = fixture.stream.view().into_iter().find(|view| view.key.starts_with("endpoints")).unwrap();
    assert_eq!(endpoints.sent, endpoints.applied, "what was not sent does not wait to be applied");

    fixture.held.clear();
    fixture.apply(&service().replace("spec: {", "spec: {internalTrafficPolicy: Cluster, "));
    fixture.drain();
    assert_eq!(fixture.held.len(), 2, "now the others, as a delta");
}

#[test]
fn no_endpoints_and_no_service_are_answers() {
    let mut fixture = Fixture::new();
    fixture.subscribe(&backend());
    assert_eq!(fixture.drain(), vec![], "nothing before the source was read");
    fixture.apply("");
    let messages = fixture.drain();
    assert!(
        matches!(&messages[..], [m] if matches!(&m.answer, Some(WireAnswer::Snapshot(list)) if list.endpoints.is_empty()))
    );
}

#[test]
fn subscriptions_are_capped_and_the_stream_goes_on() {
    let mut fixture = Fixture::new();
    fixture.apply("");
    for number in 0..SUBSCRIPTIONS_MAX {
        fixture.subscribe(&target(format!("web-{number}:80")));
    }
    fixture.drain();
    let one_more = target("one-more:80");
    fixture.subscribe(&one_more);
    let messages = fixture.drain();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(message.key, Some(convert::key(&one_more)));
    assert!(matches!(&message.answer, Some(WireAnswer::Refused(why)) if why.contains("2048 keys")));
    fixture.stream.handle(request(Action::Unsubscribe(convert::key(&target("web-7:80")))));
    // Nobody has to ask again.
    assert!(matches!(fixture.drain()[0].answer, Some(WireAnswer::Target(_))));
    assert_eq!(fixture.stream.len(), SUBSCRIPTIONS_MAX);
    fixture.subscribe(&one_more);
    assert_eq!(fixture.drain().len(), 1, "subscribing again starts over, and takes no second place");
    assert_eq!(fixture.stream.len(), SUBSCRIPTIONS_MAX);
}

#[test]
fn one_identity_cannot_follow_everything_and_is_answered_when_room_returns() {
    let mut fixture = Fixture::new();
    fixture.apply("");
    let another = |peer: &str| {
        let peer = SpiffeId::parse(&format!("spiffe://cluster.local/ns/a/sa/{peer}")).unwrap();
        Fixture::with(fixture.publisher.clone(), peer)
    };
    let mut greedy: Vec<Fixture> =
        (0..QUERIES_PER_IDENTITY_MAX / SUBSCRIPTIONS_MAX).map(|_| another("greedy")).collect();
    for (number, stream) in greedy.iter_mut().enumerate() {
        for key in 0..SUBSCRIPTIONS_MAX {
            stream.subscribe(&target(format!("web-{number}-{key}:80")));
        }
    }
    let answer = |stream: &mut Fixture, key: &str| {
        stream.subscribe(&target(key));
        stream.drain().remove(0).answer.unwrap()
    };
    let mut last = another("greedy");
    let refused = answer(&mut last, "more:80");
    assert!(matches!(&refused, WireAnswer::Refused(why) if why.contains("/sa/greedy follows 8192")), "{refused:?}");
    assert!(
        matches!(answer(&mut last, "web-0-0:80"), WireAnswer::Target(_)),
        "what it follows elsewhere costs nothing"
    );
    last.subscribe(&Query::Trust);
    assert_eq!(last.stream.len(), 2, "trust is never refused");
    assert!(matches!(answer(&mut another("modest"), "more:80"), WireAnswer::Target(_)));

    last.stream.retry();
    assert!(last.drain().is_empty() && last.stream.is_waiting());
    drop(greedy);
    last.stream.retry();
    assert!(matches!(last.drain()[0].answer, Some(WireAnswer::Target(_))) && !last.stream.is_waiting());
}

#[test]
fn only_so_many_keys_wait_for_room() {
    let mut fixture = Fixture::new();
    for number in 0..=SUBSCRIPTIONS_MAX + WAITING_MAX {
        fixture.subscribe(&target(format!("web-{number}:80")));
    }
    assert_eq!((fixture.stream.len(), fixture.stream.waiting.len()), (SUBSCRIPTIONS_MAX, WAITING_MAX));
    let (_, why) = fixture.stream.refusals.pop_back().unwrap();
    assert!(why.contains("ask again"), "{why}");
    let gone = target(format!("web-{SUBSCRIPTIONS_MAX}:80"));
    fixture.stream.handle(request(Action::Unsubscribe(convert::key(&gone))));
    assert_eq!(fixture.stream.waiting.len(), WAITING_MAX - 1, "who unsubscribes does not wait");
}

#[test]
fn malformed_requests_are_refused_one_by_one_and_slow_the_sender_down() {
    let mut fixture = Fixture::new();
    let applied = wire::Applied { key: None, version: None };
    for bad in [
        wire::WatchRequest { action: None },
        request(Action::Subscribe(wire::Key { key: None })),
        request(Action::Applied(applied)),
        request(Action::Subscribe(wire::Key { key: Some(wire::key::Key::Target("x".repeat(300))) })),
    ] {
        fixture.stream.handle(bad);
        assert!(matches!(fixture.drain()[0].answer, Some(WireAnswer::Refused(_))));
    }
    for _ in 0..REFUSALS_MAX {
        assert!(fixture.stream.accepts());
        fixture.stream.handle(wire::WatchRequest { action: None });
    }
    assert!(!fixture.stream.accepts(), "a sender of nonsense that does not read is not read either");
    fixture.drain();
    assert!(fixture.stream.accepts());
}

#[test]
fn applied_versions_are_believed_only_if_they_were_sent() {
    let mut fixture = Fixture::new();
    fixture.apply(service());
    fixture.subscribe(&backend());
    fixture.drain();
    let mut claim = |epoch: u64, counter: u64| {
        let applied =
            wire::Applied { key: Some(convert::key(&backend())), version: Some(wire::Version { epoch, counter }) };
        fixture.stream.handle(request(Action::Applied(applied)));
        fixture.stream.view().remove(0).applied
    };
    assert_eq!(claim(EPOCH + 1, 1), 0, "of another controller");
    assert_eq!(claim(EPOCH, 2), 0, "never sent");
    assert_eq!(claim(EPOCH, 1), 1);
    assert_eq!(claim(EPOCH, 0), 1, "nobody goes back");
}

#[test]
fn unsubscribing_drops_what_was_half_sent() {
    let mut fixture = Fixture::new();
    fixture.apply(&(service().to_owned() + &slice("one", 0, 3 * ENDPOINTS_PER_MESSAGE, "x")));
    fixture.subscribe(&backend());
    assert!(fixture.stream.next().unwrap().more);
    fixture.stream.handle(request(Action::Unsubscribe(convert::key(&backend()))));
    assert_eq!(fixture.stream.next(), None);
    assert!(!fixture.stream.is_due());
    fixture.subscribe(&backend());
    assert_eq!(fixture.drain().len(), 3);
    assert_eq!(fixture.held, fixture.truth());
    assert_eq!(fixture.stream.len(), 1);
}

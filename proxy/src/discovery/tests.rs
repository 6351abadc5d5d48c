//! The cache without a network: what the request path sees while answers come, change, or do not come.

use lacewing_identity::{Authority, SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

use super::*;
use crate::{endpoint::Info, metrics::Metrics, socket::Dialer, tls::Identity};

pub(super) fn discovery() -> Arc<Discovery> {
    let (metrics, _) = Metrics::new(UnixTime::since_unix_epoch(Duration::ZERO));
    Discovery::new(Arc::new(Context {
        identity: Arc::new(Identity::default()),
        metrics,
        dialer: Dialer::default(),
        pod_ips: vec!["10.0.0.9".parse().unwrap()],
        spine_ports: vec![4140, 4143],
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
    }))
}

fn certify(identity: &Identity) {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let now = crate::clock::unix_now();
    let authority = Authority::generate(&domain, now).unwrap();
    let id = SpiffeId::new(&domain, "shop", "web").unwrap();
    identity.set(authority.issue_own(&id, now, 3_600).unwrap(), authority.bundle().clone()).unwrap();
}

fn key(service: &str) -> BackendKey {
    BackendKey { namespace: "shop".to_owned(), service: service.to_owned(), port: 80 }
}

fn found(service: &str) -> parse::TargetAnswer {
    parse::TargetAnswer::Service(key(service), Declared::Nothing)
}

fn plain(addr: &str) -> Info {
    Info {
        addr: addr.parse().unwrap(),
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        workload: "deployment/web".to_owned(),
        service_account: "web".to_owned(),
        zone: String::new(),
        identity: None,
        direct: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_target_waits_for_its_answer() {
    let discovery = discovery();
    discovery.stream.send_replace(Stream::Up);
    let (asked, ()) = tokio::join!(discovery.look_up("web:80"), async {
        tokio::time::advance(Duration::from_secs(2)).await;
        discovery.set_target("web:80", found("web"));
    });
    assert_eq!(asked.unwrap().name, "shop/web:80");
    let started = Instant::now();
    discovery.look_up("web:80").await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_a_named_error_in_time() {
    let discovery = discovery();
    discovery.context.identity.waiting_for("the controller is not there".to_owned());
    let started = Instant::now();
    let error = discovery.look_up("web:80").await.err().unwrap().to_string();
    assert!(error.contains("the controller is not there"), "{error}");
    assert_eq!(started.elapsed(), NO_ENDPOINT_TIMEOUT);
    certify(&discovery.context.identity);
    let error = discovery.look_up("web:80").await.err().unwrap();
    assert!(matches!(error, Error::LookupDown { .. }), "{error}");
    discovery.stream.send_replace(Stream::Up);
    let error = discovery.look_up("web:80").await.err().unwrap();
    assert!(matches!(error, Error::LookupTimeout { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_appears_later_is_found() {
    let discovery = discovery();
    discovery.stream.send_replace(Stream::Up);
    let _ = discovery.target("web:80");
    discovery.set_target("web:80", parse::TargetAnswer::NotFound("no Service web".to_owned()));
    let error = discovery.look_up("web:80").await.err().unwrap().to_string();
    assert!(error.contains("no Service web"), "{error}");
    discovery.set_target("web:80", found("web"));
    assert!(discovery.look_up("web:80").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_refuses_new_targets_and_keeps_the_old() {
    let discovery = discovery();
    for n in 0..TARGETS_MAX {
        discovery.target(&format!("s{n}:80")).unwrap();
    }
    assert!(matches!(discovery.target("one-more:80"), Err(Error::LookupFull { .. })));
    assert!(discovery.target("s0:80").is_ok());
    discovery.set_target("s7:80", parse::TargetAnswer::NotFound("no Service s7".to_owned()));
    assert!(discovery.target("one-more:80").is_ok(), "a name that is none makes room");
    assert!(!discovery.state.lock().targets.contains_key("s7:80"));
}

#[tokio::test(start_paused = true)]
async fn idle_targets_are_forgotten_only_while_the_stream_is_up() {
    let discovery = discovery();
    let _ = discovery.target("web:80");
    discovery.set_target("web:80", found("web"));
    tokio::time::advance(TARGET_IDLE * 2).await;
    discovery.sweep();
    assert_eq!(discovery.backends().len(), 1, "kept while the controller is away");
    discovery.stream.send_replace(Stream::Up);
    discovery.sweep();
    assert!(discovery.backends().is_empty() && discovery.state.lock().targets.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_backend_keeps_who_stays_and_says_why_it_is_empty() {
    let discovery = discovery();
    let _ = discovery.target("web:80");
    discovery.set_target("web:80", found("web"));
    let backend = discovery.backend(&key("web")).unwrap();
    let started = Instant::now();
    let error = backend.pick(&[], Instant::now()).await.err().unwrap().to_string();
    assert!(error.contains("did not list") && started.elapsed() == NO_ENDPOINT_TIMEOUT, "{error}");
    backend.set(vec![plain("10.0.0.1:80"), plain("10.0.0.2:80")]);
    let first = backend.pick(&[], Instant::now()).await.unwrap();
    backend.set(vec![plain("10.0.0.1:80"), plain("10.0.0.2:80"), plain("10.0.0.3:80")]);
    assert!(backend.balancer.endpoints().iter().any(|endpoint| Arc::ptr_eq(endpoint, &first)));
    backend.set(Vec::new());
    tokio::time::advance(Duration::from_secs(30)).await;
    let error = backend.pick(&[], Instant::now()).await.err().unwrap().to_string();
    assert!(error.contains("no ready pod") && error.contains("31s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_pick_waits_for_the_first_endpoint() {
    let discovery = discovery();
    let _ = discovery.target("web:80");
    discovery.set_target("web:80", found("web"));
    let backend = discovery.backend(&key("web")).unwrap();
    let (picked, ()) = tokio::join!(backend.pick(&[], Instant::now()), async {
        tokio::time::advance(Duration::from_millis(300)).await;
        backend.set(vec![plain("10.0.0.1:80")]);
    });
    assert_eq!(picked.unwrap().info.addr.port(), 80);
}

fn pod(addr: &str, identity: Option<&str>, service: Option<&str>) -> Pod {
    let mut info = plain(addr);
    info.identity = identity.map(|id| SpiffeId::parse(id).unwrap());
    Pod { info, service: service.map(key), declared: Declared::Nothing, why_no_service: String::new() }
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

async fn dial(discovery: &Discovery, addr: &str, answer: parse::TargetAnswer) -> Result<Place, Error> {
    let _ = discovery.target(addr);
    discovery.set_target(addr, answer);
    discovery.at(addr.parse().unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn addresses_outside_the_cluster_are_not_looked_up() {
    let discovery = discovery();
    let place = discovery.at("203.0.113.1:443".parse().unwrap()).await;
    assert!(matches!(place, Ok(Place::AsIs(AsIs::External))) && discovery.state.lock().targets.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_does_not_have_passes_and_what_it_refuses_does_not() {
    let discovery = discovery();
    discovery.stream.send_replace(Stream::Up);
    let unknown = dial(&discovery, "10.1.1.1:80", parse::TargetAnswer::Unknown).await;
    assert!(matches!(unknown, Ok(Place::AsIs(AsIs::Unknown))));
    let refused = parse::TargetAnswer::NotFound("Service web has no TCP port 81".to_owned());
    let refused = dial(&discovery, "10.96.0.1:81", refused).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn never_seen_and_nobody_to_ask_passes_only_where_plain_text_is_allowed() {
    let addr = "10.1.1.1:80".parse().unwrap();
    for (mode, passes) in [(None, false), (Some(Mode::Strict), false), (Some(Mode::Permissive), true)] {
        let discovery = discovery();
        certify(&discovery.context.identity);
        discovery.inbound.send_replace(mode.map(|mode| Inbound { mode, ports: Vec::new(), terminating: false }));
        let started = Instant::now();
        match discovery.at(addr).await {
            Ok(Place::AsIs(AsIs::Unresolved)) => assert!(passes, "{mode:?}"),
            Err(Error::LookupDown { .. }) => assert!(!passes, "{mode:?}"),
            _ => panic!("{mode:?}"),
        }
        assert_eq!(started.elapsed(), UNRESOLVED_AFTER);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_a_backend_of_one_and_changes_with_who_lives_there() {
    let discovery = discovery();
    discovery.stream.send_replace(Stream::Up);
    let answer = |pod| parse::TargetAnswer::Pod(Box::new(pod));
    let place = dial(&discovery, "10.0.0.1:80", answer(pod("10.0.0.1:80", Some(WEB), Some("web")))).await;
    let Ok(Place::Known(target)) = place else { panic!("known") };
    let (backend, _) = target.current().unwrap();
    assert_eq!((backend.name.as_str(), discovery.backends().len()), ("shop/web:80", 1));
    let first = backend.pick(&[], Instant::now()).await.unwrap();
    assert!(first.is_meshed());
    // The address goes to somebody else: the same target, another identity, no request to the old one.
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    discovery.set_target("10.0.0.1:80", answer(pod("10.0.0.1:80", Some(other), Some("web"))));
    let second = target.current().unwrap().0.pick(&[], Instant::now()).await.unwrap();
    assert_eq!(second.info.identity.as_ref().unwrap().as_str(), other);
    discovery.set_target("10.0.0.1:80", parse::TargetAnswer::Unknown);
    assert!(matches!(target.current(), Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_goes_to_the_pod_itself_stays_on_its_loopback() {
    let discovery = discovery();
    let answer = parse::TargetAnswer::Pod(Box::new(pod("10.0.0.9:80", Some(WEB), None)));
    let Ok(Place::Known(target)) = dial(&discovery, "10.0.0.9:80", answer).await else { panic!("known") };
    let (backend, _) = target.current().unwrap();
    assert_eq!(backend.name, "shop/web-1:80");
    assert!(!backend.pick(&[], Instant::now()).await.unwrap().is_meshed(), "no proxy would answer there");
}

#[tokio::test(start_paused = true)]
async fn the_proxy_itself_is_no_endpoint() {
    let discovery = discovery();
    for addr in ["10.0.0.9:4140", "127.0.0.1:4143"] {
        let _ = discovery.target(addr);
        let itself = parse::TargetAnswer::Pod(Box::new(pod(addr, None, Some("web"))));
        discovery.set_target(addr, itself);
        let backend = discovery.look_up(addr).await.unwrap();
        assert!(
            matches!(backend.pick(&[], Instant::now()).await, Err(Error::NoEndpoint { .. })),
            "it would call itself for ever"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_a_connection_holds_is_not_forgotten() {
    let discovery = discovery();
    discovery.stream.send_replace(Stream::Up);
    let answer = parse::TargetAnswer::Pod(Box::new(pod("10.0.0.1:80", None, None)));
    let held = dial(&discovery, "10.0.0.1:80", answer).await;
    tokio::time::advance(TARGET_IDLE * 2).await;
    discovery.sweep();
    assert_eq!(discovery.backends().len(), 1);
    drop(held);
    discovery.sweep();
    assert_eq!(discovery.backends().len(), 1, "it was in use a moment ago");
    tokio::time::advance(TARGET_IDLE).await;
    discovery.sweep();
    assert!(discovery.backends().is_empty());
}

//! The cache without a network: what the request path sees while answers come, change, or do not come.

use lacewing_identity::{Authority, SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

use super::*;
use crate::{endpoint::Info, metrics::Metrics, tls::Identity};

fn discovery() -> Arc<Discovery> {
    let (metrics, _) = Metrics::new(UnixTime::since_unix_epoch(Duration::ZERO));
    Discovery::new(Arc::new(Context { identity: Arc::new(Identity::default()), metrics }))
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
    parse::TargetAnswer::Service(key(service))
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
    let error = backend.pick(&[]).await.err().unwrap().to_string();
    assert!(error.contains("did not list") && started.elapsed() == NO_ENDPOINT_TIMEOUT, "{error}");
    backend.set(vec![plain("10.0.0.1:80"), plain("10.0.0.2:80")]);
    let first = backend.pick(&[]).await.unwrap();
    backend.set(vec![plain("10.0.0.1:80"), plain("10.0.0.2:80"), plain("10.0.0.3:80")]);
    assert!(backend.balancer.endpoints().iter().any(|endpoint| Arc::ptr_eq(endpoint, &first)));
    backend.set(Vec::new());
    tokio::time::advance(Duration::from_secs(30)).await;
    let error = backend.pick(&[]).await.err().unwrap().to_string();
    assert!(error.contains("no ready pod") && error.contains("31s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_pick_waits_for_the_first_endpoint() {
    let discovery = discovery();
    let _ = discovery.target("web:80");
    discovery.set_target("web:80", found("web"));
    let backend = discovery.backend(&key("web")).unwrap();
    let (picked, ()) = tokio::join!(backend.pick(&[]), async {
        tokio::time::advance(Duration::from_millis(300)).await;
        backend.set(vec![plain("10.0.0.1:80")]);
    });
    assert_eq!(picked.unwrap().info.addr.port(), 80);
}

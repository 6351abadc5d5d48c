//! A fake cluster in paused time: endpoints are latencies, requests are loop turns.

use super::*;
use crate::config::{BREAKER_FAILURES, BREAKER_PENALTY_MIN};

struct Fake {
    load: Load,
    name: usize,
}

impl Loaded for Fake {
    fn load(&self) -> &Load {
        &self.load
    }
}

fn cluster(size: usize) -> Balancer<Fake> {
    let balancer = Balancer::default();
    balancer.set((0..size).map(|name| Arc::new(Fake { load: Load::default(), name })).collect());
    balancer
}

/// Sends `requests`, 5 ms apart, one at a time; returns how many each endpoint got.
async fn send(balancer: &Balancer<Fake>, requests: usize, latency: impl Fn(usize) -> Duration) -> Vec<usize> {
    let mut got = vec![0; balancer.endpoints().len()];
    for _ in 0..requests {
        tokio::time::advance(Duration::from_millis(5)).await;
        let endpoint = balancer.pick(&[], Instant::now()).unwrap();
        got[endpoint.name] += 1;
        answered(balancer, &endpoint, latency(endpoint.name));
    }
    got
}

fn answered(balancer: &Balancer<Fake>, endpoint: &Arc<Fake>, latency: Duration) {
    endpoint.load().observe(latency, Instant::now());
    balancer.outcome(endpoint, true, Instant::now());
}

const FAST: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(200);

#[tokio::test(start_paused = true)]
async fn equal_endpoints_share_alike() {
    let balancer = cluster(3);
    send(&balancer, 500, |_| FAST).await;
    let got = send(&balancer, 3_000, |_| FAST).await;
    assert!(got.iter().all(|n| *n > 600), "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_loses_its_share_at_once_and_recovers() {
    let balancer = cluster(3);
    send(&balancer, 1_000, |_| FAST).await;
    let slow = |name| if name == 1 { SLOW } else { FAST };
    let got = send(&balancer, 400, slow).await;
    assert!(got[1] * 100 < 400 * 5, "share of the slow one within 2 s: {got:?}");
    let got = send(&balancer, 4_000, slow).await;
    assert!(got[1] >= 1 && got[1] < 20, "it is tried now and then, no more: {got:?}");
    let healed = send(&balancer, 1_200, |_| FAST).await; // 6 s
    let after = send(&balancer, 1_000, |_| FAST).await;
    assert!(after[1] > 200, "its share after healing: {healed:?} {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hung_endpoint_does_not_look_better_with_time() {
    let balancer = cluster(2);
    send(&balancer, 400, |_| FAST).await;
    let hung = balancer.endpoints()[0].clone();
    let mut held = Vec::new();
    let mut got = [0, 0];
    for _ in 0..4_000 {
        tokio::time::advance(Duration::from_millis(5)).await; // 20 s
        let endpoint = balancer.pick(&[], Instant::now()).unwrap();
        got[endpoint.name] += 1;
        let waiting = Awaiting::new(endpoint.clone(), Instant::now());
        if Arc::ptr_eq(&endpoint, &hung) {
            held.push(waiting);
        } else {
            drop(waiting.answered(Instant::now() - FAST, Instant::now()));
        }
    }
    assert!(got[0] <= 5, "{got:?}");
    drop(held);
    assert!(hung.load().ewma() > Duration::from_secs(1), "who gave up says how long it took");
}

#[tokio::test(start_paused = true)]
async fn the_breaker_never_leaves_nothing_to_pick() {
    let balancer = cluster(2);
    let all = balancer.endpoints();
    for _ in 0..BREAKER_FAILURES {
        balancer.failed(&all[0], Instant::now());
    }
    assert_eq!(balancer.ejected(), 1);
    balancer.set(vec![all[0].clone()]);
    assert!(
        balancer.pick(&[], Instant::now()).is_some(),
        "the last endpoint is ejected, and still better than an error"
    );
    balancer.set(vec![all[1].clone()]);
    assert_eq!(balancer.ejected(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_bad_sample_does_not_starve_an_endpoint() {
    let balancer = cluster(2);
    send(&balancer, 400, |_| FAST).await;
    answered(&balancer, &balancer.endpoints()[0], Duration::from_millis(50));
    let got = send(&balancer, 2_000, |_| FAST).await; // 10 s
    assert!(got[0] > 500, "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_is_tried_at_once() {
    let balancer = cluster(2);
    send(&balancer, 400, |_| FAST).await;
    let mut endpoints = balancer.endpoints().as_ref().clone();
    endpoints.push(Arc::new(Fake { load: Load::default(), name: 2 }));
    balancer.set(endpoints);
    let got = send(&balancer, 300, |_| FAST).await;
    assert!(got[2] > 60, "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_count() {
    let balancer = cluster(2);
    send(&balancer, 200, |_| FAST).await;
    let busy = balancer.endpoints()[0].clone();
    let _held: Vec<_> = (0..50).map(|_| InFlight::new(busy.clone())).collect();
    let got = send(&balancer, 200, |_| FAST).await;
    assert!(got[0] == 0, "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn tried_endpoints_are_left_out() {
    let balancer = cluster(3);
    let all = balancer.endpoints();
    for _ in 0..50 {
        let pick = balancer.pick(&all[..2], Instant::now()).unwrap();
        assert_eq!(pick.name, 2);
    }
    assert!(balancer.pick(&all, Instant::now()).is_none());
    assert!(cluster(0).pick(&[], Instant::now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn failing_endpoints_are_ejected_but_never_more_than_half() {
    let balancer = cluster(4);
    let all = balancer.endpoints();
    for endpoint in &all[..3] {
        for _ in 0..BREAKER_FAILURES * 2 {
            balancer.failed(endpoint, Instant::now());
        }
    }
    assert_eq!(balancer.ejected(), 2);
    for _ in 0..100 {
        let pick = balancer.pick(&[], Instant::now()).unwrap();
        assert!(pick.name >= 2, "ejected endpoint {} was picked", pick.name);
    }
    let alone = cluster(1);
    for _ in 0..100 {
        alone.failed(&alone.endpoints()[0], Instant::now());
    }
    assert!(alone.pick(&[], Instant::now()).is_some(), "the only endpoint is never ejected");
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_gets_one_probe_and_comes_back() {
    let balancer = cluster(2);
    let bad = balancer.endpoints()[0].clone();
    for _ in 0..BREAKER_FAILURES {
        balancer.failed(&bad, Instant::now());
    }
    assert_eq!(balancer.ejected(), 1);
    tokio::time::advance(BREAKER_PENALTY_MIN * 2).await;
    let probes = (0..100).filter(|_| balancer.pick(&[], Instant::now()).unwrap().name == 0).count();
    assert_eq!(probes, 1);
    answered(&balancer, &bad, FAST);
    assert_eq!(balancer.ejected(), 0);
}

#[tokio::test(start_paused = true)]
async fn failing_fast_does_not_look_fast() {
    let balancer = cluster(2);
    send(&balancer, 200, |_| FAST).await;
    let bad = balancer.endpoints()[0].clone();
    balancer.failed(&bad, Instant::now());
    let got = send(&balancer, 100, |_| FAST).await;
    assert_eq!(got[0], 0, "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_set_keeps_the_history_of_who_stays() {
    let balancer = cluster(3);
    send(&balancer, 300, |name| if name == 0 { SLOW } else { FAST }).await;
    let mut next = balancer.endpoints().as_ref().clone();
    next.remove(2);
    balancer.set(next);
    let got = send(&balancer, 200, |name| if name == 0 { SLOW } else { FAST }).await;
    assert!(got[0] <= 3, "{got:?}");
}

/// Sends requests of which those to `dead` endpoints fail, one attempt each; how many were answered.
async fn send_to_the_living(balancer: &Balancer<Fake>, requests: usize, dead: impl Fn(usize) -> bool) -> usize {
    let mut served = 0;
    for _ in 0..requests {
        tokio::time::advance(Duration::from_millis(5)).await;
        let endpoint = balancer.pick(&[], Instant::now()).unwrap();
        if dead(endpoint.name) {
            balancer.failed(&endpoint, Instant::now());
        } else {
            answered(balancer, &endpoint, FAST);
            served += 1;
        }
    }
    served
}

#[tokio::test(start_paused = true)]
async fn after_all_were_down_the_first_that_returns_is_found_at_once() {
    for first_back in 0..3 {
        let balancer = cluster(3);
        send(&balancer, 300, |_| FAST).await;
        send_to_the_living(&balancer, 12_000, |_| true).await; // a minute
        let early = send_to_the_living(&balancer, 40, |name| name != first_back).await;
        assert!(early > 0, "{first_back} answers again, and nobody noticed for 200 ms");
        let served = send_to_the_living(&balancer, 400, |name| name != first_back).await;
        assert!(served > 380, "{first_back} is the only one that works: {served} of 400");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_works_among_many_dead_gets_the_requests() {
    let balancer = cluster(5);
    send(&balancer, 300, |_| FAST).await;
    send_to_the_living(&balancer, 400, |name| name != 3).await;
    let served = send_to_the_living(&balancer, 2_000, |name| name != 3).await;
    assert!(served > 1_900, "{served} of 2000");
}

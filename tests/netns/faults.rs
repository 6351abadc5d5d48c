//! Endpoints that die, vanish, hang, lose packets, become slow, fail or flap, under load, with the history check at the
//! end of each run. What must hold is said in words at each assertion; the figures are printed.
//! Processes and connections that break are in `faults_process`, HTTP/2's own in `faults_http2`.
#![allow(clippy::print_stdout, reason = "figures")]

use std::time::{Duration, Instant};

use lacewing_tests::{
    history::{Event, Figures, Load, Member, Mode, Protocol, Shop, run_for},
    wait::until,
};

/// Low enough that several of these tests share a small machine: a server that waits for the processor is slow, too.
pub const RPS: u32 = 100;
/// Times that are stated for an idle machine are allowed this often as much on a loaded one.
const LOADED: u32 = 2;

pub fn long() -> bool {
    std::env::var("LACEWING_TEST_LONG").is_ok_and(|long| !long.is_empty())
}

/// The first, or with `LACEWING_TEST_LONG` the second.
pub fn short_or_long(short: u64, long_one: u64) -> Duration {
    Duration::from_secs(if long() { long_one } else { short })
}

/// Half of the requests take longer than this though nobody is told to be slow: somebody else has the processor.
const STRAINED: Duration = Duration::from_millis(60);

/// Judges times and shares, by what healthy servers did meanwhile; on a strained machine they say nothing about us. What
/// must hold whatever the time is asserted elsewhere.
#[track_caller]
pub fn timely(meanwhile: &Figures, holds: bool, what: &str) {
    if meanwhile.p50 > STRAINED {
        println!("the machine is strained: {what}? Not judged: {meanwhile}");
    } else {
        assert!(holds, "{what}: {meanwhile}");
    }
}

/// Three members, load for this long, all of it clean.
fn warm(members: &[Member], shop: &Shop, load: &Load, protocol: Protocol) -> Figures {
    shop.until_known(protocol, members.len());
    let (from, to) = run_for(Duration::from_millis(1_500));
    let figures = Figures::of(&load.events(), from, to);
    assert_eq!(figures.failed, 0, "before anything was broken: {figures}");
    figures
}

pub fn set(members: &[Member], mode: Mode) {
    for member in members {
        member.set(mode);
    }
}

fn failed_gets(events: &[Event]) -> Vec<String> {
    events.iter().filter(|event| !event.post && !event.is_ok()).map(Event::kind).collect()
}

/// F8: one of three is killed.
#[test]
fn a_killed_endpoint_costs_no_idempotent_request() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (shop, mut members) = Shop::with(3, &[protocol]);
        let load = shop.load(protocol, RPS);
        let base = warm(&members, &shop, &load, protocol);
        let attempts = || {
            let labels = ["direction=\"outbound\"", "dst_pod=\"web-1\""];
            shop.client.metric("request_total", &labels)
        };
        let killed = Instant::now();
        members[0].servers.pop().unwrap().kill();
        run_for(Duration::from_millis(300));
        let soon = attempts();
        run_for(Duration::from_millis(600));
        let later = attempts();
        run_for(short_or_long(3, 20));
        let events = load.stop();
        let after = Figures::of(&events, killed, Instant::now());
        println!("F8 app killed, {}: before {base}", protocol.name());
        println!("F8 after {after}; attempts there from 0.3 s to 0.9 s: {}", later - soon);
        let history = shop.history(events);
        history.check();
        timely(&after, later - soon <= 6.0, "it is soon left alone");
        assert_eq!(failed_gets(&history.events), Vec::<String>::new());
        assert!(after.failed <= 3, "only requests that were under way may fail: {after}");
        println!("F8 amplification {:.3}", history.amplification());
    }
}

/// F8: the same with its proxy, as when a pod is killed.
#[test]
fn a_killed_pod_costs_no_idempotent_request() {
    let (shop, mut members) = Shop::with(3, &[Protocol::Http1]);
    let load = shop.load(Protocol::Http1, RPS);
    warm(&members, &shop, &load, Protocol::Http1);
    let killed = Instant::now();
    members[0].pod.proxy().kill();
    members[0].servers.pop().unwrap().kill();
    run_for(short_or_long(4, 20));
    let history = shop.history(load.stop());
    let after = Figures::of(&history.events, killed, Instant::now());
    println!("F8 pod killed: {after}, amplification {:.3}", history.amplification());
    history.check();
    assert_eq!(failed_gets(&history.events), Vec::<String>::new());
    assert!(after.failed <= 3, "only requests that were under way may fail: {after}");
}

/// F9: gone without a word, with traffic.
#[test]
fn a_vanished_endpoint_is_left_within_a_second() {
    let (shop, members) = Shop::with(3, &[Protocol::Http1]);
    let load = shop.gets(Protocol::Http1, RPS);
    let base = warm(&members, &shop, &load, Protocol::Http1);
    let vanished = Instant::now();
    members[0].pod.host.vanish();
    run_for(short_or_long(15, 30));
    let history = shop.history(load.stop());
    let second = Duration::from_secs(1);
    let first = Figures::of(&history.events, vanished, vanished + second);
    let rest = Figures::of(&history.events, vanished + second, Instant::now());
    let late = history.events.iter().filter(|event| event.due > vanished + second * LOADED && event.took > second);
    let when: Vec<String> =
        late.clone().map(|event| format!("{:.1?}: {:.1?}", event.due - vanished, event.took)).collect();
    println!("F9 before {base}\nF9 first second {first}\nF9 then {rest}; from 2 s on slow: {when:?}");
    history.check();
    assert_eq!(failed_gets(&history.events), Vec::<String>::new());
    timely(&rest, first.slowest < Duration::from_secs(5) + second, "with traffic it is noticed within 5 s");
    // One that asks whether it is back may wait; nobody else.
    timely(&rest, late.count() <= 6, "it gets no more requests");
}

/// F9: gone without a word, while nobody asked.
#[test]
fn an_idle_connection_to_a_vanished_endpoint_costs_13_seconds_at_most() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (shop, members) = Shop::with(2, &[protocol]);
        let load = shop.gets(protocol, 20);
        shop.until_known(protocol, 2);
        run_for(Duration::from_secs(1));
        let mut events = load.stop();
        members[0].pod.host.vanish();
        let (idle, _) = run_for(short_or_long(1, 20));
        let load = shop.gets(protocol, 10);
        run_for(Duration::from_millis(400));
        let asked = load.stop();
        let figures = Figures::of(&asked, idle, Instant::now());
        println!("F9 idle, {}: {figures}", protocol.name());
        events.extend(asked);
        let history = shop.history(events);
        history.check_clean(20);
        assert!(figures.slowest < Duration::from_secs(14), "{figures}");
    }
}

/// F10: new connections get no answer.
#[test]
fn an_endpoint_that_takes_no_connections_costs_one_connect_timeout() {
    let (shop, members) = Shop::with(3, &[Protocol::Http1]);
    members[0].pod.host.drop_syn(None);
    let began = Instant::now();
    let load = shop.gets(Protocol::Http1, RPS);
    run_for(short_or_long(8, 30));
    let history = shop.history(load.stop());
    let first = Figures::of(&history.events, began, began + Duration::from_millis(1_500));
    let then = Figures::of(&history.events, began + Duration::from_millis(1_500), Instant::now());
    let slow =
        history.events.iter().filter(|e| e.due > began + Duration::from_millis(1_500) && e.took.as_millis() > 900);
    println!("F10 first {first}\nF10 then {then}; slow: {}", slow.clone().count());
    history.check_clean(400);
    timely(&first, first.slowest < Duration::from_millis(1_200) * LOADED, "one connect timeout");
    // The breaker asks again after 1 s, 2 s, 4 s…, each time with one request.
    timely(&then, slow.count() <= 8, "hardly anybody waits for it");
}

/// F11: packets of one endpoint are lost.
#[test]
fn lost_packets_fail_nothing() {
    for (percent, protocol) in [(5, Protocol::Http1), (30, Protocol::Http2)] {
        let (shop, members) = Shop::with(3, &[protocol]);
        let load = shop.gets(protocol, RPS);
        let base = warm(&members, &shop, &load, protocol);
        let lossy = Instant::now();
        members[0].pod.host.lose(percent);
        run_for(short_or_long(6, 30));
        let history = shop.history(load.stop());
        let settled = Figures::of(&history.events, lossy + Duration::from_secs(1), Instant::now());
        println!(
            "F11 {percent} %: before {base}\nF11 after {settled}; its share {:.1} %",
            settled.share("web-1") * 100.0
        );
        history.check_clean(500);
        timely(&settled, settled.share("web-1") < 0.25, "load moves away");
    }
}

/// F12: 200 ms slower, and well again.
#[test]
fn a_slow_endpoint_loses_its_traffic_and_gets_it_back() {
    let (shop, members) = Shop::with(3, &[Protocol::Http1]);
    let load = shop.gets(Protocol::Http1, 2 * RPS);
    let base = warm(&members, &shop, &load, Protocol::Http1);
    let slow = Instant::now();
    members[0].set(Mode::Slow(Duration::from_millis(200)));
    run_for(short_or_long(6, 30));
    let well = Instant::now();
    members[0].set(Mode::Ok);
    let share = until("a quarter of the traffic is back", Duration::from_secs(20), || {
        let now = Instant::now();
        let from = now.checked_sub(Duration::from_secs(2)).filter(|from| *from >= well)?;
        let share = Figures::of(&load.events(), from, now).share("web-1");
        (share >= 0.25).then_some(share)
    });
    let back = well.elapsed();
    let history = shop.history(load.stop());
    let away = Figures::of(&history.events, slow + Duration::from_secs(2), well);
    let settled = Figures::of(&history.events, slow + Duration::from_secs(5), well);
    println!("F12 before {base}\nF12 from 2 s on {away}; its share {:.2} %", away.share("web-1") * 100.0);
    println!("F12 from 5 s on {settled}; back at {:.0} % after {back:.1?}", share * 100.0);
    history.check_clean(1_500);
    timely(&away, away.share("web-1") < 0.05, "traffic goes elsewhere");
}

/// F13: fails at once, which looks fast.
#[test]
fn a_fast_failing_endpoint_is_ejected_and_never_more_than_half() {
    for (protocol, bad) in [(Protocol::Http1, 1), (Protocol::Grpc, 1), (Protocol::Http2, 2)] {
        let (shop, members) = Shop::with(3, &[protocol]);
        let load = shop.load(protocol, RPS);
        warm(&members, &shop, &load, protocol);
        let broken = Instant::now();
        set(&members[..bad], Mode::Status(500));
        let mut most = 0;
        let end = broken + short_or_long(6, 60);
        while Instant::now() < end {
            run_for(Duration::from_millis(50));
            let (ejected, of) = shop.ejected(protocol);
            assert!(ejected * 2 <= of, "{ejected} of {of} are ejected");
            most = most.max(ejected);
        }
        set(&members, Mode::Ok);
        let well = Instant::now();
        run_for(short_or_long(1, 90));
        let history = shop.history(load.stop());
        let first = Figures::of(&history.events, broken, broken + Duration::from_secs(1));
        let then = Figures::of(&history.events, broken + Duration::from_secs(1), well);
        let healed = Figures::of(&history.events, well, Instant::now());
        println!("F13 {} of 3 bad, {}: first second {first}", bad, protocol.name());
        println!(
            "F13 then {then}: {:.2} % fail; at most {most} ejected\nF13 well again {healed}",
            then.failure_rate() * 100.0
        );
        history.check();
        assert!(most > 0, "nobody was ejected");
        if bad == 1 {
            assert!(then.failure_rate() < 0.02, "{then}");
        }
    }
}

/// F14: wants less.
#[test]
fn an_overloaded_endpoint_gets_less_and_is_never_ejected() {
    for protocol in [Protocol::Http1, Protocol::Grpc] {
        let (shop, members) = Shop::with(3, &[protocol]);
        let load = shop.load(protocol, RPS);
        warm(&members, &shop, &load, protocol);
        let began = Instant::now();
        members[0].set(Mode::Status(429));
        let mut ejected = 0;
        let end = began + short_or_long(4, 20);
        while Instant::now() < end {
            run_for(Duration::from_millis(100));
            ejected = ejected.max(shop.ejected(protocol).0);
        }
        let all = Instant::now();
        set(&members, Mode::Status(429));
        run_for(Duration::from_secs(1));
        ejected = ejected.max(shop.ejected(protocol).0);
        let history = shop.history(load.stop());
        let one = Figures::of(&history.events, began + Duration::from_millis(500), all);
        let everybody = Figures::of(&history.events, all + Duration::from_millis(100), Instant::now());
        println!("F14 {}: {one}; its share {:.2} %", protocol.name(), one.share("web-1") * 100.0);
        println!("F14 all of them: {everybody}; at most {ejected} ejected");
        history.check();
        timely(&one, one.share("web-1") < 0.10, "others are preferred");
        assert_eq!(ejected, 0, "it is healthy");
        let own = everybody.failures.keys().all(|kind| kind.starts_with("429") || kind == "200 grpc 8");
        assert!(own, "the answer is the app's own: {everybody}");
    }
}

/// F15: half a second well, half a second not.
#[test]
fn a_flapping_endpoint_costs_less_than_3_percent() {
    let (shop, members) = Shop::with(3, &[Protocol::Http1]);
    let load = shop.load(Protocol::Http1, RPS);
    warm(&members, &shop, &load, Protocol::Http1);
    let began = Instant::now();
    let half = Duration::from_millis(500);
    while began.elapsed() < short_or_long(8, 60) {
        members[0].pod.host.reset(Protocol::Http1.port());
        run_for(half);
        members[0].pod.host.heal();
        run_for(half);
    }
    let history = shop.history(load.stop());
    let figures = Figures::of(&history.events, began, Instant::now());
    println!(
        "F15 {figures}: {:.2} % fail; amplification {:.3}",
        figures.failure_rate() * 100.0,
        history.amplification()
    );
    history.check();
    assert_eq!(failed_gets(&history.events), Vec::<String>::new());
    assert!(figures.failure_rate() < 0.03, "{figures}");
}

/// F16: nobody is left: all apps are dead, or no pod is ready.
#[test]
fn with_nobody_left_the_reason_is_said_and_recovery_is_quick() {
    for by_readiness in [false, true] {
        let (shop, mut members) = Shop::with(3, &[Protocol::Http1]);
        let load = shop.gets(Protocol::Http1, RPS);
        warm(&members, &shop, &load, Protocol::Http1);
        for member in &mut members {
            if by_readiness {
                shop.cluster.set_ready(&member.pod, false);
            } else {
                member.servers.pop().unwrap().kill();
            }
        }
        if by_readiness {
            shop.until_known(Protocol::Http1, 0);
        }
        let (down, _) = run_for(short_or_long(5, 60));
        let back = Instant::now();
        if by_readiness {
            shop.cluster.set_ready(&members[0].pod, true);
            shop.until_known(Protocol::Http1, 1);
        } else {
            let again = shop.serve_again(members.remove(0), &[Protocol::Http1]);
            members.insert(0, again);
        }
        let returned = Instant::now();
        run_for(Duration::from_secs(4));
        let history = shop.history(load.stop());
        // Who waits for an endpoint may meet the one that returns.
        let waits = Duration::from_millis(1_100);
        let dark = history.events.iter().filter(|event| event.due > down + waits / 10 && event.due + waits < back);
        let dark = Figures::about(dark);
        let after = |event: &&Event| event.due >= returned;
        let first = history.events.iter().filter(after).filter(|event| event.is_ok()).map(|event| event.due).min();
        let recovery = first.map(|first| first - returned);
        let light = Figures::of(&history.events, returned + Duration::from_secs(1) * LOADED, Instant::now());
        println!("F16 by readiness: {by_readiness}. Down: {dark}");
        println!("F16 first success {recovery:.1?} after the return; from 2 s on {light}");
        history.check();
        assert_eq!(dark.failed, dark.count, "nobody is there");
        assert!(dark.failures.keys().all(|kind| kind.starts_with("503 ")), "503 with the reason: {dark}");
        timely(&light, dark.slowest < Duration::from_secs(1) * LOADED, "the reason is said in time");
        let soon = recovery.is_some_and(|recovery| recovery < Duration::from_secs(1) * LOADED);
        timely(&light, soon, "recovery is quick");
        timely(&light, light.failed == 0, "all are served then");
    }
}

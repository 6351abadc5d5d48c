//! F22: servers are restarted one after the other, as a rollout does it, under load over HTTP/1, HTTP/2 and gRPC at once:
//! nothing fails, whoever is told first, the app or its proxy.
#![allow(clippy::print_stdout, reason = "figures")]

use std::time::Duration;

use lacewing_tests::history::{Event, Figures, Load, Member, Mode, Protocol, Shop, run_for};

use super::faults::{long, set};

/// Longer than any drain here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request takes this long, so that there are always some under way.
const BUSY: Duration = Duration::from_millis(25);

/// Who is told first.
#[derive(Clone, Copy, Debug)]
enum First {
    /// A sidecar container: it ends when the app has.
    App,
    /// An ordinary container: it is told at the same time, and may be quicker.
    Proxy,
}

fn roll(first: First, restarts: usize, rps: u32) {
    let (shop, mut members) = Shop::with(3, &Protocol::ALL);
    let loads = Protocol::ALL.map(|protocol| shop.load(protocol, rps));
    until_known(&shop, 3);
    for number in 0..restarts {
        // As a Deployment does it: the new one is ready before the old one goes.
        members.push(shop.add(&format!("web-{}", number + 4), &Protocol::ALL));
        set(&members, Mode::Slow(BUSY));
        until_known(&shop, 4);
        let Member { name, pod, servers } = members.remove(0);
        match first {
            First::App => shop.cluster.remove(&pod, PATIENCE, || {
                linger(&shop, &name, number);
                stop(servers);
            }),
            First::Proxy => {
                shop.cluster.mark_terminating(&pod);
                linger(&shop, &name, number);
                pod.proxy().terminate(PATIENCE);
                stop(servers);
                shop.cluster.forget(&pod);
            }
        }
        shop.until_removed(&name);
    }
    run_for(Duration::from_millis(500));
    let events: Vec<Event> = loads.into_iter().flat_map(Load::stop).collect();
    for protocol in Protocol::ALL {
        let figures = Figures::about(events.iter().filter(|event| event.protocol == protocol));
        let Figures { count, failed, p50, p99, slowest, failures, .. } = figures;
        println!(
            "F22 {first:?} first, {restarts} restarts, {}: {count} requests, {failed} failed {failures:?}, p50 {p50:.1?} \
             p99 {p99:.1?} max {slowest:.1?}",
            protocol.name()
        );
    }
    let history = shop.history(events);
    println!("F22 amplification {:.4}", history.amplification());
    history.check_clean(restarts * 100);
}

/// Every other pod waits before it stops, as with a `preStop` hook: then nothing new must reach it once clients know.
fn linger(shop: &Shop, name: &str, number: usize) {
    if number % 2 == 1 {
        shop.until_removed(name);
        run_for(Duration::from_millis(600));
    }
}

fn until_known(shop: &Shop, count: usize) {
    for protocol in Protocol::ALL {
        shop.until_known(protocol, count);
    }
}

fn stop(servers: Vec<lacewing_tests::history::Server>) {
    std::thread::scope(|scope| {
        for server in servers {
            scope.spawn(|| server.stop());
        }
    });
}

/// How many restarts, and requests a second for each protocol.
fn measure() -> (usize, u32) {
    if long() { (20, 500) } else { (4, 100) }
}

#[test]
fn a_rollout_in_which_apps_stop_first_fails_nothing() {
    let (restarts, rps) = measure();
    roll(First::App, restarts, rps);
}

#[test]
fn a_rollout_in_which_proxies_stop_first_fails_nothing() {
    let (restarts, rps) = measure();
    roll(First::Proxy, restarts, rps);
}

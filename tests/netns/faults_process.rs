//! Proxies that are killed, addresses that change hands, connections that are half closed, linger, or are closed by the
//! server at the moment of the next request.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use lacewing_tests::{
    history::{Event, Figures, Load, Member, Mode, Protocol, Server, Shop, Stream, run_for},
    net::{Behaviour, Cluster, Host, Pod, PodSpec, TcpApp, User},
    wait::until,
};

use super::faults::{RPS, long, set, short_or_long, timely};

/// A proxy is ready again within this on an idle machine; twice the tests' usual allowance, since it is one process's start.
const READY: Duration = Duration::from_millis(300 * 4);
/// For a thing that should happen.
const SOON: Duration = Duration::from_secs(10);
/// How an HTTP request in plain text begins: `GET `, `POST`, and the HTTP/2 preface's `PRI `.
const PLAIN: [&str; 3] = ["0x47455420", "0x504f5354", "0x50524920"];

/// Counts segments on the host's cable that begin like plain HTTP.
fn watch(host: &Host) {
    // What was redirected stays on loopback, though its way out still seems to be the cable.
    let ways = ["in", "out ip daddr != 127.0.0.0/8", "out ip6 daddr != ::1"];
    let rule = |bytes: &'static str| ways.map(|way| format!("{way} meta l4proto tcp @ih,0,32 {bytes} counter"));
    let rules: Vec<String> = PLAIN.into_iter().flat_map(rule).collect();
    host.fault(&rules.iter().map(String::as_str).collect::<Vec<_>>());
}

fn plain_segments(host: &Host) -> u64 {
    let output = host.command_as(User::Root, "nft").args(["list", "table", "inet", "faults"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let counts: Vec<u64> =
        text.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect();
    assert_eq!(counts.len(), 3 * PLAIN.len(), "{text}");
    counts.iter().sum()
}

/// F20: redirection outlives the proxy, so that nothing leaves or arrives in plain text; and it is soon back.
#[test]
fn a_killed_proxy_leaks_nothing_and_is_soon_back() {
    let (shop, members) = Shop::with(3, &[Protocol::Http1]);
    let hosts = [&shop.client.host, &members[0].pod.host];
    for host in hosts {
        watch(host);
    }
    let stranger = shop.cluster.pod(PodSpec::new("stranger").unmeshed());
    watch(&stranger.host);
    let address = shop.cluster.address("web", Protocol::Http1.port());
    assert_eq!(stranger.host.get(address, "/item", &[("host", "web")]).status, 200);
    assert!(plain_segments(&stranger.host) > 0, "plain text is not noticed");
    let before = hosts.map(plain_segments);

    let load = shop.load(Protocol::Http1, RPS);
    shop.until_known(Protocol::Http1, 3);
    let killed = Instant::now();
    members[0].pod.proxy().kill();
    run_for(Duration::from_millis(1_500));
    let started = Instant::now();
    members[0].pod.start_proxy();
    let server_ready = started.elapsed();
    run_for(Duration::from_millis(1_500));
    let alone = Figures::of(&load.events(), killed, Instant::now());
    println!("F20 a server's proxy killed: {alone}; ready again after {server_ready:.1?}");

    let dark = Instant::now();
    shop.client.proxy().kill();
    run_for(Duration::from_secs(1));
    let started = Instant::now();
    shop.client.start_proxy();
    let client_ready = started.elapsed();
    let light = Instant::now();
    run_for(short_or_long(2, 20));
    let history = shop.history(load.stop());
    let was_down = |event: &&Event| event.due > dark && event.due + event.took < started;
    let down = Figures::about(history.events.iter().filter(was_down));
    let up = Figures::of(&history.events, light, Instant::now());
    println!("F20 the client's proxy killed: {down}; ready again after {client_ready:.1?}\nF20 then {up}");
    history.check();
    let lost: Vec<&Event> =
        history.events.iter().filter(|event| event.due + SOON / 20 < dark && !event.post && !event.is_ok()).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!((down.failed, up.failed), (down.count, 0), "all fail without the proxy, and none with it");
    timely(&up, server_ready < READY && client_ready < READY, "it is soon ready");
    let after = hosts.map(plain_segments);
    println!("F20 plain segments before {before:?}, after {after:?}");
    assert_eq!(after, before, "something went in plain text");
}

/// F21: the address of an endpoint belongs to somebody else now, and the client does not know yet.
#[test]
fn an_address_that_changed_hands_gets_nothing() {
    let (shop, mut members) = Shop::with(2, &[Protocol::Http1]);
    let thief = shop.cluster.pod(PodSpec::new("thief").service("other").port("http", 8080, "http"));
    let _app = Server::start(&thief.host, "thief", Protocol::Http1, &shop.book);
    let load = shop.load(Protocol::Http1, RPS);
    shop.until_known(Protocol::Http1, 2);
    let changed = Instant::now();
    let port = Protocol::Http1.port();
    let Member { pod, servers, .. } = members.remove(0);
    shop.client.host.divert(pod.at(port), thief.at(port));
    shop.client.host.divert(pod.host.at_v6(port), thief.host.at_v6(port));
    pod.proxy().kill();
    drop(servers);
    run_for(short_or_long(4, 20));
    // A request that broke off counts against the endpoint, which is then left alone for some seconds.
    let refused = || shop.client.metric("proxy_errors_total", &["error=\"identity_mismatch\""]);
    let refused = until("the address is tried", 2 * SOON, || Some(refused()).filter(|count| *count > 0.0));
    let history = shop.history(load.stop());
    let after = Figures::of(&history.events, changed, Instant::now());
    let errors = shop.client.admin("/metrics").body;
    let errors: Vec<&str> = errors.lines().filter(|line| line.starts_with("proxy_errors_total")).collect();
    println!("F21 {after}; refused handshakes {refused}: {errors:?}");
    history.check();
    assert_eq!(shop.book.count("thief", changed), 0, "requests were delivered to somebody else");
    let lost = history.events.iter().filter(|event| !event.post && !event.is_ok()).count();
    assert_eq!(lost, 0, "{after}");
}

/// F25: both sides may end first, and what lingers leaves no descriptor behind.
#[test]
fn half_closed_connections_work_and_leave_nothing_behind() {
    let cluster = Cluster::new();
    let db = cluster.pod(PodSpec::new("db-1").service("db").port("sink", 9000, "").port("source", 9001, ""));
    let sink = TcpApp::start(&db.host, 9000, Behaviour::Sink);
    let source = TcpApp::start(&db.host, 9001, Behaviour::Source(100_000));
    let client = cluster.pod(PodSpec::new("client"));
    cluster.published();
    let at = |port| cluster.address("db", port);
    let connect = |to: SocketAddr| {
        let socket = client.host.connect(to).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    };
    client_ends_first(connect(at(9000)));
    server_ends_first(connect(at(9001)));
    let files = || [&client, &db].map(|pod| pod.proxy().open_files());
    let base = files();
    let rounds = if long() { 500 } else { 40 };
    for _ in 0..rounds {
        client_ends_first(connect(at(9000)));
        server_ends_first(connect(at(9001)));
        // Left with unread bytes: a reset.
        let mut leaver = connect(at(9001));
        leaver.read_exact(&mut [0; 1_000]).unwrap();
        // Half closed, and then gone.
        let mut lingering = connect(at(9000));
        lingering.write_all(b"x").unwrap();
        lingering.shutdown(Shutdown::Write).unwrap();
    }
    let after = until("descriptors are given back", SOON, || {
        let now = files();
        (now.iter().zip(base).all(|(now, base)| *now <= base + 2)).then_some(now)
    });
    println!("F25 {} connections, open files before {base:?}, after {after:?}", 4 * rounds);
    until("the apps' connections end", SOON, || (sink.open() + source.open() == 0).then_some(()));
    if long() {
        half_closed_for_too_long(&db, &client, at(9001), source);
    }
}

fn client_ends_first(mut socket: TcpStream) {
    socket.write_all(&vec![b'x'; 50_000]).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "50000");
}

fn server_ends_first(mut socket: TcpStream) {
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 100_000);
    // Its own direction is still open.
    let _ = socket.write_all(b"too late, but allowed");
}

/// One side has ended and the other neither speaks nor ends: after 60 s of that, at most twice as much, it is over.
fn half_closed_for_too_long(db: &Pod, client: &Pod, to: SocketAddr, source: TcpApp) {
    drop(source);
    let listener = db.host.listen(9001);
    let mut socket = client.host.connect(to).unwrap();
    socket.write_all(b"x").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let (_held, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(130))).unwrap();
    let started = Instant::now();
    let ended = socket.read(&mut [0]);
    println!("F25 half closed and silent: ended after {:.1?}: {ended:?}", started.elapsed());
    assert!(started.elapsed() > Duration::from_secs(50), "{ended:?}");
    assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it is still open");
}

/// F26: servers close idle connections after about 3 s, just when the next request comes.
fn keep_alive_race(meshed: bool) {
    /// Together at a time, so that as many connections are kept.
    const CLIENTS: usize = 36;
    const GAP: Duration = Duration::from_secs(3);
    /// Requests take this long, so that they overlap.
    const BUSY: Duration = Duration::from_millis(20);
    let shop = Shop::new();
    let members: Vec<_> = [2_960, 2_975, 2_982]
        .into_iter()
        .enumerate()
        .map(|(number, idle)| {
            let name = format!("web-{number}");
            let pod = if meshed { shop.held(&name) } else { shop.held_plain(&name) };
            let idle = Some(Duration::from_millis(idle));
            let server = Server::with_idle(&pod.host, &name, Protocol::Http1, &shop.book, idle);
            server.set(Mode::Slow(BUSY));
            shop.cluster.set_ready(&pod, true);
            (pod, server)
        })
        .collect();
    let load = |post_each| {
        let stream = Stream { gap: GAP, post_each, ..shop.stream(Protocol::Http1, 1) };
        Load::start(&shop.client.host, stream)
    };
    let loads: Vec<Load> = (0..CLIENTS).map(|n| load(u64::from(n % 6 == 0))).collect();
    run_for(short_or_long(13, 60));
    let events: Vec<Event> = loads.into_iter().flat_map(Load::stop).collect();
    let history = shop.history(events);
    let of = |post: bool| Figures::about(history.events.iter().filter(|event| event.post == post));
    let connections: usize = members.iter().map(|(_, server)| server.connections()).sum();
    let reused = history.events.len().saturating_sub(connections);
    println!(
        "F26 meshed: {meshed}; GET {}\nF26 POST {}\nF26 {connections} connections, {reused} reused",
        of(false),
        of(true)
    );
    history.check();
    timely(&of(false), of(false).failed == 0, "no GET fails");
    // What was written to a connection that its server was just closing may have been processed (RFC 9112, 9.3.1).
    timely(&of(true), of(true).failure_rate() < 0.25, "a POST may meet the close, but seldom");
}

#[test]
fn a_keep_alive_race_costs_nothing_between_a_pair() {
    keep_alive_race(true);
}

#[test]
fn a_keep_alive_race_costs_nothing_towards_a_plain_server() {
    keep_alive_race(false);
}

/// Servers that answer and close without a word, and servers that break off: whoever is idempotent does not notice.
#[test]
fn servers_that_close_or_break_off_cost_no_idempotent_request() {
    let (shop, members) = Shop::with(3, &[Protocol::Http1]);
    let load = shop.load(Protocol::Http1, RPS);
    shop.until_known(Protocol::Http1, 3);
    let closing = Instant::now();
    set(&members, Mode::AnswerThenClose);
    run_for(short_or_long(2, 10));
    let breaking = Instant::now();
    set(&members, Mode::Ok);
    members[0].set(Mode::Drop);
    run_for(short_or_long(3, 10));
    let history = shop.history(load.stop());
    let closed = Figures::of(&history.events, closing, breaking);
    let broke = Figures::of(&history.events, breaking + Duration::from_millis(50), Instant::now());
    println!("F26 answer, then close: {closed}\nF8 break off: {broke}, amplification {:.3}", history.amplification());
    history.check();
    let lost = history.events.iter().filter(|event| !event.post && !event.is_ok()).count();
    assert_eq!(lost, 0, "{closed}; {broke}");
    timely(&closed, closed.failed <= 3, "hardly any POST meets the close");
    assert!(history.amplification() < 1.2);
}

//! The ring's own machinery: hosts reach each other by both families, names and cluster addresses work for anybody,
//! faults do what they say and end, a relay is slow as told, and a meshed pod gets its traffic through two proxies.
//! What the mesh makes of traffic in detail is the other files' business.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use lacewing_tests::{
    net::{Behaviour, Cluster, Host, Link, Net, PodSpec, Relay, TcpApp, User, http_app, ring},
    pod::App,
    wait::until,
};

/// A connection that should not come about is given up after this.
const LOST: Duration = Duration::from_millis(600);
/// For a thing that should happen.
const SOON: Duration = Duration::from_secs(10);

fn say(host: &Host, to: SocketAddr, words: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut socket = host.enter(|| TcpStream::connect_timeout(&to, LOST))?;
    exchange(&mut socket, words)
}

fn exchange(socket: &mut TcpStream, words: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(LOST))?;
    socket.write_all(words)?;
    let mut answer = vec![0; words.len()];
    socket.read_exact(&mut answer)?;
    Ok(answer)
}

fn one(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.read_exact(&mut [0])
}

#[test]
fn hosts_reach_each_other_and_the_outside_and_nothing_else() {
    let net = Net::new();
    let (a, b) = (net.host("a"), net.host("b"));
    let _echo = TcpApp::start(&b, 7000, Behaviour::Echo);
    let outside = ["203.0.113.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()];
    for ip in outside {
        b.add_address(ip);
    }
    for ip in [b.v4, b.v6, outside[0], outside[1]] {
        assert_eq!(say(&a, SocketAddr::new(ip, 7000), b"hello").unwrap(), b"hello", "{ip}");
    }
    let nowhere: SocketAddr = "10.96.200.1:80".parse().unwrap();
    assert_eq!(say(&a, nowhere, b"x").unwrap_err().kind(), ErrorKind::TimedOut);
    let here = fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!here.contains("eth0"), "the test runs in the machine's own network:\n{here}");
}

#[test]
fn nets_are_apart() {
    let (one, two) = (Net::new(), Net::new());
    let (a, b) = (one.host("a"), two.host("a"));
    let _echo = TcpApp::start(&b, 7000, Behaviour::Echo);
    assert_eq!(say(&a, b.at(7000), b"x").unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn programs_run_as_the_users_that_they_should_be() {
    let net = Net::new();
    let host = net.host("a");
    for (user, uid) in [(User::Root, 0), (User::App, ring::APP_UID), (User::Proxy, ring::PROXY_UID)] {
        let expected = if ring::ring().users { uid } else { 0 };
        let output = host.command_as(user, "id").arg("-u").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected.to_string(), "{user:?}");
    }
    let mut sleeper = host.command("sleep").arg("1000").spawn().unwrap();
    until("it runs there", SOON, || (host.processes().len() == 1).then_some(()));
    drop(host);
    assert!(!sleeper.wait().unwrap().success(), "a process outlived its host");
}

#[test]
fn faults_break_what_they_say_and_end() {
    let net = Net::new();
    let (a, b, c) = (net.host("a"), net.host("b"), net.host("c"));
    let _echo = TcpApp::start(&b, 7000, Behaviour::Echo);
    for to in [b.at(7000), b.at_v6(7000)] {
        let mut open = a.connect(to).unwrap();
        exchange(&mut open, b"before").unwrap();

        b.drop_syn(Some(7000));
        assert_eq!(say(&a, to, b"x").unwrap_err().kind(), ErrorKind::TimedOut);
        exchange(&mut open, b"an open connection goes on").unwrap();
        b.heal();

        b.cut(&a);
        assert_eq!(say(&a, to, b"x").unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(say(&c, to, b"x").unwrap(), b"x", "others are not cut off");
        b.heal();

        b.vanish();
        assert_eq!(say(&c, to, b"x").unwrap_err().kind(), ErrorKind::TimedOut);
        b.heal();
        until("the open connection recovers", SOON, || exchange(&mut open, b"alive").ok());

        b.reset(7000);
        assert_eq!(say(&a, to, b"x").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(exchange(&mut open, b"x").unwrap_err().kind(), ErrorKind::ConnectionReset);
        b.heal();

        a.reset_sent(7000);
        assert_eq!(say(&a, to, b"x").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        a.heal();
        assert_eq!(say(&a, to, b"after").unwrap(), b"after");
    }
    b.lose(40);
    let mut lossy = || say(&a, b.at(7000), b"x").is_err().then_some(());
    until("some exchange takes too long", SOON, &mut lossy);
    b.lose(1);
    b.heal();
}

#[test]
fn a_relay_is_as_bad_as_it_is_told() {
    let net = Net::new();
    let (client, server, between) = (net.host("client"), net.host("server"), net.host("between"));
    let _echo = TcpApp::start(&server, 7000, Behaviour::Echo);
    for to in [server.at(7000), server.at_v6(7000)] {
        let slow = Link { latency: Duration::from_millis(60), jitter: Duration::from_millis(20), ..Link::default() };
        let relay = Relay::between(&client, to, &between, slow);
        let mut socket = client.connect(to).unwrap();
        let started = Instant::now();
        exchange(&mut socket, b"slowly").unwrap();
        assert!(started.elapsed() >= 2 * slow.latency, "{:?}", started.elapsed());

        relay.set(Link { stalled: true, ..Link::default() });
        socket.write_all(b"x").unwrap();
        socket.set_read_timeout(Some(LOST)).unwrap();
        assert_eq!(one(&mut socket).unwrap_err().kind(), ErrorKind::WouldBlock);
        relay.set(Link { rate: Some(100_000), ..Link::default() });
        one(&mut socket).unwrap();
        let started = Instant::now();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut half_a_second = vec![b'x'; 50_000];
        socket.write_all(&half_a_second).unwrap();
        socket.read_exact(&mut half_a_second).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());

        relay.set(Link { reset_after: Some(10), ..Link::default() });
        assert_eq!(exchange(&mut socket, b"more").unwrap_err().kind(), ErrorKind::ConnectionReset);
        relay.set(Link::default());
        let mut socket = client.connect(to).unwrap();
        exchange(&mut socket, b"well").unwrap();
        relay.reset_all();
        assert_eq!(one(&mut socket).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(relay.connections(), 2);
        client.divert_nothing();
        drop(relay);
        assert_eq!(say(&client, to, b"direct").unwrap(), b"direct");
    }
}

#[test]
fn plain_pods_find_services_by_name_and_by_address() {
    let cluster = Cluster::new();
    let web = |name: &str| PodSpec::new(name).service("web").port_to("http", 80, 8080, "http").unmeshed();
    let pods = [cluster.pod(web("web-1")), cluster.pod(web("web-2"))];
    let apps = pods.each_ref().map(|pod| http_app(&pod.host, 8080));
    let client = cluster.pod(PodSpec::new("client").unmeshed());
    let url = format!("http://{}/head", cluster.name("web"));
    let curl =
        |family: &str| client.host.command("curl").args(["-sSf", "--max-time", "5", family, &url]).output().unwrap();
    for family in ["-4", "-6", "-4", "-6"] {
        let output = curl(family);
        assert!(output.status.success(), "{family}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(apps.each_ref().map(App::requests), [2, 2], "round robin in each family");
    cluster.set_ready(&pods[0], false);
    for to in [cluster.address("web", 80), cluster.address_v6("web", 80)] {
        assert_eq!(client.host.get(to, "/head", &[]).status, 200);
    }
    assert_eq!(apps.each_ref().map(App::requests), [2, 4], "one that is not ready gets nothing");
    cluster.set_ready(&pods[1], false);
    assert_eq!(say(&client.host, cluster.address("web", 80), b"x").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(!curl("-4").status.success());
}

#[test]
fn names_of_headless_services_are_their_pods() {
    let cluster = Cluster::new();
    let db = |name: &str| PodSpec::new(name).service("db").port("tcp", 5432, "").headless().unmeshed();
    let pods = [cluster.pod(db("db-1")), cluster.pod(db("db-2"))];
    let lookup = || {
        let output = pods[0].host.command("getent").args(["ahostsv4", &cluster.name("db")]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        pods.each_ref().map(|pod| text.contains(&pod.v4().to_string()))
    };
    assert_eq!(lookup(), [true, true]);
    cluster.remove(&pods[0], SOON, || {});
    assert_eq!(lookup(), [false, true]);
}

#[test]
fn a_meshed_pod_is_redirected_ready_and_survives_its_proxy() {
    let cluster = Cluster::new();
    let web = cluster.pod(PodSpec::new("web-1").service("web").port_to("http", 80, 8080, "http"));
    let _app = http_app(&web.host, 8080);
    assert!(web.init(&["--check"]).status.success());
    assert!(web.proxy().rss() > 0 && web.proxy().pss() > 0 && web.proxy().open_files() > 0);
    web.proxy().kill();
    assert!(!web.is_ready());
    // The redirection stays: nothing gets past it in plain text.
    assert_eq!(say(&cluster.controller_host, web.at(8080), b"x").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    web.start_proxy();
    web.restart_proxy(SOON);
    cluster.controller.kill();
    cluster.controller.start_again();
    cluster.until_controller_ready();
    cluster.published();
    cluster.remove(&web, SOON, || {});
}

#[test]
fn requests_go_through_two_proxies_one_or_none() {
    let cluster = Cluster::new();
    let web = cluster.pod(PodSpec::new("web-1").service("web").port_to("http", 80, 8080, "http"));
    let app = http_app(&web.host, 8080);
    let client = cluster.pod(PodSpec::new("client"));
    let plain = cluster.pod(PodSpec::new("plain").unmeshed());
    cluster.published();
    let url = format!("http://{}/head", cluster.name("web"));
    for (who, pod) in [("meshed", &client), ("plain", &plain)] {
        for family in ["-4", "-6"] {
            let output = pod.host.command("curl").args(["-sSf", "--max-time", "5", family, &url]).output().unwrap();
            assert!(output.status.success(), "{who} {family}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert_eq!(app.requests(), 4);
    for (tls, requests) in [("tls=\"true\"", 2), ("tls=\"no_identity\"", 2)] {
        assert_eq!(web.metric("request_total", &["direction=\"inbound\"", tls]) as u64, requests, "{tls}");
    }
}

#[test]
fn there_is_no_name_server_and_nobody_waits_for_one() {
    let net = Net::new();
    let host = net.host("a");
    let started = Instant::now();
    let output = host.command("getent").args(["ahosts", "nobody.example"]).output().unwrap();
    assert!(!output.status.success() && started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

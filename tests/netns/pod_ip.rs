//! Connections to pods by their own address, to names that are pods, to oneself, to the proxy's own ports, and to what is
//! not ours at all: mesh TLS and the right names in the numbers where a proxy is, plain passage elsewhere, and no loops.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use lacewing_tests::{
    net::{Behaviour, Cluster, Host, Pod, PodSpec, TcpApp, http_app},
    wait::until,
};
use serde_json::Value;

use super::wire::{PATIENCE, Server, Wire};

/// For a number to show up.
const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 18_080;

fn echo(wire: &mut Wire) {
    let mut socket = wire.socket.try_clone().unwrap();
    let _ = std::io::copy(&mut wire.socket, &mut socket);
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

/// A pod of these services, with an app that says the head that it got.
fn web(
    cluster: &Cluster,
    name: &str,
    services: &[&str],
    change: impl Fn(PodSpec) -> PodSpec,
) -> (Arc<Pod>, lacewing_tests::pod::App) {
    let spec = services.iter().fold(PodSpec::new(name), |spec, service| spec.service(service));
    let pod = cluster.pod(change(spec.port("http", PORT, "")));
    let app = http_app(&pod.host, PORT);
    (pod, app)
}

/// The entry of `/destinations` that has an endpoint there.
fn destination(pod: &Pod, to: SocketAddr) -> Option<Value> {
    let all = pod.private("/destinations");
    let all = all["backends"].as_array().unwrap();
    let leads =
        |backend: &&Value| backend["endpoints"].as_array().unwrap().iter().any(|one| one["address"] == to.to_string());
    all.iter().find(leads).cloned()
}

/// What the client's proxy has counted as requests, with these labels.
fn sent(pod: &Pod, labels: &[&str]) -> u64 {
    pod.metric("request_total", &[&["direction=\"outbound\""], labels].concat()) as u64
}

#[test]
fn a_pods_address_is_mesh_tls_with_the_only_services_name() {
    let cluster = Cluster::new();
    let (one, _one) = web(&cluster, "one", &["web"], |spec| spec);
    let (two, _two) = web(&cluster, "two", &["web", "canary"], |spec| spec);
    let (alone, _alone) = web(&cluster, "alone", &[], |spec| spec);
    let (plain, _plain) = web(&cluster, "plain", &["old"], PodSpec::unmeshed);
    let client = cluster.pod(PodSpec::new("client"));
    cluster.published();
    let id = format!("l6g-client-id: spiffe://cluster.local/ns/{}/sa/client\n", cluster.namespace);
    for (pod, service, why) in [
        (&one, Some("web"), ""),
        (&two, None, "Service"),
        (&alone, None, "no Service selects"),
        (&plain, Some("old"), ""),
    ] {
        for to in [pod.host.at(PORT), pod.host.at_v6(PORT)] {
            let answer = client.host.get(to, "/head", &[]);
            assert_eq!(answer.status, 200, "{}: {}", pod.name, answer.body);
            assert_eq!(answer.body.contains(&id), pod.spec.meshed, "{}: {}", pod.name, answer.body);
            let shown = destination(&client, to).unwrap_or_else(|| panic!("{} is no destination", pod.name));
            let said = shown["why_no_service"].as_str().unwrap_or_default();
            assert!(said.contains(why) && said.is_empty() == why.is_empty(), "{}: {shown}", pod.name);
            println!("{}: {} {said:?}", pod.name, shown["backend"]);
            if let Some(service) = service {
                assert_eq!(shown["backend"], format!("{}/{service}:{PORT}", cluster.namespace), "{}", pod.name);
            }
        }
        let tls = if pod.spec.meshed { "tls=\"true\"" } else { "tls=\"no_identity\"" };
        let (name, other) =
            (format!("dst_pod=\"{}\"", pod.name), format!("dst_service=\"{}\"", service.unwrap_or_default()));
        assert_eq!(sent(&client, &[&name]), 2, "{}", pod.name);
        assert_eq!(sent(&client, &[&name, tls]), 2, "{}", pod.name);
        assert_eq!(sent(&client, &[&name, &other]), if service.is_some() { 2 } else { 0 }, "{}", pod.name);
    }
    let said = destination(&client, two.host.at(PORT)).unwrap()["why_no_service"].as_str().unwrap().to_owned();
    assert!(said.contains("web") && said.contains("canary"), "{said}");
}

#[test]
fn names_of_headless_services_lead_to_pods() {
    let cluster = Cluster::new();
    let (one, app) = web(&cluster, "db-1", &["db"], PodSpec::headless);
    let (_two, other) = web(&cluster, "db-2", &["db"], PodSpec::headless);
    let client = cluster.pod(PodSpec::new("client"));
    cluster.published();
    let url = format!("http://{}:{PORT}/head", cluster.name("db"));
    for family in ["-4", "-6"] {
        let output = client.host.command("curl").args(["-sSf", "--max-time", "10", family, &url]).output().unwrap();
        assert!(output.status.success(), "{family}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("l6g-client-id: spiffe://"), "{family}");
    }
    assert_eq!(app.requests() + other.requests(), 2);
    assert_eq!(sent(&client, &["tls=\"true\"", "dst_service=\"db\""]), 2);
    // One pod of it, chosen by the app.
    let before = app.requests();
    assert_eq!(client.host.get(one.at(PORT), "/head", &[]).status, 200);
    assert_eq!(app.requests(), before + 1);
}

#[test]
fn a_pod_may_call_itself() {
    let cluster = Cluster::new();
    let (pod, app) = web(&cluster, "web", &["web"], |spec| spec);
    cluster.published();
    let ways = [
        pod.host.at(PORT),
        pod.host.at_v6(PORT),
        cluster.address("web", PORT),
        cluster.address_v6("web", PORT),
        SocketAddr::new([127, 0, 0, 1].into(), PORT),
    ];
    for to in ways {
        let before = app.requests();
        for _ in 0..5 {
            let answer = pod.host.get(to, "/head", &[]);
            assert_eq!(answer.status, 200, "{to}: {}", answer.body);
        }
        assert_eq!(app.requests() - before, 5, "{to}: each request came once");
    }
    // Each was accepted by the app once, and by the proxy at most once: nothing went round.
    assert!(app.connections() <= 30, "{}", app.connections());
    let accepted = pod.metric("inbound_tcp_authz_allow_total", &[]) as u64;
    assert!(accepted <= 25, "{accepted}");
    assert_eq!(sent(&pod, &["no_tls_reason=\"loopback\""]), 10, "by the cluster's addresses");
}

#[test]
fn a_service_may_lead_back_to_who_calls_it() {
    let cluster = Cluster::new();
    let (one, app) = web(&cluster, "one", &["web"], |spec| spec);
    let (_two, other) = web(&cluster, "two", &["web"], |spec| spec);
    cluster.published();
    let ways = [cluster.address("web", PORT), cluster.address_v6("web", PORT)];
    // Some at a time: one after the other would all go to the nearest, which is the caller itself.
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (host, to) = (&one.host, ways[n % 2]);
            scope.spawn(move || (0..5).for_each(|_| assert_eq!(host.get(to, "/head", &[]).status, 200, "{to}")));
        }
    });
    let (own, others) = (app.requests(), other.requests());
    println!("of 100 requests to its own service the pod got {own} and the other one {others}");
    assert!(own + others == 100 && own > 0 && others > 0, "{own} and {others}");
    assert_eq!(sent(&one, &["tls=\"true\"", "dst_pod=\"two\""]), others as u64);
}

/// CPU time of the proxy so far.
fn cpu(pod: &Pod) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pod.proxy().pid())).unwrap();
    let fields: Vec<i64> =
        stat.rsplit_once(") ").unwrap().1.split(' ').filter_map(|field| field.parse().ok()).collect();
    // The state is no number: user and system time are the 11th and the 12th number behind it, in hundredths.
    Duration::from_millis(10 * (fields[10] + fields[11]).unsigned_abs())
}

/// Says a request there, and listens until the end or for a while: the answer's status, if there is one.
fn knock(host: &Host, to: SocketAddr, hello: &[u8]) -> String {
    let Ok(socket) = host.connect(to) else { return "refused".to_owned() };
    let mut wire = Wire::new(socket);
    wire.socket.set_read_timeout(Some(Duration::from_millis(1_500))).unwrap();
    wire.send(hello);
    let got = wire.try_rest().map(|got| String::from_utf8_lossy(&got).lines().next().unwrap_or_default().to_owned());
    got.unwrap_or_else(|error| error.kind().to_string())
}

#[test]
fn the_proxys_own_ports_are_no_way_in_and_nothing_spins() {
    let cluster = Cluster::new();
    let (pod, app) = web(&cluster, "web", &["web"], |spec| spec);
    // A service that leads to what nobody should offer.
    let odd = [("out", 4140), ("in", 4143), ("admin", 4191), ("private", 4192)];
    let ports = |spec: PodSpec| odd.iter().fold(spec, |spec, (name, port)| spec.port(name, *port, ""));
    let (other, other_app) = web(&cluster, "other", &["other"], ports);
    let plain = cluster.pod(PodSpec::new("plain").unmeshed());
    cluster.published();
    let local = |port| SocketAddr::new([127, 0, 0, 1].into(), port);
    let http = b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut spent = [cpu(&pod), cpu(&other)];
    for port in [4140, 4143, 4191, 4192] {
        for (who, from, to) in [
            ("own loopback", &pod.host, local(port)),
            ("own address", &pod.host, pod.host.at(port)),
            ("own v6 address", &pod.host, pod.host.at_v6(port)),
            ("another's address", &pod.host, other.host.at(port)),
            ("another's v6 address", &pod.host, other.host.at_v6(port)),
            ("own service", &other.host, cluster.address("other", port)),
            ("another's service", &pod.host, cluster.address("other", port)),
            ("from a plain pod", &plain.host, other.host.at(port)),
        ] {
            for hello in [&http[..], b"\x00\x01opaque"] {
                let end = knock(from, to, hello);
                println!("{who} :{port} {:?}: {end}", String::from_utf8_lossy(&hello[..4]));
                // The public admin port answers everybody; the private one, and all others, nobody who just asks.
                let served = end.starts_with("HTTP/1.1 200") || end.starts_with("HTTP/1.1 404");
                assert_eq!(served, port == 4191 && hello == http, "{who} :{port}: {end}");
            }
        }
    }
    let started = Instant::now();
    until("two seconds are over", SOON, || (started.elapsed() > Duration::from_secs(2)).then_some(()));
    // What was knocked may cost something; after it there is silence.
    for (n, pod) in [&pod, &other].into_iter().enumerate() {
        let busy = cpu(pod).checked_sub(spent[n]).unwrap();
        println!("{}: {busy:?} of CPU for all of it", pod.name);
        spent[n] = cpu(pod);
        assert!(busy < Duration::from_millis(1_500), "{}: {busy:?}", pod.name);
    }
    let started = Instant::now();
    until("two seconds more are over", SOON, || (started.elapsed() > Duration::from_secs(2)).then_some(()));
    for (n, pod) in [&pod, &other].into_iter().enumerate() {
        let busy = cpu(pod).checked_sub(spent[n]).unwrap();
        println!("{}: {busy:?} of CPU in 2 s of silence", pod.name);
        assert!(busy < Duration::from_millis(100), "{} spins: {busy:?}", pod.name);
        assert!(pod.proxy().open_files() < 60, "{}: {} files", pod.name, pod.proxy().open_files());
        let open = || pod.metric("tcp_open_connections", &[]) as u64;
        until("nothing is open any more", SOON, || (open() == 0).then_some(()));
    }
    assert_eq!((app.requests(), other_app.requests()), (0, 0));
}

#[test]
fn a_port_that_a_service_does_not_have_is_named_in_the_answer() {
    let cluster = Cluster::new();
    let _web = web(&cluster, "web", &["web"], |spec| spec);
    let client = cluster.pod(PodSpec::new("client"));
    cluster.published();
    let nowhere = SocketAddr::new(cluster.address("web", PORT).ip(), 9);
    let answer = client.host.get(nowhere, "/", &[("host", "web")]);
    assert_eq!(answer.status, 502, "{}", answer.body);
    assert!(answer.body.contains("has no TCP port 9"), "{}", answer.body);
}

#[test]
fn what_is_not_ours_passes_as_it_is() {
    let cluster = Cluster::new();
    let client = cluster.pod(PodSpec::new("client"));
    let nobody = cluster.net.host("nobody");
    let outside: [SocketAddr; 2] = ["203.0.113.9:18080".parse().unwrap(), "[2001:db8::9]:18080".parse().unwrap()];
    for to in outside {
        nobody.add_address(to.ip());
    }
    let server = Server::on(nobody.listen(PORT), echo);
    cluster.published();
    let odd = b"GET / HTTP/1.1\r\nHost:  a\r\nX: \x01\r\n\r\n";
    for (kind, ways) in [("external", outside), ("unknown", [nobody.at(PORT), nobody.at_v6(PORT)])] {
        for to in ways {
            let mut wire = Wire::new(client.host.connect(to).unwrap());
            wire.send(odd);
            assert_eq!(wire.exactly(odd.len()), odd, "{kind} {to}");
            wire.finish();
            assert_eq!(wire.rest(), b"");
        }
        let label = format!("dst_kind=\"{kind}\"");
        let open =
            || client.metric("tcp_open_total", &["direction=\"outbound\"", "tls=\"no_identity\"", &label]) as u64;
        until(&format!("{kind} is counted"), SOON, || (open() == 2).then_some(()));
    }
    assert_eq!(server.connections(), 4);
    // Nobody listens there, and nobody is there at all: the app's connection ends, soon.
    for to in [nobody.at(PORT + 1), SocketAddr::new(outside[0].ip(), PORT + 1)] {
        let started = Instant::now();
        let mut wire = Wire::new(client.host.connect(to).unwrap());
        wire.send("\x01");
        let end = wire.try_rest();
        assert!(started.elapsed() < Duration::from_secs(5), "{to}: {end:?} after {:?}", started.elapsed());
    }
}

#[test]
fn skipped_ports_subnets_and_udp_are_left_alone() {
    let cluster = Cluster::new();
    let nobody = cluster.net.host("nobody");
    let net = format!("{}/32", nobody.v4);
    let skip = |spec: PodSpec| {
        spec.init_env("LACEWING_SKIP_OUTBOUND_PORTS", "18090-18099")
            .init_env("LACEWING_SKIP_INBOUND_PORTS", "18090")
            .init_env("LACEWING_SKIP_SUBNETS", &net)
    };
    let client = cluster.pod(skip(PodSpec::new("client")));
    let server =
        cluster.pod(skip(PodSpec::new("web").service("web").port("skipped", 18_090, "").port("http", PORT, "")));
    let apps = [18_090, PORT].map(|port| Server::on(server.host.listen(port), echo));
    let outside = Server::on(nobody.listen(PORT), echo);
    let plain = cluster.pod(PodSpec::new("plain").unmeshed());
    cluster.published();
    let say = |from: &Pod, to: SocketAddr| {
        let mut wire = Wire::new(from.host.connect(to).unwrap());
        wire.send("\x01word");
        assert_eq!(wire.exactly(5), b"\x01word", "{to}");
    };
    let own = |host: &Host, client: SocketAddr| [host.v4, host.v6].contains(&client.ip().to_canonical());
    say(&client, server.at(18_090));
    say(&plain, server.at(18_090));
    // The server sees the client itself: no proxy on either side took it.
    assert!(
        own(&client.host, apps[0].clients()[0]) && own(&plain.host, apps[0].clients()[1]),
        "{:?}",
        apps[0].clients()
    );
    say(&client, nobody.at(PORT));
    assert_eq!(client.metric("tcp_open_total", &["direction=\"outbound\""]) as u64, 0);
    say(&client, server.at(PORT));
    assert!(!own(&client.host, apps[1].clients()[0]), "{:?}", apps[1].clients());
    until("that one was counted", SOON, || {
        (server.metric("tcp_open_total", &["direction=\"inbound\"", "tls=\"true\""]) as u64 == 1).then_some(())
    });
    assert_eq!(outside.connections(), 1);
    for (from, to) in [
        (&client.host, server.host.at(PORT)),
        (&client.host, server.host.at_v6(PORT)),
        (&plain.host, server.host.at(4143)),
    ] {
        let there = server.host.enter(|| UdpSocket::bind(to)).unwrap();
        let here = from.enter(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })).unwrap();
        here.send_to(b"datagram", to).unwrap();
        there.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut words = [0; 16];
        let (length, who) = there.recv_from(&mut words).unwrap();
        assert!(own(from, who) && &words[..length] == b"datagram", "{who}");
        there.send_to(b"answer", who).unwrap();
        here.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(here.recv_from(&mut words).unwrap().0, 6);
    }
}

#[test]
fn a_strict_pod_takes_meshed_clients_only() {
    let cluster = Cluster::new();
    let spec = PodSpec::new("web").service("web").port("http", PORT, "").port("tcp", 18_081, "").strict();
    let server = cluster.pod(spec);
    let app = http_app(&server.host, PORT);
    let tcp = TcpApp::start(&server.host, 18_081, Behaviour::Greet(b"220 ready".to_vec()));
    let client = cluster.pod(PodSpec::new("client"));
    let plain = cluster.pod(PodSpec::new("plain").unmeshed());
    cluster.published();
    for to in [cluster.address("web", PORT), server.at(PORT)] {
        assert_eq!(client.host.get(to, "/head", &[]).status, 200, "{to}");
        let refused = plain.host.get(to, "/head", &[]);
        assert_eq!(refused.status, 403, "{to}: {}", refused.head);
        assert!(
            refused.head.contains("l6g-error") && refused.body.contains("lacewing"),
            "{}\n{}",
            refused.head,
            refused.body
        );
    }
    for to in [cluster.address("web", 18_081), server.at(18_081)] {
        let mut wire = Wire::new(client.host.connect(to).unwrap());
        assert_eq!(wire.exactly(9), b"220 ready", "{to}");
        let started = Instant::now();
        let mut wire = Wire::new(plain.host.connect(to).unwrap());
        wire.send("\x00\x01raw");
        assert!(wire.try_rest().unwrap_or_default().is_empty(), "{to}");
        assert!(started.elapsed() < Duration::from_secs(3), "{to}: {:?}", started.elapsed());
    }
    assert_eq!((app.requests(), tcp.connections()), (2, 2));
    assert!(server.metric("inbound_tcp_authz_deny_total", &[]) as u64 >= 4);
}

//! What pods do to each other's connections while a part of the mesh is away: without the controller all that is known goes
//! on, and what is not is decided by the mode; without a proxy nothing leaves or enters, which is seen on the wire.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lacewing_tests::{
    net::{Cluster, Host, PodSpec, User, http_app},
    wait::until,
};

use super::wire::Wire;

const PORT: u16 = 18_080;
/// From the return of what was away until it works again.
const BACK: Duration = Duration::from_secs(10);
/// A request that is not served ends within this.
const SOON: Duration = Duration::from_secs(6);

/// The status of a request's answer, or how the connection ended without one.
fn ask(host: &Host, to: SocketAddr) -> Result<u16, String> {
    let mut wire = Wire::new(host.connect(to).map_err(|error| error.kind().to_string())?);
    wire.send("GET /head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let got = wire.try_rest().map_err(|error| error.kind().to_string())?;
    let text = String::from_utf8_lossy(&got).into_owned();
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| "closed".to_owned())
}

/// Packets that came to a host from another, of TCP and of whatever else.
struct Sniffer<'h>(&'h Host);

impl<'h> Sniffer<'h> {
    fn at(host: &'h Host, from: &Host) -> Self {
        let (v4, v6) = (from.v4, from.v6);
        host.nft(&format!(
            "table inet sniffer {{\n  chain seen {{\n    type filter hook prerouting priority -400; policy accept;\n    \
             ip saddr {v4} meta l4proto tcp counter\n    ip6 saddr {v6} meta l4proto tcp counter\n  }}\n}}\n"
        ));
        Self(host)
    }

    fn packets(&self) -> u64 {
        let output = self.0.command_as(User::Root, "nft").args(["list", "table", "inet", "sniffer"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let counts = text.split("packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert_eq!(counts.clone().count(), 2, "{text}");
        counts.sum()
    }
}

#[test]
fn without_the_controller_what_is_known_goes_on() {
    let cluster = Cluster::new();
    let service = |name: &str| PodSpec::new(name).service(name).port("http", PORT, "");
    let pods = ["known", "new"].map(|name| cluster.pod(service(name)));
    let apps = pods.each_ref().map(|pod| http_app(&pod.host, PORT));
    let permissive = cluster.pod(PodSpec::new("permissive"));
    let strict = cluster.pod(PodSpec::new("strict").strict());
    cluster.published();
    let [known, new] = ["known", "new"].map(|name| cluster.address(name, PORT));
    for client in [&permissive, &strict] {
        assert_eq!(ask(&client.host, known), Ok(200), "{}", client.name);
    }
    cluster.controller.kill();
    until("the proxies see that it is away", BACK, || {
        let down = |pod: &lacewing_tests::net::Pod| pod.private("/destinations")["control_stream"] != "up";
        (down(&permissive) && down(&strict)).then_some(())
    });
    for client in [&permissive, &strict] {
        assert_eq!(ask(&client.host, known), Ok(200), "{}: it is known", client.name);
    }
    let started = Instant::now();
    assert_eq!(ask(&permissive.host, new), Ok(200), "never seen: it passes as it is");
    println!("a destination that was never seen took {:?} the first time", started.elapsed());
    let labels = ["direction=\"outbound\"", "dst_kind=\"unresolved\"", "tls=\"no_identity\""];
    until("it is counted as such", SOON, || (permissive.metric("tcp_open_total", &labels) as u64 == 1).then_some(()));
    let before = apps[1].connections();
    for to in [new, pods[1].at(PORT), pods[1].host.at_v6(PORT)] {
        let started = Instant::now();
        let end = ask(&strict.host, to);
        println!("strict: {to}: {end:?} after {:?}", started.elapsed());
        assert!(end != Ok(200) && started.elapsed() < SOON, "{to}: {end:?}");
    }
    assert_eq!(apps[1].connections(), before, "nothing left in plain text");
    cluster.controller.start_again();
    cluster.until_controller_ready();
    until("everything is served with mesh TLS again", BACK, || {
        let tls = || strict.metric("request_total", &["dst_pod=\"new\"", "tls=\"true\""]) as u64;
        (ask(&strict.host, new) == Ok(200) && tls() > 0).then_some(())
    });
}

#[test]
fn without_its_proxy_a_pod_sends_nothing() {
    let cluster = Cluster::new();
    let old = cluster.pod(PodSpec::new("old").service("old").port("http", PORT, "").unmeshed());
    let outside: [SocketAddr; 2] = [([203, 0, 113, 7], PORT).into(), "[2001:db8::7]:18080".parse().unwrap()];
    for to in outside {
        old.host.add_address(to.ip());
    }
    let app = http_app(&old.host, PORT);
    let client = cluster.pod(PodSpec::new("client"));
    cluster.published();
    let ways = [cluster.address("old", PORT), cluster.address_v6("old", PORT), old.at(PORT), old.host.at_v6(PORT)];
    let ways = [&ways[..], &outside].concat();
    let sniffer = Sniffer::at(&old.host, &client.host);
    for to in &ways {
        assert_eq!(ask(&client.host, *to), Ok(200), "{to}");
    }
    assert!(sniffer.packets() > 0, "the sniffer sees what there is");

    client.proxy().kill();
    until("the kernel has said goodbye for it", SOON, || {
        let seen = sniffer.packets();
        let started = Instant::now();
        until("a moment passes", SOON, || (started.elapsed() > Duration::from_millis(300)).then_some(()));
        (sniffer.packets() == seen).then_some(())
    });
    let (seen, requests) = (sniffer.packets(), app.requests());
    for _ in 0..3 {
        for to in &ways {
            let end = ask(&client.host, *to);
            assert!(end.is_err(), "{to}: {end:?}");
        }
    }
    // An app that gives a connection no data is no exception.
    assert!(ways.iter().all(|to| client.host.connect(*to).is_err()));
    assert_eq!((sniffer.packets(), app.requests()), (seen, requests), "something got past the redirection");

    let started = Instant::now();
    client.start_proxy();
    for to in &ways {
        until("it works again", BACK, || (ask(&client.host, *to) == Ok(200)).then_some(()));
    }
    println!("served again {:?} after the start of the proxy", started.elapsed());
}

#[test]
fn without_its_proxy_a_pod_takes_nothing() {
    let cluster = Cluster::new();
    let server = cluster.pod(PodSpec::new("web").service("web").port("http", PORT, ""));
    let app = http_app(&server.host, PORT);
    let client = cluster.pod(PodSpec::new("client"));
    let plain = cluster.pod(PodSpec::new("plain").unmeshed());
    cluster.published();
    let ways =
        [cluster.address("web", PORT), cluster.address_v6("web", PORT), server.at(PORT), server.host.at_v6(PORT)];
    let both = || ways.iter().flat_map(|to| [(&client, *to), (&plain, *to)]);
    for (pod, to) in both() {
        assert_eq!(ask(&pod.host, to), Ok(200), "{}: {to}", pod.name);
    }
    let requests = app.requests();
    server.proxy().kill();
    for (pod, to) in both() {
        let started = Instant::now();
        let end = ask(&pod.host, to);
        // The client's proxy says why; nobody says anything to the other.
        let good = if pod.spec.meshed { matches!(end, Ok(502 | 503)) } else { end.is_err() };
        assert!(good && started.elapsed() < SOON, "{}: {to}: {end:?} after {:?}", pod.name, started.elapsed());
    }
    assert_eq!(app.requests(), requests, "something got past the redirection");
    server.start_proxy();
    for (pod, to) in both() {
        until("it works again", BACK, || (ask(&pod.host, to) == Ok(200)).then_some(()));
    }
    let plain_sent = client.metric("request_total", &["direction=\"outbound\"", "tls=\"no_identity\""]);
    assert_eq!(plain_sent as u64, 0, "the meshed client never spoke plainly");
}

//! `lacewing-proxy init` by itself, with plain listeners where the proxy would be: what is redirected, in both families,
//! and what is left alone; that it needs one capability and no more; that running it again changes nothing, not even for
//! a moment; and that `--check` sees what is so.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Output,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use lacewing_tests::net::{Behaviour, Host, Net, TcpApp, User, ring};

/// Changing the rules takes at most this. The best of some runs counts: other tests share the machine.
const FAST: Duration = Duration::from_millis(50);

/// A pod with stand-ins for its proxy and an app on 8080, and somebody outside, each of whom says his name.
struct World {
    pod: Host,
    outside: Host,
    /// The proxy, if its listeners are there.
    apps: Vec<TcpApp>,
    _net: Net,
}

impl World {
    fn new() -> Self {
        let net = Net::new();
        let (pod, outside) = (net.host("pod"), net.host("outside"));
        let apps = [(&outside, 7000, "world"), (&outside, 3306, "world"), (&pod, 8080, "myapp"), (&pod, 9100, "myapp")];
        let apps = apps.map(|(host, port, name)| TcpApp::start(host, port, name_of(name))).into();
        Self { pod, outside, apps, _net: net }
    }

    fn with_proxy(mut self) -> Self {
        for (listen, name) in
            [("127.0.0.1:4140", "outbd"), ("[::1]:4140", "outbd"), ("[::]:4143", "inbnd"), ("[::]:4191", "admin")]
        {
            let listener = self.pod.listen_on(listen.parse().unwrap());
            self.apps.push(TcpApp::on(listener, name_of(name)));
        }
        self
    }

    /// Runs `init` as root with all its rights.
    #[track_caller]
    fn init(&self, args: &[&str], env: &[(&str, &str)]) -> String {
        let mut command = self.pod.command_as(User::Root, ring::program("lacewing-proxy"));
        let output = command.env_clear().arg("init").args(args).envs(env.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", words(&output));
        words(&output)
    }

    /// Runs `init` as root with these capabilities only.
    fn init_with(&self, capabilities: &str, args: &[&str]) -> Output {
        let mut command = self.pod.command_as(User::Root, "setpriv");
        command.args([&format!("--bounding-set=-all{capabilities}"), "--inh-caps=-all"]);
        command.arg(ring::program("lacewing-proxy")).arg("init").args(args).output().unwrap()
    }

    fn rules(&self) -> String {
        let output = self.pod.command_as(User::Root, "nft").args(["list", "ruleset"]).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn name_of(name: &str) -> Behaviour {
    Behaviour::Greet(name.into())
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Who answers a connection from there.
fn who(host: &Host, user: User, to: SocketAddr) -> String {
    let mut command = host.command_as(user, "timeout");
    command.args(["3", "bash", "-c", "exec 2>&1 head -c 5 <>/dev/tcp/$0/$1", &to.ip().to_string()]);
    let output = command.arg(to.port().to_string()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both(host: &Host, port: u16) -> [SocketAddr; 2] {
    [host.at(port), host.at_v6(port)]
}

#[test]
fn redirects_what_leaves_and_what_comes_in_both_families() {
    let w = World::new().with_proxy();
    w.init(&[], &[]);
    for to in both(&w.outside, 7000) {
        assert_eq!(who(&w.pod, User::App, to), "outbd", "{to}");
    }
    for (port, expected) in [(8080, "inbnd"), (9999, "inbnd"), (4143, "inbnd"), (4191, "admin")] {
        for to in both(&w.pod, port) {
            assert_eq!(who(&w.outside, User::App, to), expected, "{to}");
        }
    }
    let own: Vec<SocketAddr> = vec!["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
    for to in [own, both(&w.pod, 8080).to_vec()].concat() {
        assert_eq!(who(&w.pod, User::App, to), "myapp", "{to} stays in the pod");
    }
    w.init(&["--remove"], &[]);
    w.init(&["--remove"], &[]);
    assert_eq!(w.rules(), "");
    for to in both(&w.outside, 7000) {
        assert_eq!(who(&w.pod, User::App, to), "world", "{to}");
    }
}

#[test]
fn leaves_the_proxys_user_the_skipped_and_udp_alone() {
    let w = World::new().with_proxy();
    // Where all users are root, root is exempt in its turn.
    let proxy = if ring::ring().users { ring::PROXY_UID } else { 0 }.to_string();
    w.init(&[], &[("LACEWING_PROXY_UID", &proxy)]);
    for to in both(&w.outside, 7000) {
        assert_eq!(who(&w.pod, User::Proxy, to), "world", "{to}");
    }
    w.init(&[], &[("LACEWING_SKIP_OUTBOUND_PORTS", "1-80,3300-3310"), ("LACEWING_SKIP_INBOUND_PORTS", "9100")]);
    for (from, to, expected) in [
        (&w.pod, &w.outside, [(7000, "outbd"), (3306, "world")]),
        (&w.outside, &w.pod, [(8080, "inbnd"), (9100, "myapp")]),
    ] {
        for (port, expected) in expected {
            for to in both(to, port) {
                assert_eq!(who(from, User::App, to), expected, "{to}");
            }
        }
    }
    for (skipped, kept) in [(w.outside.at(7000), w.outside.at_v6(7000)), (w.outside.at_v6(7000), w.outside.at(7000))] {
        // Host bits would be an error: the network of one address.
        let net = format!("{}/{}", skipped.ip(), if skipped.is_ipv4() { 32 } else { 128 });
        w.init(&[], &[("LACEWING_SKIP_SUBNETS", &net)]);
        assert_eq!(who(&w.pod, User::App, skipped), "world", "{skipped}");
        assert_eq!(who(&w.pod, User::App, kept), "outbd", "{kept}");
    }
    for to in both(&w.outside, 4140) {
        let server = w.outside.enter(|| UdpSocket::bind(to)).unwrap();
        let client = w.pod.enter(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })).unwrap();
        client.send_to(b"datagram", to).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from.port(), client.local_addr().unwrap().port(), "{to}");
    }
}

#[test]
fn again_is_the_same_and_never_without_rules() {
    let w = World::new().with_proxy();
    w.init(&[], &[]);
    let first = w.rules();
    for part in ["meta skuid 2102 return", "redirect to :4140", "redirect to :4143", "tcp dport 4191 return"] {
        assert!(first.contains(part), "{part} is missing in\n{first}");
    }
    let stop = AtomicBool::new(false);
    let mut best = Duration::MAX;
    let connections = std::thread::scope(|scope| {
        let app = scope.spawn(|| {
            w.pod.enter(|| {
                let mut connections = 0;
                while !stop.load(Relaxed) {
                    for to in both(&w.outside, 7000) {
                        let mut name = [0; 5];
                        let mut socket = std::net::TcpStream::connect(to).unwrap();
                        std::io::Read::read_exact(&mut socket, &mut name).unwrap();
                        assert_eq!(&name, b"outbd", "connection {connections}");
                        connections += 1;
                    }
                }
                connections
            })
        });
        for _ in 0..30 {
            let started = Instant::now();
            w.init(&[], &[]);
            best = best.min(started.elapsed());
        }
        stop.store(true, Relaxed);
        app.join().unwrap()
    });
    assert!(connections > 50, "only {connections} connections were made meanwhile");
    assert_eq!(w.rules(), first);
    assert!(best < FAST, "{best:?}");
}

#[test]
fn needs_net_admin_and_nothing_else() {
    let w = World::new();
    for args in [&[][..], &["--remove"]] {
        let output = w.init_with("", args);
        assert_eq!(output.status.code(), Some(1));
        assert!(words(&output).contains("the init container needs capability NET_ADMIN"), "{}", words(&output));
        assert_eq!(w.rules(), "");
    }
    let output = w.init_with(",+net_admin", &[]);
    assert!(output.status.success(), "{}", words(&output));
    let output = w.init_with(",+net_admin", &["--check"]);
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn bad_settings_are_said_at_once() {
    let w = World::new();
    let mut command = w.pod.command_as(User::Root, ring::program("lacewing-proxy"));
    command.args(["init", "--check"]).env("LACEWING_PROXY_UID", "x").env("LACEWING_SKIP_SUBNETS", "10.1.2.3/8");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = words(&output);
    assert!(said.contains("2 bad settings") && said.contains("PROXY_UID") && said.contains("10.1.2.3/8"), "{said}");
    let output =
        w.pod.command_as(User::Root, ring::program("lacewing-proxy")).args(["init", "--now"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: lacewing-proxy does not know what \"init\" \"--now\" means\n"), "{said}");
    assert!(said.contains("--remove"), "{said}");
}

#[test]
fn check_sees_what_is_so() {
    let w = World::new();
    let check = |env: &[(&str, &str)]| {
        let mut command = w.pod.command_as(User::Root, ring::program("lacewing-proxy"));
        let output = command.env_clear().args(["init", "--check"]).envs(env.iter().copied()).output().unwrap();
        (output.status.code(), words(&output))
    };
    let (code, said) = check(&[]);
    assert_eq!(code, Some(1), "{said}");
    for part in ["there is no table inet lacewing", "BROKEN: outbound IPv4", "BROKEN: outbound IPv6"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    w.init(&[], &[]);
    let (code, said) = check(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("arrived").count(), 2, "{said}");
    let (code, said) = check(&[("LACEWING_SKIP_INBOUND_PORTS", "25")]);
    assert!(code == Some(1) && said.contains("inbound port 25 is skipped"), "{said}");
    let (code, said) = check(&[("LACEWING_PROXY_UID", "0")]);
    assert!(code == Some(1) && said.contains("runs as uid 0"), "{said}");
    let output = w.init_with("", &["--check"]);
    assert!(output.status.success() && words(&output).contains("not checked: the rules"), "{}", words(&output));

    let w = w.with_proxy();
    assert_eq!(w.init(&["--check"], &[]).matches("arrived at who listens there").count(), 2);
    w.pod.nft(&format!("delete rule inet lacewing prerouting {}", handle_of(&w, "redirect to :4143")));
    let output = w.init_with(",+net_admin", &["--check"]);
    assert!(output.status.code() == Some(1) && words(&output).contains("TCP goes to port 4143"), "{}", words(&output));
}

/// `handle N` of the rule that says this.
fn handle_of(w: &World, rule: &str) -> String {
    let output = w.pod.command_as(User::Root, "nft").args(["-a", "list", "ruleset"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains(rule)).unwrap();
    format!("handle {}", line.rsplit(' ').next().unwrap())
}

//! What goes over the wire between proxies, and who is refused: a byte tee sees TLS 1.3 records only; clients and servers
//! that do not prove the right identity get no application byte. Each refusal leaves a counter and a readable line.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use lacewing_tests::{
    demo::{Demo, get, raw},
    peer::{Ended, Impostor, Issuer, ask, ask_plain},
    pod::{PRIVATE_ADMIN_PORT, Pod, write_atomically},
    records::{APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, ServerHello, records, server_hello},
    tee::{Conversation, Tee},
    wait::until,
};

const PATIENCE: Duration = Duration::from_secs(15);
/// TLS 1.3, TLS_AES_128_GCM_SHA256, X25519MLKEM768 (IANA's numbers).
const CHOSEN: ServerHello = ServerHello { version: 0x0304, cipher: 0x1301, group: 0x11ec };
/// What no stranger may read.
const SECRET: &[u8] = b"meet-me-at-the-lighthouse-at-nine;";
const HTTP1: &[u8] = b"lacewing/h1";

#[test]
fn between_proxies_there_are_tls_records_only() {
    let demo = Demo::start(20);
    let mirror = Pod::start(&demo, "mirror", 210, &[]);
    let own = Tee::before(mirror.inbound());
    point_to(&demo, "mirror", "mirror", own.address);
    let pods = ["echo-1", "voting-1", "voting-2", "voting-3", "emoji-1", "emoji-2", "web-1", "web-2"];
    let tees = pods.map(|pod| {
        let tee = Tee::before(demo.inbound(pod));
        point_to(&demo, pod.split_once('-').expect("workload-n").0, pod, tee.address);
        tee
    });
    secret_over_tcp(&demo, &tees[0]);
    secret_over_http(&demo, &mirror, &own);
    for (name, tee) in pods.iter().zip(&tees).chain([(&"mirror", &own)]) {
        let spoken = || tee.conversations().into_iter().find(|one| one.from_server.len() > 4_000);
        until(&format!("traffic to {name} through its tee"), PATIENCE, || spoken().map(drop));
        for conversation in tee.conversations().iter().filter(|one| !is_under_way(one)) {
            only_tls(conversation).unwrap_or_else(|what| panic!("{name}: {what}"));
        }
    }
}

#[test]
fn the_reader_of_records_knows_what_is_no_tls() {
    let record = |kind: u8, body: &[u8]| [&[kind, 3, 3, 0, body.len() as u8], body].concat();
    let well = [record(22, &[1, 0, 0, 0]), record(20, &[1]), record(23, &[7; 40])].concat();
    assert_eq!(records(&well).map(|(found, rest)| (found.len(), rest.len())), Ok((3, 0)));
    assert_eq!(records(&well[..well.len() - 1]).map(|(found, rest)| (found.len(), rest.len())), Ok((2, 44)));
    for bad in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), [&well[..], b"PRI * HTTP/2.0"].concat(), record(24, b"x")] {
        assert!(records(&bad).is_err(), "{bad:?}");
    }
    let long = [vec![23, 3, 3, 0x41, 0x01], vec![0; 0x4101]].concat();
    assert!(records(&long).is_err(), "a record of {} bytes", long.len());
    let (found, _) = records(&well).expect("three records");
    assert!(server_hello(&found[0]).is_err(), "a ClientHello is no ServerHello");
    let conversation = Conversation { from_client: well.clone(), from_server: well };
    assert!(only_tls(&conversation).is_err(), "no ServerHello");
}

#[test]
fn strict_pods_serve_proven_peers_on_declared_ports_only() {
    let demo = Demo::start(5);
    // It declares ports of its proxy, too, as a careless manifest might.
    let mirror = Pod::start(&demo, "mirror", 210, &[4143, 4191, PRIVATE_ADMIN_PORT]);
    let issuer = Issuer::of(&demo);
    proven_peers_are_served(&issuer, &mirror);
    let before = (mirror.app.connections(), mirror.app.requests());
    plain_clients_are_refused(&demo, &mirror);
    unproven_clients_are_refused(&demo, &issuer, &mirror);
    other_destinations_are_refused(&demo, &issuer, &mirror);
    assert_eq!((mirror.app.connections(), mirror.app.requests()), before, "something reached the app");
    reserved_fields_end_at_the_proxies(&demo, &issuer, &mirror);
}

#[test]
fn a_server_with_another_identity_gets_no_request() {
    let demo = Demo::start(20);
    let issuer = Issuer::of(&demo);
    the_only_endpoint_is_an_impostor(&demo, &issuer);
    one_endpoint_of_three_is_an_impostor(&demo, &issuer);
}

/// Tells the mesh, as a manifest of its pod would, that a pod's proxy is at `address`.
fn point_to(demo: &Demo, file: &str, pod: &str, address: SocketAddr) {
    let path = demo.dir.join(format!("manifests/{file}.yaml"));
    let text = fs::read_to_string(&path).expect("the demo's manifest");
    let key = "lacewing.dev/proxy-address: ";
    let of_pod = text
        .match_indices("kind: Pod\n")
        .map(|(at, _)| at)
        .find(|at| text[*at..].lines().find_map(|line| line.strip_prefix("  name: ")) == Some(pod));
    let at = of_pod.and_then(|at| Some(at + text[at..].find(key)?)).unwrap_or_else(|| panic!("no {pod} in\n{text}"));
    let rest = text[at..].split_once('\n').expect("a line").1;
    write_atomically(&path, &format!("{}{key}{address}\n{rest}", &text[..at]));
}

/// Waits for a line that contains all `words`.
fn logged(demo: &Demo, process: &str, words: &[&str]) {
    let path = demo.dir.join(format!("logs/{process}.log"));
    until(&format!("{words:?} in the log of {process}"), PATIENCE, || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
}

fn secret_over_tcp(demo: &Demo, tee: &Tee) {
    let entry = SocketAddr::new(demo.ip("traffic-1"), 7001);
    let words = SECRET.repeat(1_000);
    let converse = || {
        let mut socket = TcpStream::connect(entry).expect("echo's entry");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut heard = Vec::new();
        std::thread::scope(|scope| {
            let mut writer = socket.try_clone().expect("the same socket");
            let words = &words;
            scope.spawn(move || writer.write_all(words).and_then(|()| writer.shutdown(Shutdown::Write)));
            socket.read_to_end(&mut heard).expect("heard");
        });
        heard
    };
    let whole = |one: &Conversation| one.from_client.len() > words.len() && one.from_server.len() > words.len();
    until("a whole conversation with echo through the tee", PATIENCE, || {
        assert!(converse() == words, "echo says what it hears, tee or not");
        tee.conversations().iter().any(whole).then_some(())
    });
}

fn secret_over_http(demo: &Demo, mirror: &Pod, tee: &Tee) {
    let body = SECRET.repeat(1_000);
    let head = format!("POST /echo HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", mirror.authority());
    let request = [format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
    until("a request through the tee", PATIENCE, || {
        let before = tee.from_clients();
        let answer = raw(demo.outbound("traffic-1"), &request);
        assert_eq!((answer.status, answer.body.as_bytes() == body), (200, true), "{}", answer.head);
        (tee.from_clients() > before + body.len()).then_some(())
    });
}

/// The server's hello is not whole yet: a connection that is just being made.
fn is_under_way(conversation: &Conversation) -> bool {
    records(&conversation.from_server).is_ok_and(|(found, _)| found.is_empty())
}

/// Both directions are records of TLS 1.3, with one plain handshake message each, and nothing in them is readable.
fn only_tls(conversation: &Conversation) -> Result<(), String> {
    for (who, bytes) in [("client", &conversation.from_client), ("server", &conversation.from_server)] {
        let (found, _) = records(bytes).map_err(|what| format!("from the {who}: {what}"))?;
        let (hello, encrypted) = found.split_first().ok_or_else(|| format!("from the {who}: no whole record"))?;
        if hello.kind != HANDSHAKE || hello.body.first() != Some(if who == "client" { &1 } else { &2 }) {
            return Err(format!("from the {who}: the first record is no hello"));
        }
        if who == "server" {
            let chosen = server_hello(hello)?;
            if chosen != CHOSEN {
                return Err(format!("the server chose {chosen:04x?}"));
            }
        }
        let plain = |kind| kind != APPLICATION_DATA && kind != CHANGE_CIPHER_SPEC;
        if let Some(record) = encrypted.iter().find(|record| plain(record.kind)) {
            return Err(format!("from the {who}: a plain record of type {}", record.kind));
        }
        for words in [SECRET, b"PRI * HTTP/2.0", b"HTTP/1.1", b"counted;", b"spiffe://", b"emojivoto/sa"] {
            if bytes.windows(words.len()).any(|window| window == words) {
                return Err(format!("from the {who}: {:?} is readable", String::from_utf8_lossy(words)));
            }
        }
    }
    Ok(())
}

const REQUEST: &[u8] = b"GET /head HTTP/1.1\r\nhost: mirror.emojivoto:8080\r\nconnection: close\r\n\r\n";
const SNI: &str = "p8080.mirror.emojivoto.lacewing";

/// The control for all refusals: the same client, but for what makes it refusable, is served.
fn proven_peers_are_served(issuer: &Issuer, mirror: &Pod) {
    let config = issuer.client(Some(&issuer.leaf("web")), "mirror", &[HTTP1]);
    let ended = ask(mirror.inbound(), config, Some(SNI), REQUEST);
    let text = String::from_utf8_lossy(&ended.got).into_owned();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{:?} {text}", ended.error);
    assert_eq!(mirror.metric("inbound_tcp_authz_allow_total", &["srv_port=\"8080\""]), 1);
}

/// Runs a client that must get no byte, and waits for its counters and its line in the log.
fn refused(demo: &Demo, mirror: &Pod, what: &str, counted: &[(&str, &[&str])], line: &str, client: impl Fn() -> Ended) {
    let values = || counted.iter().map(|(name, labels)| mirror.metric(name, labels)).collect::<Vec<u64>>();
    let before = values();
    let ended = client();
    assert_eq!(String::from_utf8_lossy(&ended.got), "", "{what}: got application bytes");
    let one_more: Vec<u64> = before.iter().map(|value| value + 1).collect();
    until(&format!("{what}: {counted:?}"), PATIENCE, || (values() == one_more).then_some(()));
    logged(demo, "mirror-proxy", &["inbound request or connection failed", line]);
}

const DENIED: (&str, &[&str]) = ("proxy_errors_total", &["direction=\"inbound\"", "error=\"denied\""]);
const STRICT: (&str, &[&str]) =
    ("inbound_tcp_authz_deny_total", &["reason=\"this workload takes mesh TLS only (strict)"]);

fn plain_clients_are_refused(demo: &Demo, mirror: &Pod) {
    let counters = || (mirror.metric(DENIED.0, DENIED.1), mirror.metric(STRICT.0, STRICT.1));
    let before = counters();
    let answer = get(mirror.inbound(), "/head", &[("host", "mirror.emojivoto:8080")]);
    assert_eq!(answer.status, 403, "{}", answer.head);
    assert!(answer.head.to_ascii_lowercase().contains("l6g-error: denied"), "{}", answer.head);
    assert!(
        answer.body.contains("mesh TLS only (strict)") && answer.body.contains("not in the mesh"),
        "{}",
        answer.body
    );
    assert_eq!(counters(), (before.0 + 1, before.1 + 1));
    let both = &[DENIED, STRICT];
    for (what, words) in [
        ("HTTP/2 in plain text", &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..]),
        ("garbage", b"\0\x01\x02garbage\xff\xfe"),
        ("another protocol", b"SSH-2.0-client\r\n"),
    ] {
        refused(demo, mirror, what, both, "takes mesh TLS only (strict)", || ask_plain(mirror.inbound(), words));
    }
}

fn unproven_clients_are_refused(demo: &Demo, issuer: &Issuer, mirror: &Pod) {
    let to = mirror.inbound();
    let (good, self_made) = (issuer.leaf("web"), issuer.self_made().leaf("web"));
    let counted = |label: &'static str| -> [&'static str; 2] { ["direction=\"inbound\"", label] };
    let tls = |leaf, alpn: &[&[u8]]| ask(to, issuer.client(leaf, "mirror", alpn), Some(SNI), REQUEST);
    let case = |what: &str, label: &'static str, line: &str, client: &dyn Fn() -> Ended| {
        refused(demo, mirror, what, &[("proxy_errors_total", &counted(label))], line, client);
    };
    case("a self-made CA", "error=\"untrusted_certificate\"", "do not share a trust root", &|| {
        tls(Some(&self_made), &[HTTP1])
    });
    case("no certificate", "error=\"no_certificate\"", "the client is probably not in the mesh", &|| {
        tls(None, &[HTTP1])
    });
    case("an unknown protocol of the mesh", "error=\"alpn\"", "of another version", &|| {
        tls(Some(&good), &[b"lacewing/h9"])
    });
    // Whatever it is, it is not ours: it would pass untouched where plain text is allowed.
    refused(demo, mirror, "a broken ClientHello", &[DENIED, STRICT], "mesh TLS only (strict)", || {
        ask_plain(to, b"\x16\x03\x01\0\x04\x01\0\0\0")
    });
    for alpn in [&[&b"h2"[..]][..], &[]] {
        let both = &[DENIED, STRICT];
        refused(demo, mirror, "the app's own TLS", both, "mesh TLS only (strict)", || tls(Some(&good), alpn));
    }
    case("TLS 1.2", "error=\"tls_version\"", "the mesh speaks TLS 1.3 only", &|| {
        let Ended { got, error } = ask_plain(to, &tls12_hello());
        // Not a byte of an app, but an alert that a TLS client can show: fatal (2), protocol_version (70).
        let alert = [21, 3, 3, 0, 2, 2, 70];
        assert!(got == alert, "TLS 1.2 is told why, by an alert: {got:?} {error:?}");
        Ended { got: Vec::new(), error }
    });
}

/// The ClientHello of a client that knows TLS 1.2 only and offers `lacewing/h1`.
fn tls12_hello() -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, value: &[u8]| [&kind.to_be_bytes()[..], &with_length(value)].concat();
    let alpn = [&[HTTP1.len() as u8], HTTP1].concat();
    let extensions = [
        extension(10, &with_length(&[0, 29, 0, 23])), // groups: x25519, secp256r1
        extension(11, &[1, 0]),                       // points: uncompressed
        extension(13, &with_length(&[4, 3, 8, 4])),   // signatures: ECDSA and RSA-PSS with SHA-256
        extension(16, &with_length(&alpn)),
        extension(23, &[]), // extended master secret
    ]
    .concat();
    let ciphers = with_length(&[0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with AES-128-GCM
    let hello = [&[3, 3][..], &[0x5a; 32], &[0], &ciphers, &[1, 0], &with_length(&extensions)].concat();
    let message = [&[1, 0][..], &with_length(&hello)].concat();
    [&[HANDSHAKE, 3, 1][..], &with_length(&message)].concat()
}

fn other_destinations_are_refused(demo: &Demo, issuer: &Issuer, mirror: &Pod) {
    let leaf = issuer.leaf("web");
    let refuse = |sni: Option<&str>, counted: &[(&str, &[&str])], line: &str| {
        let client = || ask(mirror.inbound(), issuer.client(Some(&leaf), "mirror", &[HTTP1]), sni, REQUEST);
        refused(demo, mirror, &format!("SNI {sni:?}"), counted, line, client);
    };
    for sni in [None, Some("mirror.emojivoto"), Some("p08080.mirror.emojivoto.lacewing")] {
        refuse(sni, &[DENIED], "names no port of ours");
    }
    for (port, line) in [
        (9999, "declares no such port"),
        (4140, "declares no such port"),
        (4143, "declares no such port"),
        (4191, "declares no such port"),
        (PRIVATE_ADMIN_PORT, "the port is the proxy's own"),
    ] {
        let sni = format!("p{port}.mirror.emojivoto.lacewing");
        refuse(Some(&sni), &[DENIED, ("inbound_tcp_authz_deny_total", &["reason=\"", line])], line);
    }
}

fn reserved_fields_end_at_the_proxies(demo: &Demo, issuer: &Issuer, mirror: &Pod) {
    let authority = mirror.authority();
    let fields = [
        ("host", authority.as_str()),
        ("l6g-client-id", "spoof-1"),
        ("L6G-Client-Id", "spoof-2"),
        ("l6g-x", "spoof-3"),
    ];
    let through_the_mesh = get(demo.outbound("traffic-1"), "/head", &fields).body;
    let spoofing = [&REQUEST[..REQUEST.len() - 2], b"l6g-client-id: spoof-4\r\nl6g-y: spoof-5\r\n\r\n"].concat();
    let config = issuer.client(Some(&issuer.leaf("web")), "mirror", &[HTTP1]);
    let by_a_peer = String::from_utf8(ask(mirror.inbound(), config, Some(SNI), &spoofing).got).expect("text");
    for (head, who) in [(through_the_mesh, "traffic"), (by_a_peer, "web")] {
        let reserved: Vec<&str> = head.lines().filter(|line| line.starts_with("l6g-")).collect();
        let truth = format!("l6g-client-id: spiffe://cluster.local/ns/emojivoto/sa/{who}");
        assert_eq!(reserved, [truth.as_str()], "the app saw\n{head}");
        assert!(!head.contains("spoof"), "the app saw\n{head}");
    }
    // An app cannot speak for the mesh either: the client's proxy would send the request elsewhere.
    let before = mirror.app.requests();
    let answer = get(demo.outbound("traffic-1"), "/reserved", &[("host", &authority)]);
    assert_eq!((answer.status, answer.body.as_str()), (200, "the app's own words\n"), "{}", answer.head);
    assert!(answer.head.contains("x-own: kept") && !answer.head.contains("l6g-"), "{}", answer.head);
    assert_eq!(mirror.app.requests(), before + 1);
    // Towards a pod outside the mesh, nobody else would take them away.
    let plain = Pod::without_proxy(demo, "plain", 211);
    let plain_authority = plain.authority();
    let answer = until("the pod outside the mesh is known", PATIENCE, || {
        let fields = [("host", plain_authority.as_str()), ("l6g-client-id", "spoof-6"), ("x-own", "kept")];
        Some(get(demo.outbound("traffic-1"), "/head", &fields)).filter(|answer| answer.status == 200)
    });
    assert!(answer.body.contains("x-own: kept") && !answer.body.contains("l6g-"), "the app saw\n{}", answer.body);
}

/// Raw TCP, one endpoint: the client's connection just closes.
fn the_only_endpoint_is_an_impostor(demo: &Demo, issuer: &Issuer) {
    let entry = SocketAddr::new(demo.ip("traffic-1"), 7001);
    let posing_as = |name: &str| {
        let impostor = Impostor::start(demo.ip("echo-1"), issuer, name, &[b"lacewing/tcp"]);
        point_to(demo, "echo", "echo-1", impostor.address);
        let heard = until("a connection that ends at the impostor", PATIENCE, || {
            let mut socket = TcpStream::connect(entry).expect("echo's entry");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let _ = socket.write_all(SECRET).and_then(|()| socket.shutdown(Shutdown::Write)); // may be closed already
            let mut heard = Vec::new();
            let _ = socket.read_to_end(&mut heard); // an end or a reset
            (impostor.reached().connections > 0).then_some(heard)
        });
        assert_eq!(String::from_utf8_lossy(&heard), "");
        impostor
    };
    // The control: with the right certificate, the same server gets everything.
    let reached = posing_as("echo").reached();
    assert_eq!((reached.handshakes > 0, reached.application_bytes >= SECRET.len()), (true, true), "{reached:?}");
    impostor_learns_nothing(&posing_as("web"));
    mismatch_is_visible(demo, &["traffic-1"], "sa/echo");
}

/// HTTP, three endpoints: every request is served by the other two.
fn one_endpoint_of_three_is_an_impostor(demo: &Demo, issuer: &Issuer) {
    let impostor = Impostor::start(demo.ip("voting-1"), issuer, "emoji", &[b"lacewing/h1h2", b"lacewing/h2"]);
    point_to(demo, "voting", "voting-1", impostor.address);
    let mut votes = 0;
    until("200 votes, and some were tried at the impostor", PATIENCE, || {
        let vote = "/api/vote?choice=avocado";
        let answer = get(demo.outbound("web-1"), vote, &[("host", "voting.emojivoto:8080")]);
        assert_eq!(answer.status, 200, "vote {votes}: {}\n{}", answer.head, answer.body);
        votes += 1;
        (votes >= 200 && impostor.reached().connections > 0).then_some(())
    });
    impostor_learns_nothing(&impostor);
    mismatch_is_visible(demo, &["web-1", "web-2"], "sa/voting");
}

fn impostor_learns_nothing(impostor: &Impostor) {
    let reached = until("the impostor's handshake ended", PATIENCE, || {
        Some(impostor.reached()).filter(|reached| !reached.errors.is_empty())
    });
    assert_eq!((reached.handshakes, reached.application_bytes), (0, 0), "{reached:?}");
}

/// On one of the client's proxies: a counter, and a line that says who was expected.
fn mismatch_is_visible(demo: &Demo, clients: &[&str], expected: &str) {
    // In whichever family: a request that succeeded elsewhere was no error of the proxy, but its first attempt was one.
    let counted = |pod: &&&str| demo.metric(pod, "", &["error=\"identity_mismatch\""]) > 0.0;
    let client = until("a counter of identity_mismatch", PATIENCE, || clients.iter().find(counted));
    logged(
        demo,
        &format!("{client}-proxy"),
        &["mesh TLS with", expected, "the address may have gone to another workload"],
    );
}

//! Detection, seen from outside: the client's first bytes may come in any pieces, or not at all; servers that speak first
//! are heard without a stall on any port; and nobody's bytes are lost, made up or kept back for it.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use lacewing_identity::{Authority, SpiffeId, TrustDomain, tls};
use lacewing_tests::{
    net::{Cluster, Host, Link, PodSpec, Relay},
    wait::until,
};
use rustls::{ClientConnection, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    matrix::{Way, World},
    wire::{PATIENCE, Server, Wire},
};

/// Between the parts of a client's first bytes.
const PAUSE: Duration = Duration::from_millis(30);
/// Connections at a time.
const AT_ONCE: usize = 60;
/// A greeting may come this much later through proxies than without. The aim is less than half of it.
const STALL: Duration = Duration::from_millis(100);
/// Bytes that could become HTTP are opaque after this, in the proxy that decides first.
const AMBIGUOUS: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET /x?y HTTP/1.1\r\nHost: shop.example\r\nX-A: b\r\n\r\n";
/// A handshake response as MySQL's clients send it, as far as its shape goes.
const MYSQL: &[u8] = b"\x54\x00\x00\x01\x8d\xa6\x0f\x00\x00\x00\x00\x01\x08\x00\x00\x00GET / HTTP/1.1\r\n";

/// Writes the parts with a pause between them, and reads until `enough` says so.
async fn converse(
    to: SocketAddr,
    parts: Vec<Vec<u8>>,
    pause: Duration,
    enough: fn(&[u8], &[u8]) -> bool,
) -> Result<(), String> {
    let sent = parts.concat();
    let told = |error: std::io::Error| error.to_string();
    let talk = async {
        let mut socket = tokio::net::TcpStream::connect(to).await.map_err(told)?;
        socket.set_nodelay(true).map_err(told)?;
        for (n, part) in parts.iter().enumerate() {
            if n > 0 {
                tokio::time::sleep(pause).await;
            }
            socket.write_all(part).await.map_err(told)?;
        }
        let mut got = Vec::new();
        while !enough(&sent, &got) {
            let read = socket.read_buf(&mut got).await.map_err(told)?;
            if read == 0 {
                return Err(format!("the end after {:?}", String::from_utf8_lossy(&got)));
            }
        }
        Ok(())
    };
    let late = || format!("nothing more within {PATIENCE:?}");
    tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(|_| Err(late()))
}

/// All of these conversations, some at a time; how many there were.
fn converse_all(way: &Way<'_>, all: Vec<Vec<Vec<u8>>>, pause: Duration, enough: fn(&[u8], &[u8]) -> bool) -> usize {
    let to = way.to;
    let count = all.len();
    way.host().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut all = all.into_iter().peekable();
            while all.peek().is_some() {
                let some: Vec<_> = all.by_ref().take(AT_ONCE).collect();
                let tasks: Vec<_> = some
                    .into_iter()
                    .map(|parts| (parts[0].len(), tokio::spawn(converse(to, parts, pause, enough))))
                    .collect();
                for (cut, task) in tasks {
                    task.await.unwrap().unwrap_or_else(|error| panic!("{}: cut at {cut}: {error}", way.name));
                }
            }
        });
    });
    count
}

fn cuts(bytes: &[u8], at: impl Iterator<Item = usize>) -> Vec<Vec<Vec<u8>>> {
    at.map(|cut| vec![bytes[..cut].to_vec(), bytes[cut..].to_vec()]).collect()
}

fn echoed(sent: &[u8], got: &[u8]) -> bool {
    assert!(sent.starts_with(got), "other bytes came back: {:?}", String::from_utf8_lossy(got));
    sent == got
}

fn echo(wire: &mut Wire) {
    let mut socket = wire.socket.try_clone().unwrap();
    let _ = std::io::copy(&mut wire.socket, &mut socket);
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

/// A ClientHello as a program sends it that knows nothing of the mesh: with post-quantum key share, some 1.2 KB.
fn client_hello() -> Vec<u8> {
    let domain = TrustDomain::parse("app.example").unwrap();
    let authority = Authority::generate(&domain, 1_700_000_000).unwrap();
    let id = SpiffeId::new(&domain, "shop", "db").unwrap();
    let config = tls::client_config(None, authority.bundle(), &id, &[b"h2", b"http/1.1"]).unwrap();
    let mut client = ClientConnection::new(config, ServerName::try_from("db.app.example").unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// The preface, empty SETTINGS, and HEADERS of `GET http://a/` as stream 1 (RFC 9113, 3.4, 6.5, 6.2; RFC 7541).
fn http2() -> Vec<u8> {
    let block = [&[0x82, 0x86, 0x84, 0x41, 1, b'a'][..]].concat();
    let headers = [&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1][..], &block].concat();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &headers].concat()
}

/// An answer with status 200 on stream 1 is there, whole.
fn answered_http2(_: &[u8], got: &[u8]) -> bool {
    let mut rest = got;
    while let [a, b, c, kind, _, s0, s1, s2, s3, payload @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if payload.len() < length {
            return false;
        }
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        assert!(!matches!(kind, 3 | 7), "RST_STREAM or GOAWAY: {got:?}");
        if (*kind, stream) == (1, 1) {
            assert!(payload[..length].contains(&0x88), "status 200: {got:?}");
            return true;
        }
        rest = &payload[length..];
    }
    false
}

#[test]
fn first_bytes_may_be_split_anywhere() {
    let world = World::new();
    let opaque = world.serve(echo);
    let hello = client_hello();
    opaque.each(|way| {
        let started = Instant::now();
        // The tail of a ClientHello is read by one loop, whatever is in it: some cuts will do there.
        let all =
            cuts(MYSQL, 1..MYSQL.len()).into_iter().chain(cuts(&hello, (1..64).chain((64..hello.len()).step_by(29))));
        let count = converse_all(way, all.collect(), PAUSE, echoed);
        println!(
            "{}: {count} cuts of a database client and a ClientHello of {} bytes in {:?}",
            way.name,
            hello.len(),
            started.elapsed()
        );
    });
    let server = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            assert_eq!((&*head.line, head.get("x-a")), ("GET /x?y HTTP/1.1", Some("b")));
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    };
    world.serve(server).each(|way| {
        converse_all(way, cuts(REQUEST, 1..REQUEST.len()), PAUSE, |_, got| {
            assert!(
                b"HTTP/1.1 200 OK\r\n".starts_with(&got[..got.len().min(17)]),
                "{:?}",
                String::from_utf8_lossy(got)
            );
            got.ends_with(b"\r\n\r\nok")
        });
    });
    world.serve(super::matrix_h2::plain_app).each(|way| {
        let bytes = http2();
        converse_all(way, cuts(&bytes, 1..bytes.len()), PAUSE, answered_http2);
    });
}

#[test]
fn first_bytes_may_come_one_by_one() {
    let world = World::new();
    let singly = |bytes: &[u8]| vec![bytes.iter().map(|byte| vec![*byte]).collect()];
    let pause = Duration::from_millis(3);
    world.serve(echo).each_family(|way| {
        converse_all(way, singly(MYSQL), pause, echoed);
        converse_all(way, singly(&client_hello()), Duration::ZERO, echoed);
    });
    let server = |wire: &mut Wire| {
        while wire.next_head().is_some() {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    };
    world.serve(server).each_family(|way| {
        converse_all(way, singly(REQUEST), pause, |_, got| got.ends_with(b"\r\n\r\nok"));
    });
    world.serve(super::matrix_h2::plain_app).each_family(|way| {
        converse_all(way, singly(&http2()), pause, answered_http2);
    });
}

#[test]
fn what_stays_ambiguous_is_opaque_after_a_second() {
    let world = World::new();
    world.serve(echo).each(|way| {
        for words in [&b"GET "[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n", b"\x16"] {
            let mut wire = way.connect();
            let started = Instant::now();
            wire.send(words);
            assert_eq!(wire.exactly(words.len()), words, "{}: exactly these bytes", way.name);
            let took = started.elapsed();
            println!("{}: {:?} went on after {took:?}", way.name, String::from_utf8_lossy(words));
            // Each proxy may ask itself once, if the one before it has not told.
            assert!(took >= AMBIGUOUS.mul_f64(0.9) && took < AMBIGUOUS * 3, "{}: {words:?} took {took:?}", way.name);
            wire.finish();
            assert_eq!(wire.rest(), b"");
        }
    });
}

#[test]
fn an_end_before_the_first_byte_dials_nobody() {
    let world = World::new();
    let service = world.serve(echo);
    for way in service.ways(false) {
        let mut late = 0;
        for _ in 0..20 {
            let started = Instant::now();
            let wire = way.connect();
            let mut wire = wire;
            wire.finish();
            // The shortest grace is 20 ms: who was held up on the way may have waited for the server.
            late += usize::from(started.elapsed() > Duration::from_millis(15));
            assert_eq!(wire.rest(), b"", "{}", way.name);
        }
        assert!(
            way.server.connections() <= late,
            "{}: {} connections, {late} were late",
            way.name,
            way.server.connections()
        );
    }
}

/// From the connect to the first byte of the greeting, or an error's words.
fn greeting(host: &Host, to: SocketAddr) -> Duration {
    host.enter(|| {
        let started = Instant::now();
        let mut socket = std::net::TcpStream::connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut words = [0; 9];
        socket.read_exact(&mut words).unwrap();
        let took = started.elapsed();
        assert_eq!(&words, b"220 ready");
        socket.write_all(b"quit").unwrap();
        took
    })
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

fn greeter(wire: &mut Wire) {
    wire.send("220 ready");
    let _ = wire.try_rest();
}

#[test]
fn a_server_that_speaks_first_is_heard_without_a_stall() {
    let world = World::new();
    let services: Vec<_> = (0..7).map(|_| world.serve(greeter)).collect();
    let direct: Vec<Duration> = (services.iter())
        .flat_map(|service| (0..3).map(|_| greeting(&world.plain_client.host, world.plain_server.at(service.port))))
        .collect();
    let direct = median(direct);
    for n in 0..3 {
        let mut first = Vec::new();
        let mut again = Vec::new();
        for service in &services {
            let way = &service.ways(false)[n];
            first.push(greeting(way.host(), way.to));
            again.extend((0..5).map(|_| greeting(way.host(), way.to)));
        }
        let name = services[0].ways(false)[n].name;
        let quickest = *again.iter().min().unwrap();
        let (first, again) = (median(first).saturating_sub(direct), median(again).saturating_sub(direct));
        println!(
            "{name}: a greeting comes {first:?} later the first time, {again:?} later again (quickest {quickest:?}); direct: {direct:?}"
        );
        assert!(first < STALL && again < STALL, "{name}: {first:?}, {again:?}");
        if name != "plain to meshed" {
            // The target is known to be greeted by its server: no grace of 20 ms any more.
            assert!(quickest < Duration::from_millis(20), "{name}: {quickest:?}");
        }
    }
}

#[test]
fn a_late_request_is_http_on_a_connection_of_its_own() {
    let world = World::new();
    let silent = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            let client = head.get("l6g-client-id").map(|id| format!("x-client: {id}\r\n")).unwrap_or_default();
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{client}\r\nok"));
        }
    };
    world.serve(silent).each_family(|way| {
        let before = way.server.connections();
        let mut wire = way.connect();
        wire.is_silent_for(Duration::from_millis(200));
        wire.send(REQUEST);
        let head = wire.head();
        assert_eq!(wire.body(&head), b"ok");
        assert_eq!(
            (head.status(), head.get("x-client")),
            (200, way.client_id.as_deref()),
            "{}: HTTP, not bytes",
            way.name
        );
        let made = way.server.connections() - before;
        println!("{}: {made} connections for a late request", way.name);
        // The first time: the one for whoever speaks first, which ends unused, and one for the request. Later ones may
        // find an idle connection, and clients known to speak first are waited for.
        assert!(made <= 2 && (made == 2 || before > 0), "{}: {made}", way.name);
        wire.send(REQUEST);
        assert_eq!(wire.head().status(), 200, "{}", way.name);
    });
}

#[test]
fn declared_bytes_pass_untouched() {
    const ODD: &[u8] =
        b"get / HTTP/1.1\r\nHost:  a\r\nX-Odd :  b \r\nContent-Length: 0\r\nTransfer-Encoding: x\r\n\r\n";
    let cluster = Cluster::new();
    let server = cluster.pod(PodSpec::new("db").service("db").port("tcp", 18_080, "tcp"));
    let app = Server::on(server.host.listen(18_080), echo);
    let meshed = cluster.pod(PodSpec::new("client"));
    let plain = cluster.pod(PodSpec::new("plain").unmeshed());
    cluster.published();
    for client in [&meshed, &plain] {
        for bytes in [ODD, REQUEST, &http2()] {
            let mut wire = Wire::new(client.host.connect(cluster.address("db", 18_080)).unwrap());
            wire.send(bytes);
            assert_eq!(wire.exactly(bytes.len()), bytes, "{}", client.name);
            wire.finish();
            assert_eq!(wire.rest(), b"");
        }
    }
    app.is_well();
    assert_eq!(server.metric("request_total", &["srv_port=\"18080\""]) as u64, 0, "nobody took it for HTTP");
    until("both ways were counted", PATIENCE, || {
        let open = |tls: &str| server.metric("tcp_open_total", &["direction=\"inbound\"", tls]) as u64;
        (open("tls=\"true\"") == 3 && open("tls=\"no_identity\"") == 3).then_some(())
    });
}

#[test]
fn quick_connections_never_lose_their_handshake() {
    let world = World::new();
    let service = world.serve(greeter);
    let way = &service.ways(false)[0];
    let took = way.host().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let to = way.to;
        runtime.block_on(async {
            let mut took = Vec::new();
            for _ in 0..20 {
                let some: Vec<_> = (0..10).map(|_| tokio::spawn(greeted(to))).collect();
                for one in some {
                    took.push(one.await.unwrap().expect("a greeting"));
                }
            }
            took
        })
    });
    println!(
        "{} greetings, ten at a time: median {:?}, slowest {:?}",
        took.len(),
        median(took.clone()),
        took.iter().max().unwrap()
    );
    let errors =
        world.meshed_server.metric("proxy_errors_total", &[]) + world.meshed_client.metric("proxy_errors_total", &[]);
    assert_eq!(errors as u64, 0, "{}", world.meshed_client.proxy().log());
    assert_eq!(
        world.meshed_server.metric("tcp_open_total", &["tls=\"no_identity\"", "direction=\"inbound\""]) as u64,
        0
    );
}

#[test]
fn lost_packets_do_not_turn_a_handshake_into_plain_text() {
    let world = World::new();
    let service = world.serve(greeter);
    let way = &service.ways(false)[0];
    assert!(greeting(way.host(), way.to) < PATIENCE);
    // A first flight that is lost comes after the grace: the app's greeting is faster then.
    world.meshed_server.host.lose(4);
    let took = way.host().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let to = way.to;
        runtime.block_on(async {
            let all: Vec<_> = (0..100).map(|_| tokio::spawn(greeted(to))).collect();
            let mut took = Vec::new();
            for one in all {
                took.extend(one.await.unwrap());
            }
            took
        })
    });
    world.meshed_server.host.heal();
    // Each of three attempts has a second, in which one lost SYN is one too many: some connection in thousands has no luck.
    assert!(took.len() >= 98, "{} greetings", took.len());
    let slowest = took.iter().max().unwrap();
    let again = world.meshed_client.metric("proxy_errors_total", &[]) as u64;
    println!(
        "4 % loss: {} greetings, median {:?}, slowest {slowest:?}, {again} attempts failed",
        took.len(),
        median(took.clone())
    );
}

/// A proxy that stalls between its connect and its first flight (a limit on its CPU, a relay on the way) comes after the
/// grace, too. The greeting must not stand where the handshake should be each time.
#[test]
fn a_late_handshake_is_still_one() {
    let world = World::new();
    let relay_host = world.cluster.net.host("relay");
    let service = world.serve(greeter);
    let way = &service.ways(false)[0];
    assert!(greeting(way.host(), way.to) < PATIENCE, "once without it: they know each other");
    let slow = Link { latency: Duration::from_millis(80), ..Link::default() };
    let relays = [world.meshed_server.at(service.port), world.meshed_server.host.at_v6(service.port)]
        .map(|to| Relay::between(&way.client.host, to, &relay_host, slow));
    let took = greeting(way.host(), way.to);
    println!(
        "a first flight that is 80 ms late: the greeting came after {took:?}, {} connections",
        relays[0].connections() + relays[1].connections()
    );
}

/// How long it took; none if the connection was closed without a word. Any other word is an error.
async fn greeted(to: SocketAddr) -> Option<Duration> {
    let started = Instant::now();
    let talk = async {
        let mut socket = tokio::net::TcpStream::connect(to).await.unwrap();
        let mut words = [0; 9];
        match socket.read_exact(&mut words).await {
            Ok(_) => assert_eq!(&words, b"220 ready"),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && words == [0; 9] => return None,
            Err(error) => panic!("{error}"),
        }
        Some(started.elapsed())
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("a greeting")
}

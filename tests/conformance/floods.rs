//! Attacks on what the proxy has little of: memory, descriptors, patience. Each is a few seconds of a hostile client by hand,
//! with a good client beside it, whose success and latency count, as does the proxy's memory before and after. What they
//! cost is printed; the limits that are asserted are generous multiples. `LACEWING_TEST_LONG=1` lets them last.

#![allow(clippy::print_stdout, reason = "measured figures, shown with --nocapture")]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use lacewing_tests::{
    demo::{get, raw},
    load::{Load, Report},
    wait::until,
};

use crate::{
    app::Script,
    bench::{Bench, Door, HOST, HTTP2_PORT, SERVER, Stranger},
    few::Few,
    giver::Giver,
    wire::{DATA, GOAWAY, HEADERS, Http2, PING, PRIORITY, RST_STREAM, SETTINGS, frame, get_request, window_update},
};

/// The name of the HTTP/2 app, by its Service's port.
const HTTP2_HOST: &str = "server.it:4140";
const ENHANCE_YOUR_CALM: u32 = 11;
/// What asks for the end of the connection, in bytes.
const CLOSE: usize = "connection: close\r\n".len();
/// Requests a second of the client that means well.
const GOOD_RPS: u32 = 50;
/// It waits no longer than this for 99 of 100 answers, in an unoptimized build on a busy machine.
const GOOD_P99: Duration = Duration::from_millis(500);

/// How long an attack lasts.
fn span(short: u64, long: u64) -> Duration {
    Duration::from_secs(if std::env::var("LACEWING_TEST_LONG").is_ok_and(|value| value == "1") { long } else { short })
}

/// A proxy's own memory now, in KiB.
fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).expect("a number");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Descriptors that a process has open.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

/// CPU time that a process has used.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let ticks: u64 = fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// A sample of a proxy's metrics.
fn metric(bench: &Bench, pod: &str, start: &str) -> f64 {
    let text = get(bench.solo.admin(pod), "/metrics", &[]).body;
    let samples = text.lines().filter(|line| line.starts_with(start));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// What the good client met, and what the proxies' memory did, while `attack` ran.
#[track_caller]
fn beside<T>(bench: &Bench, what: &str, grows_at_most_kib: u64, attack: impl FnOnce() -> T) -> T {
    beside_within(GOOD_P99, bench, what, grows_at_most_kib, attack)
}

#[track_caller]
fn beside_within<T>(
    most: Duration,
    bench: &Bench,
    what: &str,
    grows_at_most_kib: u64,
    attack: impl FnOnce() -> T,
) -> T {
    let pids = ["client", SERVER].map(|pod| bench.solo.pid(pod));
    let before = pids.map(memory);
    let good = Load::start(bench.solo.outbound(), HOST, "/good", GOOD_RPS);
    let done = attack();
    let during = pids.map(memory);
    std::thread::sleep(Duration::from_millis(300)); // a few more requests after the attack
    let report = good.stop();
    let p99 = p99(&report);
    let grown: Vec<u64> = during.iter().zip(before).map(|(during, before)| during.saturating_sub(before)).collect();
    println!(
        "{what}: good client {} requests, p99 {p99:.1?}, slowest {:.1?}; outbound +{} KiB, inbound +{} KiB",
        report.samples.len(),
        report.slowest(),
        grown[0],
        grown[1]
    );
    report.assert_clean(5);
    assert!(p99 < most, "{what}: the good client's p99 was {p99:?}");
    assert!(grown.iter().all(|grown| *grown < grows_at_most_kib), "{what}: the proxies grew by {grown:?} KiB");
    done
}

fn p99(report: &Report) -> Duration {
    let mut took: Vec<Duration> = report.samples.iter().map(|sample| sample.took).collect();
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

/// Over the client's outbound port, and over mesh TLS into the server's inbound port.
fn doors(bench: &Bench) -> [(&'static str, Stranger); 2] {
    [("outbound", Stranger::Plain(plain(bench))), ("inbound", bench.connect_mesh(b"lacewing/h1h2"))]
}

fn plain(bench: &Bench) -> TcpStream {
    let plain = TcpStream::connect(bench.solo.outbound()).expect("a connection");
    plain.set_nodelay(true).expect("a socket");
    plain.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    plain.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    plain
}

/// Sends `batch` until the other side closes; how it said goodbye, and after how long.
fn flood(stranger: Stranger, batch: &[u8], batches: usize) -> (Option<u32>, bool, Duration) {
    let mut connection = Http2::open(stranger, &[]);
    let started = Instant::now();
    let refused = (0..batches).any(|_| connection.send(batch).is_err());
    let (frames, closed) = connection.hear(Duration::from_secs(3));
    let goodbye = frames.iter().find(|frame| frame.kind == GOAWAY).map(|frame| frame.number(4));
    (goodbye, refused || closed, started.elapsed())
}

// --- Frames ------------------------------------------------------------------------------------------------------

#[test]
fn control_frames_without_progress_end_the_connection() {
    let bench = Bench::start();
    let frames = [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("PING answers", frame(PING, 1, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
        ("unknown", frame(0xbe, 0, 0, b"what?")),
    ];
    for (name, one) in frames {
        beside(&bench, name, 4 * 1024, || {
            for (door, stranger) in doors(&bench) {
                let (goodbye, closed, took) = flood(stranger, &one.repeat(1_000), 300);
                println!("{name} at {door}: {goodbye:?} after {took:.1?}");
                assert!(closed, "{name} at {door}: 300,000 frames were taken");
                // A TLS client whose own words are refused does not read ours.
                assert!(goodbye == Some(ENHANCE_YOUR_CALM) || door == "inbound", "{name} at {door}: {goodbye:?}");
                assert!(took < Duration::from_secs(2), "{name} at {door}: {took:?}");
            }
        });
    }
    for (pod, direction) in [("client", "outbound"), (SERVER, "inbound")] {
        assert!(
            metric(&bench, pod, &format!("proxy_errors_total{{direction=\"{direction}\",error=\"flood\"")) >= 6.0,
            "{pod}"
        );
        let log = bench.solo.log(pod);
        let lines = log.lines().count();
        assert!(log.contains("control frames") && lines < 100, "{pod} has written {lines} lines");
    }
}

#[test]
fn control_frames_of_an_honest_download_are_paid_for() {
    let bench = Bench::start();
    let _app = Giver::start(SocketAddr::new(bench.solo.ip(SERVER), HTTP2_PORT));
    let mut connection = Http2::open(Stranger::Plain(plain(&bench)), &[]);
    connection.send(&get_request(1, HTTP2_HOST, "/give/50000000")).expect("it is sent");
    let (mut got, mut updates, started) = (0, 0, Instant::now());
    while got < 50_000_000 {
        let (frames, closed) = connection.read_some();
        assert!(!closed, "closed after {got} bytes and {updates} updates");
        for data in frames.iter().filter(|frame| frame.kind == DATA && !frame.content.is_empty()) {
            got += data.content.len();
            updates += 2;
            let size = data.content.len() as u32;
            connection.send(&[window_update(0, size), window_update(1, size)].concat()).expect("it is sent");
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{got} bytes");
    }
    println!("50 MB with {updates} window updates in {:.1?}", started.elapsed());
    assert!(updates > 3_000, "{updates} updates prove nothing");
}

#[test]
fn rapid_reset_ends_the_connection_and_the_work_behind_it() {
    let bench = Bench::start();
    let app = Giver::start(SocketAddr::new(bench.solo.ip(SERVER), HTTP2_PORT));
    let until_then = Instant::now() + span(2, 60);
    beside(&bench, "rapid reset", 12 * 1024, || {
        let (mut connections, mut calmed) = (0, 0);
        while Instant::now() < until_then {
            let mut connection = Http2::open(Stranger::Plain(plain(&bench)), &[]);
            for stream in (1..4_000).step_by(2) {
                let request = [get_request(stream, HTTP2_HOST, "/hang"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])];
                if connection.send(&request.concat()).is_err() {
                    break;
                }
            }
            connections += 1;
            let (frames, _) = connection.hear(Duration::from_millis(500));
            calmed += usize::from(frames.iter().any(|f| f.kind == GOAWAY && f.number(4) == ENHANCE_YOUR_CALM));
        }
        println!(
            "rapid reset: {calmed} of {connections} connections were ended with GOAWAY; {} requests reached the app",
            app.seen()
        );
        assert_eq!(calmed, connections);
    });
    until("nothing is left of it", Duration::from_secs(3), || (app.under_way() == 0).then_some(()));

    // The same in moderation: a reset takes the app's work with it.
    let mut connection = Http2::open(Stranger::Plain(plain(&bench)), &[]);
    for stream in (1..40).step_by(2) {
        connection.send(&get_request(stream, HTTP2_HOST, "/hang")).expect("it is sent");
    }
    until("the app works on them", Duration::from_secs(3), || (app.under_way() == 20).then_some(()));
    for stream in (1..40).step_by(2) {
        connection.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).expect("it is sent");
    }
    until("the app was told", Duration::from_secs(3), || (app.under_way() == 0).then_some(()));
}

#[test]
fn floods_that_h2_stops_stay_stopped() {
    let bench = Bench::start();
    let head = |flags: u8| frame(HEADERS, flags, 1, &crate::wire::head(HOST, "/", &[]));
    for (name, first, more) in [
        ("CONTINUATION", head(0), frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(100))),
        ("empty CONTINUATION", head(0), frame(9, 0, 1, &[])),
        ("empty DATA", head(4), frame(DATA, 0, 1, &[])),
    ] {
        beside(&bench, name, 4 * 1024, || {
            for (door, stranger) in doors(&bench) {
                let mut connection = Http2::open(stranger, &[]);
                connection.send(&first).expect("it is sent");
                let refused = (0..300).any(|_| connection.send(&more.repeat(1_000)).is_err());
                let (frames, closed) = connection.hear(Duration::from_secs(3));
                let goodbye = frames.iter().find(|frame| frame.kind == GOAWAY).map(|frame| frame.number(4));
                println!("{name} at {door}: {goodbye:?}");
                assert!(refused || closed, "{name} at {door}");
            }
        });
    }
}

// --- Memory ------------------------------------------------------------------------------------------------------

/// Readers of large answers that take nothing: what one client can make the proxies hold.
#[test]
fn readers_that_take_nothing_pin_little() {
    let bench = Bench::start();
    let _app = Giver::start(SocketAddr::new(bench.solo.ip(SERVER), HTTP2_PORT));
    let large = |size: usize| {
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").into_bytes(), vec![b'x'; size]].concat()
    };
    for (path, size) in [("/large/100", 1 << 20), ("/large/1000", 256 << 10)] {
        bench.app.answer(path, Script { bytes: large(size), early: false, close: false });
    }
    // No window; one byte; and the usual one, with an open connection, but a socket that nobody reads.
    for (name, window, streams, at_most_mib) in [
        ("window 0", 0, 100, 24),
        ("window 1", 1, 100, 24),
        ("window 65,535", 65_535, 100, 48),
        ("window 0", 0, 1_000, 96),
        ("window 65,535", 65_535, 1_000, 384),
    ] {
        // The app begins with a thread for each of them, on the same cores.
        let most = GOOD_P99 + Duration::from_millis(3) * streams;
        beside_within(most, &bench, &format!("{streams} streams, {name}"), at_most_mib * 1024, || {
            let held: Vec<Http2> = doors(&bench)
                .into_iter()
                .map(|(door, stranger)| {
                    let mut connection = Http2::open(stranger, &[(4, window)]);
                    connection.send(&window_update(0, 0x7000_0000)).expect("it is sent");
                    let large = format!("/large/{streams}");
                    let (host, path) =
                        if door == "outbound" { (HTTP2_HOST, "/give/100000000") } else { (HOST, &*large) };
                    for stream in (0..streams).map(|n| n * 2 + 1) {
                        connection.send(&get_request(stream, host, path)).expect("it is sent");
                    }
                    connection
                })
                .collect();
            std::thread::sleep(Duration::from_secs(3));
            for pod in ["client", SERVER] {
                let pid = bench.solo.pid(pod);
                println!("  {pod}: {} KiB, {} descriptors", memory(pid), descriptors(pid));
            }
            held
        });
    }
}

#[test]
fn a_large_upload_is_never_held() {
    let bench = Bench::start();
    let size: usize = if span(0, 1).is_zero() { 200 << 20 } else { 2 << 30 };
    beside(&bench, "a large upload", 12 * 1024, || {
        let mut socket = plain(&bench);
        let started = Instant::now();
        write!(socket, "PUT /up HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {size}\r\n\r\n").expect("it is sent");
        let chunk = vec![b'u'; 1 << 20];
        let mut most = 0;
        for sent in 0..size >> 20 {
            socket.write_all(&chunk).expect("it is sent");
            if sent % 16 == 0 {
                most = most.max(memory(bench.solo.pid("client"))).max(memory(bench.solo.pid(SERVER)));
            }
        }
        let mut answer = [0; 1024];
        let n = socket.read(&mut answer).expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..n]));
        println!("{} MiB in {:.1?}; at most {most} KiB", size >> 20, started.elapsed());
    });
}

#[test]
fn heads_up_to_the_limit_are_served_and_no_more() {
    let bench = Bench::start();
    let lines = |fields: usize| {
        let more = "x: y\r\n".repeat(fields - 1);
        format!("GET /fields HTTP/1.1\r\nhost: {HOST}\r\n{more}\r\n")
    };
    let sized = |size: usize| {
        let rest = format!("GET /size HTTP/1.1\r\nhost: {HOST}\r\nx: \r\n\r\n").len();
        format!("GET /size HTTP/1.1\r\nhost: {HOST}\r\nx: {}\r\n\r\n", "x".repeat(size - rest))
    };
    let last = |text: String| text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    let ask = |text: String| raw(bench.solo.outbound(), last(text).as_bytes()).status;
    // One field more is the `connection` that ends it.
    for (fields, status) in [(126, 200), (127, 200), (128, 431)] {
        assert_eq!(ask(lines(fields)), status, "{fields} fields and one");
    }
    // On its way to the app's proxy a head is an HTTP/2 list, which counts 32 bytes more for each field (RFC 9113, 6.5.2).
    for (size, status) in [(65_000, 200), (65_537, 431), (200_000, 431)] {
        assert_eq!(ask(sized(size)), status, "{size} bytes and a field");
    }
    for (size, status) in [(65_535, "200"), (65_536, "200"), (65_537, "431")] {
        let heard = bench.exchange(Door::Inbound, last(sized(size - CLOSE)).as_bytes());
        let answer = String::from_utf8_lossy(&heard.bytes[..heard.bytes.len().min(64)]).into_owned();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{size} bytes: {answer}");
    }
    let _app = Giver::start(SocketAddr::new(bench.solo.ip(SERVER), HTTP2_PORT));
    let listed: usize =
        [(":method", "GET"), (":scheme", "http"), (":path", "/give/1"), (":authority", HTTP2_HOST), ("x", "")]
            .iter()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum();
    // h2 takes lists that are shorter than the limit.
    for (size, status) in [(65_534, b"200"), (65_535, b"200"), (65_536, b"431"), (100_000, b"431")] {
        let mut connection = Http2::open(Stranger::Plain(plain(&bench)), &[]);
        connection.send(&crate::wire::long_request(1, HTTP2_HOST, "/give/1", size - listed)).expect("it is sent");
        let (frames, _) = connection.hear(Duration::from_millis(500));
        let answer = frames.iter().find(|frame| frame.kind == HEADERS).unwrap_or_else(|| panic!("{size}: {frames:?}"));
        assert_eq!(crate::wire::status(&answer.content), *status, "{size} bytes listed");
    }
}

#[test]
fn names_and_paths_that_clients_make_up_cost_nothing() {
    let bench = Bench::start();
    let many = if span(0, 1).is_zero() { 3_000 } else { 100_000 };
    let pid = bench.solo.pid("client");
    let size = || get(bench.solo.admin("client"), "/metrics", &[]).body.len();
    let before = (size(), memory(pid));
    beside(&bench, "made-up names", 16 * 1024, || {
        let mut socket = plain(&bench);
        for n in 0..many {
            let host = if n % 2 == 0 { HOST.to_owned() } else { format!("made-up-{n}.it:8080") };
            let request = format!("GET /path/{n}?{n} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {n}\r\n\r\n");
            socket.write_all(request.as_bytes()).expect("it is sent");
            one_answer(&mut socket);
        }
    });
    let after = (size(), memory(pid));
    println!("{many} requests: /metrics {} → {} bytes, memory {} → {} KiB", before.0, after.0, before.1, after.1);
    assert!(after.0 < before.0 + 20_000 && after.0 < 200_000, "/metrics has {} bytes", after.0);
    let text = get(bench.solo.admin("client"), "/metrics", &[]).body;
    assert!(!text.contains("made-up") && !text.contains("/path/"), "{text}");
}

/// Reads one answer with a length.
fn one_answer(socket: &mut TcpStream) {
    let mut got = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = socket.read(&mut chunk).expect("an answer");
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&got);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if body.len() >= length.parse::<usize>().expect("a number") {
            return;
        }
    }
}

// --- Retries, connections ----------------------------------------------------------------------------------------

/// An app that fails everything gets what clients send, and a fifth more, and the floor: no storm.
#[test]
fn failing_apps_are_not_stormed() {
    const RPS: u32 = 200;
    let bench = Bench::start();
    let broken = |bytes: &[u8]| Script { bytes: bytes.to_vec(), early: false, close: true };
    bench
        .app
        .answer("/503", broken(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"));
    bench.app.answer("/broken", broken(b""));
    for path in ["/broken", "/503"] {
        bench.app.take();
        let (started, span) = (Instant::now(), span(3, 30));
        let load = Load::start(bench.solo.outbound(), HOST, path, RPS);
        std::thread::sleep(span);
        let sent = load.stop().samples.len();
        let reached = bench.app.take().len();
        let most = sent as f64 * 1.2 + started.elapsed().as_secs_f64() * 10.0 + 100.0; // what the budget had saved up
        println!("{path}: {sent} sent, {reached} reached the app");
        assert!((reached as f64) <= most, "{path}: {reached} of {sent}, at most {most}");
    }
}

/// A proxy with 256 descriptors and a thousand connections that say nothing.
#[test]
fn a_storm_of_connections_leaves_the_rest_alone() {
    let mut bench = Bench::start();
    bench.solo.kill("client");
    let mut few = Few::start(&bench, "client", 256);
    bench.solo.until_ready("the client's proxy", bench.solo.admin("client"));
    let before = Instant::now();
    let used = cpu(few.pid());
    let storm: Vec<TcpStream> = (0..1_000)
        .filter_map(|_| TcpStream::connect_timeout(&bench.solo.outbound(), Duration::from_secs(2)).ok())
        .collect();
    let (started, span) = (Instant::now(), span(3, 8));
    let mut slowest = Duration::ZERO;
    while started.elapsed() < span {
        let asked = Instant::now();
        assert_eq!(get(bench.solo.admin("client"), "/ready", &[]).status, 200, "/ready in the storm");
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    let share = cpu(few.pid()).saturating_sub(used).as_secs_f64() / before.elapsed().as_secs_f64();
    let open = descriptors(few.pid());
    println!(
        "{} connections: {open} descriptors, {:.0} % CPU, /ready within {slowest:.1?}",
        storm.len(),
        share * 100.0
    );
    assert!(storm.len() >= 900, "only {} connections", storm.len());
    assert!(open <= 256 - 32 && share < 0.2 && slowest < Duration::from_secs(1));
    // The control stream can be had anew, in the storm.
    bench.solo.kill("controller");
    bench.solo.start_controller();
    until("the control stream is back", Duration::from_secs(5), || {
        (metric(&bench, "client", "control_connected ") > 0.0).then_some(())
    });
    let over = Instant::now();
    drop(storm);
    until("requests are served", Duration::from_secs(2), || (bench.solo.get("/").status == 200).then_some(()));
    println!("served again after {:.1?}", over.elapsed());
    few.assert_alive();
}

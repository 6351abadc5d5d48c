//! Bad input: manifests, settings, ports, commands, requests and plain garbage. Each is refused with an error that says
//! what and where, nothing else suffers, and whoever behaves is served as before.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    time::{Duration, Instant},
};

use lacewing_tests::{
    demo::{Answer, Demo, get, mesh},
    load::Load,
    solo::{self, HOST, MAPPED_PORT, Solo},
    wait::until,
};
use serde_json::Value;

/// A first request, a first handshake, a first line must come within ten seconds; whoever sends none is cut off then.
const CUT_OFF: Duration = Duration::from_secs(13);
/// Limit of a request's head.
const HEAD_MAX: usize = 64 * 1024;

/// All that a process wrote.
fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

// --- Manifests ---------------------------------------------------------------------------------------------------

/// What the controller's `/errors` lists.
fn manifest_errors(solo: &Solo) -> Vec<Value> {
    let body = get(solo.controller_admin(), "/errors", &[("l6g-admin", "1")]).body;
    let all: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    all["errors"].as_array().expect("a list").clone()
}

/// Writes `text` as `file` and checks that exactly this is reported, here and in the log, at `line`, with `parts`.
#[track_caller]
fn refused(solo: &Solo, file: &str, text: &str, line: u64, parts: &[&str]) {
    solo.write_manifest(file, text);
    let what = format!("an error in {file}, line {line}, that says {parts:?}; there is {:?}", manifest_errors(solo));
    until(&what, Duration::from_secs(5), || {
        let here =
            |error: &Value| error["file"].as_str().is_some_and(|path| path.ends_with(file)) && error["line"] == line;
        let error = manifest_errors(solo).into_iter().find(here)?;
        let said = format!("{} {}", error["cause"].as_str()?, error["in_force"].as_str()?);
        parts.iter().all(|part| said.contains(part)).then_some(())
    });
    let log = solo.log("controller");
    let place = format!("{file}:{line}:");
    let logged = log.lines().any(|line| line.contains(&place) && parts.iter().all(|part| line.contains(part)));
    assert!(logged, "{place} with {parts:?} is missing in the log:\n{log}");
}

#[test]
fn wrong_manifests_change_nothing_and_are_named_by_file_and_line() {
    let solo = Solo::running(2);
    let good = fs::read_to_string(solo.dir.join("manifests/endpoints.yaml")).unwrap();
    let load = Load::start(solo.outbound(), HOST, "/", 50);
    until("both serve", Duration::from_secs(5), || (solo.endpoints().len() == 2).then_some(()));
    let lines = good.lines().count() as u64;

    refused(
        &solo,
        "endpoints.yaml",
        &format!("{good}- addresses: [127.0.0.1\n"),
        lines + 1,
        &["last good version of this file stays in force"],
    );
    refused(
        &solo,
        "endpoints.yaml",
        &good.replace("addressType", "adressType"),
        7,
        &["unknown field \"adressType\"; did you mean addressType?"],
    );
    let twice = "kind: Namespace\napiVersion: v1\nmetadata: {name: other}\n---\nkind: Pod\napiVersion: v1\nmetadata: {name: server-2, namespace: it}\n";
    refused(&solo, "more.yaml", twice, 4, &["server-2 is defined already", "server.yaml", "keep one of the two"]);
    assert_eq!(solo.endpoints(), ["server-1", "server-2"], "the last good state is in force");
    assert_eq!(manifest_errors(&solo).len(), 2);
    assert_eq!(get(solo.controller_admin(), "/ready", &[]).status, 200);

    // Mended: no errors, and what is written now counts.
    fs::remove_file(solo.dir.join("manifests/more.yaml")).unwrap();
    solo.write_slice(&["server-1"]);
    until("the good version is in force", Duration::from_secs(5), || (solo.endpoints() == ["server-2"]).then_some(()));
    assert_eq!(manifest_errors(&solo), Vec::<Value>::new());
    load.stop().assert_clean(20);
}

// --- Settings, ports, commands -----------------------------------------------------------------------------------

#[test]
fn bad_settings_are_named_all_at_once_and_a_taken_port_with_its_setting() {
    let mut solo = Solo::new(1);
    let bad = [
        ("LACEWING_INBOUND_ADDR", "nowhere"),
        ("LACEWING_PRIVATE_ADMIN_ADDR", "0.0.0.0:4192"),
        ("LACEWING_OUTBOUND_MAP", "7001"),
        ("LACEWING_TRUST_BUNDLE", "no PEM"),
        ("LACEWING_EXIT_WITH_PARENT", "perhaps"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let out = solo::run("proxy", &bad);
    assert_eq!(out.status.code(), Some(64), "{}", text(&out));
    says(&text(&out), &bad.each_ref().map(|(name, _)| *name));
    says(
        &text(&out),
        &["7 bad settings", "LACEWING_POD_NAME is not set", "LACEWING_POD_NAMESPACE is not set", "on loopback"],
    );

    let out = solo::run(
        "controller",
        &[("LACEWING_GRPC_ADDR", "8080"), ("LACEWING_LEAF_LIFETIME", "1s"), ("LACEWING_POD_NAM", "x")]
            .map(|(name, value)| (name, value.to_owned())),
    );
    says(&text(&out), &["did you mean LACEWING_POD_NAME?"]);
    assert_eq!(out.status.code(), Some(64), "{}", text(&out));
    says(
        &text(&out),
        &["3 bad settings", "LACEWING_POD_NAME", "LACEWING_MANIFESTS", "LACEWING_GRPC_ADDR", "LACEWING_LEAF_LIFETIME"],
    );

    let taken = TcpListener::bind(solo.controller_grpc()).unwrap();
    let with = |mut env: Vec<(&'static str, String)>, name| {
        env.push((name, "x".to_owned()));
        env
    };
    let out = solo::run("controller", &with(solo.controller_env(), "LACEWING_ADMIN_ADRR"));
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    says(&text(&out), &[&solo.controller_grpc().to_string(), "LACEWING_GRPC_ADDR", "ss -ltnp"]);
    says(&text(&out), &["\"LACEWING_ADMIN_ADRR\" is set", "did you mean LACEWING_ADMIN_ADDR?"]);
    drop(taken);

    solo.start_controller();
    let ports = [
        (solo.outbound(), "LACEWING_OUTBOUND_ADDR"),
        (solo.inbound("client"), "LACEWING_INBOUND_ADDR"),
        (solo.admin("client"), "LACEWING_ADMIN_ADDR"),
        (solo.private_admin("client"), "LACEWING_PRIVATE_ADMIN_ADDR"),
        (SocketAddr::new(solo.ip("client"), MAPPED_PORT), "LACEWING_OUTBOUND_MAP"),
    ];
    for (address, setting) in ports {
        let taken = TcpListener::bind(address).unwrap();
        // One of these is the init step's, with which a proxy may share its environment.
        let env = with(with(solo.proxy_env("client"), "LACEWING_SKIP_INBOUND_PORTS"), "LACEWING_TOKEN_FIEL");
        let out = solo::run("proxy", &env);
        assert_eq!(out.status.code(), Some(1), "{setting}: {}", text(&out));
        says(&text(&out), &[&address.to_string(), setting, "ss -ltnp", "did you mean LACEWING_TOKEN_FILE?"]);
        assert_eq!(text(&out).matches("nothing here reads it").count(), 1, "{}", text(&out));
        drop(taken);
    }
    solo.start_proxies();
    assert_eq!(solo.get("/").status, 200, "with the ports free again, all is well");
}

#[test]
fn a_version_without_a_cluster_says_why_there_is_no_other() {
    let out = Command::new(mesh()).env_clear().env("HOME", "/nowhere").arg("version").output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    says(&text(&out), &["Client version: ", "Server version: unavailable (there is no kubeconfig at /nowhere/"]);
}

#[test]
fn commands_that_cannot_work_say_why_and_harm_no_demo() {
    let demo = Demo::start(20);
    let refused = |args: &[&str], code: i32, parts: &[&str]| {
        let out = demo.mesh(args);
        assert_eq!(out.status.code(), Some(code), "mesh {args:?}: {}", text(&out));
        says(&String::from_utf8_lossy(&out.stderr), parts);
    };
    refused(
        &["demo", "--subnet", "127.3.1"],
        1,
        &["a demo is running already", &demo.pid().to_string(), "--dir DIR --subnet"],
    );
    refused(&["demo", "fault", "kill", "voting-9"], 1, &["no pod \"voting-9\"", "voting-1, voting-2, voting-3"]);
    refused(&["demo", "heal", "voting"], 1, &["no pod \"voting\"", "its pods are"]);
    refused(&["demo", "fault", "slow", "traffic-1"], 1, &["only sends requests"]);
    refused(&["stat", "deploy/nobody"], 7, &["nobody"]);

    // The same addresses from another directory.
    let other = demo.dir.with_extension("other");
    let ip = demo.ip("web-1").to_string();
    let subnet = ip.rsplit_once('.').unwrap().0;
    let out = Command::new(mesh()).args(["demo", "--subnet", subnet, "--dir"]).arg(&other).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    says(&text(&out), &["cannot listen on", subnet, "which the controller needs", "demo --subnet"]);
    assert!(!other.exists(), "it leaves nothing behind");

    // Here is an app that speaks HTTP/2: heads that are too long, in its frames.
    let vote = "http://voting.emojivoto:8080/api/vote?choice=kite";
    let sent_on = || demo.metric("traffic-1", "request_total", &["dst_service=\"voting\""]);
    assert_eq!(over_h2(demo.outbound("traffic-1"), vote, &"x".repeat(HEAD_MAX / 8)), Ok(200));
    assert!(sent_on() > 0.0);
    let before = sent_on();
    assert_eq!(over_h2(demo.outbound("traffic-1"), vote, &"x".repeat(HEAD_MAX + 1)), Ok(431));
    assert_eq!(sent_on().to_bits(), before.to_bits(), "the proxy answered that, not the app");

    until("traffic goes on", Duration::from_secs(10), || {
        demo.row("deploy", "web", "10s").filter(|row| row["rps"].as_f64() > Some(1.0))
    });
    let dir = demo.dir.clone();
    drop(demo);
    for args in
        [&["stat"][..], &["top", "--once"], &["identity"], &["demo", "status"], &["demo", "fault", "kill", "web-1"]]
    {
        let out = Command::new(mesh()).arg("--dir").arg(&dir).args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(5), "mesh {args:?}: {}", text(&out));
        let hint = format!("hint: start one with `mesh --dir {} demo`", dir.display());
        says(&text(&out), &["no demo is running", &dir.display().to_string(), &hint]);
    }
}

// --- Requests ----------------------------------------------------------------------------------------------------

/// Sends `bytes`, and no end of them if `open`; what came back until the other side closed, or `None` if it did not.
fn exchange(to: SocketAddr, bytes: &[u8], open: bool) -> Option<Answer> {
    let mut socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    socket.set_write_timeout(Some(CUT_OFF)).unwrap();
    // The other side may have had enough before all is written.
    let _ = socket.write_all(bytes);
    if !open {
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }
    let (started, mut all, mut chunk) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        let left = CUT_OFF.checked_sub(started.elapsed()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&chunk[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&all).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Status of a GET over HTTP/2 with prior knowledge, or the error.
fn over_h2(to: SocketAddr, url: &str, field: &str) -> Result<u16, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(to).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(socket);
        let handshake = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io);
        let (mut client, connection) = handshake.await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = http::Request::get(url).header("x-long", field);
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let answer = tokio::time::timeout(CUT_OFF, client.send_request(request))
            .await
            .map_err(|_| "no answer in time".to_owned())?;
        answer.map(|answer| answer.status().as_u16()).map_err(|error| format!("{error:?}"))
    })
}

#[test]
fn too_long_heads_and_broken_bodies_are_refused_and_smuggle_nothing() {
    let mut solo = Solo::running(1);
    let get_with =
        |field: &str| format!("GET /long HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\nx-long: {field}\r\n\r\n");
    let short = exchange(solo.outbound(), get_with(&"x".repeat(HEAD_MAX / 2)).as_bytes(), true).expect("an answer");
    assert_eq!(short.status, 200, "half of the limit is served: {}", short.head);
    let long = exchange(solo.outbound(), get_with(&"x".repeat(HEAD_MAX + 1)).as_bytes(), true).expect("an answer");
    assert_eq!(long.status, 431, "{}", long.head);
    solo.assert_alive();

    let second = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let chunked = format!("POST /first HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n");
    let cases = [
        ("a size that is no number", format!("{chunked}\r\nZZ\r\nabc\r\n0\r\n\r\n{second}")),
        ("a size beyond 64 bits", format!("{chunked}\r\nFFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n{second}")),
        ("a chunk longer than its size", format!("{chunked}\r\n3\r\nabcdef\r\n0\r\n\r\n{second}")),
        ("a negative size", format!("{chunked}\r\n-1\r\nabc\r\n0\r\n\r\n{second}")),
        ("two transfer codings", format!("{chunked}transfer-encoding: identity\r\n\r\n0\r\n\r\n{second}")),
        (
            "two lengths",
            format!(
                "POST /first HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabc{second}"
            ),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, bytes) in &cases {
        match exchange(solo.outbound(), bytes.as_bytes(), true) {
            None => wrong.push(format!("{what}: the connection stays open")),
            Some(answer) if !matches!(answer.status, 0 | 400) => {
                wrong.push(format!("{what}: {}, {}", answer.status, answer.body));
            }
            Some(_) => {}
        }
    }
    let seen = solo.apps[0].seen();
    assert!(!seen.iter().any(|line| line.contains("smuggled")), "the app saw {seen:?}");
    assert!(wrong.is_empty(), "neither 400 nor closed:\n{}", wrong.join("\n"));
    solo.assert_alive();
    assert_eq!(solo.get("/after").status, 200);
    assert!(solo.apps[0].seen().contains(&"GET /after HTTP/1.1".to_owned()), "what is seen is written down");
}

#[test]
fn a_length_beside_chunks_ends_the_connection() {
    let solo = Solo::running(1);
    // RFC 9112, 6.3: it might be an attempt to smuggle. Reject it, or drop the length and close after the answer.
    let second = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let request = format!(
        "POST /first HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{second}"
    );
    let answer = exchange(solo.outbound(), request.as_bytes(), true);
    let seen = solo.apps[0].seen();
    assert!(!seen.iter().any(|line| line.contains("smuggled")), "the app saw {seen:?}");
    assert!(answer.is_some(), "the connection stays open");
}

#[test]
fn clients_that_break_their_requests_take_no_endpoint_out() {
    let solo = Solo::running(2);
    assert_eq!(solo.get("/").status, 200);
    let broken =
        format!("POST /broken HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n");
    for _ in 0..30 {
        exchange(solo.outbound(), broken.as_bytes(), true);
    }
    let endpoints = solo.private("client", "/destinations")["backends"][0]["endpoints"].clone();
    let ejected: Vec<_> = endpoints.as_array().unwrap().iter().filter(|endpoint| endpoint["ejected"] == true).collect();
    assert!(ejected.is_empty(), "healthy endpoints pay for a bad client: {ejected:?}");
    let slow: Vec<_> =
        endpoints.as_array().unwrap().iter().filter(|e| e["latency_ewma_ms"].as_f64() > Some(500.0)).collect();
    assert!(slow.is_empty(), "its requests count as slow answers: {slow:?}");
}

// --- Garbage -----------------------------------------------------------------------------------------------------

/// Bytes that look like nothing; the same ones each time.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..4096).map(step).collect()
}

#[test]
fn garbage_on_every_port_is_cut_off_and_the_others_are_served() {
    let mut solo = Solo::running(2);
    let load = Load::start(solo.outbound(), HOST, "/", 50);
    let ports = [
        ("outbound", solo.outbound()),
        ("mapped", SocketAddr::new(solo.ip("client"), MAPPED_PORT)),
        ("inbound", solo.inbound("server-1")),
        ("admin", solo.admin("client")),
        ("private admin", solo.private_admin("client")),
        ("controller gRPC", solo.controller_grpc()),
        ("controller admin", solo.controller_admin()),
    ];
    let hello = [&[0x16, 3, 1, 0x10, 0, 1, 0, 0x0f, 0xfc, 3, 3][..], &noise(9)].concat();
    let payloads = [
        ("noise", noise(88_172_645_463_325_252)),
        ("zeroes", vec![0; 70_000]),
        ("a broken ClientHello", hello),
        ("a TLS alert", vec![0x15, 3, 3, 0, 2, 2, 40]),
        ("HTTP/2 and noise", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &noise(7)[..]].concat()),
        ("half a request line", b"GET / HT".to_vec()),
        ("a line without end", vec![b'a'; 300_000]),
        ("a head without end", [b"GET / HTTP/1.1\r\n", &b"a: b\r\n".repeat(2)[..]].concat()),
    ];
    let senders: Vec<_> = ports
        .iter()
        .flat_map(|port| {
            payloads.iter().flat_map(move |payload| [true, false].map(|open| (*port, payload.clone(), open)))
        })
        // Raw TCP that stays open is the app's to end, not the proxy's.
        .filter(|((port, _), _, open)| !(*open && *port == "mapped"))
        .map(|((port, address), (what, bytes), open)| {
            std::thread::spawn(move || {
                let answer = exchange(address, &bytes, open);
                let how = if open { "left open" } else { "ended" };
                match answer {
                    None => Some(format!("{port}, {what}, {how}: not cut off within {CUT_OFF:?}")),
                    // An answer in plain HTTP is an error; in TLS or HTTP/2 it does not parse.
                    Some(answer) if (200..400).contains(&answer.status) => {
                        Some(format!("{port}, {what}, {how}: {}", answer.head))
                    }
                    Some(_) => None,
                }
            })
        })
        .collect();
    let wrong: Vec<String> =
        senders.into_iter().filter_map(|sender| sender.join().expect("no sender panics")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    solo.assert_alive();
    solo.pods().iter().for_each(|pod| assert_eq!(get(solo.admin(pod), "/ready", &[]).status, 200, "{pod}"));
    assert_eq!(solo.private("client", "/destinations")["control_stream"], "up");
    load.stop().assert_clean(100);
}

/// A proxy that is asked for itself would call itself until its connections are used up.
#[test]
fn a_request_for_a_proxy_itself_does_not_go_round() {
    let solo = Solo::running(1);
    let files = |pod: &str| std::fs::read_dir(format!("/proc/{}/fd", solo.pid(pod))).expect("a process").count();
    for (pod, port) in [("client", 4140), ("client", 4143), ("server-1", 4140)] {
        let (before, host) = (files(pod), format!("{}:{port}", solo.ip(pod)));
        let answer = get(solo.outbound(), "/", &[("host", &host)]);
        assert!([403, 502, 503].contains(&answer.status), "{host}: {} {}", answer.status, answer.body);
        assert!(files(pod) < before + 20, "{host}: {before} files before, {} now", files(pod));
    }
    assert_eq!(solo.get("/").status, 200);
}

#[test]
fn the_private_port_wants_its_header() {
    let solo = Solo::running(1);
    for path in ["/stats", "/identity", "/destinations", "/config", "/nothing"] {
        let answer = get(solo.private_admin("client"), path, &[]);
        assert_eq!(answer.status, 403, "{path}: {}", answer.head);
        says(&answer.body, &["l6g-admin: 1"]);
        let answer = get(solo.admin("client"), path, &[("l6g-admin", "1")]);
        assert_eq!(answer.status, 404, "the public port does not have {path}");
    }
    assert_eq!(get(solo.private_admin("client"), "/config", &[("l6g-admin", "1")]).status, 200);
}

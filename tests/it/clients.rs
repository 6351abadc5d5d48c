//! Clients that other people wrote, through a proxy of the demo: curl, h2load, Python's grpcio, and raw TCP. Each answer
//! must be the one that the app gives without the mesh. A missing client fails the test.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use lacewing_tests::{
    demo::{Demo, get},
    pod::{Pod, large},
    wait::until,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);
/// Of one read or write on a raw connection.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of the large TCP conversation.
const TCP_LARGE: usize = 10 * 1024 * 1024;

#[test]
fn http_clients_get_the_answers_of_the_app() {
    let demo = Demo::start(10);
    let files = Pod::start(&demo, "files", 210, &[]);
    curl_http1(&demo);
    curl_bodies(&demo, &files);
    curl_http2(&demo);
    h2load(&demo, &[]);
    h2load(&demo, &["--h1"]);
    curl_http2_head(&demo);
}

#[test]
fn grpc_and_tcp_clients_get_the_answers_of_the_app() {
    let demo = Demo::start(10);
    grpc(&demo);
    tcp_half_close(&demo);
    tcp_large(&demo);
    tcp_many(&demo);
}

/// What curl saw of an answer, without what concerns one hop or one moment.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status_line: String,
    fields: Vec<String>,
    body: String,
}

/// Runs curl; it must succeed.
fn curl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("curl");
    // A machine's own settings must not decide where the request goes.
    for name in ["http_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"] {
        command.env_remove(name);
    }
    command.args(["--disable", "--silent", "--show-error", "--max-time", "20"]).args(args);
    let output = run(command, input);
    assert!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs a client to its end. A missing one fails the test with what to do.
fn run(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("{}: {error}; `tests/run it` installs the clients that it needs", command.get_program().display())
    });
    let mut stdin = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input)); // it may answer before it has read all
        child.wait_with_output().expect("the client ends")
    })
}

fn seen(args: &[&str], input: &[u8]) -> Seen {
    let output = curl(&[&["--include"], args].concat(), input);
    let text = String::from_utf8(output).expect("text");
    let (head, body) = text
        .strip_prefix("HTTP/1.1 100 Continue\r\n\r\n")
        .unwrap_or(&text)
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {text:?}"));
    let mut lines = head.lines();
    let status_line = lines.next().expect("a status line").trim_end().to_owned();
    let of_one_hop = ["date:", "connection:", "keep-alive:"];
    let mut fields: Vec<String> = lines
        .map(str::to_ascii_lowercase)
        .filter(|line| !of_one_hop.iter().any(|name| line.starts_with(name)))
        .collect();
    fields.sort();
    Seen { status_line, fields, body: body.to_owned() }
}

/// Votes are counted, so the answers to two equal votes differ in a number.
fn without_numbers(mut seen: Seen) -> Seen {
    seen.body.retain(|c| !c.is_ascii_digit());
    seen.fields.retain(|field| !field.starts_with("content-length:"));
    seen
}

/// (authority, path, further arguments, status line, part of the body)
type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, &'a str);

fn curl_http1(demo: &Demo) {
    let proxy = format!("http://{}", demo.outbound("traffic-1"));
    let cases: &[Case] = &[
        ("web", "/nothing", &[], "HTTP/1.1 404 Not Found", "there is / and /vote/NAME"),
        ("web", "/vote/doughnut", &[], "HTTP/1.1 500 Internal Server Error", "the doughnut counter is broken"),
        ("web", "/vote/avocado", &[], "HTTP/1.1 200 OK", "avocado counted"),
        ("web", "/nothing", &["--head"], "HTTP/1.1 404 Not Found", ""),
        ("web", "/vote/UPPER?a=b%20c", &[], "HTTP/1.1 404 Not Found", "lower-case"),
        ("web", "/vote/doughnut", &["--request", "POST"], "HTTP/1.1 500 Internal Server Error", "doughnut"),
        ("web", "/nothing", &["--http1.0"], "HTTP/1.0 404 Not Found", "there is / and"),
        ("voting", "/", &["--request", "DELETE"], "HTTP/1.1 404 Not Found", "vote at"),
        ("voting", "/api/vote?choice=%F0%9F%8D%A9", &[], "HTTP/1.1 400 Bad Request", "must name an emoji"),
        ("voting", "/api/vote?choice=taco", &["--http1.0"], "HTTP/1.0 200 OK", "taco counted"),
    ];
    for (service, path, further, status, part) in cases {
        let url = format!("http://{service}.emojivoto:8080{path}");
        let direct = format!("::{}:8080", demo.ip(&format!("{service}-1")));
        let meshed = seen(&[further, &["--proxy", &proxy, &url][..]].concat(), b"");
        let without = seen(&[further, &["--noproxy", "*", "--connect-to", &direct, &url][..]].concat(), b"");
        assert_eq!(meshed.status_line, *status, "{url} {further:?}: {meshed:?}");
        assert!(meshed.body.contains(part), "{url} {further:?}: {meshed:?}");
        assert_eq!(without_numbers(meshed), without_numbers(without), "{url} {further:?}");
    }
}

/// Requests with a body, to an app that reads it before it answers: the demo's own do not, and may cut the client off.
fn curl_bodies(demo: &Demo, files: &Pod) {
    let proxy = format!("http://{}", demo.outbound("web-1"));
    let direct = format!("::{}", files.app_address());
    let large = large();
    let url = |path: &str| format!("http://{}{path}", files.authority());
    for further in [&["--data", "a=b"][..], &["--data-binary", "@-", "--http1.0"], &["--upload-file", "-"]] {
        let through = |way: &[&str]| seen(&[way, further, &[&url("/echo")]].concat(), b"some words");
        let meshed = through(&["--proxy", &proxy]);
        assert!(meshed.status_line.ends_with("200 OK") && matches!(&*meshed.body, "a=b" | "some words"), "{meshed:?}");
        assert_eq!(meshed, through(&["--noproxy", "*", "--connect-to", &direct]), "{further:?}");
    }
    for way in [["--proxy", proxy.as_str()], ["--connect-to", direct.as_str()]] {
        let whole = curl(&[&way[..], &[&url("/large")]].concat(), b"");
        assert!(whole == large, "{way:?}: {} of {} bytes, or others", whole.len(), large.len());
        for upload in [&["--data-binary", "@-"][..], &["--upload-file", "-", "--request", "POST"]] {
            let echoed = curl(&[&way[..], upload, &[&url("/echo")]].concat(), &large);
            assert!(echoed == large, "{way:?} {upload:?}: {} of {} bytes, or others", echoed.len(), large.len());
        }
    }
    let kept = curl(&["--proxy", &proxy, &url("/echo"), &url("/large"), "--data", "abc"], b"");
    assert!(kept == [b"abc", &large[..]].concat(), "two requests on one connection: {} bytes", kept.len());
}

fn curl_http2(demo: &Demo) {
    let proxy = format!("::{}", demo.outbound("traffic-1"));
    let direct = format!("::{}:8080", demo.ip("voting-1"));
    let cases: &[Case] = &[
        ("voting", "/nothing", &[], "HTTP/2 404", "vote at"),
        ("voting", "/api/vote?choice=doughnut", &[], "HTTP/2 500", "the doughnut counter is broken"),
        ("voting", "/api/vote?choice=bee", &[], "HTTP/2 200", "bee counted"),
        ("voting", "/api/vote?choice=bee", &["--request", "POST"], "HTTP/2 200", "bee counted"),
    ];
    for (service, path, further, status, part) in cases {
        let url = format!("http://{service}.emojivoto:8080{path}");
        let through = |way: &str| {
            let args = ["--noproxy", "*", "--http2-prior-knowledge", "--connect-to", way, &url];
            seen(&[further, &args[..]].concat(), b"")
        };
        let (meshed, without) = (through(&proxy), through(&direct));
        assert_eq!(meshed.status_line, *status, "{url} {further:?}: {meshed:?}");
        assert!(meshed.body.contains(part), "{url} {further:?}: {meshed:?}");
        assert_eq!(without_numbers(meshed), without_numbers(without), "{url} {further:?}");
    }
    // The authority may also come in a Host field: curl makes `:authority` of it.
    let url = format!("http://{}/nothing", demo.outbound("traffic-1"));
    let host = ["--noproxy", "*", "--http2-prior-knowledge", "--header", "host: voting.emojivoto:8080", &url];
    let named = seen(&host, b"");
    assert_eq!((named.status_line.as_str(), named.body.contains("vote at")), ("HTTP/2 404", true), "{named:?}");
}

/// HEAD over HTTP/2, where nothing but the server keeps the body from being sent: an answer of the proxy itself, and one
/// of the app.
fn curl_http2_head(demo: &Demo) {
    for (service, status) in [("nobody", "HTTP/2 502"), ("voting", "HTTP/2 400")] {
        let url = format!("http://{service}.emojivoto:8080/api/vote?choice=");
        let through = |way: String| {
            seen(&["--noproxy", "*", "--http2-prior-knowledge", "--head", "--connect-to", &way, &url], b"")
        };
        let meshed = through(format!("::{}", demo.outbound("traffic-1")));
        assert_eq!((meshed.status_line.as_str(), meshed.body.as_str()), (status, ""), "{url}: {meshed:?}");
        if service == "voting" {
            assert_eq!(meshed, through(format!("::{}:8080", demo.ip("voting-1"))), "{url}");
        }
    }
}

/// 2,000 requests over four connections, all of them answered well.
fn h2load(demo: &Demo, further: &[&str]) {
    let connect = format!("--connect-to={}", demo.outbound("traffic-1"));
    let mut command = Command::new("h2load");
    command.args(["-n", "2000", "-c", "4", "-m", "10", "--connection-active-timeout=60", &connect]).args(further);
    command.arg("http://voting.emojivoto:8080/api/vote?choice=otter");
    let output = run(command, b"");
    let report = String::from_utf8_lossy(&output.stdout);
    let all = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
    for part in [all, "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"] {
        assert!(report.contains(part), "h2load {further:?}: {part} is missing in\n{report}");
    }
}

fn grpc_calls(target: SocketAddr) -> Value {
    let python = std::env::var_os("LACEWING_TEST_PYTHON")
        .expect("LACEWING_TEST_PYTHON names no Python with grpcio: `tests/run it` makes one and sets it");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/clients/grpc_calls.py");
    let mut command = Command::new(python);
    command.arg(script).args([&target.to_string(), "emoji.emojivoto:8080"]);
    let output = run(command, b"");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "grpc_calls.py {target}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"))
}

fn grpc(demo: &Demo) {
    let meshed = grpc_calls(demo.outbound("traffic-1"));
    let without = grpc_calls(SocketAddr::new(demo.ip("emoji-1"), 8080));
    for (call, seen) in meshed.as_object().expect("calls by name") {
        assert_eq!(seen, &without[call], "{call}: with the mesh, and without");
    }
    // Equal is not enough: both could be wrong in the same way.
    let expected = json!({
        "/unary/answer": { "1": "rocket", "2": "🚀" }, "/unary/code": "OK",
        "/unary_error/answer": null, "/unary_error/code": "NOT_FOUND",
        "/unary_error/details": "no emoji is called \"no such 'emoji' – 50%\"",
        "/server_stream/answers/4": { "1": "cactus", "2": "🌵" }, "/server_stream/code": "OK",
        "/client_stream/answer": { "1": 1400, "2": 700 }, "/client_stream_empty/answer": {},
        "/client_stream_large/answer": { "1": 1, "2": 2 },
        "/both_streams/answers/3/1": "kite", "/both_streams_error/answers/0/1": "crab",
        "/both_streams_error/code": "NOT_FOUND",
        "/many_at_once/count": 5000, "/many_at_once/kinds": ["otter"], "/many_at_once/code": "OK",
        "/deadline/code": "DEADLINE_EXCEEDED", "/deadline/first/1": "kite", "/cancelled/code": "CANCELLED",
        "/after_all_that/answer/1": "doughnut",
    });
    for (path, value) in expected.as_object().expect("values by path") {
        assert_eq!(meshed.pointer(path), Some(value), "{path} of {meshed:#}");
    }
    assert_eq!(meshed["server_stream_all"]["answers"].as_array().map(Vec::len), Some(16));
    // Streams that the client gave up are given up by the proxy, too.
    until("no request to emoji is under way", PATIENCE, || {
        let all = demo.private("traffic-1", "/destinations");
        let emoji = all["backends"].as_array()?.iter().find(|b| b["backend"] == "emojivoto/emoji:8080")?.clone();
        emoji["endpoints"].as_array()?.iter().all(|endpoint| endpoint["in_flight"] == 0).then_some(())
    });
}

/// The demo's entry to echo through the mesh, and echo itself.
fn echo_addresses(demo: &Demo) -> [SocketAddr; 2] {
    [SocketAddr::new(demo.ip("traffic-1"), 7001), SocketAddr::new(demo.ip("echo-1"), 7000)]
}

fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    socket.set_read_timeout(Some(SOCKET_TIMEOUT)).expect("a timeout");
    socket.set_write_timeout(Some(SOCKET_TIMEOUT)).expect("a timeout");
    socket
}

/// Says `words`, closes its own side, and hears everything until the other side closes.
fn say_and_listen(to: SocketAddr, words: &[u8]) -> Vec<u8> {
    let socket = connect(to);
    let mut heard = Vec::with_capacity(words.len());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&socket).write_all(words).expect("said");
            socket.shutdown(Shutdown::Write).expect("half-closed");
        });
        (&socket).read_to_end(&mut heard).expect("heard to the end");
    });
    heard
}

fn tcp_half_close(demo: &Demo) {
    for to in echo_addresses(demo) {
        // Echo closes only when its client has nothing more to say: the end comes back, so it got there.
        assert_eq!(say_and_listen(to, b"over and out\n"), b"over and out\n", "{to}");
        assert_eq!(say_and_listen(to, b""), b"", "{to}: nothing said, only closed");
        let mut socket = connect(to);
        for word in ["first", "second"] {
            socket.write_all(word.as_bytes()).expect("said");
            let mut heard = vec![0; word.len()];
            socket.read_exact(&mut heard).expect("heard while open");
            assert_eq!(heard, word.as_bytes(), "{to}");
        }
    }
}

fn tcp_large(demo: &Demo) {
    let words: Vec<u8> = large().into_iter().cycle().take(TCP_LARGE).collect();
    for to in echo_addresses(demo) {
        let heard = say_and_listen(to, &words);
        assert!(heard == words, "{to}: {} of {} bytes, or others", heard.len(), words.len());
    }
    let counted = |name: &str| demo.metric("traffic-1", name, &["direction=\"outbound\"", "dst_service=\"echo\""]);
    for name in ["tcp_write_bytes_total", "tcp_read_bytes_total"] {
        until("both directions are counted", PATIENCE, || (counted(name) >= TCP_LARGE as f64).then_some(()));
    }
}

fn tcp_many(demo: &Demo) {
    let [meshed, _] = echo_addresses(demo);
    let opened = || demo.metric("traffic-1", "tcp_open_total", &["dst_service=\"echo\""]);
    let before = opened();
    std::thread::scope(|scope| {
        for number in 0..16_u8 {
            scope.spawn(move || {
                let words = vec![number; 200_000 + usize::from(number)];
                assert!(say_and_listen(meshed, &words) == words, "conversation {number}");
            });
        }
    });
    until("every conversation had its own connection", PATIENCE, || (opened() >= before + 16.0).then_some(()));
    let answer = get(demo.outbound("traffic-1"), "/nothing", &[("host", "web.emojivoto:8080")]);
    assert_eq!(answer.status, 404, "HTTP works beside all that: {}", answer.body);
}

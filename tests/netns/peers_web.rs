//! nginx and HAProxy, with curl, wrk and h2load: every version of HTTP that they speak, uploads, TLS of the apps' own,
//! and a front that is meshed itself and reaches its backends through the mesh, with and without the PROXY protocol.
#![allow(clippy::print_stdout, reason = "figures")]

use std::fs;

use lacewing_tests::net::{
    Host, PodSpec, Process,
    daemons::{certificate, client, haproxy, nginx, talk, talk_text},
};

use crate::peers::{Site, Way};

/// nginx's ports.
const HTTP: u16 = 8080;
const H2C: u16 = 8081;
/// TLS of its own, with HTTP/2 for those who want it.
const TLS: u16 = 8443;
/// HTTP/1 after the PROXY protocol's line.
const PROXIED: u16 = 8082;
const LARGE: usize = 2 << 20;

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| (at * 31 % 251) as u8).collect()
}

fn start_nginx(host: &Host) -> Vec<Process> {
    let folder = host.dir.display();
    let [certificate, key] = certificate(host, "web").map(|path| path.display().to_string());
    fs::write(host.dir.join("large"), large()).unwrap();
    let locations = format!(
        "root {folder}; location /up/ {{ dav_methods PUT DELETE; create_full_put_path on; client_max_body_size 64m; }}\n\
         location = /words {{ return 200 \"$server_protocol $scheme $request_method $http_x_words\"; }}\n\
         location = /nothing {{ return 204; }} location = /moved {{ return 302 /words; }}\n\
         location = /from {{ return 200 \"$remote_addr $proxy_protocol_addr $server_protocol\"; }}\n"
    );
    let listens = [
        format!("listen [::]:{HTTP} ipv6only=off;"),
        format!("listen [::]:{H2C} ipv6only=off http2;"),
        format!("listen [::]:{TLS} ipv6only=off ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};"),
        format!("listen [::]:{PROXIED} ipv6only=off proxy_protocol;"),
    ];
    let servers = listens.map(|listen| format!("server {{ {listen}\n{locations} }}\n")).concat();
    vec![nginx(host, &servers, HTTP)]
}

fn site() -> Site {
    Site::new(&[HTTP, H2C, TLS, PROXIED].map(|port| (port, port)), start_nginx)
}

fn curl(way: &Way<'_>, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = client(way.host(), "curl");
    command.args(["--disable", "--silent", "--show-error", "--max-time", "30"]).args(args);
    talk(command, input)
}

/// The status and the body.
fn words(way: &Way<'_>, args: &[&str]) -> String {
    String::from_utf8(curl(way, &[&["--write-out", " %{http_code}"], args].concat(), b"")).expect("text")
}

#[test]
fn curl_in_every_version_with_nginx() {
    let site = site();
    // Without the mesh, too: what is expected is what nginx does.
    for way in [site.direct()].into_iter().chain(site.ways()) {
        let http = format!("http://{}:{HTTP}", way.service);
        let h2c = format!("http://{}:{H2C}", way.service);
        let cases: &[(&[&str], &str, &str, &str)] = &[
            (&["--http1.1"], &http, "/words", "HTTP/1.1 http GET  200"),
            (&["--http1.0"], &http, "/words", "HTTP/1.0 http GET  200"),
            (&["--http2"], &http, "/words", "HTTP/1.1 http GET  200"),
            (&["--http2-prior-knowledge"], &h2c, "/words", "HTTP/2.0 http GET  200"),
            (&["--http1.1", "--data", "a=b"], &http, "/words", "HTTP/1.1 http POST  200"),
            (&["--header", "x-words: ä b"], &http, "/words", "HTTP/1.1 http GET ä b 200"),
            (&["--location"], &http, "/moved", "HTTP/1.1 http GET  200"),
            (&["--http2-prior-knowledge", "--output", "/dev/null"], &h2c, "/moved", " 302"),
            (&[], &http, "/nothing", " 204"),
            (&["--head", "--output", "/dev/null"], &http, "/large", " 200"),
            (&["--http2-prior-knowledge", "--head", "--output", "/dev/null"], &h2c, "/large", " 200"),
        ];
        way.carries_http(cases.len() as u32, || {
            for (args, base, path, expected) in cases {
                let url = format!("{base}{path}");
                let seen = words(&way, &[args, &[url.as_str()][..]].concat());
                // What HTTP/1.0 becomes on its way through two proxies is theirs to say.
                let expected =
                    if seen.starts_with("HTTP/1.1") { expected.replace("/1.0", "/1.1") } else { (*expected).into() };
                assert_eq!(seen, expected, "{}: curl {args:?} {url}", way.name);
            }
            transfers(&way, &http, &[]);
            transfers(&way, &h2c, &["--http2-prior-knowledge"]);
        });
        own_tls(&way);
    }
}

/// Down and up: with a length and without, and by a client that asks whether it may.
fn transfers(way: &Way<'_>, base: &str, version: &[&str]) {
    let large = large();
    let same = |bytes: &[u8], what: &str| {
        assert!(bytes == large, "{}: {what} {base}: {} bytes, or others", way.name, bytes.len());
    };
    same(&curl(way, &[version, &[&format!("{base}/large")]].concat(), b""), "down");
    let part = curl(way, &[version, &["--range", "1000-1999", &format!("{base}/large")]].concat(), b"");
    assert!(part == large[1000..2000], "{}: a range of {base}", way.name);
    let file = way.host().dir.join("to-upload").display().to_string();
    fs::write(&file, &large).unwrap();
    let ways: [(&str, &[&str]); 4] = [
        ("known-length", &["-T", &file]),
        ("chunked", &["-T", "-"]),
        ("asked", &["-T", &file, "--header", "expect: 100-continue", "--expect100-timeout", "20"]),
        ("unasked", &["-T", &file, "--header", "expect:"]),
    ];
    for (name, args) in ways {
        let url = format!("{base}/up/{}-{name}", way.name.replace(' ', "-"));
        let status = curl(way, &[version, &["--write-out", "%{http_code}"], args, &[&url]].concat(), &large);
        assert!(matches!(&*status, b"201" | b"204"), "{}: {url}: {:?}", way.name, String::from_utf8_lossy(&status));
        same(&curl(way, &[version, &[&url]].concat(), b""), name);
        curl(way, &[version, &["--request", "DELETE", &url]].concat(), b"");
    }
}

/// The app's own certificate is what the client sees: the mesh does not look inside.
fn own_tls(way: &Way<'_>) {
    let authority = way.to.host.dir.join("web.crt").display().to_string();
    let to = format!("web:{TLS}:{}:{TLS}", way.service);
    for (version, expected) in [("--http1.1", "HTTP/1.1 https GET  200"), ("--http2", "HTTP/2.0 https GET  200")] {
        let url = |path: &str| format!("https://web:{TLS}{path}");
        let args = [version, "--cacert", &authority, "--connect-to", &to];
        way.carries_tcp(2, || {
            assert_eq!(words(way, &[&args[..], &[&url("/words")]].concat()), expected, "{}: {version}", way.name);
            assert!(curl(way, &[&args[..], &[&url("/large")]].concat(), b"") == large(), "{}: {version}", way.name);
        });
    }
}

#[test]
fn wrk_and_h2load_without_an_error() {
    let site = site();
    for way in site.ways() {
        let http = format!("http://{}:{HTTP}/words", way.service);
        let mut wrk = client(way.host(), "wrk");
        wrk.args(["--threads", "1", "--connections", "16", "--duration", "2s", "--latency", &http]);
        let report = way.carries_http(500, || talk_text(wrk, ""));
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{}: {report}", way.name);
        let figure =
            |name: &str| report.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default().trim();
        println!("wrk, {}: {}; {}", way.name, figure("Requests/sec"), figure("99%"));
        for (kind, further, port) in [("h2c", &["-m", "10"][..], H2C), ("HTTP/1", &["--h1"], HTTP)] {
            let url = format!("http://{}:{port}/words", way.service);
            let mut h2load = client(way.host(), "h2load");
            h2load.args(["-n", "4000", "-c", "8"]).args(further).arg(&url);
            let report = way.carries_http(4_000, || talk_text(h2load, ""));
            let all = "4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout";
            for part in [all, "status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx"] {
                assert!(report.contains(part), "{} {kind}: {part} is missing in\n{report}", way.name);
            }
            println!(
                "h2load {kind}, {}: {}",
                way.name,
                report.lines().find(|line| line.starts_with("finished")).unwrap()
            );
        }
    }
}

/// How HAProxy finds out whether nginx is well: the field is for HTTP/2, where nginx wants one.
const CHECK: &str = "option httpchk\n  http-check send meth GET uri /words ver HTTP/1.1 hdr host web";
/// HAProxy's own ports, each with another way to nginx.
const FRONTS: [(u16, &str, u16, &str, &str); 4] = [
    (9001, "http", HTTP, "", "HTTP/1.1 http GET  200"),
    (9002, "http", H2C, "proto h2", "HTTP/2.0 http GET  200"),
    (9003, "tcp", HTTP, "", "HTTP/1.1 http GET  200"),
    (9004, "tcp", PROXIED, "send-proxy", "HTTP/1.1 http GET  200"),
];

#[test]
fn haproxy_as_a_front_and_as_a_backend() {
    let site = site();
    let ports = FRONTS.iter().zip(["a", "b", "c", "d"]);
    let spec = PodSpec::new("front-1").service("front").held();
    let front = site.cluster.pod(ports.fold(spec, |spec, ((port, ..), name)| spec.port(name, *port, "")));
    let backend = site.cluster.name("peer");
    let section = |(port, mode, to, options, _): (u16, &str, u16, &str, &str)| {
        let health = if mode == "http" { CHECK } else { "" };
        let check = if to == PROXIED { "" } else { "check inter 200" };
        let server = format!("server web {backend}:{to} {options} {check}");
        format!("listen port-{port}\n  mode {mode}\n  bind :::{port} v4v6\n  {health}\n  {server}\n")
    };
    let sections = FRONTS.map(section).concat();
    let _haproxy = haproxy(&front.host, &sections, FRONTS[0].0);
    site.cluster.set_ready(&front, true);
    site.cluster.published();
    let service = site.cluster.name("front");
    let into_front = |from| Way { name: "to HAProxy", from, to: &front, service: service.clone() };
    let onward = Way { name: "HAProxy to nginx", from: &front, ..site.meshed() };
    // What is behind the PROXY protocol's line is not HTTP to anybody but nginx.
    onward.carries_tcp(1, || {
        for way in [into_front(&*site.client), into_front(&*site.plain_client)] {
            for (port, mode, to, options, expected) in FRONTS {
                let base = format!("http://{service}:{port}");
                let work = || {
                    assert_eq!(words(&way, &[&format!("{base}/words")]), expected, "{mode} {options}");
                    assert!(curl(&way, &[&format!("{base}/large")], b"") == large(), "{mode} {options}: {to}");
                    words(&way, &[&format!("{base}/from")])
                };
                let requests = if to == PROXIED { 0 } else { 3 };
                let seen = onward.carries_http(requests, || way.carries_http(3, work));
                let fields: Vec<&str> = seen.split(' ').collect();
                assert_eq!(!fields[1].is_empty(), to == PROXIED, "the PROXY protocol's address: {seen}");
            }
        }
    });
    let mut wrk = client(&site.client.host, "wrk");
    wrk.args(["--threads", "1", "--connections", "8", "--duration", "2s", &format!("http://{service}:9001/words")]);
    let report = talk_text(wrk, "");
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    println!("wrk through HAProxy and four proxies: {}", report.lines().rev().nth(1).unwrap_or_default());
}

//! Hostile clients over HTTP/1, through both doors: destinations and targets in disguise, fields that a client must not set
//! or take away, upgrades that nobody agreed to, and first bytes that come in pieces.

use std::{io::Write, time::Duration};

use crate::{
    app::Seen,
    bench::{Bench, DOORS, Door, HOST},
    rows::{BEHIND, Row, Verdict, get, post, row, run, served},
};

const POSTED: &str = "POST /post HTTP/1.1";

/// Hosts that are neither a name nor an address, or whose port is none.
#[rustfmt::skip]
const HOSTS: &[&str] = &[
    "", " ", ",", "server.it:8080,evil", "server.it:8080, evil", "u@server.it:8080", "u:p@server.it:8080",
    "server.it:8080/x", "server.it:8080?x", "server.it:8080#x", "server.it:65536", "server.it:99999999999",
    "server.it:0x50", "server.it:+8080", "server.it:-1", "server.it:8080:8080", "server.it: 8080", "server it:8080",
    "server.it\\:8080", "[::1", "::1]:80", "[::1]x:80", "[::g]:80", "http://server.it:8080", "//server.it:8080",
    "server.it:8080\u{0}", "serv\u{e4}r.it:8080", "server.it:8080\"", "<server.it>",
];

/// Paths, plain and in disguise.
#[rustfmt::skip]
const TARGETS: &[&str] = &[
    "/", "//", "//evil/x", "/..", "/../x", "/a/../b", "/a/./b", "/a//b", "/%2f", "/%2F..%2f", "/%2e%2e/", "/;a=b",
    "/a;b/c", "/?", "/a?b?c", "/a?b=/../c", "/a%00b", "/%zz", "/%", "/a#b", "/#", "/a?b#c", "/\"<>", "/{}",
    "/|\\^`", "/~", "/a:b@c", "/\u{e4}", "/a\\..\\b", "/http://evil/", "/*",
];

/// Targets that are no path.
#[rustfmt::skip]
const NO_PATHS: &[&str] = &[
    "*", "server.it:8080", "x", "?x", "x/y", "http:/x", "http:///x", "://x", "ftp://server.it:8080/x",
];

/// Whom a request is for.
fn hosts() -> Vec<Row> {
    let with = |what: String, line: &str, hosts: &[&str], verdict: Verdict| {
        let fields: Vec<String> = hosts.iter().map(|host| format!("host: {host}\r\n")).collect();
        let fields = fields.concat();
        row(what, format!("{line}\r\n{fields}\r\n"), verdict)
    };
    let line = "GET /get HTTP/1.1";
    let absolute = format!("GET http://{HOST}/get HTTP/1.1");
    let right = format!("host: {HOST}");
    let ok = || served(line, &[&right], &["host: evil"], b"");
    let mut rows = vec![
        with("no host".into(), line, &[], Verdict::Refused(400)),
        with("two hosts".into(), line, &[HOST, "evil"], Verdict::Refused(400)),
        with("two hosts, other first".into(), line, &["evil", HOST], Verdict::Refused(400)),
        with("the same host twice".into(), line, &[HOST, HOST], Verdict::Refused(400)),
        with("absolute, two hosts".into(), &absolute, &[HOST, HOST], Verdict::Refused(400)),
        with("absolute, no host".into(), &absolute, &[], Verdict::Refused(400)),
        with("absolute, the same host".into(), &absolute, &[HOST], ok()),
        with("absolute, another host".into(), &absolute, &["evil"], ok()),
        with(
            "absolute with a user".into(),
            &format!("GET http://u@{HOST}/get HTTP/1.1"),
            &[HOST],
            Verdict::Refused(400),
        ),
        with("absolute, bad host field".into(), &absolute, &["a b"], Verdict::Refused(400)),
        with("capitals".into(), line, &["SERVER.it:8080"], served(line, &["host: SERVER.it:8080"], &[], b"")),
        with("blanks around".into(), line, &[" \t server.it:8080 "], ok()),
    ];
    for host in HOSTS {
        rows.push(with(format!("host {host:?}"), line, &[host], Verdict::Refused(400)));
    }
    rows
}

/// Targets go on byte for byte, or not at all.
fn targets() -> Vec<Row> {
    let mut rows: Vec<Row> = TARGETS
        .iter()
        .map(|target| {
            row(format!("target {target:?}"), get(target, &[]), Verdict::SameOrRefused(target.as_bytes().to_vec()))
        })
        .collect();
    for target in NO_PATHS {
        rows.push(row(format!("target {target:?}"), get(target, &[]), Verdict::Refused(400)));
    }
    let query = format!("GET http://{HOST}?x HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    rows.push(row("absolute, a query and no path", query, served("GET /?x HTTP/1.1", &[], &[], b"")));
    let asterisk = "OPTIONS * HTTP/1.1";
    rows.push(row(asterisk, format!("{asterisk}\r\nhost: {HOST}\r\n\r\n"), served(asterisk, &[], &[], b"")));
    for target in
        [HOST, "127.0.0.1:22", "169.254.169.254:80", "server.it:4143", "server.it", "/x", "http://server.it:8080/"]
    {
        let connect = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
        rows.push(row(format!("CONNECT {target}"), connect, Verdict::Declined));
    }
    rows
}

#[test]
fn the_destination_is_named_once_and_well() {
    let bench = Bench::start();
    run(&bench, &DOORS, &hosts());
}

#[test]
fn targets_go_on_as_they_are_or_not_at_all() {
    let bench = Bench::start();
    run(&bench, &DOORS, &targets());
}

/// Fields that one side must not be able to set, or to take away.
fn fields() -> Vec<Row> {
    let line = "GET /get HTTP/1.1";
    let kept = [
        "authorization: secret",
        "cookie: a=b",
        "x-forwarded-for: 1.2.3.4",
        "x-forwarded-proto: https",
        "content-length: 3",
    ];
    let nominate = |names: &str| {
        let connection = format!("connection: {names}");
        post(&[&[&*connection, "x-own: 1"][..], &kept].concat(), "abc")
    };
    vec![
        row(
            "Connection names what others rely on",
            nominate(
                "x-own, authorization, cookie, x-forwarded-for, x-forwarded-proto, content-length, host, te, l6g-client-id",
            ),
            served(POSTED, &[&kept[..], &["host: server.it:8080"]].concat(), &["x-own", "connection"], b"abc"),
        ),
        row(
            "h2c is not offered on",
            get("/get", &["connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"]),
            served(line, &[], &["upgrade", "http2-settings", "connection"], b""),
        ),
        row(
            "what one hop needs",
            get("/get", &["keep-alive: timeout=9", "proxy-connection: keep-alive", "te: gzip"]),
            served(line, &[], &["keep-alive", "proxy-connection", "te"], b""),
        ),
        row("te: trailers", get("/get", &["te: trailers"]), served(line, &["te: trailers"], &[], b"")),
        row(
            "what says where a client is",
            get("/get", &["x-forwarded-for: 1.2.3.4", "forwarded: for=1.2.3.4", "x-real-ip: 1.2.3.4", "via: 1.1 x"]),
            served(
                line,
                &["x-forwarded-for: 1.2.3.4", "forwarded: for=1.2.3.4", "x-real-ip: 1.2.3.4", "via: 1.1 x"],
                &[],
                b"",
            ),
        ),
        row(
            "nothing is added",
            get("/get", &[]),
            served(
                line,
                &[],
                &[
                    "x-forwarded",
                    "forwarded",
                    "via",
                    "x-real-ip",
                    "x-request-id",
                    "connection",
                    "transfer-",
                    "content-",
                ],
                b"",
            ),
        ),
    ]
}

/// Trailers that are none.
fn trailers() -> Vec<Row> {
    vec![
        row(
            "reserved fields in trailers",
            post(
                &["transfer-encoding: chunked", "trailer: l6g-client-id, l6g-x, x-own", "te: trailers"],
                "3\r\nabc\r\n0\r\nl6g-client-id: spoof\r\nL6G-X: spoof\r\nx-own: kept\r\n\r\n",
            ),
            served(POSTED, &["x-own: kept"], &["l6g-client-id: spoof", "l6g-x"], b"abc"),
        ),
        row(
            "framing in trailers",
            post(
                &["transfer-encoding: chunked", "trailer: content-length, host, transfer-encoding, authorization"],
                "3\r\nabc\r\n0\r\ncontent-length: 9\r\nhost: evil\r\ntransfer-encoding: x\r\nauthorization: spoof\r\n\r\n",
            ),
            served(POSTED, &[], &["content-length", "host: evil", "transfer-encoding: x", "authorization"], b"abc"),
        ),
    ]
}

/// Fields of the mesh's own, in every dress.
fn reserved() -> Vec<Row> {
    let line = "GET /get HTTP/1.1";
    let mut rows = Vec::new();
    let truth = "l6g-client-id: spiffe://cluster.local/ns/it/sa/client";
    for name in ["l6g-client-id", "L6G-CLIENT-ID", "L6g-Client-Id", "l6G-cLIENT-iD"] {
        let spoof = format!("{name}: spiffe://cluster.local/ns/it/sa/admin");
        let bytes = get("/get", &[&spoof, &spoof, "l6g-error: x", "l6g-refused: 1"]);
        let without = ["l6g-client-id: spiffe://cluster.local/ns/it/sa/admin", "l6g-error", "l6g-refused"];
        rows.push(row(name, bytes, served(line, &[truth], &without, b"")));
    }
    // To an app that reads its fields CGI's way (PEP 3333 and PHP do), `_` is `-`.
    let look_alikes = ["l6g_client_id: spoof", "l6g-client_id: spoof", "L6G_x: spoof"];
    rows.push(row(
        "reserved fields with _",
        get("/get", &look_alikes),
        served(line, &[truth], &["l6g_", "l6g-client_id"], b""),
    ));
    rows
}

#[test]
fn clients_neither_set_nor_take_away_what_is_not_theirs() {
    let bench = Bench::start();
    run(&bench, &DOORS, &[fields(), trailers(), reserved()].concat());
}

/// Bytes behind an upgrade that the server did not agree to are requests, never a tunnel.
#[test]
fn there_is_no_tunnel_without_101() {
    let bench = Bench::start();
    for door in DOORS {
        let upgrade = get(
            "/ws",
            &[
                "connection: upgrade",
                "upgrade: websocket",
                "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
                "sec-websocket-version: 13",
            ],
        );
        let heard = bench.exchange(door, &[&upgrade[..], BEHIND.as_bytes()].concat());
        let seen = bench.seen(door);
        let lines: Vec<&str> = seen.iter().map(Seen::line).collect();
        assert!(heard.closed, "{door:?}: the connection stays open; the app saw {lines:?}");
        let mut expected = ["GET /ws HTTP/1.1", "GET /behind HTTP/1.1"].iter();
        assert!(lines.iter().all(|line| expected.any(|good| good == line)), "{door:?}: the app saw {lines:?}");
        assert!(seen.iter().all(|one| one.whole && one.body.is_empty()), "{door:?}: {seen:?}");
    }
}

/// What follows a request for a tunnel that the server declined is read as strictly as any other.
#[test]
fn nothing_hides_behind_a_declined_tunnel() {
    let bench = Bench::start();
    for door in DOORS {
        let upgrade = get("/ws", &["connection: upgrade", "upgrade: websocket"]);
        let two_framings = post(&["content-length: 5", "transfer-encoding: chunked"], "0\r\n\r\n");
        let heard = bench.exchange(door, &[&upgrade[..], &two_framings, BEHIND.as_bytes()].concat());
        let seen = bench.seen(door);
        let lines: Vec<&str> = seen.iter().map(Seen::line).collect();
        assert!(heard.closed && lines == ["GET /ws HTTP/1.1"], "{door:?}: {heard:?}; the app saw {lines:?}");
        assert!(heard.bytes.windows(12).any(|window| window == b"HTTP/1.1 400"), "{door:?}: {heard:?}");
    }
}

/// The first bytes come in two parts, cut anywhere; what they are is found all the same.
#[test]
fn requests_cut_anywhere_are_served() {
    let bench = Bench::start();
    let request = get("/cut", &["connection: close"]);
    for cut in 1..request.len() {
        let mut stranger = bench.connect(Door::Outbound);
        stranger.write_all(&request[..cut]).expect("the first part");
        // TCP_NODELAY sends it at once; the second part is a segment of its own, and often a read of its own.
        std::thread::yield_now();
        stranger.write_all(&request[cut..]).expect("the rest");
        let heard = stranger.hear(Duration::from_secs(5));
        assert!(heard.bytes.starts_with(b"HTTP/1.1 200") && heard.bytes.ends_with(b"/cut"), "cut at {cut}: {heard:?}");
    }
}

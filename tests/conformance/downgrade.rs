//! HTTP/2 in, HTTP/1 out: what a malicious peer in the mesh may put into HTTP/2 frames, and what then reaches an HTTP/1 app.
//! A row is refused, and the app sees not one byte of it; or the app sees one request whose every line was meant.

use crate::{
    app::Seen,
    bench::{Bench, Door, HOST},
    frames::{self, End, converse, data, headers},
};

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

const GET: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/get"), (b":authority", HOST.as_bytes())];
const POST: [(&[u8], &[u8]); 4] =
    [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/post"), (b":authority", HOST.as_bytes())];

/// Values that no field may have.
#[rustfmt::skip]
const VALUES: &[&[u8]] = &[
    b"a\r\nx-smuggled: 1", b"a\nx-smuggled: 1", b"a\rx-smuggled: 1", b"a\0b",
    b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n", b"a\x7f", b"a\x01",
];

/// Names that no field may have.
#[rustfmt::skip]
const NAMES: &[&[u8]] = &[
    b"", b"x\r\nx-smuggled", b"x\n", b"x\r", b"x\0", b"x: 1\r\nx-smuggled", b"x:", b":", b"x y", b" x", b"x ", b"X",
    b"xY", b"x\t", b"x\x7f", b"x\xe4", b"(x)", b"get / http/1.1\r\nx", b":smuggled", b":protocol", b":status",
];

/// No paths.
#[rustfmt::skip]
const PATHS: &[&[u8]] = &[
    b"", b"get", b"/ x", b"/ HTTP/1.1\r\nx-smuggled: 1\r\nx: ", b"/\r\n", b"/\nx", b"/\tx", b"/\0", b"/\x7f", b"*",
    b"http://evil/", b"?", b" /", b"/\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n",
];

/// No methods.
#[rustfmt::skip]
const METHODS: &[&[u8]] = &[
    b"", b"GET ", b"GET / HTTP/1.1\r\nx:", b"G ET", b"GET\r\n", b"GET\0", b"GET\t/x", b"G(T", b"G\xe4T",
];

/// No `host[:port]`.
#[rustfmt::skip]
const AUTHORITIES: &[&[u8]] = &[
    b"", b"a b", b"a\r\nx-smuggled: 1", b"a\n", b"a\0", b"u@server.it:8080", b"a/b", b"a?b", b"a#b",
    b"server.it:99999", b"server.it:x", b"a,b", b"server.it:+8080",
];

/// Methods whose requests may have a body.
#[rustfmt::skip]
const ALL_METHODS: &[&[u8]] = &[
    b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"HEAD",
];

/// Values with blanks around.
#[rustfmt::skip]
const PADDED: &[&[u8]] = &[
    b" a", b"a ", b"\ta", b"a\t", b" ", b"  a b  ",
];

/// The usual GET with these fields behind.
fn with<'a>(fields: &[(&'a [u8], &'a [u8])]) -> Fields<'a> {
    GET.iter().chain(fields).copied().collect()
}

/// The usual GET with another value for a pseudo-header field; `None` leaves it out.
fn changed<'a>(name: &[u8], value: Option<&'a [u8]>) -> Fields<'a> {
    GET.iter()
        .filter_map(
            |(found, usual)| if *found == name { value.map(|value| (*found, value)) } else { Some((*found, *usual)) },
        )
        .collect()
}

fn is_malformed<'a>() -> Vec<Fields<'a>> {
    let mut all: Vec<Fields<'a>> = Vec::new();
    for &value in VALUES {
        all.push(with(&[(b"x", value)]));
    }
    for &name in NAMES {
        all.push(with(&[(name, b"1")]));
    }
    for (name, value) in [
        (&b"transfer-encoding"[..], &b"chunked"[..]),
        (b"transfer-encoding", b"identity"),
        (b"connection", b"close"),
        (b"connection", b"x"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"1"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
        (b"te", b"chunked"),
        // No body follows.
        (b"content-length", b"3"),
        (b"content-length", b"x"),
        (b"content-length", b"-1"),
        (b"content-length", b"+0"),
        (b"content-length", b"0x0"),
        (b"content-length", b"99999999999999999999"),
        // Pseudo-header fields behind others, or twice.
        (b":path", b"/get"),
        (b":method", b"GET"),
        (b":authority", HOST.as_bytes()),
        (b":scheme", b"http"),
    ] {
        all.push(with(&[(b"x", b"1"), (name, value)]));
    }
    all.push(with(&[(b":path", b"/get")]));
    all.push(with(&[(b"content-length", b"0"), (b"content-length", b"1")]));
    for &path in PATHS {
        all.push(changed(b":path", Some(path)));
    }
    for method in METHODS {
        all.push(changed(b":method", Some(method)));
    }
    for &authority in AUTHORITIES {
        all.push(changed(b":authority", Some(authority)));
    }
    for name in [&b":path"[..], b":method", b":scheme", b":authority"] {
        all.push(changed(name, None));
    }
    for scheme in [&b""[..], b"http\r\n", b"ht tp", b"http://evil/?", b"ftp"] {
        all.push(changed(b":scheme", Some(scheme)));
    }
    all.push(with(&[(b"host", b"evil")]));
    all.push(with(&[(b"host", HOST.as_bytes()), (b"host", HOST.as_bytes())]));
    all.push(changed(b":method", Some(b"CONNECT")));
    all.push(vec![(b":method", b"CONNECT"), (b":authority", HOST.as_bytes())]);
    all.push(vec![(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:22")]);
    all
}

fn show(fields: &[(&[u8], &[u8])]) -> String {
    let shown: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect();
    shown.join("; ")
}

fn is_refused(end: &End) -> bool {
    matches!(end, End::Answer(400..=499) | End::Reset(_) | End::GoAway(_))
}

#[test]
fn malformed_requests_do_not_reach_the_app() {
    let bench = Bench::start();
    let rows = is_malformed();
    let mut wrong = Vec::new();
    for fields in &rows {
        let mut stranger = bench.connect_mesh(b"lacewing/h1h2");
        let end = converse(&mut stranger, &headers(1, fields, true), 1);
        let seen = bench.seen(Door::Inbound);
        if !is_refused(&end) || !seen.is_empty() {
            let heads: Vec<&str> = seen.iter().map(|one| &*one.head).collect();
            wrong.push(format!("{}: {end:?}, the app saw {heads:?}", show(fields)));
        }
    }
    assert!(wrong.is_empty(), "of {} rows these did not hold:\n{}", rows.len(), wrong.join("\n"));
}

/// Frames of one stream whose length and body disagree, or whose trailers are wrong: the app never has a whole request.
#[test]
fn bodies_that_disagree_with_their_length_are_never_whole() {
    let bench = Bench::start();
    let post = |length: &'static [u8]| headers(1, &[&POST[..], &[(b"content-length", length)]].concat(), false);
    let chunked = || headers(1, &POST, false);
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("less than announced", [post(b"9"), data(1, b"abc", true)].concat()),
        ("more than announced", [post(b"3"), data(1, b"abcGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n", true)].concat()),
        (
            "more in a second frame",
            [post(b"3"), data(1, b"abc", false), data(1, b"GET /smuggled HTTP/1.1\r\n\r\n", true)].concat(),
        ),
        ("none of what was announced", [post(b"3"), data(1, b"", true)].concat()),
        (
            "CRLF in trailers",
            [
                chunked(),
                data(1, b"abc", false),
                headers(1, &[(b"x", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")], true),
            ]
            .concat(),
        ),
        ("capitals in trailers", [chunked(), data(1, b"abc", false), headers(1, &[(b"X", b"a")], true)].concat()),
        (
            "trailers that do not end",
            [chunked(), data(1, b"abc", false), headers(1, &[(b"x", b"a")], false), data(1, b"d", true)].concat(),
        ),
        (
            "a coding in trailers",
            [chunked(), data(1, b"abc", false), headers(1, &[(b"transfer-encoding", b"chunked")], true)].concat(),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, bytes) in &rows {
        let mut stranger = bench.connect_mesh(b"lacewing/h1h2");
        let end = converse(&mut stranger, bytes, 1);
        drop(stranger);
        let seen = bench.seen(Door::Inbound);
        if !is_refused(&end) || seen.iter().any(|one| one.whole) || seen.len() > 1 {
            wrong.push(format!("{what}: {end:?}, the app saw {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "of {} rows these did not hold:\n{}", rows.len(), wrong.join("\n"));
}

/// What is well-formed arrives line by line as it was meant, and nothing else does.
#[test]
fn well_formed_requests_arrive_as_they_were_meant() {
    let bench = Bench::start();
    let truth = "l6g-client-id: spiffe://cluster.local/ns/it/sa/client";
    let host = "host: server.it:8080";
    let rows: [(Fields, Vec<&str>); 6] = [
        (with(&[(b"x", b"")]), vec!["x: ", host, truth]),
        (with(&[(b"x", b"\xe4: y;z")]), vec!["x: \u{e4}: y;z", host, truth]),
        (
            with(&[(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")]),
            vec!["cookie: a=1; b=2; c=3", host, truth],
        ),
        (with(&[(b"te", b"trailers")]), vec!["te: trailers", host, truth]),
        (with(&[(b"l6g-client-id", b"spoof"), (b"l6g-x", b"spoof")]), vec![host, truth]),
        (with(&[(b"host", HOST.as_bytes())]), vec![host, truth]),
    ];
    for (fields, expected) in &rows {
        let mut stranger = bench.connect_mesh(b"lacewing/h1h2");
        assert_eq!(converse(&mut stranger, &headers(1, fields, true), 1), End::Answer(200), "{}", show(fields));
        let seen = bench.seen(Door::Inbound);
        let [Seen { head, whole: true, .. }] = &seen[..] else { panic!("{}: the app saw {seen:?}", show(fields)) };
        let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
        assert_eq!(lines.remove(0), "GET /get HTTP/1.1");
        let mut expected = expected.clone();
        lines.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lines, expected, "{}", show(fields));
    }
}

/// Bodies of unknown length arrive whole, whatever the method.
#[test]
fn bodies_arrive_with_every_method() {
    let bench = Bench::start();
    for &method in ALL_METHODS {
        let bytes =
            [headers(1, &changed(b":method", Some(method)), false), data(1, b"abc", false), data(1, b"def", true)]
                .concat();
        assert_eq!(
            converse(&mut bench.connect_mesh(b"lacewing/h1h2"), &bytes, 1),
            End::Answer(200),
            "{}",
            method.escape_ascii()
        );
        let seen = bench.seen(Door::Inbound);
        assert!(
            matches!(&seen[..], [one] if one.whole && one.body == b"abcdef"),
            "{}: the app saw {seen:?}",
            method.escape_ascii()
        );
    }
}

/// A pseudo-header field in trailers is malformed (RFC 9113, 8.1); h2 drops it, and the app never sees it.
#[test]
fn pseudo_header_fields_in_trailers_are_gone_or_refused() {
    let bench = Bench::start();
    let bytes = [headers(1, &POST, false), data(1, b"abc", false), headers(1, &[(b":path", b"/x")], true)].concat();
    let end = converse(&mut bench.connect_mesh(b"lacewing/h1h2"), &bytes, 1);
    match &bench.seen(Door::Inbound)[..] {
        [] => assert!(is_refused(&end), "{end:?}"),
        [Seen { head, body, trailers, whole: true }] => {
            assert_eq!((head.split(' ').nth(1), &body[..], &trailers[..]), (Some("/post"), &b"abc"[..], ""));
        }
        more => panic!("the app saw {more:?}"),
    }
}

/// Blanks at the ends of a value are malformed (RFC 9113, 8.2.1); passed on they would be gone, which is as good.
#[test]
fn blanks_around_values_are_gone_or_refused() {
    let bench = Bench::start();
    for &value in PADDED {
        let mut stranger = bench.connect_mesh(b"lacewing/h1h2");
        let end = converse(&mut stranger, &headers(1, &with(&[(b"x", value), (b"content-length", b"0")]), true), 1);
        let seen = bench.seen(Door::Inbound);
        match &seen[..] {
            [] => assert!(is_refused(&end), "{end:?}"),
            [one] => {
                let text = String::from_utf8_lossy(value);
                assert!(one.fields("x") == [text.trim()] || one.fields("x") == [&*text], "{:?}", one.head);
            }
            more => panic!("the app saw {more:?}"),
        }
    }
}

/// The preface comes in two parts, cut anywhere; what it is, is found all the same.
#[test]
fn a_preface_cut_anywhere_is_served() {
    use std::io::Write as _;
    let bench = Bench::start();
    let opening = frames::opening();
    for cut in 1..frames::PREFACE.len() {
        let mut stranger = bench.connect(Door::Outbound);
        stranger.write_all(&opening[..cut]).expect("the first part");
        std::thread::yield_now();
        stranger.write_all(&opening[cut..]).expect("the rest");
        let heard = stranger.hear_until(std::time::Duration::from_secs(5), |bytes| bytes.len() >= 9);
        assert_eq!(heard.bytes.get(3), Some(&4), "cut at {cut}: no SETTINGS in {:?}", heard.bytes);
    }
}

//! Hostile clients over HTTP/1, through both doors: framing that two parsers could read differently, chunks that are none,
//! and heads that are none. What else a head may say is in `destinations.rs`.

use crate::{
    bench::{Bench, DOORS, HOST},
    rows::{Row, Verdict, get, post, row, run, served},
};

/// Chunk extensions of one message, in bytes, and its trailers; beyond, the request is refused.
const EXTENSIONS_MAX: usize = 1024;
const TRAILERS_MAX: usize = 8 * 1024;

const POSTED: &str = "POST /post HTTP/1.1";

/// Transfer codings that are not exactly `chunked`.
#[rustfmt::skip]
const CODINGS: &[&str] = &[
    "", "xchunked", "chunkedx", "chunk", "identity", "gzip", "chunked, gzip", "gzip, chunked", "identity, chunked",
    "chunked, identity", ",chunked", "chunked,", "chunked, chunked", "chunked chunked", "\"chunked\"",
    "chunked;q=1", "\u{b}chunked", "chunked\u{b}", "chunked\u{a0}", "chun\tked", "\u{0}chunked", "chunked\u{0}",
    "[chunked]", "chunked\r\n ", "\r\n chunked",
];

/// Names that somebody might take for another.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "transfer-encoding ", "transfer-encoding\t", " transfer-encoding", "transfer-encoding\u{0}",
    "transfer encoding", "content-length ",
];

/// Lengths that are no number.
#[rustfmt::skip]
const LENGTHS: &[&str] = &[
    "", "+3", "-3", "-0", "0x3", "3,3", "3, 3", "3, 5", ",3", "3,", "3 3", "3;", "\"3\"", "3.0", "1e1",
    "99999999999999999999", "18446744073709551616", "\u{b}3", "3\u{b}", "\u{ff13}", "3\u{0}",
];

/// Chunks that are none.
#[rustfmt::skip]
const CHUNKS: &[&str] = &[
    "0x3\r\nabc\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n", " 3\r\nabc\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n",
    "3\t\r\nabc\r\n0\r\n\r\n", "\r\nabc\r\n0\r\n\r\n", ";x\r\nabc\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n",
    "3\nabc\n0\n\n", "3\rabc\r\n0\r\n\r\n", "3\r\r\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabc0\r\n\r\n",
    "3\r\nabcXX0\r\n\r\n", "3\r\nabc\r\r\n0\r\n\r\n", "3\r\nab\r\n0\r\n\r\n", "3\r\nabc\r\n\r\n0\r\n\r\n",
    "3;x\rabc\r\n0\r\n\r\n", "3;x\ny\r\nabc\r\n0\r\n\r\n", "3\u{0}\r\nabc\r\n0\r\n\r\n", "3,3\r\nabc\r\n0\r\n\r\n",
    "3_0\r\nabc\r\n0\r\n\r\n", "-1\r\nabc\r\n0\r\n\r\n", "1_\r\na\r\n0\r\n\r\n", "0\r\n", "0\r\r\n\r\n",
    "0\nx: y\r\n\r\n", "0\r\n: y\r\n\r\n", "0\r\nx\r\n\r\n", "0\r\nx : y\r\n\r\n", "0\r\nx: y\u{0}\r\n\r\n",
    "10000000000000003\r\nabc\r\n0\r\n\r\n",
];

/// Field lines that are none.
#[rustfmt::skip]
const FIELDS: &[&str] = &[
    "x: a\rb", "x: a\u{0}b", "x : y", "x\t: y", ": y", "x", "x\u{0}: y", "x y: z", "x: y\r\n folded",
    "x: y\r\n\tfolded", "(x): y", "x\u{7f}: y", "x: a\u{7f}b", "x: a\u{1}b", " x: y", "x\r: y",
];

/// First lines that are none.
#[rustfmt::skip]
const LINES: &[&str] = &[
    "GET / HTTP/1.2", "GET / HTTP/2.0", "GET / HTTP/1.10", "GET / HTTP/01.1", "GET / http/1.1", "GET / HTTP/1.1 ",
    "GET / HTTP/1.1x", "GET  / HTTP/1.1", "GET /  HTTP/1.1", "GET\t/\tHTTP/1.1", "GET / a HTTP/1.1",
    "G\u{0}T / HTTP/1.1", "G(T / HTTP/1.1", " GET / HTTP/1.1", "\tGET / HTTP/1.1", "/ HTTP/1.1", "GET HTTP/1.1",
    "GET /", "GET", "GET / HTTP/1.1\r", "GET /\u{b}HTTP/1.1", "GET / HTTP /1.1",
];

/// Framing that is refused before anything goes on.
fn refused_framing() -> Vec<Row> {
    let mut rows = vec![
        row(
            "CL and TE",
            post(&["content-length: 5", "transfer-encoding: chunked"], "0\r\n\r\n"),
            Verdict::Refused(400),
        ),
        row(
            "TE and CL",
            post(&["transfer-encoding: chunked", "content-length: 5"], "0\r\n\r\n"),
            Verdict::Refused(400),
        ),
        row(
            "CL 0 and TE",
            post(&["content-length: 0", "transfer-encoding: chunked"], "0\r\n\r\n"),
            Verdict::Refused(400),
        ),
        row(
            "TE on HTTP/1.0",
            format!("POST /post HTTP/1.0\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            Verdict::Refused(400),
        ),
        row(
            "TE twice",
            post(&["transfer-encoding: chunked", "transfer-encoding: chunked"], "0\r\n\r\n"),
            Verdict::Refused(400),
        ),
        row(
            "TE twice, other first",
            post(&["transfer-encoding: x", "transfer-encoding: chunked"], "0\r\n\r\n"),
            Verdict::Refused(400),
        ),
        row(
            "TE twice, other last",
            post(&["transfer-encoding: chunked", "transfer-encoding: x"], "0\r\n\r\n"),
            Verdict::Refused(400),
        ),
        row(
            "CR before TE",
            post(&["x: y\rtransfer-encoding: chunked", "content-length: 3"], "abc"),
            Verdict::Refused(400),
        ),
    ];
    for coding in CODINGS {
        let field = format!("transfer-encoding: {coding}");
        rows.push(row(format!("TE {coding:?}"), post(&[&field], "0\r\n\r\n"), Verdict::Refused(400)));
    }
    for name in NAMES {
        rows.push(row(
            format!("name {name:?}"),
            post(&[&format!("{name}: chunked")], "0\r\n\r\n"),
            Verdict::Refused(400),
        ));
    }
    for length in LENGTHS {
        let field = format!("content-length: {length}");
        rows.push(row(format!("CL {length:?}"), post(&[&field], "abc"), Verdict::Refused(400)));
    }
    for lengths in [["3", "5"], ["5", "3"], ["3", ""], ["3", "3"], ["3", "03"]] {
        let fields = lengths.map(|length| format!("content-length: {length}"));
        rows.push(row(format!("CL {lengths:?}"), post(&[&fields[0], &fields[1]], "abc"), Verdict::Refused(400)));
    }
    rows
}

/// Framing that only looks odd.
fn good_framing() -> Vec<Row> {
    let chunked = |what: &str, body: &str| {
        row(what, post(&["transfer-encoding: chunked"], body), served(POSTED, &[], &["content-length"], b"abc"))
    };
    vec![
        chunked("chunks", "3\r\nabc\r\n0\r\n\r\n"),
        chunked("three chunks", "1\r\na\r\n1\r\nb\r\n01\r\nc\r\n000\r\n\r\n"),
        chunked("an extension", "3;name=value\r\nabc\r\n0;x\r\n\r\n"),
        row(
            "CHUNKED",
            post(&["Transfer-Encoding: CHUNKED"], "A\r\n0123456789\r\n0\r\n\r\n"),
            served(POSTED, &[], &[], b"0123456789"),
        ),
        row(
            "blanks around TE",
            post(&["transfer-encoding: \t chunked \t "], "3\r\nabc\r\n0\r\n\r\n"),
            served(POSTED, &[], &[], b"abc"),
        ),
        row(
            "blanks around CL",
            post(&["content-length: \t 3 \t "], "abc"),
            served(POSTED, &["content-length: 3"], &[], b"abc"),
        ),
        row("no blank", post(&["content-length:3"], "abc"), served(POSTED, &["content-length: 3"], &[], b"abc")),
        row("CL 0", post(&["content-length: 0"], ""), served(POSTED, &[], &["transfer-encoding"], b"")),
        row(
            "a look-alike of TE",
            post(&["transfer_encoding: chunked", "content-length: 3"], "abc"),
            served(POSTED, &["content-length: 3"], &["transfer-"], b"abc"),
        ),
        row(
            "GET with length 0",
            get("/get", &["content-length: 0"]),
            served("GET /get HTTP/1.1", &[], &["transfer-encoding"], b""),
        ),
        row(
            "GET with a body",
            with_body(&get("/get", &["content-length: 3"]), "abc"),
            served("GET /get HTTP/1.1", &["content-length: 3"], &[], b"abc"),
        ),
        row(
            "GET in chunks",
            with_body(&get("/get", &["transfer-encoding: chunked"]), "3\r\nabc\r\n0\r\n\r\n"),
            served("GET /get HTTP/1.1", &[], &["content-length"], b"abc"),
        ),
    ]
}

fn with_body(head: &[u8], body: &str) -> Vec<u8> {
    [head, body.as_bytes()].concat()
}

/// Bodies that break their chunked framing.
fn broken_chunks() -> Vec<Row> {
    let long = |length: usize| "x".repeat(length);
    let mut rows: Vec<Row> = CHUNKS
        .iter()
        .map(|body| row(format!("chunks {body:?}"), post(&["transfer-encoding: chunked"], body), Verdict::Broken))
        .collect();
    let too_long = [
        ("extensions too long", format!("3;{}\r\nabc\r\n0\r\n\r\n", long(EXTENSIONS_MAX))),
        ("many extensions", format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", long(99)).repeat(11))),
        ("trailers too long", format!("0\r\nx: {}\r\n\r\n", long(TRAILERS_MAX))),
    ];
    rows.extend(
        too_long
            .map(|(what, body)| row(what, post(&["transfer-encoding: chunked", "trailer: x"], &body), Verdict::Broken)),
    );
    rows
}

/// Heads that are none.
fn bad_heads() -> Vec<Row> {
    let mut rows: Vec<Row> = FIELDS
        .iter()
        .map(|field| row(format!("field {field:?}"), get("/get", &[field]), Verdict::Refused(400)))
        .collect();
    let rest = format!("\r\nhost: {HOST}\r\n\r\n");
    for line in LINES {
        rows.push(row(format!("line {line:?}"), format!("{line}{rest}"), Verdict::NotHttp));
    }
    // RFC 9112, 2.2: a recipient may take a lone LF for a line's end. Not all do.
    for (what, head) in [
        ("bare LF", format!("GET /get HTTP/1.1\nhost: {HOST}\nx: y\n\n")),
        ("bare LF after the first line", format!("GET /get HTTP/1.1\nhost: {HOST}\r\n\r\n")),
        ("bare LF after a field", format!("GET /get HTTP/1.1\r\nhost: {HOST}\r\nx: y\n\r\n")),
        ("bare LF as the empty line", format!("GET /get HTTP/1.1\r\nhost: {HOST}\r\nx: y\r\n\n")),
    ] {
        rows.push(row(what, head, Verdict::Refused(400)));
    }
    rows
}

/// Odd heads that are good.
fn good_heads() -> Vec<Row> {
    let line = "GET /get HTTP/1.1";
    vec![
        row("empty lines before", [b"\r\n\r\n", &get("/get", &[])[..]].concat(), served(line, &[], &[], b"")),
        row("bytes beyond ASCII", get("/get", &["x: \u{e4}"]), served(line, &["x: \u{c3}\u{a4}"], &[], b"")),
        row("an empty value", get("/get", &["x:"]), served(line, &["x: "], &[], b"")),
        row("underscores", get("/get", &["x_y: 1", "x-y: 2"]), served(line, &["x_y: 1", "x-y: 2"], &[], b"")),
        row(
            "a name of all token characters",
            get("/get", &["!#$%&'*+-.^_`|~0a: 1"]),
            served(line, &["!#$%&'*+-.^_`|~0a: 1"], &[], b""),
        ),
    ]
}

#[test]
fn framing_has_one_meaning_or_none() {
    let bench = Bench::start();
    run(&bench, &DOORS, &[refused_framing(), good_framing()].concat());
}

#[test]
fn broken_chunks_never_make_a_request() {
    let bench = Bench::start();
    run(&bench, &DOORS, &broken_chunks());
}

#[test]
fn heads_are_heads() {
    let bench = Bench::start();
    run(&bench, &DOORS, &[bad_heads(), good_heads()].concat());
}

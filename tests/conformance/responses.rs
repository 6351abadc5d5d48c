//! Hostile servers: what an app may answer, and what a client then gets. The client can always tell a whole answer from a
//! broken one, and never gets bytes that belong to another request: behind each row go requests whose answers are known.

use std::{io::Write as _, time::Duration};

use crate::{
    app::Script,
    bench::{Bench, DOORS, Door, HOST, Heard},
};

/// What the client must get.
#[derive(Clone, Debug)]
enum Outcome {
    /// This status, exactly this body, whole.
    Is(u16, &'static str),
    /// 502: the answer is none.
    BadGateway,
    /// Whatever came, it is seen to be not whole: no end of the chunks, or fewer bytes than announced, and closed; or 502.
    Broken,
}
use Outcome::{BadGateway, Broken, Is};

struct Row {
    what: &'static str,
    answer: Vec<u8>,
    close: bool,
    outcome: Outcome,
}

fn row(what: &'static str, answer: impl Into<Vec<u8>>, outcome: Outcome) -> Row {
    Row { what, answer: answer.into(), close: false, outcome }
}

/// The app closes after it.
fn last(what: &'static str, answer: impl Into<Vec<u8>>, outcome: Outcome) -> Row {
    Row { close: true, ..row(what, answer, outcome) }
}

/// A body that nobody asked for.
const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";

/// Lengths that are no number.
#[rustfmt::skip]
const LENGTHS: &[&str] = &[
    "+2", "-2", "0x2", "2,2", "2, 3", "", "2 2", "99999999999999999999", "\u{b}2",
];

/// Transfer codings that are not exactly `chunked`.
#[rustfmt::skip]
const CODINGS: &[&str] = &[
    "gzip, chunked", "identity, chunked", "xchunked", "identity", "chunked, identity", ",chunked",
    "chunked\r\ntransfer-encoding: chunked", "chunked\r\ntransfer-encoding: identity",
];

/// Chunks that are none.
#[rustfmt::skip]
const CHUNKS: &[&str] = &[
    "0x2\r\nok\r\n0\r\n\r\n", "+2\r\nok\r\n0\r\n\r\n", "2\nok\n0\n\n", "2\r\nokay\r\n0\r\n\r\n",
    "-2\r\nok\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\nok\r\n0\r\n\r\n", "\r\nok\r\n0\r\n\r\n", "2\rok\r\n0\r\n\r\n",
    "2\r\nok0\r\n\r\n", "Z\r\n",
];

/// First lines that are none.
#[rustfmt::skip]
const LINES: &[&str] = &[
    "HTTP/1.1 2000 OK", "HTTP/1.1 20 OK", "HTTP/1.1 abc", "HTTP/1.1 099 x", "HTTP/2 200 OK", "HTTP/1.2 200 OK",
    "ICY 200 OK", "HTTP/1.1200 OK", "SSH-2.0-x", "<html>",
];

/// Field lines that are none.
#[rustfmt::skip]
const FIELDS: &[&str] = &[
    "x : y", " x: y", "x: y\r\n z", "x", ": y", "x: a\u{0}b", "x: a\rb", "x y: z", "x\u{0}: y",
];

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}")
}

fn bodies_that_must_not_be() -> Vec<Row> {
    let with_body = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{POISON}", POISON.len());
    vec![
        row("204 with a body", with_body("204 No Content"), Is(204, "")),
        row("304 with a body", with_body("304 Not Modified"), Is(304, "")),
        row(
            "204 in chunks",
            format!("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{POISON}"),
            Is(204, ""),
        ),
        row("two answers to one request", ok("content-length: 2", &format!("ok{POISON}")), Is(200, "ok")),
        row("more than announced", ok("content-length: 2", "okay"), Is(200, "ok")),
        row(
            "bytes after the last chunk",
            ok("transfer-encoding: chunked", &format!("2\r\nok\r\n0\r\n\r\n{POISON}")),
            Is(200, "ok"),
        ),
        row("no body at all", ok("content-length: 0", ""), Is(200, "")),
    ]
}

fn framing() -> Vec<Row> {
    let chunked = |body: &str| ok("transfer-encoding: chunked", body);
    let mut rows = vec![
        row("chunks", chunked("2\r\nok\r\n0\r\n\r\n"), Is(200, "ok")),
        row("an extension", chunked("2;x=y\r\nok\r\n0\r\n\r\n"), Is(200, "ok")),
        last("to the end of the connection", "HTTP/1.1 200 OK\r\n\r\nok", Is(200, "ok")),
        last("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok", Is(200, "ok")),
        row("equal lengths", ok("content-length: 2\r\ncontent-length: 2", "ok"), Is(200, "ok")),
        row("two lengths", ok("content-length: 2\r\ncontent-length: 4", "okay"), BadGateway),
        last(
            "a length and chunks",
            ok("content-length: 4\r\ntransfer-encoding: chunked", "2\r\nok\r\n0\r\n\r\n"),
            BadGateway,
        ),
        last(
            "chunks and a length",
            ok("transfer-encoding: chunked\r\ncontent-length: 4", "2\r\nok\r\n0\r\n\r\n"),
            BadGateway,
        ),
        last("fewer bytes than announced", ok("content-length: 9", "ok"), Broken),
        last("no last chunk", chunked("2\r\nok\r\n"), Broken),
        last("half a last chunk", chunked("2\r\nok\r\n0\r\n"), Broken),
        last("half a chunk", chunked("9\r\nok"), Broken),
        last("nothing", "", BadGateway),
        last("half a head", "HTTP/1.1 200 OK\r\ncontent-le", BadGateway),
    ];
    for length in LENGTHS {
        rows.push(last("a length that is none", ok(&format!("content-length: {length}"), "ok"), BadGateway));
    }
    for coding in CODINGS {
        rows.push(last(
            "a transfer coding that is not ours",
            ok(&format!("transfer-encoding: {coding}"), "2\r\nok\r\n0\r\n\r\n"),
            BadGateway,
        ));
    }
    for chunks in CHUNKS {
        rows.push(last("chunks that are none", chunked(chunks), Broken));
    }
    rows
}

fn heads() -> Vec<Row> {
    let mut rows = vec![
        row(
            "interim answers",
            format!("{}{}", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(99), ok("content-length: 2", "ok")),
            Is(200, "ok"),
        ),
        last(
            "ten thousand interim answers",
            format!("{}{}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000), ok("content-length: 2", "ok")),
            BadGateway,
        ),
        last("a flood of interim answers", "HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000), BadGateway),
        last(
            "101 that nobody asked for",
            format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n{POISON}"),
            BadGateway,
        ),
        last("a head beyond all limits", ok(&format!("x: {}", "y".repeat(70_000)), ""), BadGateway),
        last("a thousand fields", ok(&"x: y\r\n".repeat(1_000), ""), BadGateway),
    ];
    for line in LINES {
        rows.push(last("a first line that is none", format!("{line}\r\ncontent-length: 2\r\n\r\nok"), BadGateway));
    }
    for field in FIELDS {
        rows.push(last("a field that is none", ok(&format!("{field}\r\ncontent-length: 2"), "ok"), BadGateway));
    }
    rows
}

#[test]
fn answers_have_no_bodies_where_there_are_none() {
    run(&bodies_that_must_not_be());
}

#[test]
fn an_answer_is_whole_or_seen_to_be_broken() {
    run(&framing());
}

#[test]
fn answers_have_heads() {
    run(&heads());
}

/// Each row through each door, and behind it three requests with known answers.
fn run(rows: &[Row]) {
    let bench = Bench::start();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for door in DOORS {
        for (number, row) in rows.iter().enumerate() {
            let path = format!("/row-{number}");
            bench.app.answer(&path, Script { bytes: row.answer.clone(), early: false, close: row.close });
            let heard = bench.exchange(door, request("GET", &path, "connection: close\r\n").as_bytes());
            checked += 1;
            let again = (0..3).map(|n| own_answer(&bench, door, &format!("/own-{number}-{n}"))).find_map(Result::err);
            if let Some(why) = again.or_else(|| judge(&row.outcome, &heard).err()) {
                let answer = row.answer.escape_ascii().to_string();
                wrong.push(format!(
                    "{door:?}, {} ({:.70}): {why}; got {:.150}",
                    row.what,
                    answer,
                    heard.bytes.escape_ascii().to_string()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "of {checked} rows these did not hold:\n{}", wrong.join("\n"));
}

fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{fields}\r\n")
}

fn own_answer(bench: &Bench, door: Door, path: &str) -> Result<(), String> {
    let heard = bench.exchange(door, request("GET", path, "connection: close\r\n").as_bytes());
    judge_is(&heard, 200, path).map_err(|why| format!("the request behind it: {why}: {}", heard.bytes.escape_ascii()))
}

fn judge(outcome: &Outcome, heard: &Heard) -> Result<(), String> {
    match outcome {
        Is(status, body) => judge_is(heard, *status, body),
        BadGateway => judge_status(heard, 502),
        Broken => match parse(&heard.bytes) {
            Some((502, _, _)) => Ok(()),
            Some((_, _, false)) | None if heard.closed => Ok(()),
            other => Err(format!("not broken: {other:?}, closed {}", heard.closed)),
        },
    }
}

fn judge_status(heard: &Heard, wanted: u16) -> Result<(), String> {
    match parse(&heard.bytes) {
        Some((status, _, true)) if status == wanted => Ok(()),
        other => Err(format!("not {wanted}: {:?}", other.map(|(status, _, whole)| (status, whole)))),
    }
}

fn judge_is(heard: &Heard, wanted: u16, body: &str) -> Result<(), String> {
    match parse(&heard.bytes) {
        Some((status, found, true)) if status == wanted && found == body.as_bytes() && heard.closed => Ok(()),
        other => Err(format!("not {wanted} with {body:?}: {other:?}")),
    }
}

/// Status, body, and whether it is whole by its own framing, with nothing behind it.
fn parse(bytes: &[u8]) -> Option<(u16, Vec<u8>, bool)> {
    let mut rest = bytes;
    loop {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let body = &rest[end + 4..];
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if (100..200).contains(&status) && status != 101 {
            rest = body;
            continue;
        }
        if matches!(status, 204 | 304) {
            return Some((status, body.to_vec(), body.is_empty()));
        }
        if head.contains("\r\ntransfer-encoding: chunked") {
            let (body, whole) = dechunk(body);
            return Some((status, body, whole));
        }
        let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        return Some((status, body.to_vec(), length == Some(body.len())));
    }
}

fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size = std::str::from_utf8(&bytes[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size else { return (body, false) };
        bytes = &bytes[end + 2..];
        if size == 0 {
            return (body, bytes == b"\r\n");
        }
        if bytes.len() < size + 2 {
            body.extend_from_slice(bytes);
            return (body, false);
        }
        body.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}

/// After HEAD there is no body, whatever the server sends; what it sent is nobody's answer.
#[test]
fn head_has_no_body() {
    let bench = Bench::start();
    bench
        .app
        .answer("/head", Script { bytes: ok("content-length: 61", POISON).into_bytes(), early: false, close: false });
    for door in DOORS {
        for _ in 0..3 {
            let heard = bench.exchange(door, request("HEAD", "/head", "connection: close\r\n").as_bytes());
            let text = String::from_utf8_lossy(&heard.bytes).to_ascii_lowercase();
            assert!(
                text.starts_with("http/1.1 200") && text.ends_with("\r\n\r\n") && !text.contains("poison"),
                "{door:?}: {text}"
            );
            assert!(heard.closed && text.contains("content-length: 61"), "{door:?}: {text}");
            own_answer(&bench, door, "/own").unwrap();
        }
    }
}

/// An HTTP/1.0 client gets an answer without chunks that ends with the connection or with its length.
#[test]
fn http_1_0_gets_no_chunks() {
    let bench = Bench::start();
    for (path, answer) in [
        ("/chunks", ok("transfer-encoding: chunked", "2\r\nok\r\n0\r\n\r\n")),
        ("/end", "HTTP/1.1 200 OK\r\n\r\nok".to_owned()),
    ] {
        bench.app.answer(path, Script { bytes: answer.into_bytes(), early: false, close: path == "/end" });
        for door in DOORS {
            let heard = bench.exchange(door, format!("GET {path} HTTP/1.0\r\nhost: {HOST}\r\n\r\n").as_bytes());
            let text = String::from_utf8_lossy(&heard.bytes).to_ascii_lowercase();
            assert!(
                heard.closed && text.ends_with("\r\n\r\nok") && !text.contains("transfer-encoding"),
                "{door:?} {path}: {text}"
            );
        }
    }
}

/// The app answers before it has read the request's body. The rest of that body is never taken for a request, and the
/// connection that it went into is never used again.
#[test]
fn an_early_answer_leaves_nothing_for_the_next_request() {
    let bench = Bench::start();
    for (close, sends_body) in [(false, true), (false, false), (true, true)] {
        bench.app.answer("/early", Script { bytes: ok("content-length: 5", "early").into_bytes(), early: true, close });
        for door in DOORS {
            let mut stranger = bench.connect(door);
            let smuggled = request("GET", "/smuggled", "");
            let head = request("POST", "/early", &format!("content-length: {}\r\n", 2 * smuggled.len()));
            stranger.write_all(head.as_bytes()).and_then(|()| stranger.flush()).expect("a head");
            let heard = stranger.hear_until(Duration::from_secs(5), |bytes| bytes.ends_with(b"early"));
            assert!(heard.bytes.ends_with(b"early") || close, "{door:?}: {}", heard.bytes.escape_ascii());
            // The body comes when the answer is there already, or never.
            if sends_body {
                let _ = stranger.write_all(smuggled.repeat(2).as_bytes()).and_then(|()| stranger.flush());
            }
            for n in 0..3 {
                own_answer(&bench, door, &format!("/own-{n}"))
                    .unwrap_or_else(|why| panic!("{door:?}, close {close}: {why}"));
            }
            let seen = bench.seen(door);
            let lines: Vec<&str> = seen.iter().map(crate::app::Seen::line).collect();
            assert!(
                !lines.iter().any(|line| line.contains("smuggled")),
                "{door:?}, close {close}: the app saw {lines:?}"
            );
        }
    }
}

/// What only the mesh may say, and what concerns one hop only, does not come from an app, be it in trailers.
#[test]
fn apps_do_not_speak_for_the_mesh() {
    let bench = Bench::start();
    let head = "transfer-encoding: chunked\r\ntrailer: l6g-error, x-own\r\nl6g-refused: 1\r\nL6G-Error: broken\r\nkeep-alive: timeout=9\r\n\
                connection: x-hop\r\nx-hop: 1\r\nproxy-connection: close\r\nx-own: kept";
    let answer = ok(head, "2\r\nok\r\n0\r\nl6g-error: broken\r\nL6G-Refused: 1\r\nx-own: kept\r\n\r\n");
    bench.app.answer("/own", Script { bytes: answer.into_bytes(), early: false, close: false });
    for door in DOORS {
        let heard = bench.exchange(door, request("GET", "/own", "connection: close\r\nte: trailers\r\n").as_bytes());
        let text = String::from_utf8_lossy(&heard.bytes).to_ascii_lowercase();
        assert!(
            text.starts_with("http/1.1 200") && text.contains("x-own: kept") && text.contains("ok"),
            "{door:?}: {text}"
        );
        for field in ["l6g-refused:", "l6g-error:", "keep-alive:", "x-hop:", "proxy-connection:"] {
            assert!(!text.contains(&format!("\r\n{field}")), "{door:?}: {field} in {text}");
        }
        assert_eq!(bench.seen(door).len(), 1, "{door:?}: sent once");
    }
}

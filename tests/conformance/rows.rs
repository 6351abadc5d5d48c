//! What the tables are made of: a row is bytes and a verdict; running a table sends each row through each door, with a request
//! behind it that must never be served out of a refused one, and lists every verdict that does not hold.

use std::fmt::Write as _;

use crate::{
    app::Seen,
    bench::{Bench, Door, HOST, Heard},
};

/// What follows each row on the same connection; it must stay a request of its own, or not be served at all.
pub const BEHIND: &str = "GET /behind HTTP/1.1\r\nhost: server.it:8080\r\nconnection: close\r\n\r\n";

/// What must come of a row.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// 400 (or the status that says it better), closed; the app sees nothing, not even what follows.
    Refused(u16),
    /// No HTTP at all: closed with 400 or without a word, and the app sees nothing.
    NotHttp,
    /// The head was good, the body is not: the app never gets a whole request, nor what follows; closed.
    Broken,
    /// The app sees it once: this first line, these field lines among others, none that begin so, this body; and then what
    /// follows.
    Served { line: String, with: Vec<String>, without: Vec<&'static str>, body: &'static [u8] },
    /// The app sees exactly this target, or 400 and nothing.
    SameOrRefused(Vec<u8>),
    /// 4xx or 5xx, and the app does not see it; whether the connection stays is left open.
    Declined,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub bytes: Vec<u8>,
    pub verdict: Verdict,
}

pub fn row(what: impl Into<String>, bytes: impl Into<Vec<u8>>, verdict: Verdict) -> Row {
    Row { what: what.into(), bytes: bytes.into(), verdict }
}

/// The app sees this line, with these lines among its fields.
pub fn served(line: &str, with: &[&str], without: &[&'static str], body: &'static [u8]) -> Verdict {
    let with = with.iter().map(|field| (*field).to_owned()).collect();
    Verdict::Served { line: line.to_owned(), with, without: without.to_vec(), body }
}

/// A GET with these lines, each without its end.
pub fn get(path: &str, fields: &[&str]) -> Vec<u8> {
    head("GET", path, fields, "")
}

/// A POST with these lines and this body as it is.
pub fn post(fields: &[&str], body: &str) -> Vec<u8> {
    head("POST", "/post", fields, body)
}

fn head(method: &str, path: &str, fields: &[&str], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n");
    for field in fields {
        text.extend([field, "\r\n"]);
    }
    format!("{text}\r\n{body}").into_bytes()
}

/// Runs every row through these doors.
///
/// # Panics
/// With the list of rows that came out otherwise.
pub fn run(bench: &Bench, doors: &[Door], rows: &[Row]) {
    let (mut wrong, mut checked) = (String::new(), 0);
    for door in doors {
        for row in rows {
            let heard = bench.exchange(*door, &[&row.bytes[..], BEHIND.as_bytes()].concat());
            let seen = bench.seen(*door);
            checked += 1;
            if let Err(why) = judge(&row.verdict, &heard, &seen) {
                let lines: Vec<&str> = seen.iter().map(Seen::line).collect();
                let answer = String::from_utf8_lossy(&heard.bytes[..heard.bytes.len().min(90)]).into_owned();
                writeln!(
                    wrong,
                    "{door:?}, {}: {why}; answer {answer:?}, closed {}; the app saw {lines:?}",
                    row.what, heard.closed
                )
                .expect("a String takes it");
            }
        }
    }
    assert!(wrong.is_empty(), "of {checked} rows these did not hold:\n{wrong}");
}

fn judge(verdict: &Verdict, heard: &Heard, seen: &[Seen]) -> Result<(), String> {
    let status = first_status(&heard.bytes);
    let nothing_seen = || seen.is_empty().then_some(()).ok_or("the app saw something".to_owned());
    let closed = || heard.closed.then_some(()).ok_or("the connection stays open".to_owned());
    let is = |good: bool, what: &str| good.then_some(()).ok_or(what.to_owned());
    match verdict {
        Verdict::Refused(wanted) => {
            nothing_seen()?;
            is(status == Some(*wanted), "another status")?;
            is(answers(&heard.bytes) == 1, "more than one answer")?;
            closed()
        }
        Verdict::NotHttp => {
            nothing_seen()?;
            is(status.is_none_or(|status| status == 400), "neither 400 nor nothing")?;
            closed()
        }
        Verdict::Broken => {
            is(!seen.iter().any(|one| one.whole), "the app got a whole request")?;
            is(seen.len() <= 1, "the app saw more than one request")?;
            is(status.is_none_or(|status| status >= 400), "it was answered as if it were good")?;
            closed()
        }
        Verdict::Served { line, with, without, body } => {
            let [one, behind] = seen else { return Err(format!("the app saw {} requests, not 2", seen.len())) };
            is(behind.line() == "GET /behind HTTP/1.1", "what follows is garbled")?;
            is(status == Some(200), "no 200")?;
            is(one.line() == line, "another first line")?;
            is(one.whole && one.body == *body, "another body")?;
            let lines: Vec<&str> = one.head.split("\r\n").skip(1).chain(one.trailers.split("\r\n")).collect();
            for field in with {
                is(lines.contains(&field.as_str()), &format!("{field:?} is missing in {lines:?}"))?;
            }
            for name in without {
                is(!lines.iter().any(|line| line.starts_with(name)), &format!("{name:?} is in {lines:?}"))?;
            }
            closed()
        }
        Verdict::SameOrRefused(target) => {
            if status == Some(200) {
                let target: String = target.iter().map(|byte| char::from(*byte)).collect();
                let got = seen.first().map(|one| one.line().split(' ').nth(1).unwrap_or_default().to_owned());
                return is(got.as_deref() == Some(&*target), &format!("the app saw another target: {got:?}"));
            }
            nothing_seen()?;
            is(status.is_none_or(|status| (400..500).contains(&status)), "no 4xx")?;
            closed()
        }
        Verdict::Declined => {
            is(status.is_some_and(|status| status >= 400), "not declined")?;
            is(seen.iter().all(|one| one.line() == "GET /behind HTTP/1.1"), "the app saw it")
        }
    }
}

/// Status of the first answer.
pub fn first_status(bytes: &[u8]) -> Option<u16> {
    std::str::from_utf8(bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?.parse().ok()
}

fn answers(bytes: &[u8]) -> usize {
    bytes.windows(9).filter(|window| window == b"HTTP/1.1 ").count()
}

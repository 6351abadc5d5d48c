//! Tables of what passes and what is refused; each row in one piece, cut everywhere, byte by byte, and behind each other.

use std::time::Duration;

use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::timeout,
};

use super::{reader::ILLEGAL, *};
use crate::{
    config::{CHUNK_EXTENSIONS_MAX, TRAILERS_MAX},
    http::{
        Message,
        body::Body,
        server::{Ended, serve_http1},
    },
    listen::Drain,
};

const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";

/// Whole messages that mean one thing.
fn honest() -> Vec<String> {
    let fields = |fields: &str| format!("POST /a?b HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
    let chunked = |body: &str| fields("Transfer-Encoding: chunked\r\n") + body;
    let mut messages: Vec<String> = [
        GET,
        "HEAD / HTTP/1.0\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "G#T / HTTP/1.1\r\nx-#: #\r\n\r\n",
        // What hyper refuses passes: it is hyper's.
        "GET  / HTTP/1.1\r\n\r\n",
        "GET\r\nx\r\n\r\n",
        "CONNECTS / HTTP/1.1\r\n\r\n",
        "connect / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length : 3\r\n content-length: 3\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nc\r\n:\r\n\u{0}\r\n\r\n",
    ]
    .map(str::to_owned)
    .to_vec();
    messages.extend([
        fields("content-length: 0\r\n"),
        fields("Content-Length:3\r\n") + "a\nb",
        fields("CONTENT-LENGTH: \t 003 \t \r\n") + "#\r\n",
        fields("content-length-x: 9\r\ncontent_length: 9\r\ncontent: 9\r\n"),
        fields("transfer-encodings: x\r\ntransfer_encoding: x\r\nupgrades: x\r\nx-upgrade: x\r\nupgrade-insecure-requests: 1\r\n"),
        fields("cookie: content-length: 9\r\ntransfer: upgrade\r\n"),
        fields(&format!("content-length{}: 9\r\nt{}: 9\r\n", "x".repeat(99), "x".repeat(99))),
        fields("transfer-encoding:\t ChunKed \t\r\n") + "0\r\n\r\n",
        chunked("3\r\na\nb\r\n0\r\n\r\n"),
        chunked("00A;x=\"y z\"; q\r\n0123456789\r\n1\r\n\r\r\n000;\r\nx: y\r\ncontent-length: 3\r\n\r\n"),
        chunked(&format!("1;{}\r\na\r\n0;\r\n\r\n", "x".repeat(CHUNK_EXTENSIONS_MAX - 2))),
        chunked(&format!("0\r\nx: {}\r\n\r\n", "x".repeat(TRAILERS_MAX - 3))),
    ]);
    messages
}

/// What does not pass: up to the byte at `^`, which is not part of it.
#[rustfmt::skip]
fn refused() -> Vec<String> {
    let fields = |fields: &str| format!("POST / HTTP/1.1\r\n{fields}");
    let chunked = |body: &str| fields("transfer-encoding: chunked\r\n\r\n") + body;
    let mut messages: Vec<String> = [
        "^\nGET / HTTP/1.1\r\n\r\n",
        "\r\n^\nGET / HTTP/1.1\r\n\r\n",
        "\r^GET / HTTP/1.1\r\n\r\n",
        "GET^\n\r\n",
        "GET / HTTP/1.1^\nhost: x\n\n",
        "GET / HTTP/1.1\r\nhost: x^\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n^\n",
        "GET / HTTP/1.1\r\ncookie^\n\r\n",
        "GET / HTTP/1.1\r\n\r^x\n",
        "GET /a^#b HTTP/1.1\r\n\r\n",
        "GET ^#\r\n\r\n",
    ]
    .map(str::to_owned)
    .to_vec();
    messages.extend([
        fields("content-length: 3\r\ncontent-length^: 3\r\n\r\nabc"),
        fields("content-length: 3\r\nTRANSFER-ENCODING^: chunked\r\n\r\n0\r\n\r\n"),
        fields("Transfer-Encoding: chunked\r\nContent-Length^: 3\r\n\r\nabc"),
        fields("transfer-encoding: chunked\r\nx: y\r\ntransfer-encoding^: chunked\r\n\r\n"),
    ]);
    for coding in [
        " ^gzip", " chunked^,", " ^,chunked", " chunke^\r\n", "^\r\n", " ^\r\n chunked", " chunked ^chunked", " chunked^x", " c^\nhunked",
    ] {
        messages.push(fields(&format!("transfer-encoding:{coding}\r\n\r\n")));
    }
    for length in ["^\r\n", " ^\r\n", "^+3", "^-3", "3^,3", "3 ^3", "0^x3", "3^\n", "1844674407370955161^6"] {
        messages.push(fields(&format!("content-length:{length}\r\n\r\n")));
    }
    for chunks in [
        "3^ \r\nabc\r\n0\r\n\r\n", "3^\t;x\r\n", "^ 3\r\n", "^\r\n", "^;x\r\n", "0^x3\r\n", "^-1\r\n", "3^\nabc", "3\r^xabc",
        "3;x^\ny\r\n", "3;x\r^y\n", "3\r\nabc^0\r\n", "3\r\nabc\r^0\r\n", "3\r\nabc^\n0\r\n", "0^\n\r\n", "0\r\n^\n",
        "0\r\n\r^x", "0\r\nx: y^\n\r\n", "0\r\nx: y\r^z\r\n\r\n", "1000000000000000^0\r\n",
    ] {
        messages.push(chunked(chunks));
    }
    let long = |length: usize| "x".repeat(length);
    messages.extend([
        chunked(&format!("3;{}^x\r\nabc\r\n0\r\n\r\n", long(CHUNK_EXTENSIONS_MAX - 1))),
        chunked(&format!("1;{}\r\na\r\n1;^x\r\na\r\n0\r\n\r\n", long(CHUNK_EXTENSIONS_MAX - 2))),
        chunked(&format!("1;{}\r\na\r\n1^;\r\na\r\n0\r\n\r\n", long(CHUNK_EXTENSIONS_MAX - 1))),
        chunked(&format!("0\r\n{}^x\r\n\r\n", long(TRAILERS_MAX))),
        chunked(&format!("0\r\na\r\nb\r\n{}^x\r\n\r\n", long(TRAILERS_MAX - 2))),
    ]);
    messages
}

/// What goes on of these pieces, and the reader after them. Requests for a tunnel do not get one.
fn through<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Reader) {
    let (mut reader, mut out) = (Reader::default(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() && reader.fault().is_none() {
            reader.resume(false);
            let passed = reader.read(rest);
            out.extend_from_slice(&rest[..passed]);
            rest = &mut rest[passed..];
        }
    }
    (out, reader)
}

/// The same, whatever way it is cut.
fn cut_anyhow(bytes: &[u8]) -> (Vec<u8>, Reader) {
    let (whole, reader) = through([bytes]);
    let said = String::from_utf8_lossy(bytes);
    for cut in 0..bytes.len() {
        let (first, second) = bytes.split_at(cut);
        let (parts, other) = through([first, second]);
        assert!(whole == parts && reader.fault() == other.fault(), "cut at {cut}: {said:?}");
    }
    let (single, other) = through(bytes.chunks(1));
    assert!(whole == single && reader.fault() == other.fault(), "byte by byte: {said:?}");
    (whole, reader)
}

fn unmarked(message: &str) -> (Vec<u8>, Vec<u8>) {
    let (before, behind) = message.split_once('^').unwrap();
    ([before, behind].concat().into_bytes(), [before.as_bytes(), &[ILLEGAL]].concat())
}

#[test]
fn what_means_one_thing_passes_unchanged() {
    for message in honest() {
        let (out, reader) = cut_anyhow(message.as_bytes());
        assert!(out == message.as_bytes(), "{message:?}: {:?}", reader.fault());
        // It is over where we think it is over: what comes next is a request line.
        let (_, reader) = through([message.as_bytes(), b"GET /#"]);
        assert!(reader.fault().is_some_and(|why| why.contains('#')), "{message:?}");
    }
}

#[test]
fn what_could_mean_two_things_ends_at_the_byte_that_shows_it() {
    for message in refused() {
        let (bytes, expected) = unmarked(&message);
        let (out, reader) = cut_anyhow(&bytes);
        assert!(out == expected && reader.fault().is_some(), "{message:?}: {:?}", String::from_utf8_lossy(&out));
    }
}

#[test]
fn messages_behind_each_other_do_not_touch_each_other() {
    for first in honest() {
        for second in honest() {
            let both = [first.as_bytes(), second.as_bytes()].concat();
            assert!(through([&both[..]]).0 == both, "{first:?} {second:?}");
        }
        for second in refused() {
            let (bytes, expected) = unmarked(&second);
            let (out, _) = through([&[first.as_bytes(), &bytes].concat()[..]]);
            assert!(out == [first.as_bytes(), &expected].concat(), "{first:?} {second:?}");
        }
    }
}

/// Random mixtures of the rows' bytes: cuts change nothing, and what passes is what came.
#[test]
fn cuts_never_matter() {
    let mut random = fastrand::Rng::with_seed(18);
    let rows: Vec<Vec<u8>> =
        honest().into_iter().map(String::into_bytes).chain(refused().iter().map(|row| unmarked(row).0)).collect();
    for _ in 0..5_000 {
        let mut bytes = Vec::new();
        for _ in 0..3 {
            let row = &rows[random.usize(..rows.len())];
            bytes.extend_from_slice(&row[..random.usize(..=row.len().min(99))]);
        }
        let (whole, reader) = through([&bytes[..]]);
        let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(random.usize(1..=rest.len().min(9)));
            pieces.push(piece);
            rest = behind;
        }
        assert!(through(pieces).0 == whole, "{:?}", String::from_utf8_lossy(&bytes));
        let same = whole.len() - usize::from(reader.fault().is_some());
        assert!(whole[..same] == bytes[..same]);
    }
}

#[test]
fn faults_say_what_they_are() {
    for (message, part) in [
        ("GET / HTTP/1.1\n", "without CR"),
        ("GET /#", "#"),
        ("GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length:", "more than one Content-Length"),
        ("GET / HTTP/1.1\r\ncontent-length: x", "no number"),
        ("GET / HTTP/1.1\r\ntransfer-encoding: x", "not exactly"),
        ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length:", "both"),
        ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1 ", "chunk's size"),
    ] {
        let why = through([message.as_bytes()]).1.fault();
        assert!(why.is_some_and(|why| why.contains(part)), "{message:?}: {why:?}");
    }
}

#[test]
fn what_is_behind_a_request_for_a_tunnel_waits_and_then_is_looked_at_or_not() {
    for (request, asks) in [
        ("CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nUPGRADE: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nupgrade: a\r\ncontent-length: 3\r\n\r\nabc", true),
        ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\nupgrade: a\r\n\r\n3\r\nabc\r\n0\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nx-upgrade: a\r\n\r\n", false),
    ] {
        let mut bytes = [request.as_bytes(), b"\n"].concat();
        let mut reader = Reader::default();
        let passed = reader.read(&mut bytes);
        assert_eq!((passed == request.len(), reader.is_waiting()), (asks, asks), "{request}");
        if !asks {
            continue;
        }
        assert_eq!(reader.read(&mut bytes), 0, "{request}");
        let mut tunnel = reader.clone();
        tunnel.resume(true);
        let mut any = *b"\n\n#\0";
        assert_eq!((tunnel.read(&mut any), any), (4, *b"\n\n#\0"), "{request}");
        reader.resume(false);
        assert_eq!((reader.read(&mut any), any[0]), (1, ILLEGAL), "{request}");
    }
}

fn connection() -> (DuplexStream, Strict<DuplexStream>, Told) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let told = Told::default();
    (client, Strict::new(server, told.clone()), told)
}

async fn read(strict: &mut Strict<DuplexStream>, room: usize) -> Option<Vec<u8>> {
    let mut buf = vec![0; room];
    let length = timeout(Duration::from_secs(1), strict.read(&mut buf)).await.ok()?.unwrap();
    buf.truncate(length);
    Some(buf)
}

#[tokio::test(start_paused = true)]
async fn behind_a_fault_there_is_an_empty_line_and_then_nothing() {
    for room in [1, 2, 5, 999] {
        let (mut client, mut strict, told) = connection();
        client.write_all(format!("{GET}GET /#/ HTTP/1.1\r\n\r\n{GET}").as_bytes()).await.unwrap();
        let mut out = Vec::new();
        loop {
            match read(&mut strict, room).await.unwrap() {
                some if some.is_empty() => break,
                some => out.extend(some),
            }
        }
        assert_eq!(out, format!("{GET}GET /\0\n\n").into_bytes(), "{room}");
        assert!(told.fault().is_some());
    }
}

/// Bytes come with the request, behind it, or not at all, until the answer.
#[tokio::test(start_paused = true)]
async fn early_bytes_wait_for_the_answer() {
    let upgrade = "GET / HTTP/1.1\r\nupgrade: a\r\n\r\n";
    let request = || Request::builder().header("upgrade", "a").body(()).unwrap();
    for (with, behind, status, expected) in [
        (GET, GET, Some(StatusCode::OK), format!("{GET}{GET}")),
        ("a\n", "b\n#", Some(StatusCode::SWITCHING_PROTOCOLS), "a\nb\n#".to_owned()),
        ("", "b\n", Some(StatusCode::SWITCHING_PROTOCOLS), "b\n".to_owned()),
        ("", "\r\n\n", Some(StatusCode::OK), "\r\n\0\n\n".to_owned()),
        (upgrade, GET, None, upgrade.to_owned()),
    ] {
        for room in [40, 7] {
            let (mut client, mut strict, told) = connection();
            client.write_all(format!("{upgrade}{with}").as_bytes()).await.unwrap();
            let asked = told.asked(&request()).unwrap();
            let mut out = Vec::new();
            while out.len() < upgrade.len() {
                out.extend(read(&mut strict, room).await.unwrap());
            }
            assert_eq!(out, upgrade.as_bytes());
            client.write_all(behind.as_bytes()).await.unwrap();
            assert_eq!(read(&mut strict, room).await, None, "nothing passes before the answer");
            asked.answered(status);
            out.clear();
            while let Some(some) = read(&mut strict, room).await.filter(|some| !some.is_empty()) {
                out.extend(some);
            }
            assert_eq!(out, expected.as_bytes(), "{with:?} {behind:?}");
        }
    }
    assert!(Told::default().asked(&Request::new(())).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_it_waits_for_a_tunnel_is_noticed_and_an_answer_wakes_the_reader() {
    let (mut client, mut strict, told) = connection();
    let request = Request::builder().method("CONNECT").uri("x:1").body(()).unwrap();
    let asked = told.asked(&request).unwrap();
    client.write_all(b"CONNECT x:1 HTTP/1.1\r\n\r\nearly").await.unwrap();
    assert_eq!(read(&mut strict, 99).await.map(|some| some.len()), Some(24));
    let answer = async {
        tokio::task::yield_now().await;
        asked.answered(Some(StatusCode::OK));
    };
    let (early, ()) = tokio::join!(read(&mut strict, 99), answer);
    assert_eq!(early.unwrap(), b"early");

    let (mut client, mut strict, _told) = connection();
    client.write_all(b"CONNECT x:1 HTTP/1.1\r\n\r\n").await.unwrap();
    read(&mut strict, 99).await.unwrap();
    drop(client);
    assert_eq!(read(&mut strict, 99).await, Some(Vec::new()));
}

/// Wherever the head is cut: hyper answers at once, and the connection's end says why.
#[tokio::test(start_paused = true)]
async fn a_refused_head_is_answered_with_400_and_its_reason_is_known() {
    let drain = Drain::default();
    let answer = |_: Box<Message>| async { Ok(Response::new(Body::full("hello"))) };
    for head in refused().iter().filter(|row| !row.contains("chunked\r\n\r\n")) {
        let (bytes, _) = unmarked(head);
        for cut in 0..bytes.len() {
            let (mut client, server) = tokio::io::duplex(4096);
            let served = tokio::spawn(serve_http1(server, drain.handle(), answer));
            let started = tokio::time::Instant::now();
            client.write_all(&bytes[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            // It may be closed already, and the answer waits to be read.
            let _ = client.write_all(&bytes[cut..]).await;
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert!(heard.starts_with("HTTP/1.1 400 "), "{head:?} cut at {cut}: {heard:?}");
            assert_eq!(started.elapsed(), Duration::ZERO, "{head:?} cut at {cut}");
            assert!(matches!(served.await.unwrap(), Err(Ended::Refused(_))), "{head:?} cut at {cut}");
        }
    }
}

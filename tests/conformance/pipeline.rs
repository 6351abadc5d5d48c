//! No cross-talk: thousands of pipelined requests, each with a token of its own, over a few connections at once; every answer
//! is the answer to the request in its place, and every request reaches the app once.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _, time::Duration};

use crate::bench::{Bench, Door, HOST};

const CONNECTIONS: usize = 4;
/// Requests of each connection: 10,000 in all.
const REQUESTS: usize = 2_500;
/// Written at once; the rest waits for answers, as sockets have ends.
const BATCH: usize = 100;

#[test]
fn ten_thousand_pipelined_requests_get_their_own_answers() {
    let bench = Bench::start();
    for door in [Door::Outbound, Door::Inbound] {
        std::thread::scope(|scope| {
            for connection in 0..CONNECTIONS {
                let bench = &bench;
                scope.spawn(move || converse(bench, door, connection));
            }
        });
        let seen = bench.seen(door);
        let lines: BTreeSet<&str> = seen.iter().map(crate::app::Seen::line).collect();
        assert_eq!((seen.len(), lines.len()), (CONNECTIONS * REQUESTS, CONNECTIONS * REQUESTS), "{door:?}: each once");
    }
}

fn converse(bench: &Bench, door: Door, connection: usize) {
    let mut stranger = bench.connect(door);
    for batch in 0..REQUESTS / BATCH {
        let (mut said, mut expected) = (String::new(), Vec::new());
        for number in 0..BATCH {
            let token = format!("/token-{connection}-{batch}-{number}");
            // Bodies of changing length and framing move every boundary about.
            let body = "x".repeat(number % 7);
            let framing = match number % 3 {
                0 => "\r\n\r\n".to_owned(),
                1 => format!("\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
                _ => "\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n".to_owned(),
            };
            write!(said, "POST {token} HTTP/1.1\r\nhost: {HOST}{framing}").expect("a String takes it");
            expected.push(token);
        }
        stranger.write_all(said.as_bytes()).and_then(|()| stranger.flush()).expect("it is written");
        let last = expected.last().expect("one").clone();
        let heard = stranger.hear_until(Duration::from_secs(10), |bytes| bytes.ends_with(last.as_bytes()));
        let text = String::from_utf8_lossy(&heard.bytes);
        let tokens: Vec<&str> =
            text.split("HTTP/1.1 200 OK").skip(1).filter_map(|one| Some(one.split_once("\r\n\r\n")?.1)).collect();
        assert_eq!(tokens, expected, "{door:?}, connection {connection}, batch {batch}");
    }
}

//! The matrix's rows of HTTP/1: what a client and a server that know nothing of us say to each other, byte by byte, arrives
//! with its meaning, whichever proxies are between them and although they speak HTTP/2 to each other.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use lacewing_tests::wait::until;

use super::{
    matrix::{Way, World},
    wire::{Head, PATIENCE, Wire},
};

/// Bytes of a large body.
const LARGE: usize = 64 << 20;
/// Bytes of a body that makes proxies allocate what they need anyway.
const WARM: usize = 4 << 20;
/// What a proxy's memory may grow by while a large body passes, in bytes.
const FLAT: u64 = 6 << 20;

/// Answers each request with `body`, in the way of a plain server, and says what it saw.
fn answer(wire: &mut Wire, head: &Head, body: &str) {
    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{}\r\n{body}", body.len(), seen(head)));
}

/// Fields that tell the client what the server saw.
fn seen(head: &Head) -> String {
    let client = head.get("l6g-client-id").map(|id| format!("x-client: {id}\r\n")).unwrap_or_default();
    format!("x-line: {}\r\nx-host: {}\r\n{client}", head.line, head.get("host").unwrap_or("none"))
}

/// A server that answers each request with its path.
fn path_server(wire: &mut Wire) {
    while let Some(head) = wire.next_head() {
        wire.body(&head);
        answer(wire, &head, head.path());
    }
}

/// A good answer, from a server that knew the client.
#[track_caller]
fn is_served(way: &Way<'_>, head: &Head) {
    assert_eq!(head.status(), 200, "{}: {head:?}", way.name);
    assert_eq!(head.get("x-client"), way.client_id.as_deref(), "{}: {head:?}", way.name);
}

#[test]
fn http_1_0() {
    let world = World::new();
    world.serve(path_server).each_family(|way| {
        for (host, expected) in [("", None), ("Host: shop.example\r\n", Some("shop.example"))] {
            let mut wire = way.connect();
            wire.send(format!("GET /old HTTP/1.0\r\n{host}\r\n"));
            let head = wire.head();
            is_served(way, &head);
            assert_eq!(head.line, "HTTP/1.0 200 OK", "{}", way.name);
            // A client that says no host means what it has dialled.
            let dialled = if way.client.spec.meshed { way.to } else { way.server_pod.at(way.to.port()) };
            let host = head.get("x-host").unwrap_or_default();
            match expected {
                Some(expected) => assert_eq!(host, expected),
                None => assert_eq!(host.rsplit_once(':').unwrap().1, dialled.port().to_string(), "{}", way.name),
            }
            assert_eq!(wire.rest(), b"/old", "{}: and closed", way.name);
        }
        let mut wire = way.connect();
        for path in ["/one", "/two"] {
            wire.send(format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
            let head = wire.head();
            is_served(way, &head);
            assert!(head.get("connection").is_some_and(|kept| kept.eq_ignore_ascii_case("keep-alive")), "{head:?}");
            assert_eq!(wire.body(&head), path.as_bytes());
        }
    });
    world
        .serve(|wire| {
            if let Some(head) = wire.next_head() {
                let chunks = "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
                wire.send(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{}\r\n{chunks}", seen(&head)));
            }
        })
        .each(|way| {
            let mut wire = way.connect();
            wire.send("GET /chunks HTTP/1.0\r\n\r\n");
            let head = wire.head();
            is_served(way, &head);
            assert_eq!(head.get("transfer-encoding"), None, "{}: it knows no chunks", way.name);
            assert_eq!(wire.rest(), b"abcdefg");
        });
}

#[test]
fn keep_alive_and_pipelining() {
    let world = World::new();
    let service = world.serve(path_server);
    service.each_family(|way| {
        let before = way.server.connections();
        let mut wire = way.connect();
        for n in 0..50 {
            wire.send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let head = wire.head();
            is_served(way, &head);
            assert_eq!(head.get("x-line"), Some(&*format!("GET /{n} HTTP/1.1")));
            assert_eq!(wire.body(&head), format!("/{n}").as_bytes());
        }
        // One for the client's silence before its first byte, at most, and a spare.
        assert!(way.server.connections() - before <= 3, "{}: {before} to {}", way.name, way.server.connections());
        let all: String = (0..20)
            .map(|n| match n % 3 {
                0 => format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
                1 => format!("POST /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
                _ => format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
            })
            .collect();
        wire.send(all);
        for n in 0..20 {
            let head = wire.head();
            is_served(way, &head);
            assert_eq!(wire.body(&head), format!("/{n}").as_bytes(), "{}: answers in order", way.name);
        }
        wire.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let head = wire.head();
        assert_eq!((head.get("connection"), wire.rest()), (Some("close"), b"/last".to_vec()), "{}", way.name);
    });
}

#[test]
fn chunks_and_trailers_both_ways() {
    let world = World::new();
    let server = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            let (body, trailers) = wire.chunked();
            let sum = trailers.get("x-sum").unwrap_or("none").to_owned();
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-back\r\nx-te: {}\r\nx-sum-seen: {sum}\r\n{}\r\n",
                head.get("te").unwrap_or("none"),
                seen(&head)
            ));
            for part in body.chunks(7) {
                wire.send([format!("{:x};ext=1\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
            }
            wire.send("0\r\nx-back: here\r\n\r\n");
        }
    };
    world.serve(server).each_family(|way| {
        let mut wire = way.connect();
        for _ in 0..2 {
            wire.send(
                "POST /sum HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n1;a=b\r\n \r\n00A\r\n0123456789\r\n0\r\nX-Sum: 16\r\n\r\n",
            );
            let head = wire.head();
            is_served(way, &head);
            assert_eq!((head.get("x-te"), head.get("x-sum-seen")), (Some("trailers"), Some("16")), "{}", way.name);
            let (body, trailers) = wire.chunked();
            assert_eq!(String::from_utf8_lossy(&body), "hello 0123456789", "{}", way.name);
            assert_eq!(trailers.get("x-back"), Some("here"), "{}", way.name);
        }
    });
}

#[test]
fn expectations() {
    let world = World::new();
    let patient = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            if head.get("expect") == Some("100-continue") {
                wire.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
            let body = wire.body(&head);
            answer(wire, &head, &String::from_utf8_lossy(&body));
        }
    };
    world.serve(patient).each_family(|way| {
        let mut wire = way.connect();
        for body in ["the first", "the second body"] {
            let length = body.len();
            wire.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"));
            assert_eq!(wire.head().status(), 100, "{}: before the body", way.name);
            wire.send(body);
            let head = wire.head();
            is_served(way, &head);
            assert_eq!(wire.body(&head), body.as_bytes());
        }
    });
    for (status, words) in [(417, "417 Expectation Failed"), (200, "200 OK")] {
        let at_once = move |wire: &mut Wire| {
            if wire.next_head().is_some() {
                wire.send(format!("HTTP/1.1 {words}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"));
                wire.finish();
                let _ = wire.try_rest();
            }
        };
        world.serve(at_once).each(|way| {
            let mut wire = way.connect();
            wire.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
            let mut head = wire.head();
            let told_to_go_on = head.status() == 100;
            if told_to_go_on {
                head = wire.head();
            }
            println!("{}: {status} at once; 100 before it: {told_to_go_on}", way.name);
            assert_eq!((head.status(), wire.body(&head)), (status, b"no".to_vec()), "{}", way.name);
        });
    }
}

#[test]
fn answers_without_a_body() {
    let world = World::new();
    let server = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            let seen = seen(&head);
            match head.path() {
                "/head" => wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n{seen}\r\n")),
                "/unchanged" => wire.send(format!("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n{seen}\r\n")),
                "/nothing" => wire.send(format!("HTTP/1.1 204 No Content\r\n{seen}\r\n")),
                "/empty" => {
                    assert_eq!(wire.body(&head), b"");
                    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{seen}\r\n"));
                }
                "/no-chunks" => {
                    assert_eq!(wire.body(&head), b"");
                    wire.send(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{seen}\r\n0\r\n\r\n"));
                }
                _ => answer(wire, &head, "body"),
            }
        }
    };
    world.serve(server).each_family(|way| {
        let mut wire = way.connect();
        let rows = [
            ("HEAD /head", "", 200, Some("12345")),
            ("GET /unchanged", "If-None-Match: \"a\"\r\n", 304, None),
            ("GET /nothing", "", 204, None),
            ("POST /empty", "Content-Length: 0\r\n", 200, Some("0")),
            ("DELETE /nothing", "", 204, None),
        ];
        for (request, fields, status, length) in rows {
            wire.send(format!("{request} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            let head = wire.head();
            assert_eq!((head.status(), head.get("content-length")), (status, length), "{}: {request}", way.name);
            // What follows is where it should be.
            wire.send("GET /body HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = wire.head();
            is_served(way, &head);
            assert_eq!(wire.body(&head), b"body", "{}: after {request}", way.name);
        }
        wire.send("POST /no-chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        let head = wire.head();
        is_served(way, &head);
        assert_eq!(wire.body(&head), b"", "{}", way.name);
    });
}

#[test]
fn heads_keep_their_meaning() {
    let world = World::new();
    let server = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            if head.path() == "/hints" {
                wire.send("HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n");
            }
            let cookies = head.get("cookie").unwrap_or("none").to_owned();
            let odd = head.get("x-odd").unwrap_or("none").to_owned();
            answer(wire, &head, &format!("{cookies}|{odd}"));
        }
    };
    world.serve(server).each_family(|way| {
        let mut wire = way.connect();
        for (line, host, expected) in [
            ("GET http://shop.example/x?y=z HTTP/1.1", "shop.example", "GET /x?y=z HTTP/1.1"),
            ("GET /a%20b//../c?d&e=%2F HTTP/1.1", "a", "GET /a%20b//../c?d&e=%2F HTTP/1.1"),
            ("OPTIONS * HTTP/1.1", "a", "OPTIONS * HTTP/1.1"),
            ("PROPFIND / HTTP/1.1", "a:81", "PROPFIND / HTTP/1.1"),
            ("GET /hints HTTP/1.1", "a", "GET /hints HTTP/1.1"),
        ] {
            wire.send(format!("{line}\r\nHost: {host}\r\nCookie: a=1; b=2\r\nX-Odd: \u{e9} \t!\r\n\r\n"));
            // Of 1xx answers only those that mean something to the connection pass; a client must do without hints.
            let head = wire.head();
            is_served(way, &head);
            assert_eq!((head.get("x-line"), head.get("x-host")), (Some(expected), Some(host)), "{}", way.name);
            let body = wire.body(&head);
            assert_eq!(String::from_utf8_lossy(&body), "a=1; b=2|\u{e9} \t!", "{}", way.name);
        }
    });
}

#[test]
fn answers_that_end_with_the_connection() {
    let world = World::new();
    let server = |wire: &mut Wire| {
        if let Some(head) = wire.next_head() {
            let (start, body) = match head.path() {
                "/old" => ("HTTP/1.0 200 OK\r\n", "until the end"),
                "/close" => ("HTTP/1.1 200 OK\r\nconnection: close\r\n", "until the end"),
                "/short" => ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n", "less than a hundred"),
                _ => ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n", "13\r\nless than a hundred\r\n"),
            };
            wire.send(format!("{start}{}\r\n{body}", seen(&head)));
        }
    };
    world.serve(server).each_family(|way| {
        let mut wire = way.connect();
        for path in ["/old", "/close", "/old"] {
            wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let head = wire.head();
            is_served(way, &head);
            assert_eq!(head.line, "HTTP/1.1 200 OK");
            assert_eq!(wire.body(&head), b"until the end", "{}: {path}: framed anew for the client", way.name);
        }
        for path in ["/short", "/cut"] {
            let mut wire = way.connect();
            wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            // Where head and break come together, nothing but the break may be left of them, or our own 502.
            let head = wire.next_head();
            println!("{}: {path}: {:?}", way.name, head.as_ref().map(|head| &head.line));
            if let Some(head) = head.filter(|head| head.status() != 502) {
                is_served(way, &head);
                let got = String::from_utf8_lossy(&wire.try_rest().unwrap_or_default()).into_owned();
                assert!(got.len() < 100 && !got.contains("0\r\n\r\n"), "{}: {path} was made whole: {got:?}", way.name);
            }
        }
    });
}

/// A known difference: a client that ends only its side is taken for one that leaves (docs/redirection.md).
#[test]
fn a_request_ends_with_its_clients_interest() {
    let world = World::new();
    let (told, tells) = mpsc::channel();
    let server = move |wire: &mut Wire| {
        if wire.next_head().is_some() {
            told.send(wire.try_rest().is_ok_and(|rest| rest.is_empty())).unwrap();
        }
    };
    world.serve(server).each_family(|way| {
        for leaves in [true, false] {
            let mut wire = way.connect();
            wire.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
            // The request is on its way before its client is not.
            until("the server has it", PATIENCE, || (way.server.open() > 0).then_some(()));
            wire.is_silent_for(Duration::from_millis(200));
            wire.finish();
            if !leaves {
                assert_eq!(wire.rest(), b"", "{}: no answer", way.name);
            }
            drop(wire);
            let ended = tells.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}: the server still works", way.name));
            assert!(ended, "{}: the server learns of it", way.name);
        }
    });
}

#[test]
fn large_bodies_pass_in_flat_memory() {
    let world = World::new();
    let server = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            let mut left: usize = head.get("content-length").map_or(0, |length| length.parse().unwrap());
            while left > 0 {
                left -= wire.exactly(left.min(64 << 10)).len();
            }
            let down = if head.path() == "/warm" { WARM } else { LARGE };
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {down}\r\n{}\r\n", seen(&head)));
            let chunk = vec![b'x'; 64 << 10];
            (0..down / chunk.len()).for_each(|_| wire.send(&chunk));
        }
    };
    let proxies = || [&world.meshed_client, &world.meshed_server].map(|pod| pod.proxy().rss());
    world.serve(server).each(|way| {
        let mut wire = way.connect();
        let mut run = |request: &str, up: usize, down: usize| {
            let (started, before) = (Instant::now(), proxies());
            let mut most = before;
            let mut look = || most = std::array::from_fn(|n| proxies()[n].max(most[n]));
            wire.send(request);
            let chunk = vec![b'x'; 64 << 10];
            for n in 0..up / chunk.len() {
                wire.send(&chunk);
                if n % 64 == 0 {
                    look();
                }
            }
            let head = wire.head();
            is_served(way, &head);
            for n in 0..down / chunk.len() {
                wire.exactly(chunk.len());
                if n % 64 == 0 {
                    look();
                }
            }
            look();
            let grown: [u64; 2] = std::array::from_fn(|n| most[n] - before[n]);
            println!(
                "{}: {} MiB up, {} MiB down in {:?}; memory grew by {grown:?}",
                way.name,
                up >> 20,
                down >> 20,
                started.elapsed()
            );
            grown
        };
        run("GET /warm HTTP/1.1\r\nHost: a\r\n\r\n", 0, WARM);
        let grown = run(&format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"), LARGE, LARGE);
        assert!(grown.iter().all(|grown| *grown < FLAT), "{}: {grown:?}", way.name);
    });
}

#[test]
fn a_slow_answer_is_awaited_while_others_pass() {
    let world = World::new();
    let server = |wire: &mut Wire| {
        while let Some(head) = wire.next_head() {
            if head.path() == "/slow" {
                wire.is_silent_for(Duration::from_secs(2));
            }
            answer(wire, &head, head.path());
        }
    };
    world.serve(server).each(|way| {
        let mut slow = way.connect();
        slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        let started = Instant::now();
        let mut quick = way.connect();
        quick.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n");
        is_served(way, &quick.head());
        assert!(started.elapsed() < Duration::from_secs(2), "{}: {:?}", way.name, started.elapsed());
        is_served(way, &slow.head());
    });
}

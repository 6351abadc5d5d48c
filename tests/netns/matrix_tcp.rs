//! The matrix's rows of raw TCP: who speaks first, who ends first, and in which way; every byte arrives, and an end is
//! passed on as soon as it is there. Nothing here looks like HTTP or TLS.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use lacewing_tests::wait::until;

use super::{
    matrix::World,
    wire::{PATIENCE, Wire},
};

/// Bytes of a large transfer, each way.
const LARGE: usize = 64 << 20;
/// What a proxy's memory may grow by meanwhile, in bytes.
const FLAT: u64 = 6 << 20;
/// An end is passed on within this, on a loaded machine.
const SOON: Duration = Duration::from_secs(5);

fn echo(wire: &mut Wire) {
    wire.socket.set_read_timeout(None).unwrap(); // an app waits for as long as it must
    let mut socket = wire.socket.try_clone().unwrap();
    let _ = std::io::copy(&mut wire.socket, &mut socket);
    let _ = wire.socket.shutdown(Shutdown::Write);
}

#[test]
fn whoever_speaks_first() {
    let world = World::new();
    world.serve(echo).each_family(|way| {
        let mut wire = way.connect();
        for words in [&b"\x00\x01binary\xff"[..], b"more\r\n", b"HTTP/1.1 later is nothing special"] {
            wire.send(words);
            assert_eq!(wire.exactly(words.len()), words, "{}", way.name);
        }
        wire.finish();
        assert_eq!(wire.rest(), b"", "{}", way.name);
    });
    let greeter = |wire: &mut Wire| {
        wire.send("220 ready\r\n");
        echo(wire);
    };
    world.serve(greeter).each_family(|way| {
        let mut wire = way.connect();
        assert_eq!(wire.line(), "220 ready", "{}", way.name);
        wire.send("GET / HTTP/1.1\r\n\r\n");
        assert_eq!(wire.exactly(18), b"GET / HTTP/1.1\r\n\r\n", "{}: opaque it is, whatever follows", way.name);
        wire.finish();
        assert_eq!(wire.rest(), b"", "{}", way.name);
    });
}

#[test]
fn each_side_may_end_first() {
    let world = World::new();
    // The client ends its side; the server then says how much that was, and ends.
    let summing = |wire: &mut Wire| {
        let length = wire.rest().len();
        wire.send(length.to_string());
    };
    world.serve(summing).each_family(|way| {
        let mut wire = way.connect();
        wire.send([7; 1_000]);
        wire.finish();
        assert_eq!(wire.rest(), b"1000", "{}", way.name);
    });
    // The server ends its side first, and still hears what the client says.
    let (heard, hears) = mpsc::channel();
    let early = move |wire: &mut Wire| {
        wire.send("all that I say");
        wire.finish();
        heard.send(wire.rest()).unwrap();
    };
    world.serve(early).each_family(|way| {
        let mut wire = way.connect();
        assert_eq!(wire.rest(), b"all that I say", "{}", way.name);
        wire.send("and you");
        wire.finish();
        assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), b"and you", "{}", way.name);
    });
    // A server that says nothing and ends, and one that a client leaves without a word.
    world.serve(|_| {}).each(|way| {
        let mut wire = way.connect();
        let started = Instant::now();
        assert_eq!(wire.rest(), b"", "{}", way.name);
        assert!(started.elapsed() < SOON);
    });
}

#[test]
fn resets_pass_as_an_end() {
    let world = World::new();
    let (told, tells) = mpsc::channel();
    let server = move |wire: &mut Wire| {
        let first = wire.exactly(1);
        if first == b"r" {
            reset(&wire.socket);
            return;
        }
        wire.send("go on");
        told.send(wire.try_rest().map_err(|error| error.kind())).unwrap();
    };
    world.serve(server).each_family(|way| {
        let mut wire = way.connect();
        wire.send(vec![b'r'; 200_000]);
        let started = Instant::now();
        let end = wire.try_rest();
        println!("{}: the server's reset comes as {end:?}", way.name);
        assert!(started.elapsed() < SOON, "{}: {end:?} after {:?}", way.name, started.elapsed());

        let mut wire = way.connect();
        wire.send("\x01");
        assert_eq!(wire.exactly(5), b"go on", "{}", way.name);
        wire.send(" more");
        reset(&wire.socket);
        drop(wire);
        let end = tells.recv_timeout(SOON).unwrap_or_else(|error| panic!("{}: {error}", way.name));
        println!("{}: the client's reset comes as {end:?}", way.name);
        let whole = end.as_deref().is_ok_and(|rest| rest == b" more");
        assert!(whole || end == Err(ErrorKind::ConnectionReset), "{}: {end:?}", way.name);
        until("the server's side ended", SOON, || (way.server.open() == 0).then_some(()));
    });
}

/// From now on, closing it is a reset.
fn reset(socket: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
}

#[test]
fn large_transfers_are_whole_and_memory_is_flat() {
    let world = World::new();
    world.serve(echo).each(|way| {
        let proxies = || [&world.meshed_client, &world.meshed_server].map(|pod| pod.proxy().rss());
        for warm in [true, false] {
            let length = if warm { 1 << 20 } else { LARGE };
            let (before, started) = (proxies(), Instant::now());
            let most = Arc::new(Mutex::new(before));
            let mut wire = way.connect();
            let mut back = wire.socket.try_clone().unwrap();
            let sum = std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let (mut chunk, mut read, mut sum) = (vec![0; 64 << 10], 0, 0_u64);
                    let mut next = 0;
                    while read < length {
                        let n = back.read(&mut chunk).unwrap();
                        assert!(n > 0, "the end after {read}");
                        sum = chunk[..n]
                            .iter()
                            .fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
                        read += n;
                        if read >= next {
                            next += 4 << 20;
                            let (now, mut most) = (proxies(), most.lock().unwrap());
                            *most = std::array::from_fn(|n| now[n].max(most[n]));
                        }
                    }
                    sum
                });
                let (mut sent, mut sum) = (0, 0_u64);
                while sent < length {
                    let chunk: Vec<u8> = (0..64 << 10).map(|n| (sent + n) as u8 ^ (sent >> 16) as u8).collect();
                    sum = chunk.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
                    wire.socket.write_all(&chunk).unwrap();
                    sent += chunk.len();
                }
                (sum, reader.join().unwrap())
            });
            assert_eq!(sum.0, sum.1, "{}: the same bytes in the same order", way.name);
            wire.finish();
            assert_eq!(wire.rest(), b"");
            if !warm {
                let most = *most.lock().unwrap();
                let grown: [u64; 2] = std::array::from_fn(|n| most[n] - before[n]);
                println!(
                    "{}: {} MiB there and back in {:?}; memory grew by {grown:?}",
                    way.name,
                    LARGE >> 20,
                    started.elapsed()
                );
                assert!(grown.iter().all(|grown| *grown < FLAT), "{}: {grown:?}", way.name);
            }
        }
    });
}

#[test]
fn silence_is_held_until_somebody_speaks() {
    let world = World::new();
    let held = if std::env::var_os("LACEWING_TEST_LONG").is_some_and(|long| !long.is_empty()) { 35 } else { 5 };
    let held = Duration::from_secs(held);
    // Silent, and never declared: both proxies and the server wait.
    world.serve(echo).each(|way| {
        let mut wire = way.connect();
        wire.is_silent_for(held);
        wire.send("hello");
        assert_eq!(wire.exactly(5), b"hello", "{}", way.name);
        wire.is_silent_for(held / 5);
        wire.finish();
        assert_eq!(wire.rest(), b"");
    });
    let late = move |wire: &mut Wire| {
        wire.is_silent_for(held);
        wire.send("the server speaks");
        echo(wire);
    };
    world.serve(late).each(|way| {
        let mut wire = way.connect();
        wire.is_silent_for(held * 9 / 10);
        assert_eq!(wire.exactly(17), b"the server speaks", "{}", way.name);
        wire.send("hello");
        assert_eq!(wire.exactly(5), b"hello", "{}", way.name);
        wire.finish();
        assert_eq!(wire.rest(), b"");
    });
}

#[test]
fn connect_and_close_leaves_nothing_behind() {
    let world = World::new();
    let service = world.serve(echo);
    service.each(|way| {
        for _ in 0..20 {
            drop(way.connect());
        }
        let mut wire = way.connect();
        wire.send("\x01after");
        assert_eq!(wire.exactly(6), b"\x01after", "{}", way.name);
        drop(wire);
        until("the server has no connection left", SOON, || (way.server.open() == 0).then_some(()));
    });
    for pod in [&world.meshed_client, &world.meshed_server] {
        let open = || pod.metric("tcp_open_connections", &[]) as u64;
        until(&format!("{} has no connection left", pod.name), SOON, || (open() == 0).then_some(()));
    }
}

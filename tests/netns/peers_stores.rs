//! Redis and memcached with redis-cli, redis-benchmark and raw words: pipelines, messages between clients, and a megabyte
//! in and out. Their clients speak first, in no protocol that a proxy knows.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    process::{Command, Stdio},
    time::Duration,
};

use lacewing_tests::net::daemons::{client, memcached, peer, redis, talk, talk_text};

use crate::peers::{Site, Way};

const LARGE: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

fn redis_cli(way: &Way<'_>, args: &[&str]) -> Command {
    let mut command = client(way.host(), "redis-cli");
    command.args(["-h", &way.service, "-p", "6379"]).args(args);
    command
}

#[test]
fn redis_commands_pipelines_and_messages() {
    let site = Site::new(&[(6379, 6379)], |host| vec![redis(host, 6379)]);
    let large: Vec<u8> = (0..LARGE).map(|at| (at * 31 % 251) as u8).collect();
    for way in site.ways() {
        way.carries_tcp(5, || {
            assert_eq!(talk_text(redis_cli(&way, &["PING"]), ""), "PONG");
            assert_eq!(talk(redis_cli(&way, &["-x", "SET", "large"]), &large), b"OK\n");
            let got = talk(redis_cli(&way, &["--raw", "GET", "large"]), b"");
            assert!(got.strip_suffix(b"\n") == Some(&large), "{}: {} bytes, or others", way.name, got.len());
            pipeline(&way);
            messages(&way);
        });
    }
    let way = site.meshed();
    let mut bench = client(way.host(), "redis-benchmark");
    bench.args(["-h", &way.service, "-p", "6379", "-c", "20", "-n", "50000", "-P", "16", "-t", "set,get", "--csv"]);
    let figures = way.carries_tcp(20, || talk_text(bench, ""));
    assert!(figures.contains("\"SET\"") && figures.contains("\"GET\""), "{figures}");
    println!("redis-benchmark, {}:\n{figures}", way.name);
}

/// Ten thousand commands before the first answer is read.
fn pipeline(way: &Way<'_>) {
    let commands = (0..10_000).map(|n| format!("SET key:{n} {n}\r\n")).collect::<Vec<_>>().concat();
    let said = talk_text(redis_cli(way, &["--pipe"]), &commands);
    assert!(said.contains("errors: 0, replies: 10000"), "{}: {said}", way.name);
    assert_eq!(talk_text(redis_cli(way, &["GET", "key:9999"]), ""), "9999");
}

fn messages(way: &Way<'_>) {
    let mut command = peer(way.host(), "redis-cli");
    command.args(["-h", &way.service, "-p", "6379", "SUBSCRIBE", "news"]);
    let mut subscriber = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = |count: usize| lines.by_ref().take(count).collect::<Vec<_>>().join(" ");
    assert_eq!(next(3), "subscribe news 1");
    for word in ["first", "second"] {
        assert_eq!(talk_text(redis_cli(way, &["PUBLISH", "news", word]), ""), "1");
        assert_eq!(next(3), format!("message news {word}"), "{}", way.name);
    }
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}

#[test]
fn memcached_values() {
    let site = Site::new(&[(11_211, 11_211)], |host| vec![memcached(host, 11_211)]);
    for way in site.ways() {
        let to: SocketAddr = (way.service.as_str(), 11_211).to_socket_addrs().unwrap().next().unwrap();
        way.carries_tcp(1, || {
            let mut socket = way.host().connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let value = "v".repeat(LARGE / 2);
            let command =
                format!("set large 7 0 {}\r\n{value}\r\nget large\r\nget nothing\r\nversion\r\n", value.len());
            socket.write_all(command.as_bytes()).unwrap();
            let expected = format!("STORED\r\nVALUE large 7 {}\r\n{value}\r\nEND\r\nEND\r\nVERSION ", value.len());
            let mut heard = vec![0; expected.len()];
            socket.read_exact(&mut heard).unwrap();
            assert!(heard == expected.as_bytes(), "{}: {:?}…", way.name, String::from_utf8_lossy(&heard[..40]));
            quit(&mut socket);
        });
    }
}

/// The server ends the connection, and the client hears it.
fn quit(socket: &mut TcpStream) {
    socket.write_all(b"quit\r\n").unwrap();
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("\r\n"), "{rest:?}");
}

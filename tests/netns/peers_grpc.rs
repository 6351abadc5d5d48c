//! gRPC and WebSocket by libraries from PyPI and npm, on ports that nothing is said about. Both clients call both servers:
//! empty and large messages, the four kinds of calls, errors with trailers, deadlines and cancels that reach the server.

use std::{
    io::{Read, Write},
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use lacewing_tests::net::{
    Host, Process,
    daemons::{script, script_client, serve, talk_text},
};
use serde_json::{Value, json};

use crate::peers::{Site, Way};

/// (port, script) of the servers.
const SERVERS: [(u16, &str); 2] = [(50_051, "grpc_server.py"), (50_052, "grpc_server.js")];
const WEBSOCKET: u16 = 8765;
/// How late a slow client is with its first bytes: longer than any proxy waits before it asks the server.
const SLOW: Duration = Duration::from_millis(300);
/// HTTP/2's preface with empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn calls(way: &Way<'_>, client: &str, port: u16) -> Value {
    let mut command = script_client(way.host(), client);
    command.arg(format!("dns:///{}:{port}", way.service));
    serde_json::from_str(&talk_text(command, "")).expect("JSON")
}

fn servers(host: &Host) -> Vec<Process> {
    let started = SERVERS.map(|(port, name)| {
        let mut server = script(host, name);
        server.arg(port.to_string());
        serve(host, name, server, port)
    });
    started.into()
}

#[test]
fn grpc_of_two_libraries_in_every_pair() {
    let site = Site::new(&SERVERS.map(|(port, _)| (port, port)), servers);
    for way in site.ways() {
        for (port, server) in SERVERS {
            for (client, kind) in [("grpc_client.py", "python"), ("grpc_client.js", "node")] {
                let of_one_library = client.split('.').next_back() == server.split('.').next_back();
                if of_one_library && way.name != site.meshed().name {
                    continue;
                }
                let seen = way.carries_http(200, || calls(&way, client, port));
                let expected = json!({
                    "empty": [0, "OK", kind],
                    "large": true,
                    "fail": ["NOT_FOUND", "nobody – 50%", "because", "00ff80"],
                    "many": true,
                    "sum": "1001 2048576",
                    "chat": [[3, 0, 1_048_576, 4], 0, "OK"],
                    "cancel": ["still here", "CANCELLED"],
                    "deadline": ["still here", "DEADLINE_EXCEEDED"],
                    "left": 2,
                    "at_once": true,
                });
                assert_eq!(seen, expected, "{}: {client} with {server}", way.name);
            }
        }
    }
}

/// A gRPC server may send its SETTINGS before its client says a word. It is no less HTTP/2 for that: not for the slow
/// client, and not for those who come after it.
#[test]
fn slow_http2_clients_stay_http2() {
    let site = Site::new(&SERVERS.map(|(port, _)| (port, port)), servers);
    for way in site.ways() {
        for (port, server) in SERVERS {
            let to: SocketAddr = (way.service.as_str(), port).to_socket_addrs().unwrap().next().unwrap();
            let mut slow = way.host().connect(to).unwrap();
            slow.set_read_timeout(Some(SLOW)).unwrap();
            let before_it_spoke = slow.read(&mut [0; 9]);
            slow.write_all(PREFACE).unwrap();
            slow.set_read_timeout(Some(10 * SLOW)).unwrap();
            let mut head = [0; 9];
            // Whoever answers speaks HTTP/2: its first frame is SETTINGS.
            if before_it_spoke.is_err() {
                slow.read_exact(&mut head).unwrap();
                assert_eq!(head[3], 4, "{}: {head:?}", way.name);
            }
            way.carries_http(200, || calls(&way, "grpc_client.py", port));
            assert!(before_it_spoke.is_err(), "{}: {server} was asked before its client had spoken", way.name);
        }
    }
}

#[test]
fn websockets_of_every_kind() {
    let site = Site::new(&[(WEBSOCKET, WEBSOCKET)], |host| {
        let mut server = script(host, "websocket_server.py");
        server.arg(WEBSOCKET.to_string());
        vec![serve(host, "websocket", server, WEBSOCKET)]
    });
    let large = if std::env::var("LACEWING_TEST_LONG").is_ok_and(|long| !long.is_empty()) { "64" } else { "8" };
    for way in site.ways() {
        let mut client = script_client(way.host(), "websocket_client.py");
        client.args([&format!("ws://{}:{WEBSOCKET}/", way.service), large]);
        let seen: Value = serde_json::from_str(&way.carries_http(4, || talk_text(client, ""))).expect("JSON");
        let all = json!({
            "text": true, "empty": true, "binary": true, "large": true, "fragments": "in three frames", "ping": true,
            "many": true, "closed": [4001, "as you wish"],
        });
        let mut first = all.clone();
        first["client_closed"] = json!(1000);
        assert_eq!(seen, json!([first, all, all]), "{}", way.name);
    }
}

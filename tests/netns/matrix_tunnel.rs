//! The matrix's rows of connections that begin as one thing and go on as another: `Upgrade`, `CONNECT`, and the app's own
//! TLS, which nobody on the way may touch.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use lacewing_identity::{Authority, ClientAuth, SpiffeId, TrustDomain, tls};
use rustls::{ClientConnection, ServerConnection, StreamOwned, pki_types::ServerName};

use super::{
    matrix::{Way, World},
    wire::{Head, Wire},
};

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: chat.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Bytes of a large frame.
const LARGE: usize = 4 << 20;

/// Agrees to an upgrade, then echoes until the client ends, then says goodbye.
fn chat_server(wire: &mut Wire) {
    while let Some(head) = wire.next_head() {
        let upgrade = head.get("upgrade").map(str::to_owned);
        let client = head.get("l6g-client-id").unwrap_or("nobody").to_owned();
        match (head.path(), upgrade.as_deref()) {
            ("/chat", Some("websocket")) => {
                assert_eq!(head.get("connection").map(str::to_lowercase).as_deref(), Some("upgrade"), "{head:?}");
                assert_eq!(head.get("sec-websocket-version"), Some("13"));
                // The greeting comes with the answer: nothing of it may be lost.
                wire.send(format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx-client: {client}\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello"
                ));
                return tunnel(wire);
            }
            ("/no", Some("websocket")) => wire.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno"),
            _ => {
                let saw = upgrade.unwrap_or_else(|| "none".to_owned());
                wire.send(format!(
                    "HTTP/1.1 200 OK\r\nx-upgrade: {saw}\r\nx-client: {client}\r\ncontent-length: 4\r\n\r\nhttp"
                ));
            }
        }
    }
}

fn tunnel(wire: &mut Wire) {
    let mut chunk = vec![0; 64 << 10];
    // What came with the head was read ahead.
    let mut ahead = wire.take_ahead();
    loop {
        wire.send(&ahead);
        match wire.socket.read(&mut chunk) {
            Ok(read @ 1..) => ahead = chunk[..read].to_vec(),
            _ => break,
        }
    }
    wire.send("goodbye");
    wire.finish();
}

#[test]
fn websockets() {
    let world = World::new();
    world.serve(chat_server).each_family(|way| {
        let mut wire = way.connect();
        // An upgrade may come after other requests, and with the first frame right behind it.
        wire.send("GET /before HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = wire.head();
        assert_eq!((head.get("x-upgrade"), wire.body(&head)), (Some("none"), b"http".to_vec()), "{}", way.name);
        wire.send(WEBSOCKET);
        let head = wire.head();
        assert_eq!(head.status(), 101, "{}: {head:?}", way.name);
        assert_eq!(head.get("x-client"), Some(way.client_id.as_deref().unwrap_or("nobody")), "{}", way.name);
        assert_eq!(head.get("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
        assert_eq!(head.get("upgrade"), Some("websocket"));
        assert_eq!(head.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(wire.exactly(5), b"hello", "{}", way.name);
        wire.send(b"\x81\x05frame");
        assert_eq!(wire.exactly(7), b"\x81\x05frame", "{}", way.name);
        let large: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
        let mut socket = wire.socket.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| socket.write_all(&large).unwrap());
            assert!(wire.exactly(LARGE) == large, "{}: a large frame", way.name);
        });
        wire.finish();
        assert_eq!(wire.rest(), b"goodbye", "{}: the server ends after the client", way.name);
    });
}

#[test]
fn upgrades_that_do_not_happen_stay_http() {
    let world = World::new();
    world.serve(chat_server).each(|way| {
        let mut wire = way.connect();
        for (path, status, body) in [("/no", 400, "no"), ("/other", 200, "http")] {
            wire.send(WEBSOCKET.replace("/chat", path));
            let head = wire.head();
            assert_eq!((head.status(), &*wire.body(&head)), (status, body.as_bytes()), "{}: {path}", way.name);
            wire.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = wire.head();
            assert_eq!((head.status(), &*wire.body(&head)), (200, &b"http"[..]), "{}: after {path}", way.name);
        }
        let mut wire = way.connect();
        wire.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n");
        let head = wire.head();
        assert_eq!((head.status(), head.get("x-upgrade")), (200, Some("none")), "{}: h2c is not offered on", way.name);
        assert_eq!(wire.body(&head), b"http");
    });
}

/// A small proxy for CONNECT; what it tunnels to is itself.
fn connect_server(wire: &mut Wire) {
    while let Some(head) = wire.next_head() {
        if head.line == "CONNECT db.example:5432 HTTP/1.1" {
            assert_eq!(head.get("host"), Some("db.example:5432"), "{head:?}");
            let client = head.get("l6g-client-id").unwrap_or("nobody");
            wire.send(format!("HTTP/1.1 200 Connection established\r\nx-client: {client}\r\n\r\nready"));
            return tunnel(wire);
        }
        wire.send("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
    }
}

const CONNECT: &str = "CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n";

#[test]
fn connect_is_refused_unless_it_is_allowed() {
    let world = World::new();
    let service = world.serve(connect_server);
    service.each(|way| {
        let mut wire = way.connect();
        wire.send(CONNECT);
        let head = wire.head();
        assert_eq!((head.status(), head.get("l6g-error")), (403, Some("denied")), "{}", way.name);
        let body = wire.body(&head);
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains("LACEWING_ALLOW_CONNECT"), "{}: {body}", way.name);
        // So that the proof of the way has something to count.
        let mut wire = way.connect();
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(wire.head().status(), 502, "{}: the app's own word", way.name);
    });
}

#[test]
fn connect_is_carried_where_it_is_allowed() {
    let world = World::with(|spec| spec.proxy_env("LACEWING_ALLOW_CONNECT", "1"));
    world.serve(connect_server).each_family(|way| {
        let mut wire = way.connect();
        wire.send(CONNECT);
        let head = wire.head();
        assert_eq!(head.status(), 200, "{}: {head:?}", way.name);
        assert_eq!(head.get("x-client"), Some(way.client_id.as_deref().unwrap_or("nobody")), "{}", way.name);
        assert_eq!((head.get("content-length"), head.get("transfer-encoding")), (None, None), "{}", way.name);
        assert_eq!(wire.exactly(5), b"ready", "{}", way.name);
        wire.send(b"\x00any bytes");
        assert_eq!(wire.exactly(10), b"\x00any bytes", "{}", way.name);
        wire.finish();
        assert_eq!(wire.rest(), b"goodbye", "{}", way.name);

        let mut wire = way.connect();
        wire.send(CONNECT.replace("db.", "other."));
        let head: Head = wire.head();
        assert_eq!(head.status(), 502, "{}: the app's own refusal", way.name);
    });
}

/// Keeps what was read and written.
struct Tee {
    socket: TcpStream,
    read: Arc<Mutex<Vec<u8>>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Tee {
    fn new(socket: TcpStream) -> Self {
        Self { socket, read: Arc::default(), written: Arc::default() }
    }
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.socket.read(buffer)?;
        self.read.lock().unwrap().extend(&buffer[..read]);
        Ok(read)
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.socket.write(bytes)?;
        self.written.lock().unwrap().extend(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[test]
fn the_apps_own_tls_is_not_touched() {
    let world = World::new();
    // An authority that the mesh knows nothing of; it has to be somewhere near today.
    let now = world.meshed_server.private("/identity")["now"].as_u64().unwrap();
    let domain = TrustDomain::parse("app.example").unwrap();
    let authority = Authority::generate(&domain, now).unwrap();
    let id = SpiffeId::new(&domain, "shop", "db").unwrap();
    let leaf = authority.issue_own(&id, now, 3_600).unwrap();
    let server_config = tls::server_config(&leaf, authority.bundle(), ClientAuth::Optional, &[b"h2"]).unwrap();
    let at_server = Arc::new(Mutex::new(Vec::new()));
    let seen = at_server.clone();
    let server = move |wire: &mut Wire| {
        let tee = Tee::new(wire.socket.try_clone().unwrap());
        let bytes = (tee.read.clone(), tee.written.clone());
        let mut tls = StreamOwned::new(ServerConnection::new(server_config.clone()).unwrap(), tee);
        let mut word = [0; 5];
        tls.read_exact(&mut word).unwrap();
        assert_eq!((&word, tls.conn.alpn_protocol()), (b"hello", Some(&b"h2"[..])));
        tls.write_all(b"world").unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        let mut rest = Vec::new();
        tls.read_to_end(&mut rest).unwrap();
        seen.lock().unwrap().push((bytes.0.lock().unwrap().clone(), bytes.1.lock().unwrap().clone()));
    };
    world.serve(server).each_family(|way: &Way<'_>| {
        let config = tls::client_config(None, authority.bundle(), &id, &[b"h2"]).unwrap();
        let name = ServerName::try_from("db.app.example").unwrap();
        let tee = Tee::new(way.connect().socket);
        let bytes = (tee.read.clone(), tee.written.clone());
        let mut tls = StreamOwned::new(ClientConnection::new(config, name).unwrap(), tee);
        tls.write_all(b"hello").unwrap();
        let mut word = Vec::new();
        tls.read_to_end(&mut word).unwrap();
        assert_eq!(word, b"world", "{}", way.name);
        assert_eq!(
            tls.conn.peer_certificates().unwrap()[0],
            leaf.chain()[0],
            "{}: the app's own certificate",
            way.name
        );
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        tls.sock.socket.shutdown(std::net::Shutdown::Write).unwrap();
        let end = Wire::new(tls.sock.socket.try_clone().unwrap()).rest();
        assert_eq!(end, b"");
        let seen = lacewing_tests::wait::until("the server is done", super::wire::PATIENCE, || {
            at_server.lock().unwrap().pop()
        });
        assert!(seen.0 == *bytes.1.lock().unwrap(), "{}: what the client wrote is what the server read", way.name);
        assert!(seen.1 == *bytes.0.lock().unwrap(), "{}: what the server wrote is what the client read", way.name);
    });
}

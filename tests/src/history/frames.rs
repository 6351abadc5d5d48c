//! An HTTP/2 server made of frames, for what no library does: GOAWAY that leaves streams out, resets with any code,
//! connections that end in the middle. What it does with each request is the test's own function. Requests must be POSTs
//! whose body is their token: their header fields are not decoded.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Book, Protocol, client::message};
use crate::net::Host;

/// Pause between looks for a connection.
const LOOK: Duration = Duration::from_millis(2);
/// What is held is answered when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(500);
const PREFACE: usize = 24;
const HEAD: usize = 9;
/// Frame types and flags (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// A request that has arrived whole.
#[derive(Clone, Debug)]
pub struct Asked {
    pub stream: u32,
    pub token: String,
    /// Of this connection's requests, from 0.
    pub nth: usize,
    /// Of this server's connections, from 0.
    pub connection: usize,
}

/// What a connection can say.
pub struct Say {
    socket: TcpStream,
    protocol: Protocol,
    name: String,
    book: Book,
    held: Vec<Asked>,
}

impl Say {
    /// Keeps it for [`Self::answer_held`], which comes by itself when nothing has arrived for a while.
    pub fn hold(&mut self, asked: Asked) {
        self.held.push(asked);
    }

    /// These will have no answer.
    pub fn forget_held(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.held)
    }

    pub fn answer_held(&mut self) {
        for asked in self.forget_held() {
            self.answer(&asked);
        }
    }

    /// Processes the request: from here on it has been seen.
    pub fn process(&self, asked: &Asked) {
        self.book.note(&self.name, &asked.token, true);
    }

    /// Answers it with its echo. Writing to a connection that is gone does nothing.
    pub fn answer(&mut self, asked: &Asked) {
        self.head(asked.stream, &[STATUS_200], &[("content-type", self.kind())], END_HEADERS);
        let echo = format!("echo {} {}", asked.token, self.name);
        if self.protocol == Protocol::Grpc {
            self.frame(DATA, 0, asked.stream, &message(&echo));
            self.head(asked.stream, &[], &[("grpc-status", "0")], END_HEADERS | END_STREAM);
        } else {
            self.frame(DATA, END_STREAM, asked.stream, echo.as_bytes());
        }
    }

    /// The head of an answer, and nothing more.
    pub fn begin(&mut self, asked: &Asked) {
        self.head(asked.stream, &[STATUS_200], &[("content-type", self.kind())], END_HEADERS);
    }

    pub fn reset(&mut self, asked: &Asked, code: u32) {
        self.frame(RST_STREAM, 0, asked.stream, &code.to_be_bytes());
    }

    /// What has a higher number than `last` was not processed.
    pub fn go_away(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.frame(GOAWAY, 0, 0, &payload);
    }

    /// Ends its side. What still comes is read, so that no reset overtakes what was said.
    pub fn close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn kind(&self) -> &'static str {
        if self.protocol == Protocol::Grpc { "application/grpc" } else { "text/plain" }
    }

    fn head(&mut self, stream: u32, first: &[u8], fields: &[(&str, &str)], flags: u8) {
        let mut block = first.to_vec();
        for (name, value) in fields {
            block.push(0); // a literal that is not indexed (RFC 7541, 6.2.2)
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("it is short"));
                block.extend(text.as_bytes());
            }
        }
        self.frame(HEADERS, flags, stream, &block);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        let _ = self.socket.write_all(&bytes);
    }
}

/// A running server; it ends, with its connections, on drop.
pub struct FrameServer {
    stopped: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl FrameServer {
    /// Serves at [`Protocol::port`]; `script` says what to do with each request, in the order of their arrival. Each
    /// connection has its own copy.
    pub fn start(
        host: &Host,
        name: &str,
        protocol: Protocol,
        book: &Book,
        script: impl FnMut(&mut Say, Asked) + Clone + Send + 'static,
    ) -> Self {
        let listener = host.listen(protocol.port());
        listener.set_nonblocking(true).expect("a socket");
        let (stopped, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let connections = Arc::<AtomicUsize>::default();
        let (name, book) = (name.to_owned(), book.clone());
        let shared = (stopped.clone(), open.clone(), connections.clone());
        let thread = std::thread::spawn(move || {
            while !shared.0.load(SeqCst) {
                let Ok((socket, _)) = listener.accept() else {
                    std::thread::sleep(LOOK);
                    continue;
                };
                let same = || socket.try_clone().expect("the same socket");
                let number = shared.2.fetch_add(1, SeqCst);
                shared.1.lock().unwrap_or_else(PoisonError::into_inner).push(same());
                let say = Say { socket: same(), protocol, name: name.clone(), book: book.clone(), held: Vec::new() };
                let mut script = script.clone();
                // A connection that breaks ends its own thread.
                std::thread::spawn(move || drop(converse(socket, say, number, &mut script)));
            }
        });
        Self { stopped, open, connections, thread: Some(thread) }
    }

    /// Connections that reached it.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for FrameServer {
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for socket in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn converse(
    mut socket: TcpStream,
    mut say: Say,
    connection: usize,
    script: &mut impl FnMut(&mut Say, Asked),
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.read_exact(&mut [0; PREFACE])?;
    say.frame(SETTINGS, 0, 0, &[]);
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut nth = 0;
    loop {
        socket.set_read_timeout(Some(QUIET))?;
        while socket.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            say.answer_held();
        }
        socket.set_read_timeout(None)?;
        let mut head = [0; HEAD];
        socket.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload)?;
        match kind {
            SETTINGS if flags & ACK == 0 => say.frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => say.frame(PING, ACK, 0, &payload),
            DATA => bodies.entry(stream).or_default().extend(&payload),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            let body = bodies.remove(&stream).unwrap_or_default();
            let token = if say.protocol == Protocol::Grpc { body.get(5..).unwrap_or_default() } else { &body };
            let token = String::from_utf8_lossy(token).into_owned();
            script(&mut say, Asked { stream, token, nth, connection });
            nth += 1;
        }
    }
}

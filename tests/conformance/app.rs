//! The app behind the mesh, on a socket of its own: it writes down every request byte for byte, and answers what the test
//! told it to answer for that path, however wrong. It reads strictly: what it cannot read as HTTP/1.1 it writes down as such.
//! For any other path it answers 200 with the path, so that an answer to somebody else's request is noticed.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

/// The rest of a request comes within this, or the request is not whole.
const PATIENCE: Duration = Duration::from_secs(3);

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// To the empty line, which is included.
    pub head: String,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Lines after the last chunk.
    pub trailers: String,
    /// The body came to the end that its framing promises.
    pub whole: bool,
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Script {
    pub bytes: Vec<u8>,
    /// Before the request's body was read.
    pub early: bool,
    /// Ends the connection after the answer.
    pub close: bool,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    scripts: Mutex<HashMap<String, Script>>,
    stopped: AtomicBool,
}

/// The app. It gives its address back on drop; its other threads end with their connections.
pub struct App {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl Seen {
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    /// Values of the fields of this name, in lower case.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
    }

    fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }
}

impl App {
    /// # Errors
    /// The address is taken.
    pub fn start(on: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(on)?;
        let shared = Arc::<Shared>::default();
        let accepting = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for socket in listener.incoming().flatten() {
                    if shared.stopped.load(SeqCst) {
                        return;
                    }
                    let shared = shared.clone();
                    // A proxy that breaks off ends its own connection.
                    std::thread::spawn(move || converse(&socket, &shared).unwrap_or_default());
                }
            })
        };
        Ok(Self { shared, address: on, accepting: Some(accepting) })
    }

    /// Answers requests for `path` so from now on.
    pub fn answer(&self, path: &str, script: Script) {
        self.shared.scripts.lock().expect("no app panics").insert(path.to_owned(), script);
    }

    /// What came since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().expect("no app panics"))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accepting thread
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn converse(socket: &TcpStream, shared: &Shared) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut requests = BufReader::new(socket.try_clone()?);
    let mut answers = socket.try_clone()?;
    loop {
        socket.set_read_timeout(None)?;
        let head = lines_to_empty(&mut requests)?;
        if head.is_empty() {
            return Ok(());
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut seen = Seen { head, ..Seen::default() };
        let script = shared.scripts.lock().expect("no app panics").get(seen.path()).cloned();
        if let Some(script) = script.as_ref().filter(|script| script.early) {
            answers.write_all(&script.bytes)?;
            note(shared, seen.clone());
            if script.close {
                return socket.shutdown(Shutdown::Both);
            }
            // As servers do that want to keep the connection: what is left of the body is read and thrown away.
            body(&mut requests, &mut seen)?;
            continue;
        }
        let read = body(&mut requests, &mut seen);
        seen.whole = read.is_ok();
        let own = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", seen.path().len(), seen.path());
        note(shared, seen);
        read?;
        answers.write_all(script.as_ref().map_or(own.as_bytes(), |script| &script.bytes))?;
        if script.is_some_and(|script| script.close) {
            return socket.shutdown(Shutdown::Both);
        }
    }
}

fn note(shared: &Shared, seen: Seen) {
    shared.seen.lock().expect("no app panics").push(seen);
}

/// Everything up to an empty line; nothing at the end of the connection.
fn lines_to_empty(from: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") && bytes != b"\r\n" {
        let mut byte = [0];
        if from.read(&mut byte)? == 0 {
            break;
        }
        bytes.push(byte[0]);
    }
    // A byte for a char: whatever came can be compared.
    Ok(bytes.iter().map(|byte| char::from(*byte)).collect())
}

fn body(from: &mut impl Read, seen: &mut Seen) -> io::Result<()> {
    match (seen.fields("transfer-encoding")[..].as_ref(), seen.fields("content-length")[..].as_ref()) {
        ([], []) => Ok(()),
        (["chunked"], []) => chunks(from, seen),
        ([], [length]) => {
            let mut left: usize = length.parse().map_err(io::Error::other)?;
            while left > 0 {
                left -= some(from, left, &mut seen.body)?;
            }
            Ok(())
        }
        (codings, lengths) => Err(io::Error::other(format!("framed by {codings:?} and {lengths:?}"))),
    }
}

fn chunks(from: &mut impl Read, seen: &mut Seen) -> io::Result<()> {
    loop {
        let size = line(from)?;
        let mut left = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
        if left == 0 {
            break;
        }
        while left > 0 {
            left -= some(from, left, &mut seen.body)?;
        }
        if !line(from)?.is_empty() {
            return Err(io::Error::other("a chunk longer than its size"));
        }
    }
    loop {
        let line = line(from)?;
        if line.is_empty() {
            return Ok(());
        }
        seen.trailers.extend([&line, "\r\n"]);
    }
}

fn some(from: &mut impl Read, most: usize, to: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 4096];
    let most = most.min(chunk.len());
    match from.read(&mut chunk[..most])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            to.extend_from_slice(&chunk[..read]);
            Ok(read)
        }
    }
}

/// A line without its end, which is CRLF.
fn line(from: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(bytes[..bytes.len() - 2].iter().map(|byte| char::from(*byte)).collect())
}

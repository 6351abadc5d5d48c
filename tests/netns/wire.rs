//! One connection, byte by byte, for clients and servers that must know exactly what went over it; and a server that runs
//! a function for each connection. Heads are kept as they were read, bodies are read by the framing that the test expects.
//! Nobody waits for ever: a read that gets nothing in time fails the test.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::oneshot;

/// A read or write that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A connection.
pub struct Wire {
    pub socket: TcpStream,
    /// Read from the socket, and not yet by the test.
    ahead: Vec<u8>,
}

/// The head of a message as it came.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Request line or status line.
    pub line: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(|field| field.split_once(':'));
        Self { line, fields: fields.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect() }
    }

    /// The field's value, if it is there exactly once.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }

    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

impl Wire {
    pub fn new(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { socket, ahead: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("the other side reads");
    }

    /// The next head, without its empty line.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.next_head().expect("a head, not the end")
    }

    /// The next head, or nothing: the other side closed before its first byte, or has left the connection idle for long.
    #[track_caller]
    pub fn next_head(&mut self) -> Option<Head> {
        let end = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let length = loop {
            if let Some(length) = end(&self.ahead) {
                break length;
            }
            match self.more() {
                Ok(0) | Err(_) if self.ahead.is_empty() => return None,
                Ok(read) => assert!(read > 0, "the end within a head: {:?}", String::from_utf8_lossy(&self.ahead)),
                Err(error) => {
                    panic!("{error} while a head was awaited; so far {:?}", String::from_utf8_lossy(&self.ahead))
                }
            }
        };
        let head = Head::parse(&self.ahead[..length]);
        self.ahead.drain(..length + 4);
        Some(head)
    }

    #[track_caller]
    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.ahead.len() < length {
            let read = self.more().unwrap_or_else(|error| panic!("{error} after {:?} of {length}", self.ahead.len()));
            assert!(read > 0, "the end after {} of {length} bytes", self.ahead.len());
        }
        self.ahead.drain(..length).collect()
    }

    /// A line, without its end.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.exactly(1));
        }
        String::from_utf8_lossy(&line[..line.len() - 2]).into_owned()
    }

    /// A chunked body, and its trailer fields (RFC 9112, 7.1).
    #[track_caller]
    pub fn chunked(&mut self) -> (Vec<u8>, Head) {
        let mut body = Vec::new();
        loop {
            let size = self.line();
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16).expect("a chunk's size");
            if size == 0 {
                break;
            }
            body.extend(self.exactly(size));
            assert_eq!(self.line(), "", "a chunk's end");
        }
        let mut trailers = b"trailers".to_vec();
        loop {
            let line = self.line();
            if line.is_empty() {
                return (body, Head::parse(&trailers));
            }
            trailers.extend([b"\r\n", line.as_bytes()].concat());
        }
    }

    /// The body by its framing: chunked, or a length, or none.
    #[track_caller]
    pub fn body(&mut self, head: &Head) -> Vec<u8> {
        if head.get("transfer-encoding").is_some() {
            return self.chunked().0;
        }
        let length = head.get("content-length").map_or(0, |length| length.parse().expect("a length"));
        self.exactly(length)
    }

    /// Everything up to the end, which must be an orderly one.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        self.try_rest()
            .unwrap_or_else(|error| panic!("{error} where the end was awaited, after {:?}", self.ahead.len()))
    }

    pub fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// The other side says nothing, and does not close, for that long.
    #[track_caller]
    pub fn is_silent_for(&mut self, time: Duration) {
        assert_eq!(String::from_utf8_lossy(&self.ahead), "", "nothing is unread");
        self.socket.set_read_timeout(Some(time)).unwrap();
        match self.more() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => panic!("{other:?} came: {:?}", String::from_utf8_lossy(&self.ahead)),
        }
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// What was read already, but not by the test.
    pub fn take_ahead(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ahead)
    }

    /// Ends our direction.
    pub fn finish(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let read = self.socket.read(&mut chunk)?;
        self.ahead.extend_from_slice(&chunk[..read]);
        Ok(read)
    }
}

/// A server: what it does with each connection is the test's. It ends on drop; a connection on which the function
/// panicked fails the test then.
pub struct Server {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    open: AtomicUsize,
    panics: AtomicUsize,
    clients: Mutex<Vec<SocketAddr>>,
}

impl Server {
    pub fn on(listener: TcpListener, app: impl Fn(&mut Wire) + Clone + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::<Shared>::default();
        let counts = shared.clone();
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(&listener, &counts, &app) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { shared, stop: Some(stop), thread: Some(thread) }
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// Where connections came from, in their order.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[track_caller]
    pub fn is_well(&self) {
        assert_eq!(self.shared.panics.load(SeqCst), 0, "the server did not like what it got: see above");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if !std::thread::panicking() {
            self.is_well();
        }
    }
}

async fn accept(
    listener: &tokio::net::TcpListener,
    shared: &Arc<Shared>,
    app: &(impl Fn(&mut Wire) + Clone + Send + 'static),
) {
    while let Ok((socket, from)) = listener.accept().await {
        let socket = socket.into_std().unwrap();
        socket.set_nonblocking(false).unwrap();
        shared.connections.fetch_add(1, SeqCst);
        shared.open.fetch_add(1, SeqCst);
        shared.clients.lock().unwrap_or_else(PoisonError::into_inner).push(from);
        let (at_work, app) = (AtWork(shared.clone()), app.clone());
        std::thread::spawn(move || {
            let _at_work = at_work;
            app(&mut Wire::new(socket));
        });
    }
}

/// Counts a connection's end, also by panic.
struct AtWork(Arc<Shared>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
        if std::thread::panicking() {
            self.0.panics.fetch_add(1, SeqCst);
        }
    }
}

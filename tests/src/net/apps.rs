//! Small apps that run in the test itself, on a host: the recording HTTP/1 app of [`crate::pod`], and raw TCP in the
//! ways that matter to a proxy: who speaks first, who reads, who never says a word. They count what
//! reaches them. Apps of others are processes, by `Host::command`.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::Host;
use crate::pod::App;

/// The HTTP/1 app on all of the host's addresses. See [`App`] for what it answers.
pub fn http_app(host: &Host, port: u16) -> App {
    App::on(host.listen(port))
}

/// What a TCP app does with a connection.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Sends back what it reads; ends its side when the client has ended its own.
    Echo,
    /// Says this first, then echoes.
    Greet(Vec<u8>),
    /// Reads until the end, and then says how many bytes that was, as text.
    Sink,
    /// Sends this many bytes (`x`), then ends.
    Source(u64),
    /// Reads everything and never says a word.
    Silent,
}

/// A raw TCP app; it ends on drop, with its connections.
pub struct TcpApp {
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    bytes: AtomicU64,
}

impl TcpApp {
    /// Listens on all of the host's addresses, IPv4 and IPv6.
    pub fn start(host: &Host, port: u16, behaviour: Behaviour) -> Self {
        Self::on(host.listen(port), behaviour)
    }

    /// The same on a socket of one's own, such as one that listens on loopback only.
    pub fn on(listener: std::net::TcpListener, behaviour: Behaviour) -> Self {
        let (stop, stopped) = oneshot::channel();
        let counts = Arc::<Counts>::default();
        let shared = counts.clone();
        listener.set_nonblocking(true).expect("a socket");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(&listener, &shared, &behaviour) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { counts, stop: Some(stop), thread: Some(thread) }
    }

    /// Connections that reached it.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(SeqCst)
    }

    /// Those that have not ended.
    pub fn open(&self) -> usize {
        self.counts.open.load(SeqCst)
    }

    /// Bytes that reached it.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(SeqCst)
    }
}

impl Drop for TcpApp {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: &TcpListener, counts: &Arc<Counts>, behaviour: &Behaviour) {
    while let Ok((socket, _)) = listener.accept().await {
        counts.connections.fetch_add(1, SeqCst);
        counts.open.fetch_add(1, SeqCst);
        let (counts, behaviour) = (counts.clone(), behaviour.clone());
        tokio::spawn(async move {
            // A client that breaks off ends its own connection.
            let _ = converse(socket, &counts, &behaviour).await;
            counts.open.fetch_sub(1, SeqCst);
        });
    }
}

async fn converse(mut socket: TcpStream, counts: &Counts, behaviour: &Behaviour) -> io::Result<()> {
    socket.set_nodelay(true)?;
    if let Behaviour::Greet(greeting) = behaviour {
        socket.write_all(greeting).await?;
    }
    if let Behaviour::Source(length) = behaviour {
        tokio::io::copy(&mut tokio::io::repeat(b'x').take(*length), &mut socket).await?;
        return socket.shutdown().await;
    }
    let (mut chunk, mut total) = (vec![0; 64 * 1024], 0_u64);
    loop {
        let read = socket.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        total += read as u64;
        counts.bytes.fetch_add(read as u64, SeqCst);
        if matches!(behaviour, Behaviour::Echo | Behaviour::Greet(_)) {
            socket.write_all(&chunk[..read]).await?;
        }
    }
    if matches!(behaviour, Behaviour::Sink) {
        socket.write_all(total.to_string().as_bytes()).await?;
    }
    socket.shutdown().await
}

//! A bad link: a TCP relay on a host, with latency, jitter, limited bandwidth, stalls and resets, all settable while it
//! runs. It works on bytes, not on packets: what it delays arrives in order, and handshakes are quick. It holds a bounded
//! number of bytes per direction, so a slow link makes its sender wait.
//! To put it between two pods, see [`Relay::between`].

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use super::Host;

/// Most bytes that are read at once, and chunks that wait in a direction: what a link holds.
const CHUNK: usize = 16 * 1024;
const CHUNKS_WAITING: usize = 64;
/// A limited link delivers so often in a second.
const PIECES_A_SECOND: u64 = 20;
/// A connection to the other side.
const CONNECT: Duration = Duration::from_secs(5);

/// What a link is like, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub latency: Duration,
    /// Added to the latency, anew for each chunk: from zero to this.
    pub jitter: Duration,
    /// Bytes a second, of one connection; none: no limit.
    pub rate: Option<u64>,
    /// Nothing moves, and nothing ends.
    pub stalled: bool,
    /// A connection is reset once this many bytes have come from the server.
    pub reset_after: Option<u64>,
}

/// A running relay; it ends, with its connections, on drop.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    link: watch::Sender<Link>,
    counts: Arc<Counts>,
    resets: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    from_clients: AtomicU64,
    from_servers: AtomicU64,
}

impl Relay {
    /// Listens on `on`, at a free port of its address in the family of `upstream`, and forwards there from the same host.
    pub fn start(on: &Host, upstream: SocketAddr, link: Link) -> Self {
        let ip = if upstream.is_ipv4() { on.v4 } else { on.v6 };
        let listener = on.listen_on(SocketAddr::new(ip, 0));
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a socket");
        let (link, shape) = watch::channel(link);
        let (stop, stopped) = oneshot::channel();
        let (counts, resets) = (Arc::<Counts>::default(), Arc::<Mutex<Vec<_>>>::default());
        let shared = Shared { upstream, shape, counts: counts.clone(), resets: resets.clone() };
        let thread = on.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(&listener, &shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, link, counts, resets, stop: Some(stop), thread: Some(thread) }
    }

    /// A relay on `on` that takes what `client` sends to `server` from now on. In a meshed pod that is what its proxy
    /// sends: mesh TLS does not mind, since it asks who is there and not at which address.
    pub fn between(client: &Host, server: SocketAddr, on: &Host, link: Link) -> Self {
        let relay = Self::start(on, server, link);
        client.divert(server, relay.address);
        relay
    }

    /// Changes the link, also for bytes that are on their way.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    pub fn link(&self) -> Link {
        *self.link.borrow()
    }

    /// Resets every connection, now and towards both sides.
    pub fn reset_all(&self) {
        let all = std::mem::take(&mut *self.resets.lock().expect("no connection panicked"));
        for reset in all {
            let _ = reset.send(());
        }
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(SeqCst)
    }

    /// Bytes so far, from clients and from the server.
    pub fn bytes(&self) -> (u64, u64) {
        (self.counts.from_clients.load(SeqCst), self.counts.from_servers.load(SeqCst))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Shared {
    upstream: SocketAddr,
    shape: watch::Receiver<Link>,
    counts: Arc<Counts>,
    resets: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
}

async fn accept(listener: &TcpListener, shared: &Shared) {
    while let Ok((client, _)) = listener.accept().await {
        shared.counts.connections.fetch_add(1, SeqCst);
        let shared = shared.clone();
        tokio::spawn(async move {
            // A side that breaks off ends this connection and no other.
            let _ = relay(client, shared).await;
        });
    }
}

async fn relay(client: TcpStream, shared: Shared) -> io::Result<()> {
    let socket = if shared.upstream.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let server = match tokio::time::timeout(CONNECT, socket.connect(shared.upstream)).await {
        Ok(Ok(server)) => server,
        refused => {
            client.set_zero_linger()?;
            return refused?.map(drop);
        }
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (reset, reset_wanted) = oneshot::channel();
    shared.resets.lock().expect("no connection panicked").push(reset);
    let (from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let (up, down) = (shared.shape.clone(), shared.shape.clone());
    let finished = {
        let both = async {
            tokio::try_join!(
                direction(from_client, &mut to_server, up, &shared.counts.from_clients, false),
                direction(from_server, &mut to_client, down, &shared.counts.from_servers, true),
            )
        };
        tokio::select! {
            finished = both => finished.map(|_| ()),
            _ = reset_wanted => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    if finished.is_err() {
        // What ends badly for one side must not look orderly to the other.
        for end in [to_client, to_server] {
            let _ = end.as_ref().set_zero_linger();
            end.forget(); // its drop would say an orderly end first
        }
    }
    finished
}

/// One direction: a reader that stamps what it reads, and a writer that delivers it when its time has come.
async fn direction(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shape: watch::Receiver<Link>,
    count: &AtomicU64,
    resets: bool,
) -> io::Result<()> {
    let (sender, mut arrived) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_WAITING);
    let reading = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = from.read(&mut chunk).await?;
            chunk.truncate(read);
            if sender.send((Instant::now(), chunk)).await.is_err() || read == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let writing = async {
        let mut passed = 0_u64;
        while let Some((since, chunk)) = arrived.recv().await {
            due(&shape, since).await;
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            passed += chunk.len() as u64;
            count.fetch_add(chunk.len() as u64, SeqCst);
            let link = *shape.borrow();
            if resets && link.reset_after.is_some_and(|limit| passed > limit) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            pass_on(to, &chunk, link.rate).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

/// Writes, at `rate` bytes a second: in pieces, each after the time that it takes.
async fn pass_on(to: &mut OwnedWriteHalf, chunk: &[u8], rate: Option<u64>) -> io::Result<()> {
    let Some(rate) = rate else { return to.write_all(chunk).await };
    let piece = (rate / PIECES_A_SECOND).clamp(1, CHUNK as u64) as usize;
    for piece in chunk.chunks(piece) {
        sleep(Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64)).await;
        to.write_all(piece).await?;
    }
    Ok(())
}

/// Waits until what came at `since` may be delivered, whatever the link is by then.
async fn due(shape: &watch::Receiver<Link>, since: Instant) {
    let mut shape = shape.clone();
    let part = f64::from(jitter()) / f64::from(u32::MAX);
    loop {
        let link = *shape.borrow_and_update();
        let at = since + link.latency + link.jitter.mul_f64(part);
        if !link.stalled && Instant::now() >= at {
            return;
        }
        tokio::select! {
            () = sleep_until(at), if !link.stalled => {}
            changed = shape.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// A number by chance: each is another one.
fn jitter() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u32
}

//! A byte tee: a TCP relay before a server, which keeps every byte of both directions. Bytes are kept before they are
//! passed on, so whatever a test has received was recorded. It looks at nothing; `records.rs` reads what it kept.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

/// Most bytes that one direction of a connection may have: a test that needs more must say less.
const KEPT_MAX: usize = 16 * 1024 * 1024;

/// One connection's bytes so far.
#[derive(Clone, Default)]
pub struct Conversation {
    pub from_client: Vec<u8>,
    pub from_server: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    conversations: Mutex<Vec<Arc<Mutex<Conversation>>>>,
    /// Every socket in use, to end the copying threads.
    sockets: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

/// A running relay; it ends, with its connections, on drop.
pub struct Tee {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Tee {
    /// Listens on a free port beside `upstream` and relays there.
    pub fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((upstream.ip(), 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let accepting = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for client in listener.incoming() {
                    if shared.stopped.load(SeqCst) {
                        return;
                    }
                    let _ = client.and_then(|client| relay(&shared, &client, &TcpStream::connect(upstream)?));
                }
            })
        };
        Self { address, shared, accepting: Some(accepting) }
    }

    /// What was said so far, one entry for each connection.
    pub fn conversations(&self) -> Vec<Conversation> {
        let all = self.shared.conversations.lock().expect("no copying thread panicked");
        all.iter().map(|one| one.lock().expect("no copying thread panicked").clone()).collect()
    }

    /// Bytes from clients so far.
    pub fn from_clients(&self) -> usize {
        self.conversations().iter().map(|one| one.from_client.len()).sum()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accepting thread
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        for socket in self.shared.sockets.lock().into_iter().flat_map(|mut all| std::mem::take(&mut *all)) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn relay(shared: &Shared, client: &TcpStream, server: &TcpStream) -> std::io::Result<()> {
    for socket in [client, server] {
        socket.set_nodelay(true)?;
        shared.sockets.lock().expect("no thread panicked with it").push(socket.try_clone()?);
    }
    let kept = Arc::<Mutex<Conversation>>::default();
    shared.conversations.lock().expect("no copying thread panicked").push(kept.clone());
    copy(client.try_clone()?, server.try_clone()?, kept.clone(), |kept| &mut kept.from_client);
    copy(server.try_clone()?, client.try_clone()?, kept, |kept| &mut kept.from_server);
    Ok(())
}

fn copy(
    mut from: TcpStream,
    mut to: TcpStream,
    kept: Arc<Mutex<Conversation>>,
    side: fn(&mut Conversation) -> &mut Vec<u8>,
) {
    std::thread::spawn(move || {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            let mut kept = kept.lock().expect("the other side did not panic");
            let side = side(&mut kept);
            assert!(side.len() + read <= KEPT_MAX, "more than {KEPT_MAX} bytes went through the tee");
            side.extend_from_slice(&chunk[..read]);
            drop(kept);
            if to.write_all(&chunk[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

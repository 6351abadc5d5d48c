//! Accepts connections: a bounded number at a time, each in a task of its own, so that a panic ends one connection and
//! no other. A pod that is to go tells its clients first (*leaving*) and still serves them; draining stops the accepting,
//! too, and waits for those who are at work.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    config::{ACCEPT_PAUSE, FIRST_REQUEST_GRACE},
    socket,
};

/// A connection, and where it was meant for.
pub struct Arrived {
    pub socket: TcpStream,
    pub from: SocketAddr,
    /// Set if the kernel redirected it here.
    pub destination: Option<SocketAddr>,
    /// Its place among the connections that may be open; whatever lives on after the connection's task holds it.
    pub slot: Slot,
}

/// A place among the connections that may be open.
pub type Slot = Arc<Place>;

/// Held by a connection, and by what lives on after its task: it counts, and draining waits for it.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _alive: Draining,
}

impl Place {
    pub fn new(permit: OwnedSemaphorePermit, alive: Draining) -> Slot {
        Arc::new(Self { _permit: permit, _alive: alive })
    }
}

/// How far the proxy is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Leaving,
    Stopping,
}

/// The wish to stop, and the count of who is still at work.
pub struct Drain {
    signal: watch::Sender<Stage>,
    /// Never sends: it ends when every [`Draining`] is gone.
    alive: mpsc::Receiver<()>,
    handle: Draining,
}

/// Held by everything that must end before the process does.
#[derive(Clone)]
pub struct Draining {
    signal: watch::Receiver<Stage>,
    _alive: mpsc::Sender<()>,
}

impl Default for Drain {
    fn default() -> Self {
        let (signal, receiver) = watch::channel(Stage::Serving);
        let (sender, alive) = mpsc::channel(1);
        Self { signal, alive, handle: Draining { signal: receiver, _alive: sender } }
    }
}

impl Drain {
    pub fn handle(&self) -> Draining {
        self.handle.clone()
    }

    pub fn leaver(&self) -> Leaver {
        Leaver(self.signal.clone())
    }

    /// Tells everyone, and waits until all are gone or `patience` is over. Returns whether all were gone.
    pub async fn drain(self, patience: Duration) -> bool {
        let Self { signal, mut alive, handle } = self;
        signal.send_replace(Stage::Stopping);
        drop(handle);
        timeout(patience, alive.recv()).await.is_ok()
    }
}

/// Can say that the pod is to go.
pub struct Leaver(watch::Sender<Stage>);

impl Leaver {
    /// Asks clients to go elsewhere, or no longer; they are served in any case.
    pub fn leave(&self, leave: bool) {
        let wanted = if leave { Stage::Leaving } else { Stage::Serving };
        self.0.send_if_modified(|stage| *stage != Stage::Stopping && std::mem::replace(stage, wanted) != wanted);
    }
}

impl Draining {
    /// Resolves when clients are to go elsewhere.
    pub async fn started(&mut self) {
        // An error means that the drain itself is gone: the process is at its end.
        let _ = self.signal.wait_for(|stage| *stage >= Stage::Leaving).await;
    }

    /// Resolves when a client that has said nothing yet need not be waited for any longer.
    pub async fn over_for_the_silent(&mut self) {
        self.stopping().await;
        sleep(FIRST_REQUEST_GRACE).await;
    }

    /// Whether clients are to go elsewhere.
    pub fn has_started(&self) -> bool {
        *self.signal.borrow() >= Stage::Leaving
    }

    /// Resolves when nothing more is to be accepted.
    pub async fn stopping(&mut self) {
        let _ = self.signal.wait_for(|stage| *stage == Stage::Stopping).await;
    }
}

/// Accepts until draining begins; `slots` are shared by the listeners of one direction.
pub async fn accept<C, F>(listener: TcpListener, slots: Arc<Semaphore>, mut draining: Draining, connection: C)
where
    C: Fn(Arrived) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let accepting = async {
            // The semaphore is never closed, so this cannot fail; if it did, there would be nothing left to serve.
            let permit = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (socket, from) = listener.accept().await?;
            socket::tune(&socket).map(|()| (socket, from, permit))
        };
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = draining.stopping() => return,
        };
        match accepted {
            Ok((socket, from, permit)) => {
                let destination = socket::redirected_from(&socket);
                let slot = Place::new(permit, draining.clone());
                tokio::spawn(connection(Arrived { socket, from, destination, slot }));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn draining_waits_for_work_and_no_longer_than_it_may() {
        let drain = Drain::default();
        let mut held = drain.handle();
        let (all_gone, ()) = tokio::join!(drain.drain(Duration::from_secs(5)), async move {
            held.started().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        });
        assert!(all_gone);
        let drain = Drain::default();
        let _held = drain.handle();
        assert!(!drain.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_tells_clients_and_accepts_on() {
        let drain = Drain::default();
        let (mut told, mut accepting) = (drain.handle(), drain.handle());
        drain.leaver().leave(true);
        told.started().await;
        assert!(timeout(Duration::from_secs(60), accepting.stopping()).await.is_err());
        drop(told);
        let (all_gone, ()) =
            tokio::join!(drain.drain(Duration::from_secs(5)), async move { accepting.stopping().await });
        assert!(all_gone);
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let drain = Drain::default();
        let connection = |mut arrived: Arrived| async move {
            let said = arrived.socket.read_u8().await.unwrap();
            assert_ne!(said, b'!', "a connection that panics, as this test wants");
            arrived.socket.write_u8(said).await.unwrap();
        };
        tokio::spawn(accept(listener, Arc::new(Semaphore::new(3)), drain.handle(), connection));
        let mut before = TcpStream::connect(addr).await.unwrap();
        let mut bad = TcpStream::connect(addr).await.unwrap();
        bad.write_all(b"!").await.unwrap();
        assert!(bad.read_u8().await.is_err(), "it is closed");
        let mut after = TcpStream::connect(addr).await.unwrap();
        for good in [&mut before, &mut after] {
            good.write_all(b"x").await.unwrap();
            assert_eq!(good.read_u8().await.unwrap(), b'x');
        }
        assert!(drain.drain(Duration::from_secs(5)).await, "nor does it hold up the drain");
    }
}

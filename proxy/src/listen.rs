//! Accepts connections: a bounded number at a time, each in a task of its own, so that a panic ends one connection and
//! no other. Draining stops the accepting, tells every connection, and waits for them.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use crate::{
    config::{ACCEPT_PAUSE, CONNECTIONS_MAX},
    tls,
};

/// The wish to stop, and the count of who is still at work.
pub struct Drain {
    signal: watch::Sender<bool>,
    /// Never sends: it ends when every [`Draining`] is gone.
    alive: mpsc::Receiver<()>,
    handle: Draining,
}

/// Held by everything that must end before the process does.
#[derive(Clone)]
pub struct Draining {
    signal: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

impl Default for Drain {
    fn default() -> Self {
        let (signal, receiver) = watch::channel(false);
        let (sender, alive) = mpsc::channel(1);
        Self { signal, alive, handle: Draining { signal: receiver, _alive: sender } }
    }
}

impl Drain {
    pub fn handle(&self) -> Draining {
        self.handle.clone()
    }

    /// Tells everyone, and waits until all are gone or `patience` is over. Returns whether all were gone.
    pub async fn drain(self, patience: Duration) -> bool {
        let Self { signal, mut alive, handle } = self;
        signal.send_replace(true);
        drop(handle);
        timeout(patience, alive.recv()).await.is_ok()
    }
}

impl Draining {
    /// Resolves when the proxy begins to drain.
    pub async fn started(&mut self) {
        // An error means that the drain itself is gone: the process is at its end.
        let _ = self.signal.wait_for(|draining| *draining).await;
    }
}

/// Accepts until draining begins.
pub async fn accept<C, F>(listener: TcpListener, mut draining: Draining, connection: C)
where
    C: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed, so this cannot fail; if it did, there would be nothing left to serve.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.started() => return,
        };
        match accepted.and_then(|(socket, from)| tls::tune(&socket).map(|()| (socket, from))) {
            Ok((socket, from)) => {
                let work = connection(socket, from);
                let alive = draining.clone();
                tokio::spawn(async move {
                    work.await;
                    drop((slot, alive));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
}

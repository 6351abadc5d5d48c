//! Owns the accept loop of the demo's servers: a task for each connection, and not more than [`CONNECTIONS_MAX`].
//!
//! What is spoken on a connection is each server's business.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Connections to one app at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 1_024;
/// Pause after a failed accept (usually: no file descriptors), so that the loop cannot spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Runs `handle` for every connection, for as long as it is polled.
pub async fn connections<H, F>(listener: TcpListener, handle: H)
where
    H: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((socket, _)) => {
                // Small answers must not wait for a delayed acknowledgement.
                let _ = socket.set_nodelay(true);
                let connection = handle(socket);
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

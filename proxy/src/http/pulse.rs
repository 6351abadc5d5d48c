//! Whether the other side of an HTTP/2 connection is still there: after so long without a byte it is sent a PING
//! (RFC 9113, 6.7), and without an answer or any other byte the connection is dead. Bytes are noticed where they are read
//! (`flood.rs`) by one store, and looked for twice in an interval: requests read no clock. What ends a connection is not
//! decided here.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::config::PING_TIMEOUT;

/// Signs of life of one connection.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Something was read since the last look.
    beats: AtomicBool,
    /// Nobody looks, since nobody waits for anything.
    asleep: AtomicBool,
    wake: Notify,
}

impl Pulse {
    /// Something was read.
    pub fn beat(&self) {
        self.0.beats.store(true, Relaxed);
    }

    /// Somebody has begun to wait for an answer.
    pub fn wake(&self) {
        if self.0.asleep.load(SeqCst) {
            self.0.wake.notify_one();
        }
    }

    fn took(&self) -> bool {
        self.0.beats.swap(false, Relaxed)
    }

    /// Ends when the other side is dead: no byte came for `interval`, nor an answer to a ping within [`PING_TIMEOUT`]. It
    /// looks only while somebody `waits`; after that it sleeps until [`Pulse::wake`].
    pub async fn stops(&self, mut pings: PingPong, interval: Duration, waits: impl Fn() -> bool) {
        let mut silent = 0;
        loop {
            // In this order, so that who begins to wait meanwhile is not missed.
            self.0.asleep.store(true, SeqCst);
            if !waits() {
                self.0.wake.notified().await;
                silent = 0;
            }
            self.0.asleep.store(false, Relaxed);
            sleep(interval / 2).await;
            silent = if self.took() { 0 } else { silent + 1 };
            if silent < 2 {
                continue;
            }
            let answered = matches!(timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await, Ok(Ok(_)));
            if !answered && !self.took() {
                return;
            }
            silent = 0;
        }
    }
}

//! Interim answers (1xx) of an HTTP/1 server: hyper reads any number of them, and each costs time. Here the bytes that
//! come before an answer are counted, and a server that sends more than [`INTERIM_MAX`] of them loses its connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{config::INTERIM_MAX, tls::forward_writes};

/// Bytes that have come since a request was sent and no answer began; `usize::MAX`: nobody waits.
#[derive(Clone)]
pub struct Interim(Arc<AtomicUsize>);

const NOBODY_WAITS: usize = usize::MAX;

impl Default for Interim {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(NOBODY_WAITS)))
    }
}

impl Interim {
    /// A request is sent.
    pub fn begins(&self) {
        self.0.store(0, Relaxed);
    }

    /// Its answer has come, or never will. Returns whether there was too much before it.
    pub fn ends(&self) -> bool {
        let came = self.0.swap(NOBODY_WAITS, Relaxed);
        came != NOBODY_WAITS && came > INTERIM_MAX
    }

    /// So much came; whether that is not too much. The answer itself may come with it.
    fn came(&self, bytes: usize) -> bool {
        let before = self.0.load(Relaxed);
        if before == NOBODY_WAITS {
            return true;
        }
        self.0.store(before + bytes, Relaxed);
        before <= INTERIM_MAX
    }
}

/// A connection to a server that answers.
pub struct Answering<I> {
    io: I,
    interim: Interim,
}

impl<I> Answering<I> {
    pub fn new(io: I, interim: Interim) -> Self {
        Self { io, interim }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Answering<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if self.interim.came(buf.filled().len() - before) {
            return polled;
        }
        buf.set_filled(before);
        Poll::Ready(Err(io::Error::other("more interim answers (1xx) than any request needs")))
    }
}

forward_writes!([<I: AsyncWrite + Unpin>] Answering<I>, |this| Pin::new(&mut this.io));

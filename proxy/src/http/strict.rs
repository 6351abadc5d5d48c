//! A strict reader under hyper's HTTP/1 server. hyper takes some heads and chunks that other readers take for something
//! else; here [`Reader`] finds them before hyper sees them whole. Bytes pass through in place. A fault is made
//! unreadable and the rest is left out, so it is hyper that answers 400 or breaks the body, and closes. Bytes behind a
//! request for a tunnel wait for its answer: only if it agrees are they not looked at. What a request means is the
//! spines' business, not ours.

mod reader;
#[cfg(test)]
mod tests;

use std::{
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::{Method, Request, StatusCode, header::UPGRADE};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::forward_writes;

pub use reader::{ILLEGAL, Reader};

/// Goes behind a fault: hyper reads a head again only when an empty line has come.
const EMPTY_LINES: &[u8] = b"\n\n";

/// What a connection and its requests tell each other.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    fault: Option<&'static str>,
    /// Whether the latest request for a tunnel got one.
    granted: Option<bool>,
    /// Who wants to read on.
    reader: Option<Waker>,
}

/// A request for a tunnel that is to be answered. At most one at a time: what is behind it waits.
pub struct Asked {
    told: Told,
    connect: bool,
}

impl Told {
    /// What was wrong with the connection's last request.
    pub fn fault(&self) -> Option<&'static str> {
        self.0.lock().fault
    }

    /// If the request asks for a tunnel: by the same signs as those by which the reader tells.
    pub fn asked<B>(&self, request: &Request<B>) -> Option<Asked> {
        let connect = request.method() == Method::CONNECT;
        (connect || request.headers().contains_key(UPGRADE)).then(|| Asked { told: self.clone(), connect })
    }

    fn granted(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut inner = self.0.lock();
        let granted = inner.granted.take();
        if granted.is_none() {
            inner.reader = Some(cx.waker().clone());
        }
        granted.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Asked {
    /// Says how it was answered.
    pub fn answered(self, status: Option<StatusCode>) {
        let granted = status
            .is_some_and(|status| status == StatusCode::SWITCHING_PROTOCOLS || (self.connect && status.is_success()));
        let reader = {
            let mut inner = self.told.0.lock();
            inner.granted = Some(granted);
            inner.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A connection whose requests are read strictly.
pub struct Strict<I> {
    io: I,
    reader: Reader,
    told: Told,
    /// Came behind a request for a tunnel before its answer; no more than one read of hyper's brings.
    early: Vec<u8>,
    /// To be said behind a fault.
    behind_fault: &'static [u8],
}

impl<I> Strict<I> {
    pub fn new(io: I, told: Told) -> Self {
        Self { io, reader: Reader::default(), told, early: Vec::new(), behind_fault: EMPTY_LINES }
    }

    /// Nothing of the next request has come, and nothing waits to be read.
    pub fn is_between(&self) -> bool {
        self.reader.is_between() && self.early.is_empty()
    }

    /// Takes in what came and says how much of it may go on.
    fn take_in(&mut self, came: &mut [u8]) -> usize {
        let passed = self.reader.read(came);
        if let Some(why) = self.reader.fault() {
            tracing::debug!(why, "a request is made unreadable");
            self.told.0.lock().fault = Some(why);
        }
        passed
    }

    /// Reads on where bytes had to wait.
    fn read_early(&mut self, buf: &mut ReadBuf<'_>) {
        let mut early = mem::take(&mut self.early);
        let some = early.len().min(buf.remaining());
        let passed = self.take_in(&mut early[..some]);
        buf.put_slice(&early[..passed]);
        if passed < early.len() {
            early.drain(..passed);
            self.early = early;
        }
    }

    /// Says what there is behind a fault; then the connection is at its end.
    fn read_behind_fault(&mut self, buf: &mut ReadBuf<'_>) {
        let (now, later) = self.behind_fault.split_at(self.behind_fault.len().min(buf.remaining()));
        buf.put_slice(now);
        self.behind_fault = later;
    }
}

impl<I: AsyncRead + Unpin> Strict<I> {
    /// Looks out for the client's end while a request for a tunnel waits for its answer.
    fn wait(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            return Poll::Ready(Ok(()));
        }
        self.early.extend_from_slice(&buf.filled()[before..]);
        buf.set_filled(before);
        Poll::Pending
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Strict<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.reader.is_waiting() {
            match this.told.granted(cx) {
                Poll::Ready(granted) => this.reader.resume(granted),
                Poll::Pending => return this.wait(cx, buf),
            }
        }
        if this.reader.fault().is_some() {
            this.read_behind_fault(buf);
            return Poll::Ready(Ok(()));
        }
        if !this.early.is_empty() {
            this.read_early(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let came = &mut buf.filled_mut()[before..];
        let passed = this.take_in(came);
        if passed < came.len() {
            if this.reader.is_waiting() {
                this.early.extend_from_slice(&came[passed..]);
            }
            buf.set_filled(before + passed);
        }
        Poll::Ready(Ok(()))
    }
}

forward_writes!([<I: AsyncWrite + Unpin>] Strict<I>, |this| Pin::new(&mut this.io));

//! One direction of raw TCP. Between two sockets with nothing in between many bytes go through a pipe in the kernel; few, and
//! those of TLS, through a buffer of ours. Which it is follows from how much came last. Never holds either while nothing
//! is under way, and never ends before everything that was read is written and the other side has heard of the end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::TcpStream,
};

use super::{Abort, buffer::Buffer, pipe::Pipe};
use crate::config::{COPY_TURN, SPLICE_FROM};

#[derive(Default)]
pub struct Way {
    buffer: Option<Buffer>,
    pipe: Option<Pipe>,
    /// Much came last.
    bulk: bool,
    /// Something was written since the last flush.
    unflushed: bool,
    /// The reader has ended: well, or with the error that is told when all that came before it is written.
    ended: bool,
    broke: Option<io::Error>,
    /// The writer knows.
    closed: bool,
    pub read: u64,
    pub written: u64,
}

impl Way {
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes in and out.
    pub fn moved(&self) -> u64 {
        self.read + self.written
    }

    /// Moves what can be moved; ready when everything is over there, and the end was passed on.
    pub fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Abort + Unpin,
        W: AsyncWrite + Abort + Unpin,
    {
        let turn = self.read + COPY_TURN;
        while !self.ended || self.buffer.is_some() {
            if self.read >= turn {
                // Others wait, too.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let sockets = if self.buffer.is_none() && (self.bulk || self.pipe.is_some()) {
                from.bare().zip(to.bare())
            } else {
                None
            };
            match sockets {
                Some((from, to)) => ready!(self.poll_splice(cx, from, to))?,
                None => ready!(self.poll_copy(cx, from, to))?,
            }
        }
        if let Some(error) = self.broke.take() {
            return Poll::Ready(Err(error));
        }
        if !self.closed {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.closed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// One pipe full.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<io::Result<()>> {
        let Some(mut pipe) = self.pipe.take().or_else(Pipe::lend) else {
            self.bulk = false;
            return Poll::Ready(Ok(()));
        };
        if pipe.is_empty() {
            // Pending: the pipe is given back.
            let n = ready!(poll_io(from.poll_read_ready(cx), || from.try_io(Interest::READABLE, || pipe.fill(from))))?;
            let Some(n) = n else { return Poll::Ready(Ok(())) };
            self.read += n as u64;
            self.ended = n == 0;
            self.bulk = n >= SPLICE_FROM;
        }
        while !pipe.is_empty() {
            let n = poll_io(to.poll_write_ready(cx), || to.try_io(Interest::WRITABLE, || pipe.drain(to)));
            match n? {
                Poll::Ready(n) => self.written += n.unwrap_or_default() as u64,
                Poll::Pending => {
                    self.pipe = Some(pipe);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One buffer full.
    fn poll_copy<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::lend);
        if buffer.is_empty() {
            self.fill(cx, from, &mut buffer);
            self.bulk = buffer.filled().len() >= SPLICE_FROM;
            if buffer.is_empty() && !self.ended {
                if self.unflushed {
                    // Both are waited for.
                    ready!(Pin::new(to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        while !buffer.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, buffer.filled())? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(n) => {
                    buffer.advance(n);
                    self.written += n as u64;
                    self.unflushed = true;
                }
                Poll::Pending => {
                    // A reader that breaks off should be noticed while there is room.
                    self.fill(cx, from, &mut buffer);
                    self.buffer = Some(buffer);
                    return self.broke.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until the buffer is full or nothing more is there: TLS gives one record at a time.
    fn fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R, buffer: &mut Buffer) {
        while !self.ended && !buffer.is_full() {
            match buffer.poll_fill(cx, from) {
                Poll::Ready(Ok(n)) => {
                    self.read += n as u64;
                    self.ended = n == 0;
                }
                Poll::Ready(Err(error)) => {
                    self.broke = Some(error);
                    self.ended = true;
                }
                Poll::Pending => return,
            }
        }
    }
}

/// Does `work` once the socket is ready; `None`: it was not, after all, and will be asked again.
fn poll_io(ready: Poll<io::Result<()>>, work: impl FnOnce() -> io::Result<usize>) -> Poll<io::Result<Option<usize>>> {
    ready!(ready)?;
    match work() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(None)),
        done => Poll::Ready(done.map(Some)),
    }
}

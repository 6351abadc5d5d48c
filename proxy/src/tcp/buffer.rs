//! Room for bytes under way, lent to a connection while it has some and taken back when they are gone: thousands of silent
//! connections need none. Each thread keeps a few for the next who asks, since making one costs more than filling it.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::config::{COPY_BUFFER, COPY_BUFFERS_SPARE};

/// What one buffer holds, in bytes.
pub const SIZE: usize = COPY_BUFFER;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read and are still to be written.
pub struct Buffer {
    room: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Buffer {
    /// One that is empty.
    pub fn lend() -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Self { room: spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()), from: 0, to: 0 }
    }

    pub fn filled(&self) -> &[u8] {
        &self.room[self.from..self.to]
    }

    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    pub fn is_full(&self) -> bool {
        self.to == SIZE
    }

    /// Takes the first `n` bytes as written.
    pub fn advance(&mut self, n: usize) {
        self.from += n;
        if self.is_empty() {
            (self.from, self.to) = (0, 0);
        }
    }

    /// Reads once into the room that is left; 0: the reader has ended.
    pub fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(&mut self.room[self.to..]);
        Pin::new(from).poll_read(cx, &mut room).map_ok(|()| {
            let n = room.filled().len();
            self.to += n;
            n
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let room = std::mem::take(&mut self.room);
        // An error: the thread is at its end.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < COPY_BUFFERS_SPARE {
                spare.push(room);
            }
        });
    }
}

#[cfg(test)]
pub fn spare() -> usize {
    SPARE.with_borrow(Vec::len)
}

/// Gives this thread's spare buffers back to the system.
pub fn forget_spare() {
    SPARE.with_borrow_mut(Vec::clear);
}

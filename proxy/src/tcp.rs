//! Raw TCP: copies bytes both ways until both sides are done, passing a half-close on, and counts as it goes. It knows
//! nothing about protocols and never times a silent connection out.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use crate::{config::COPY_BUFFER, metrics::ConnectionGuard};

/// Copies between our side and the peer's; what goes over the peer's side is counted.
///
/// # Errors
/// One of the connections broke.
pub async fn forward<A, B>(mut ours: A, peer: B, counted: &ConnectionGuard) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut peer = Counted { io: peer, counted };
    copy_bidirectional_with_sizes(&mut ours, &mut peer, COPY_BUFFER, COPY_BUFFER).await.map(|_| ())
}

struct Counted<'a, I> {
    io: I,
    counted: &'a ConnectionGuard,
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<'_, I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.counted.bytes(read as u64, 0);
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<'_, I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.counted.bytes(0, written as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

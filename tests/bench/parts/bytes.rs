//! Floors that carry bytes: both ways with a large buffer each, over rustls in a pair; and from socket to socket inside the
//! kernel (`splice`), which only plain text allows.

use std::{io, rc::Rc};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, copy_bidirectional_with_sizes},
    net::TcpStream,
    task::{LocalSet, spawn_local},
};

use super::tls::{Ends, Place};

/// What is read at once.
const BUFFER: usize = 64 * 1024;
/// What the kernel moves at once.
const SPLICED: usize = 1 << 20;

/// Serves until killed.
pub async fn serve(ends: Ends) {
    each(ends, |ends, socket| async move {
        match ends.place {
            Place::Single => both_ways(socket, ends.dial().await).await,
            Place::Out => both_ways(socket, ends.dial_tls().await).await,
            Place::In => {
                if let Some(socket) = ends.accept(socket).await {
                    both_ways(socket, ends.dial().await).await;
                }
            }
        }
    })
    .await;
}

/// The same without the bytes ever being here.
pub async fn serve_spliced(ends: Ends) {
    each(ends, |ends, client| async move {
        let Some(server) = ends.dial().await else { return };
        let _ = tokio::join!(forward(&client, &server), forward(&server, &client));
    })
    .await;
}

async fn each<F: Future<Output = ()> + 'static>(ends: Ends, carry: impl Fn(Rc<Ends>, TcpStream) -> F) {
    let listener = ends.listener().await;
    let ends = Rc::new(ends);
    let accepting = async {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            spawn_local(carry(ends.clone(), socket));
        }
    };
    LocalSet::new().run_until(accepting).await;
}

async fn both_ways(mut one: impl AsyncRead + AsyncWrite + Unpin, other: Option<impl AsyncRead + AsyncWrite + Unpin>) {
    if let Some(mut other) = other {
        let _ = copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER).await;
    }
}

async fn forward(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (rest, pipe) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, SPLICED);
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        let mut held = moved(from, Interest::READABLE, || splice(from, None, &pipe, None, SPLICED, flags)).await?;
        if held == 0 {
            return rustix::net::shutdown(to, rustix::net::Shutdown::Write).map_err(Into::into);
        }
        while held > 0 {
            held -= moved(to, Interest::WRITABLE, || splice(&rest, None, to, None, held, flags)).await?;
        }
    }
}

async fn moved(
    socket: &TcpStream,
    interest: Interest,
    work: impl Fn() -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    socket.async_io(interest, || work().map_err(Into::into)).await
}

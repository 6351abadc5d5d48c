//! Owns the wish to stop: SIGTERM, SIGINT, or the end of the parent that holds our standard input.

use std::{io, os::fd::AsFd};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
};

/// Resolves when the process should stop, with what asked for it.
///
/// With `with_parent`, the end of standard input counts too: whoever started us keeps a pipe to it, so we end with
/// them however they end. Standard input must then be a pipe.
///
/// # Errors
/// The handlers could not be installed, or standard input is no pipe.
pub async fn stop_requested(with_parent: bool) -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent = if with_parent { Some(parent_pipe()?) } else { None };
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = end_of(parent) => "end of the parent process",
    })
}

fn parent_pipe() -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)
}

async fn end_of(parent: Option<pipe::Receiver>) {
    let Some(mut pipe) = parent else { return std::future::pending().await };
    let mut ignored = [0; 64];
    while matches!(pipe.read(&mut ignored).await, Ok(n) if n > 0) {}
}

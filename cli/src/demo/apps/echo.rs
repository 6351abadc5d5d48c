//! The raw TCP service: says what it hears, until the other side has nothing more to say.
//!
//! Its fault is to say it later, or to hang up.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::accept;
use crate::demo::faults::Switch;

/// Bytes heard before they are said.
const BUFFER: usize = 4 * 1024;

pub async fn serve(listener: TcpListener, switch: Switch) {
    accept::connections(listener, |socket| connection(socket, switch.clone())).await;
}

async fn connection(mut socket: TcpStream, switch: Switch) {
    let mut buffer = [0; BUFFER];
    while let Ok(heard @ 1..) = socket.read(&mut buffer).await {
        if switch.pass().await.is_err() || socket.write_all(&buffer[..heard]).await.is_err() {
            return;
        }
    }
}

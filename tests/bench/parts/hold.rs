//! Connections that do nothing: one request on each, then silence. Says `held` when all of them are there, and lets go of
//! them when its input ends.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::json;

use super::rate::whole;

/// One request's time, on a machine that makes thousands of connections.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens them one after the other; `errors` counts those whose request got no 200.
pub fn run(to: SocketAddr, connections: usize) {
    let held: Vec<Option<TcpStream>> = (0..connections).map(|_| open(to)).collect();
    println!("{}", json!({ "held": connections, "errors": held.iter().filter(|one| one.is_none()).count() }));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn open(to: SocketAddr) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(to).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(socket, "GET / HTTP/1.1\r\nHost: {to}\r\n\r\n").ok()?;
    let (mut got, mut room) = (Vec::new(), [0; 4096]);
    loop {
        match socket.read(&mut room).ok()? {
            0 => return None,
            count => got.extend_from_slice(&room[..count]),
        }
        if let Some(good) = whole(&got) {
            return good.then_some(socket);
        }
    }
}

//! One TCP stream as fast as it goes, and the sink that counts what came. The sink answers with its count when the stream
//! ends, so bytes that are still on the way are neither lost nor counted.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Written and read at once.
const BLOCK: usize = 128 * 1024;

/// Serves one stream after the other until killed.
pub fn sink(listen: SocketAddr) {
    let listener = TcpListener::bind(listen).unwrap_or_else(|error| panic!("{listen}: {error}"));
    let mut block = vec![0; BLOCK];
    for mut socket in listener.incoming().flatten() {
        let mut total: u64 = 0;
        while let Ok(count @ 1..) = socket.read(&mut block) {
            total += count as u64;
        }
        let _ = socket.write_all(&total.to_be_bytes());
    }
}

/// At least one block; a byte that did not come is an error.
pub fn send(to: SocketAddr, measured: Duration) -> Value {
    let mut socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    let block = vec![0x5a; BLOCK];
    let (began, mut sent) = (Instant::now(), 0_u64);
    let mut broken = false;
    while !broken && (sent == 0 || began.elapsed() < measured) {
        broken = socket.write_all(&block).is_err();
        sent += BLOCK as u64;
    }
    let _ = socket.shutdown(Shutdown::Write);
    let mut count = [0; 8];
    broken |= socket.read_exact(&mut count).is_err() || u64::from_be_bytes(count) != sent;
    let seconds = began.elapsed().as_secs_f64();
    json!({ "bytes": sent, "seconds": seconds, "gbit_s": sent as f64 * 8e-9 / seconds, "errors": u64::from(broken) })
}

//! The load of the `cluster` ring, in a pod of its own: `pod-load ADDRESS HOST PATH RPS` sends requests for ever, retries nothing,
//! and writes a line for each failure and one with the totals every few seconds, which `kubectl logs` shows. `pod-load tftp PORT`
//! is a server instead, on UDP.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a program of tests, read by its output")]

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use lacewing_tests::load::Load;

/// Between two lines of totals; each slice has connections of its own.
const SLICE: Duration = Duration::from_secs(2);

/// A read request, and the one block that answers it (RFC 1350, 5).
const READ: [u8; 2] = [0, 1];
const FIRST_BLOCK: [u8; 4] = [0, 3, 0, 1];

/// Answers every read request with who asked. What is not acknowledged the client asks for again.
fn tftp(port: &str) -> ! {
    let port = port.parse().expect("PORT is a number");
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
    let mut request = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut request).expect("a datagram");
        if request[..length].starts_with(&READ) {
            let block = [&FIRST_BLOCK[..], format!("hello {}\n", client.ip()).as_bytes()].concat();
            socket.send_to(&block, client).expect("sent");
        }
    }
}

fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    if let [mode, port] = &arguments[..]
        && mode == "tftp"
    {
        tftp(port);
    }
    let [address, host, path, rps] = &arguments[..] else { panic!("pod-load ADDRESS HOST PATH RPS") };
    let address: SocketAddr = address.parse().expect("ADDRESS is an IP address and a port");
    let rps = rps.parse().expect("RPS is a number");
    let (mut sent, mut failed) = (0, 0);
    let mut slowest = Duration::ZERO;
    loop {
        let began = Instant::now();
        let load = Load::start(address, host, path, rps);
        std::thread::sleep(SLICE.saturating_sub(began.elapsed()));
        let report = load.stop();
        let failures = report.failures();
        for failure in &failures {
            println!("failure {failure}");
        }
        sent += report.samples.len();
        failed += failures.len();
        slowest = slowest.max(report.slowest());
        println!("total sent {sent} failed {failed} slowest {} ms", slowest.as_millis());
    }
}

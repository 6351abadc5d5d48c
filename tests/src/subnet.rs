//! Addresses for a test: a /24 of loopback that nobody else uses now, not even another run of the tests.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU8, Ordering},
};

/// Held by whoever uses a subnet.
const CLAIM_PORT: u16 = 4999;

/// Third byte of the addresses to look at next.
static NEXT: AtomicU8 = AtomicU8::new(20);

/// A third byte below `block` (such as `127.1`) that nobody uses, for as long as the listener lives.
///
/// # Panics
/// All are in use.
pub fn claim(block: &str) -> (u8, TcpListener) {
    for _ in 0..=u8::MAX {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Ok(claim) = TcpListener::bind(format!("{block}.{number}.1:{CLAIM_PORT}")) {
            return (number, claim);
        }
    }
    panic!("every subnet of {block} is in use");
}

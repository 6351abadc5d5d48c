//! First bytes: whatever a client says, the protocol is told without a panic, and an answer that was given once is not
//! changed by more bytes. What is called HTTP/2 has its whole preface; what is called HTTP/1 has a whole first line.

#![no_main]

use lacewing_proxy::detect::{PREFACE, Protocol, detect};

/// Cuts that are tried, from the start.
const CUTS: usize = 512;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = detect(bytes);
    for cut in 0..bytes.len().min(CUTS) {
        let early = detect(&bytes[..cut]);
        assert!(early.is_none() || early == whole, "{cut} bytes say {early:?}, all say {whole:?}");
    }
    match whole {
        Some(Protocol::Http2) => assert!(bytes.starts_with(PREFACE)),
        Some(Protocol::Http1) => assert!(bytes.contains(&b'\n')),
        Some(Protocol::Tls) => assert!(bytes.starts_with(&[0x16, 0x03])),
        Some(Protocol::Opaque) | None => {}
    }
});

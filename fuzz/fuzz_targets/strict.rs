//! HTTP/1 requests: the strict reader lets through what came, up to the fault, and the same however the bytes are cut. No
//! head that it lets through has a line end without CR, or a `#` in its target. The first byte says how to cut.

#![no_main]

use lacewing_proxy::http::strict::{ILLEGAL, Reader};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (whole, fault) = through([bytes]);
    assert_eq!((&whole, fault), (&through(bytes.chunks(usize::from(*cut).max(1))).0, fault));
    assert_eq!((&whole, fault), (&through(bytes.chunks(1)).0, fault));
    let same = whole.len() - usize::from(fault.is_some());
    assert_eq!(whole[..same], bytes[..same]);
    match fault {
        Some(_) => assert_eq!(whole[same], ILLEGAL),
        None => assert_eq!(same, bytes.len()),
    }
    first_head_is_plain(&whole[..same]);
});

/// What goes on of these pieces, and why not more. Requests for a tunnel do not get one.
fn through<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<&'static str>) {
    let (mut reader, mut out) = (Reader::default(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() && reader.fault().is_none() {
            reader.resume(false);
            let passed = reader.read(rest);
            assert!(passed > 0, "no progress");
            out.extend_from_slice(&rest[..passed]);
            rest = &mut rest[passed..];
        }
    }
    (out, reader.fault())
}

fn first_head_is_plain(mut bytes: &[u8]) {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let mut lines = bytes[..end].split(|byte| *byte == b'\n').rev();
    let _unfinished = lines.next();
    assert!(lines.all(|line| line.ends_with(b"\r")), "a line ends without CR");
    let line = bytes[..end].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let target = line.iter().position(|byte| *byte == b' ').map_or(&line[..0], |blank| &line[blank..]);
    assert!(!target.contains(&b'#'), "a fragment");
}

//! Tells the protocol by a connection's first bytes: pure. HTTP is HTTP only with a full request line (version
//! included) or the whole HTTP/2 preface; TLS is a handshake record. Whoever calls keeps the bytes and replays them.

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    Tls,
    /// None of them: opaque bytes.
    Opaque,
}

/// The HTTP/2 connection preface (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// TLS record type of a handshake, and the legacy major version (RFC 8446, 5.1).
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// The protocol, or `None` while more bytes are needed.
pub fn detect(bytes: &[u8]) -> Option<Protocol> {
    if is_prefix(bytes, PREFACE) {
        return (bytes.len() >= PREFACE.len()).then_some(Protocol::Http2);
    }
    if is_prefix(bytes, &TLS_HANDSHAKE) {
        return (bytes.len() >= TLS_HANDSHAKE.len()).then_some(Protocol::Tls);
    }
    request_line(bytes)
}

/// Whether a server's first bytes are the SETTINGS frame with which an HTTP/2 server may begin before its client has said
/// anything (RFC 9113, 3.4 and 6.5); `None` while more bytes are needed. Then its client is HTTP, only slow.
pub fn is_http2_settings(bytes: &[u8]) -> Option<bool> {
    const TYPE_SETTINGS: u8 = 4;
    const SETTING: u32 = 6;
    /// There are a dozen settings; a server would hardly send more.
    const SETTINGS_MAX: u32 = 64;
    let fixed = [None, None, None, Some(TYPE_SETTINGS), Some(0), Some(0), Some(0), Some(0), Some(0)];
    if bytes.iter().zip(fixed).any(|(byte, expected)| expected.is_some_and(|expected| *byte != expected)) {
        return Some(false);
    }
    let length = bytes.get(..3).map(|length| u32::from_be_bytes([0, length[0], length[1], length[2]]));
    match length {
        Some(length) if length % SETTING != 0 || length > SETTING * SETTINGS_MAX => Some(false),
        _ if bytes.len() >= fixed.len() => Some(true),
        _ => None,
    }
}

fn is_prefix(bytes: &[u8], of: &[u8]) -> bool {
    bytes.iter().zip(of).all(|(a, b)| a == b)
}

/// `method SP target SP HTTP/1.x` up to the end of the line (RFC 9112, 3): decided as early as it can be.
fn request_line(bytes: &[u8]) -> Option<Protocol> {
    // A client may send empty lines before the request line (RFC 9112, 2.2).
    let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let line = &bytes[blank..];
    let (line, whole) = match line.iter().position(|b| *b == b'\n') {
        Some(end) => (&line[..end], true),
        None => (line, false),
    };
    let mut parts = line.splitn(3, |b| *b == b' ');
    let (method, target, version) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let ends_well =
        |version: &[u8]| matches!(version.strip_suffix(b"\r").unwrap_or(version), b"HTTP/1.0" | b"HTTP/1.1");
    let method_ok = method.iter().all(|b| is_token(*b)) && method.len() <= 32;
    let target_ok = target.is_none_or(|target| target.iter().all(|b| *b > b' ' && *b != 0x7f));
    match (whole, version) {
        _ if !method_ok || !target_ok => Some(Protocol::Opaque),
        (true, Some(version)) if ends_well(version) && !method.is_empty() => Some(Protocol::Http1),
        (true, _) => Some(Protocol::Opaque),
        (false, Some(version)) if !is_prefix(version, b"HTTP/1.1\r") && !is_prefix(version, b"HTTP/1.0\r") => {
            Some(Protocol::Opaque)
        }
        (false, _) => None,
    }
}

/// A character of a token (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], Some(Protocol::Http1)),
            (b"OPTIONS * HTTP/1.0\r\n", Some(Protocol::Http1)),
            (b"GET / HTTP/1.1\n", Some(Protocol::Http1)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"\r\n\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"\r\n\r\n\r\n\r\n\r\n", None),
            (b"GET / HTTP/1.1", None),
            (b"GET /", None),
            (b"", None),
            (b"GET / HTTP/2.0\r\n", Some(Protocol::Opaque)),
            (b"GET /\r\n", Some(Protocol::Opaque)),
            (b"GET /a b HTTP/1.1\r\n", Some(Protocol::Opaque)),
            (b"GET / FTP", Some(Protocol::Opaque)),
            (b"\x00\x00\x00\x01", Some(Protocol::Opaque)),
            (b"HELO mail.example\r\n", Some(Protocol::Opaque)),
            (b"PING\r\n", Some(Protocol::Opaque)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Protocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Protocol::Opaque)),
            (b"PRIMES /x HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"\x16", None),
            (b"\x16\x03\x01\x02\x00", Some(Protocol::Tls)),
            (b"\x15\x03", Some(Protocol::Opaque)),
        ] {
            assert_eq!(detect(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn servers_that_begin_with_settings_are_http2() {
        let settings = b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64";
        for cut in 0..settings.len() {
            assert_eq!(is_http2_settings(&settings[..cut]), (cut >= 9).then_some(true), "{cut}");
        }
        for other in [
            &b"\x4a\x00\x00\x00\x0a5.5.5-10.11"[..], // MariaDB
            b"220 mail.example ESMTP\r\n",
            b"\x00\x00\x00\x04\x01\x00\x00\x00\x00", // an acknowledgement
            b"\x00\x00\x13\x04\x00\x00\x00\x00\x00", // no whole settings
            b"\xff\xff\xfc\x04\x00\x00\x00\x00\x00",
        ] {
            assert_eq!(is_http2_settings(other), Some(false), "{other:?}");
        }
    }

    #[test]
    fn more_bytes_never_change_an_answer() {
        let inputs: [&[u8]; 5] = [
            b"GET /x HTTP/1.1\r\nHost: a\r\n",
            PREFACE,
            b"\x16\x03\x03\x00\x10abc",
            b"MYSQL\x00\xff\n",
            b"POST /a HTTP/1.0\r\n\r\nbody",
        ];
        for input in inputs {
            let whole = detect(input).unwrap();
            for cut in 0..input.len() {
                assert!(detect(&input[..cut]).is_none_or(|early| early == whole), "{cut} bytes of {input:?}");
            }
        }
    }
}

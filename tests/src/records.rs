//! Reads TLS from recorded bytes, as a stranger on the wire would (RFC 8446, 4.1 and 5.1): records, and what client and
//! server say before they encrypt. It knows no keys and shares no code with the mesh. What does not fit is an error.

/// Longest encrypted record, without its header (RFC 8446, 5.2).
const RECORD_MAX: usize = (1 << 14) + 256;

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub kind: u8,
    pub version: u16,
    pub body: &'a [u8],
}

/// All whole records, and the bytes of one that is still under way.
///
/// # Errors
/// Bytes that are no record: what, and where.
pub fn records(mut bytes: &[u8]) -> Result<(Vec<Record<'_>>, &[u8]), String> {
    let (all, mut found) = (bytes.len(), Vec::new());
    while let [kind, major, minor, high, low, rest @ ..] = bytes {
        let (version, length) = (u16::from_be_bytes([*major, *minor]), usize::from(u16::from_be_bytes([*high, *low])));
        let at = all - bytes.len();
        // Only a first ClientHello may say 0x0301, for the sake of old servers.
        let version_ok = version == 0x0303 || (version == 0x0301 && at == 0 && *kind == HANDSHAKE);
        if !(20..=23).contains(kind) || !version_ok || length > RECORD_MAX {
            return Err(format!("no TLS record at byte {at}: type {kind}, version {version:#06x}, length {length}"));
        }
        let Some((body, next)) = rest.split_at_checked(length) else { break };
        found.push(Record { kind: *kind, version, body });
        bytes = next;
    }
    Ok((found, bytes))
}

/// What a server chose.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// From the extension `supported_versions`: 0x0304 is TLS 1.3.
    pub version: u16,
    pub cipher: u16,
    /// From the extension `key_share`.
    pub group: u16,
}

/// Reads the first record of a server.
///
/// # Errors
/// It is no ServerHello of TLS 1.3.
pub fn server_hello(record: &Record<'_>) -> Result<ServerHello, String> {
    let parse = || {
        let (kind, mut hello) = record.body.split_at_checked(4)?; // type and length
        (record.kind == HANDSHAKE && kind[0] == 2).then_some(())?;
        take(&mut hello, 2 + 32)?; // legacy version, random
        let session = usize::from(take(&mut hello, 1)?[0]);
        take(&mut hello, session)?;
        let cipher = number(take(&mut hello, 2)?);
        take(&mut hello, 1)?; // legacy compression
        let extensions = extensions(&mut hello)?;
        let value = |wanted| extensions.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        Some(ServerHello { version: number(value(0x002b)?), cipher, group: number(value(0x0033)?.get(..2)?) })
    };
    parse().ok_or_else(|| format!("no ServerHello of TLS 1.3: {:02x?}", &record.body[..record.body.len().min(80)]))
}

fn extensions<'a>(hello: &mut &'a [u8]) -> Option<Vec<(u16, &'a [u8])>> {
    let length = usize::from(number(take(hello, 2)?));
    let (mut list, mut found) = (take(hello, length)?, Vec::new());
    while !list.is_empty() {
        let kind = number(take(&mut list, 2)?);
        let length = usize::from(number(take(&mut list, 2)?));
        found.push((kind, take(&mut list, length)?));
    }
    Some(found)
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn number(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |number, byte| number << 8 | u16::from(*byte))
}

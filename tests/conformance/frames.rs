//! HTTP/2 by hand: frames, and header blocks of literals only (RFC 7541, 6.2.2), so that a test can say what no library would.
//! Of answers it reads only what the tables need: which frame ended the stream, and with which status or code.

use std::{collections::BTreeMap, io::Write, time::Duration};

use crate::bench::Stranger;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What became of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// This status.
    Answer(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was ended with this code.
    GoAway(u32),
    /// The connection was closed, or is silent.
    Nothing,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn headers(stream: u32, fields: &[(&[u8], &[u8])], last: bool) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | if last { END_STREAM } else { 0 }, stream, &block(fields))
}

pub fn data(stream: u32, bytes: &[u8], last: bool) -> Vec<u8> {
    frame(DATA, if last { END_STREAM } else { 0 }, stream, bytes)
}

/// A connection's first words.
pub fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [&[0][..], &string(name), &string(value)].concat()).collect()
}

/// A length in a 7-bit prefix, and the bytes as they are.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    match bytes.len() {
        short @ 0..=126 => encoded.push(short as u8),
        long => {
            encoded.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                encoded.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            encoded.push(rest as u8);
        }
    }
    encoded.extend_from_slice(bytes);
    encoded
}

/// Says `bytes` on a new connection and waits until `stream` has ended.
pub fn converse(stranger: &mut Stranger, bytes: &[u8], stream: u32) -> End {
    let _ = stranger.write_all(&[opening(), bytes.to_vec()].concat()).and_then(|()| stranger.flush());
    let mut ends = BTreeMap::new();
    let heard = stranger.hear_until(Duration::from_secs(5), |heard| read(heard, stream).is_some());
    if let Some(end) = read(&heard.bytes, stream) {
        ends.insert(stream, end);
    }
    ends.remove(&stream).unwrap_or(End::Nothing)
}

/// How the stream ended, as far as these frames say.
fn read(mut bytes: &[u8], stream: u32) -> Option<End> {
    let word = |at: &[u8]| u32::from_be_bytes([at[0], at[1], at[2], at[3]]);
    while bytes.len() >= 9 {
        let length = word(&[0, bytes[0], bytes[1], bytes[2]]) as usize;
        let (kind, flags, id) = (bytes[3], bytes[4], word(&bytes[5..9]));
        let payload = bytes.get(9..9 + length)?;
        bytes = &bytes[9 + length..];
        match kind {
            HEADERS if id == stream && flags & END_HEADERS != 0 => return Some(End::Answer(status(payload))),
            RST_STREAM if id == stream && length == 4 => return Some(End::Reset(word(payload))),
            GOAWAY if length >= 8 => return Some(End::GoAway(word(&payload[4..]))),
            SETTINGS | PING if flags & ACK == 0 => {}
            _ => {}
        }
    }
    None
}

/// The status, which comes first: indexed, or a literal value of the indexed name `:status`, in Huffman's code for digits.
fn status(block: &[u8]) -> u16 {
    const INDEXED: [(u8, u16); 7] =
        [(0x88, 200), (0x89, 204), (0x8a, 206), (0x8b, 304), (0x8c, 400), (0x8d, 404), (0x8e, 500)];
    // A change of the table's size may stand before it.
    let block = match block {
        [0x20..=0x3f, rest @ ..] => rest,
        all => all,
    };
    if let Some((_, status)) = block.first().and_then(|byte| INDEXED.iter().find(|(indexed, _)| indexed == byte)) {
        return *status;
    }
    let [name, length, rest @ ..] = block else { return 0 };
    if !matches!(name, 0x08..=0x0e | 0x48..=0x4e) {
        return 0;
    }
    let value = &rest[..usize::from(length & 0x7f).min(rest.len())];
    if length & 0x80 == 0 {
        return std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    }
    let bits: Vec<bool> = value.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect();
    let number = |bits: &[bool]| bits.iter().fold(0_u16, |sum, bit| sum << 1 | u16::from(*bit));
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        // 0 to 2 have five bits from 00000 on, 3 to 9 have six from 011001 on (RFC 7541, appendix B).
        let Some(five) = bits.get(at..at + 5).map(number) else { return 0 };
        let digit = if five <= 2 {
            at += 5;
            five
        } else {
            let Some(six) = bits.get(at..at + 6).map(number).filter(|six| (25..=31).contains(six)) else { return 0 };
            at += 6;
            six - 22
        };
        status = status * 10 + digit;
    }
    status
}

#[test]
fn statuses_are_read() {
    for (block, expected) in [
        (&[0x88][..], 200),
        (&[0x20, 0x8c], 400),
        (&[0x08, 0x03, b'5', b'0', b'2'], 502),
        (&[0x48, 0x82, 0x64, 0x02], 302),       // RFC 7541, C.6.1
        (&[0x48, 0x83, 0x64, 0x0e, 0xff], 307), // C.6.2
        (&[0x40], 0),
    ] {
        assert_eq!(status(block), expected, "{block:x?}");
    }
}

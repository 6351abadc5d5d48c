//! HTTP/2 by hand, for hostile clients: frames are written as they are asked for, however wrong, and read back one by one.
//! It keeps no state of a connection, answers pings, and writes of HPACK only literals without Huffman codes.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use crate::bench::Stranger;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Longest content of a frame that everybody takes (RFC 9113, 4.2).
const CONTENT_MAX: usize = 16_384;

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub content: Vec<u8>,
}

impl Frame {
    /// Four bytes of the content.
    pub fn number(&self, at: usize) -> u32 {
        self.content.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("a frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(content);
    frame
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(8, 0, stream, &by.to_be_bytes())
}

/// The block of a GET's fields.
pub fn head(host: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86]; // GET, http
    block.push(0x04);
    text(&mut block, path);
    block.push(0x01);
    text(&mut block, host);
    for (name, value) in more {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A string literal (RFC 7541, 5.2).
fn text(block: &mut Vec<u8>, text: &str) {
    let mut left = text.len();
    if left < 127 {
        block.push(left as u8);
    } else {
        block.push(127);
        left -= 127;
        while left >= 128 {
            block.push((left % 128) as u8 | 128);
            left /= 128;
        }
        block.push(left as u8);
    }
    block.extend(text.as_bytes());
}

pub fn get_request(stream: u32, host: &str, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head(host, path, &[]))
}

/// A GET with a field `x` of so many bytes.
pub fn long_request(stream: u32, host: &str, path: &str, bytes: usize) -> Vec<u8> {
    let block = head(host, path, &[("x", &"x".repeat(bytes))]);
    let parts: Vec<&[u8]> = block.chunks(CONTENT_MAX).collect();
    let frames = parts.iter().enumerate().map(|(n, part)| {
        let kind = if n == 0 { HEADERS } else { CONTINUATION };
        let flags = if n == 0 { END_STREAM } else { 0 } | if n + 1 == parts.len() { END_HEADERS } else { 0 };
        frame(kind, flags, stream, part)
    });
    frames.flatten().collect()
}

/// The status of an answer whose block begins with it, as everybody's does.
pub fn status(block: &[u8]) -> [u8; 3] {
    match block {
        [0x20..=0x3f, rest @ ..] => status(rest), // a change of the table's size
        [0x88, ..] => *b"200",
        [0x8c, ..] => *b"400",
        [0x8d, ..] => *b"404",
        [0x8e, ..] => *b"500",
        // A literal by the index of `:status`: three digits, plain or in Huffman codes.
        [0x08 | 0x48, 3, plain @ ..] => plain[..3].try_into().expect("three digits"),
        [0x08 | 0x48, 0x82 | 0x83, coded @ ..] => digits([coded[0], coded[1], coded.get(2).copied().unwrap_or(0)]),
        _ => panic!("no status: {block:?}"),
    }
}

/// Three digits in Huffman codes (RFC 7541, appendix B): 0, 1, 2 have five bits, the others six.
fn digits(coded: [u8; 3]) -> [u8; 3] {
    let (bits, mut left) = (u32::from_be_bytes([0, coded[0], coded[1], coded[2]]), 24);
    [(); 3].map(|()| {
        let five = (bits >> (left - 5)) & 31;
        if five <= 2 {
            left -= 5;
            b'0' + five as u8
        } else {
            left -= 6;
            b'3' + (((bits >> left) & 63) - 0x19) as u8
        }
    })
}

/// A connection.
pub struct Http2 {
    io: Stranger,
    unread: Vec<u8>,
}

impl Http2 {
    /// Says the preface and `settings`.
    pub fn open(mut io: Stranger, settings: &[(u16, u32)]) -> Self {
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let settings = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        hello.extend(frame(SETTINGS, 0, 0, &settings.collect::<Vec<u8>>()));
        io.write_all(&hello).and_then(|()| io.flush()).expect("a connection");
        Self { io, unread: Vec::new() }
    }

    pub fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.io.write_all(frames).and_then(|()| self.io.flush())
    }

    /// Everything until the other side closes (and whether it did), or says nothing for `patience`.
    pub fn hear(&mut self, patience: Duration) -> (Vec<Frame>, bool) {
        let heard = self.io.hear(patience);
        self.unread.extend(heard.bytes);
        (self.frames(), heard.closed)
    }

    /// Waits for some bytes, and gives the frames that they complete; and whether the other side closed.
    pub fn read_some(&mut self) -> (Vec<Frame>, bool) {
        let mut chunk = vec![0; 64 * 1024];
        let read = self.io.read(&mut chunk).unwrap_or(0);
        self.unread.extend_from_slice(&chunk[..read]);
        (self.frames(), read == 0)
    }

    fn frames(&mut self) -> Vec<Frame> {
        let (mut frames, mut at) = (Vec::new(), 0);
        while let Some(header) = self.unread.get(at..at + 9) {
            let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            let kind = header[3];
            let flags = header[4];
            let Some(content) = self.unread.get(at + 9..at + 9 + length) else { break };
            frames.push(Frame { kind, content: content.to_vec() });
            at += 9 + length;
            if kind == PING && flags & ACK == 0 {
                let answer = frame(PING, ACK, 0, &frames.last().expect("it was just put there").content);
                let _ = self.io.write_all(&answer).and_then(|()| self.io.flush()); // it may be closed
            }
        }
        self.unread.drain(..at);
        frames
    }
}

#[test]
fn digits_are_read() {
    assert_eq!(digits([0x08, 0x01, 0xff]), *b"100"); // 00001 00000 00000
    assert_eq!(digits([0b0110_1001, 0b1001_0000, 0xff]), *b"431"); // 011010 011001 00001
}

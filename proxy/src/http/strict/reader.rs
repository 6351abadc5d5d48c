//! Follows the requests of an HTTP/1 connection through its bytes and finds the first byte at which a message becomes one
//! that two readers could take for different ones: two framings, a line end that is none, a fragment in the target, chunks
//! in disguise. Pure, allocates nothing, and does not care how the bytes are cut into reads. It looks only where readers
//! differ: what hyper refuses anyhow (RFC 9112, 3 to 5) passes, and hyper refuses it.

use memchr::{memchr, memchr2};

use crate::config::{CHUNK_EXTENSIONS_MAX, TRAILERS_MAX};

/// Stands where the fault was. No field, request line, chunk size or line end may have it, so hyper refuses what it is in.
pub const ILLEGAL: u8 = 0;

const BARE_LF: &str = "a line of the request's head ends without CR (RFC 9112, 2.2)";
const BARE_CR: &str = "a line of the request's head has CR without LF (RFC 9112, 2.2)";
const FRAGMENT: &str = "the request's target has a `#` (RFC 9112, 3.2)";
const TWO_LENGTHS: &str = "more than one Content-Length field";
const TWO_CODINGS: &str = "more than one Transfer-Encoding field";
const BOTH: &str = "both Transfer-Encoding and Content-Length";
const NO_LENGTH: &str = "Content-Length is no number";
const NOT_CHUNKED: &str = "Transfer-Encoding is not exactly `chunked`";
const NO_CHUNK: &str = "a chunk's size is no plain hexadecimal number, or its line ends are not CRLF";
const LONG_EXTENSIONS: &str = "the body's chunk extensions are longer than 1,024 bytes";
const LONG_TRAILERS: &str = "the request's trailers are longer than 8 KiB";
const TRAILER_LINE: &str = "a line of the request's trailers does not end with CRLF";

/// The names that are looked for, and how they begin: what begins otherwise is not read at all.
const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const UPGRADE: &[u8] = b"upgrade";
const INITIALS: [u8; 3] = [b'c', b't', b'u'];
const CONNECT: &[u8] = b"CONNECT";
const CHUNKED: &[u8] = b"chunked";
/// The longest of them, in bytes.
const WORD_MAX: usize = TRANSFER_ENCODING.len();

/// Where in a message the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line; empty lines may come first.
    Start,
    Method,
    /// What is left of the request line.
    Target,
    /// At the first byte of a field line, or of the empty line.
    Line,
    /// In a field's name.
    Name,
    /// In what is left of a field line that frames nothing.
    Rest,
    /// In the value of `Content-Length`.
    Length(Part),
    /// In the value of `Transfer-Encoding`, after so many bytes of [`CHUNKED`].
    Coding(usize, Part),
    /// In a body of which so much is left.
    Body(u64),
    /// At the first digit of a chunk's size.
    SizeStart,
    Size,
    Extension,
    /// In a chunk of which so much is left.
    Chunk(u64),
    ChunkEnd,
    /// At the first byte of a trailer line, or of the empty line.
    TrailerStart,
    Trailer,
    /// After a CR, which LF must follow.
    Lf(After),
    /// A request asked for a tunnel; whether what follows is HTTP is for its answer to say.
    Waiting,
    /// This is no HTTP any more.
    Tunnel,
    Broken(&'static str),
}

/// What follows the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    EmptyLine,
    Field,
    Head,
    Size,
    Chunk,
    TrailerLine,
    Trailers,
}

/// Where in a value that has blanks around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Before,
    Within,
    Behind,
}

/// How a message's body is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    Nothing,
    Length(u64),
    Chunked,
}

/// What is known of the message that is being read.
#[derive(Clone, Debug, Default)]
struct Message {
    framing: Framing,
    wants_tunnel: bool,
    /// Size of the present chunk.
    chunk: u64,
    /// Bytes of chunk extensions and of trailers so far.
    extensions: usize,
    trailers: usize,
}

/// The byte that must not be there, and why.
type Fault = (usize, &'static str);

/// One connection's requests, as far as they have come.
#[derive(Clone, Debug)]
pub struct Reader {
    state: State,
    message: Message,
    word: Word,
    /// The last byte of the read before.
    last: u8,
}

impl Default for Reader {
    fn default() -> Self {
        Self { state: State::Start, message: Message::default(), word: Word::default(), last: 0 }
    }
}

impl Reader {
    /// Takes in what came next and says how many of these bytes may go on. If not all, either the last that may is the
    /// fault, made [`ILLEGAL`], and nothing may follow ([`Reader::fault`]); or what follows must wait
    /// ([`Reader::is_waiting`]).
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.step(bytes, at) {
                Ok(Some(next)) => at = next,
                Ok(None) => break,
                Err((wrong, why)) => {
                    bytes[wrong] = ILLEGAL;
                    self.state = State::Broken(why);
                    return wrong + 1;
                }
            }
        }
        if let Some(last) = bytes[..at].last() {
            self.last = *last;
        }
        at
    }

    /// Why nothing more may go on.
    pub fn fault(&self) -> Option<&'static str> {
        if let State::Broken(why) = self.state { Some(why) } else { None }
    }

    /// Nothing of a request has come yet.
    pub fn is_between(&self) -> bool {
        self.state == State::Start
    }

    /// A request that asked for a tunnel has been read; what comes next has no meaning yet.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// What the answer to that request was: a tunnel, so that nothing is looked at any more, or HTTP goes on.
    pub fn resume(&mut self, tunnel: bool) {
        if self.is_waiting() {
            self.state = if tunnel { State::Tunnel } else { State::Start };
        }
    }

    /// One step from `at`; the position after it. `None`: nothing may go on.
    fn step(&mut self, bytes: &[u8], at: usize) -> Result<Option<usize>, Fault> {
        let byte = bytes[at];
        let (state, next) = match self.state {
            State::Waiting | State::Broken(_) => return Ok(None),
            State::Tunnel => (State::Tunnel, bytes.len()),
            State::Start => self.start(bytes, at)?,
            State::Method => self.method(bytes, at)?,
            State::Target => self.target(bytes, at)?,
            State::Line => self.line(bytes, at)?,
            State::Name => self.name(bytes, at)?,
            State::Rest => self.rest(bytes, at)?,
            State::Length(part) => (self.length(byte, part).ok_or((at, NO_LENGTH))?, at + 1),
            State::Coding(matched, part) => (coding(byte, matched, part).ok_or((at, NOT_CHUNKED))?, at + 1),
            State::Body(left) => match skip(bytes, at, left) {
                (0, next) => (self.end(), next),
                (left, next) => (State::Body(left), next),
            },
            State::SizeStart | State::Size => (self.size(byte).ok_or((at, NO_CHUNK))?, at + 1),
            State::Extension => self.extension(bytes, at)?,
            State::Chunk(left) => match skip(bytes, at, left) {
                (0, next) => (State::ChunkEnd, next),
                (left, next) => (State::Chunk(left), next),
            },
            State::ChunkEnd if byte == b'\r' => (State::Lf(After::Chunk), at + 1),
            State::ChunkEnd => return Err((at, NO_CHUNK)),
            State::TrailerStart if byte == b'\r' => (State::Lf(After::Trailers), at + 1),
            State::TrailerStart | State::Trailer => self.trailer(bytes, at)?,
            State::Lf(after) if byte == b'\n' => (self.after(after), at + 1),
            State::Lf(after) => return Err((at, after.without_lf())),
        };
        self.state = state;
        Ok(Some(next))
    }

    fn start(&mut self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        match bytes[at] {
            b'\r' => Ok((State::Lf(After::EmptyLine), at + 1)),
            b'\n' => Err((at, BARE_LF)),
            _ => {
                self.message = Message::default();
                self.word.clear();
                self.method(bytes, at)
            }
        }
    }

    fn method(&mut self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        let end = bytes[at..].iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\n')).map(|end| at + end);
        self.word.push(&bytes[at..end.unwrap_or(bytes.len())]);
        match end {
            None => Ok((State::Method, bytes.len())),
            Some(lf) if bytes[lf] == b'\n' => self.line_end(bytes, lf),
            Some(blank) => {
                self.message.wants_tunnel = self.word.as_bytes() == CONNECT;
                Ok((State::Target, blank + 1))
            }
        }
    }

    fn target(&mut self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        match memchr2(b'\n', b'#', &bytes[at..]) {
            None => Ok((State::Target, bytes.len())),
            Some(found) if bytes[at + found] == b'#' => Err((at + found, FRAGMENT)),
            Some(lf) => self.line_end(bytes, at + lf),
        }
    }

    fn line(&mut self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        match bytes[at] {
            b'\r' => Ok((State::Lf(After::Head), at + 1)),
            b'\n' => Err((at, BARE_LF)),
            byte if INITIALS.contains(&byte.to_ascii_lowercase()) => {
                self.word.clear();
                self.name(bytes, at)
            }
            _ => self.rest(bytes, at),
        }
    }

    fn rest(&self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        match memchr(b'\n', &bytes[at..]) {
            Some(lf) => self.line_end(bytes, at + lf),
            None => Ok((State::Rest, bytes.len())),
        }
    }

    fn name(&mut self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        let end = bytes[at..].iter().position(|byte| matches!(byte, b':' | b'\n')).map(|end| at + end);
        self.word.push(&bytes[at..end.unwrap_or(bytes.len())]);
        match end {
            None => Ok((State::Name, bytes.len())),
            Some(lf) if bytes[lf] == b'\n' => self.line_end(bytes, lf),
            Some(colon) => Ok((self.named().map_err(|why| (colon, why))?, colon + 1)),
        }
    }

    /// What the field says whose name has just been read.
    fn named(&mut self) -> Result<State, &'static str> {
        let message = &mut self.message;
        if self.word.is(CONTENT_LENGTH) {
            match message.framing {
                Framing::Length(_) => Err(TWO_LENGTHS),
                Framing::Chunked => Err(BOTH),
                Framing::Nothing => {
                    message.framing = Framing::Length(0);
                    Ok(State::Length(Part::Before))
                }
            }
        } else if self.word.is(TRANSFER_ENCODING) {
            match message.framing {
                Framing::Length(_) => Err(BOTH),
                Framing::Chunked => Err(TWO_CODINGS),
                Framing::Nothing => {
                    message.framing = Framing::Chunked;
                    Ok(State::Coding(0, Part::Before))
                }
            }
        } else {
            message.wants_tunnel |= self.word.is(UPGRADE);
            Ok(State::Rest)
        }
    }

    /// The state after a line of the head that ends with this LF.
    fn line_end(&self, bytes: &[u8], lf: usize) -> Result<(State, usize), Fault> {
        let before = if lf > 0 { bytes[lf - 1] } else { self.last };
        if before == b'\r' { Ok((State::Line, lf + 1)) } else { Err((lf, BARE_LF)) }
    }

    /// A byte of the value of `Content-Length`; `None`: it must not be there.
    fn length(&mut self, byte: u8, part: Part) -> Option<State> {
        let Framing::Length(length) = &mut self.message.framing else { return None };
        match (byte, part) {
            (b' ' | b'\t', Part::Before) => Some(State::Length(part)),
            (b' ' | b'\t', _) => Some(State::Length(Part::Behind)),
            (b'0'..=b'9', Part::Before | Part::Within) => {
                *length = length.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
                Some(State::Length(Part::Within))
            }
            (b'\r', Part::Within | Part::Behind) => Some(State::Lf(After::Field)),
            _ => None,
        }
    }

    /// A byte of a chunk's size; `None`: it must not be there. Not even a blank: some read `1 0` as 16.
    fn size(&mut self, byte: u8) -> Option<State> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            let before = if self.state == State::SizeStart { 0 } else { self.message.chunk };
            self.message.chunk = before.checked_mul(16)?.checked_add(u64::from(digit))?;
            return Some(State::Size);
        }
        match byte {
            b';' if self.state == State::Size => {
                self.message.extensions += 1;
                (self.message.extensions <= CHUNK_EXTENSIONS_MAX).then_some(State::Extension)
            }
            b'\r' if self.state == State::Size => Some(State::Lf(After::Size)),
            _ => None,
        }
    }

    fn extension(&mut self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        let allowed = CHUNK_EXTENSIONS_MAX - self.message.extensions;
        let (next, end) = line_part(bytes, at, allowed, LONG_EXTENSIONS)?;
        self.message.extensions += next - at;
        match end {
            None => Ok((State::Extension, next)),
            Some(b'\r') => Ok((State::Lf(After::Size), next + 1)),
            Some(_) => Err((next, NO_CHUNK)),
        }
    }

    fn trailer(&mut self, bytes: &[u8], at: usize) -> Result<(State, usize), Fault> {
        let allowed = TRAILERS_MAX - self.message.trailers;
        let (next, end) = line_part(bytes, at, allowed, LONG_TRAILERS)?;
        self.message.trailers += next - at;
        match end {
            None => Ok((State::Trailer, next)),
            Some(b'\r') => Ok((State::Lf(After::TrailerLine), next + 1)),
            Some(_) => Err((next, TRAILER_LINE)),
        }
    }

    /// The state after the end of a line.
    fn after(&mut self, after: After) -> State {
        match (after, self.message.framing) {
            (After::EmptyLine, _) => State::Start,
            (After::Field, _) => State::Line,
            (After::Head, Framing::Chunked) | (After::Chunk, _) => State::SizeStart,
            (After::Head, Framing::Length(length)) if length > 0 => State::Body(length),
            (After::Size, _) if self.message.chunk > 0 => State::Chunk(self.message.chunk),
            (After::Size | After::TrailerLine, _) => State::TrailerStart,
            (After::Head | After::Trailers, _) => self.end(),
        }
    }

    /// The state after a message.
    fn end(&self) -> State {
        if self.message.wants_tunnel { State::Waiting } else { State::Start }
    }
}

impl After {
    fn without_lf(self) -> &'static str {
        match self {
            Self::EmptyLine | Self::Field | Self::Head => BARE_CR,
            Self::Size | Self::Chunk => NO_CHUNK,
            Self::TrailerLine | Self::Trailers => TRAILER_LINE,
        }
    }
}

/// A byte of the value of `Transfer-Encoding`; `None`: it must not be there.
fn coding(byte: u8, matched: usize, part: Part) -> Option<State> {
    match (byte, part) {
        (b' ' | b'\t', Part::Before) => Some(State::Coding(matched, part)),
        (b' ' | b'\t', _) if matched == CHUNKED.len() => Some(State::Coding(matched, Part::Behind)),
        (b'\r', _) if matched == CHUNKED.len() => Some(State::Lf(After::Field)),
        (_, Part::Before | Part::Within) if CHUNKED.get(matched) == Some(&byte.to_ascii_lowercase()) => {
            Some(State::Coding(matched + 1, Part::Within))
        }
        _ => None,
    }
}

/// What is left of a body after these bytes, and the position behind its part.
fn skip(bytes: &[u8], at: usize, left: u64) -> (u64, usize) {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
    (left - here as u64, at + here)
}

/// The part of a line from `at`: where it ends, and the CR or LF there, if it does. At most `allowed` bytes.
fn line_part(bytes: &[u8], at: usize, allowed: usize, too_long: &'static str) -> Result<(usize, Option<u8>), Fault> {
    let found = memchr2(b'\r', b'\n', &bytes[at..]).map(|found| at + found);
    let next = found.unwrap_or(bytes.len());
    if next - at > allowed { Err((at + allowed, too_long)) } else { Ok((next, found.map(|found| bytes[found]))) }
}

/// A method or a name that may come in pieces. What is longer than [`WORD_MAX`] is none that is looked for.
#[derive(Clone, Debug, Default)]
struct Word {
    bytes: [u8; WORD_MAX],
    length: usize,
}

impl Word {
    fn clear(&mut self) {
        self.length = 0;
    }

    fn push(&mut self, piece: &[u8]) {
        let end = self.length.saturating_add(piece.len());
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(piece);
        }
        self.length = end;
    }

    /// Nothing if it is too long.
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn is(&self, name: &[u8]) -> bool {
        self.as_bytes().eq_ignore_ascii_case(name)
    }
}

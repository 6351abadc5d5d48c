//! Netlink: how attributes and messages lie in memory, one batch of them sent and answered, one table read. The kernel
//! takes a batch as a whole or not at all, and answers in the same system call.
//!
//! Lengths and types are in native byte order, numbers inside of nf_tables' attributes are big-endian. Nothing here
//! knows what the messages mean, beyond that they are nf_tables'.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::error::{Error, Step};

/// The kernel answers at once; this only guards against waiting for an answer that was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel sends at most this much at a time, in bytes.
const RECEIVE_BUFFER: usize = 32 * 1024;
/// The message header, and nf_tables' own behind it, in bytes.
const HEADER: usize = 16;
const OWN_HEADER: usize = 4;
/// Everything begins at a multiple of this.
const ALIGNMENT: usize = 4;

/// Type bits of an attribute: that it holds attributes, and what is left of the type without the flags.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// nf_tables among the kinds of netfilter messages, and the address family of our table: IPv4 and IPv6 in one.
const NF_TABLES: u16 = 10;
const FAMILY_INET: u8 = 1;
const FAMILY_ANY: u8 = 0;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
/// Make it if it is not there.
pub const CREATE: u16 = 0x400;
/// Add it after the others.
pub const APPEND: u16 = 0x800;

/// A list of attributes: length, type, value, padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds a value as it is. Ours are far shorter than the 65,531 bytes that fit.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&((ALIGNMENT + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// Adds a text, with its final zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    #[must_use]
    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The attributes in `bytes`, types without flags; stops at what is no attribute.
    pub fn read(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        std::iter::from_fn(move || {
            let length = usize::from(u16_at(bytes, 0)?);
            let kind = u16_at(bytes, 2)? & TYPE_MASK;
            let value = bytes.get(ALIGNMENT..length)?;
            bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or(&[]);
            Some((kind, value))
        })
    }

    /// The first attribute of this type in `bytes`.
    pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
        Self::read(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
    }
}

/// Messages that take effect together.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message is for, by sequence number.
    steps: Vec<(Step, String)>,
    /// Where the last message begins.
    last: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new(), last: 0 };
        batch.edge(BATCH_BEGIN);
        batch
    }
}

impl Batch {
    /// Adds an nf_tables message. `what` goes on after "cannot".
    pub fn push(&mut self, kind: u16, flags: u16, attributes: &Attributes, step: Step, what: impl Into<String>) {
        self.last = self.bytes.len();
        let number = self.steps.len() as u32;
        self.bytes.extend(message(NF_TABLES << 8 | kind, flags, number, [FAMILY_INET, 0, 0, 0], attributes));
        self.steps.push((step, what.into()));
    }

    /// How long it is so far, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the batch and asks for an answer to the last message. Errors are answered anyhow; to ask for an answer to
    /// each would overflow the socket where there are many.
    fn finish(mut self) -> (Vec<u8>, Vec<(Step, String)>) {
        self.edge(BATCH_END);
        let flags = self.last + 6;
        if let Some(flags) = self.bytes.get_mut(flags..flags + 2) {
            flags.copy_from_slice(&(u16_at(flags, 0).unwrap_or(0) | ACKNOWLEDGE).to_ne_bytes());
        }
        (self.bytes, self.steps)
    }

    fn edge(&mut self, kind: u16) {
        let [high, low] = NF_TABLES.to_be_bytes();
        let number = self.steps.len() as u32;
        self.bytes.extend(message(kind, 0, number, [FAMILY_ANY, 0, high, low], &Attributes::default()));
        self.steps.push((Step::Filter, "change the kernel's packet filter".to_owned()));
    }
}

/// Makes the kernel do all of it, or nothing.
///
/// # Errors
/// The first message that the kernel refused.
pub fn apply(batch: Batch) -> Result<(), Error> {
    let (bytes, steps) = batch.finish();
    // The one before the end of the batch.
    let last = steps.len() as u32 - 2;
    exchange(&bytes, |answer| {
        let Some(result) = answer.result() else { return Ok(None) };
        match result {
            Ok(()) => Ok((answer.number == last).then_some(())),
            Err(error) => {
                let of = steps.get(answer.number as usize).or_else(|| steps.first());
                let (step, what) = of.cloned().unwrap_or((Step::Filter, String::new()));
                Err(Error::new(step, what, error))
            }
        }
    })
}

/// Reads all of one kind that match: the attributes of each.
///
/// # Errors
/// The kernel refused, or the table changed meanwhile.
pub fn dump(kind: u16, attributes: &Attributes, what: &str) -> Result<Vec<Vec<u8>>, Error> {
    let request = message(NF_TABLES << 8 | kind, DUMP, 0, [FAMILY_INET, 0, 0, 0], attributes);
    let mut found = Vec::new();
    exchange(&request, |answer| {
        if answer.flags & INTERRUPTED != 0 {
            let changed = io::Error::other("it changed while it was read; run this again");
            return Err(Error::new(Step::Filter, what, changed));
        }
        if let Some(result) = answer.result() {
            return result.map(Some).map_err(|error| Error::new(Step::Filter, what, error));
        }
        found.push(answer.body.get(OWN_HEADER..).unwrap_or(&[]).to_vec());
        Ok(None)
    })?;
    Ok(found)
}

/// Sends `request` and hands each message of the answer to `next`, until it has a result.
fn exchange<T>(request: &[u8], mut next: impl FnMut(Message<'_>) -> Result<Option<T>, Error>) -> Result<T, Error> {
    let (family, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(libc::NETLINK_NETFILTER));
    let socket = Socket::new(family, Type::RAW, Some(protocol))
        .map_err(|error| Error::new(Step::Socket, "open a netlink socket", error))?;
    let failed = |error| Error::new(Step::Filter, "talk to the kernel's packet filter", error);
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
    // A socket that is not connected sends to the kernel.
    (&socket).write_all(request).map_err(failed)?;
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let length = (&socket).read(&mut buffer).map_err(failed)?;
        for message in Message::read(&buffer[..length]) {
            if let Some(result) = next(message)? {
                return Ok(result);
            }
        }
    }
}

/// One message from the kernel.
struct Message<'a> {
    kind: u16,
    flags: u16,
    /// Of the request that it answers.
    number: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn read(mut bytes: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let length = u32_at(bytes, 0)? as usize;
            let message = Self {
                kind: u16_at(bytes, 4)?,
                flags: u16_at(bytes, 6)?,
                number: u32_at(bytes, 8)?,
                body: bytes.get(HEADER..length)?,
            };
            bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or(&[]);
            Some(message)
        })
    }

    /// Success or failure, if the message is one of these and no data.
    fn result(&self) -> Option<io::Result<()>> {
        if self.kind != ERROR && self.kind != DONE {
            return None;
        }
        match u32_at(self.body, 0).map(u32::cast_signed) {
            None | Some(0) => Some(Ok(())),
            Some(number) => Some(Err(io::Error::from_raw_os_error(number.saturating_neg()))),
        }
    }
}

fn message(kind: u16, flags: u16, number: u32, own_header: [u8; OWN_HEADER], attributes: &Attributes) -> Vec<u8> {
    let length = (HEADER + OWN_HEADER + attributes.0.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&number.to_ne_bytes());
    // The sender: the kernel knows.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&own_header);
    bytes.extend_from_slice(&attributes.0);
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let inner = Attributes::default().text(1, "abcd").number(2, 0x0102_0304);
        let outer = Attributes::default().bytes(7, &[9]).nest(4, &inner);
        let (length, value) = (|n: u16| n.to_ne_bytes(), |kind: u16| kind.to_ne_bytes());
        let wanted = [
            &length(5)[..],
            &value(7),
            &[9, 0, 0, 0],
            &length(24),
            &value(4 | NESTED),
            &length(9),
            &value(1),
            b"abcd\0\0\0\0",
            &length(8),
            &value(2),
            &[1, 2, 3, 4],
        ];
        assert_eq!(outer.as_bytes(), wanted.concat());
        let nested = Attributes::find(outer.as_bytes(), 4).unwrap();
        assert_eq!(Attributes::find(nested, 1), Some(&b"abcd\0"[..]));
        assert_eq!(Attributes::read(nested).map(|(kind, _)| kind).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(Attributes::find(nested, 3), None);
    }

    #[test]
    fn broken_input_ends_the_reading() {
        let good = Attributes::default().text(1, "abcdefg").number(2, 7);
        for cut in 0..good.as_bytes().len() {
            assert!(Attributes::read(&good.as_bytes()[..cut]).count() < 2);
            assert!(Message::read(&good.as_bytes()[..cut]).count() < 2);
        }
        for length in [0_u16, 1, 3, 200] {
            let bytes = [&length.to_ne_bytes()[..], &[0; 30]].concat();
            assert_eq!(Attributes::read(&bytes).count(), 0, "{length}");
            let bytes = [&u32::from(length).to_ne_bytes()[..], &[0; 30]].concat();
            assert_eq!(Message::read(&bytes).count(), 0, "{length}");
        }
    }

    #[test]
    fn a_batch_is_framed_numbered_and_acknowledged_at_its_end() {
        let mut batch = Batch::default();
        let name = Attributes::default().text(1, "t");
        batch.push(0, CREATE, &name, Step::Table, "make");
        batch.push(2, 0, &name, Step::Table, "delete");
        let (bytes, steps) = batch.finish();
        assert_eq!(steps[2], (Step::Table, "delete".to_owned()));
        let messages: Vec<_> = Message::read(&bytes).collect();
        let heads: Vec<_> = messages.iter().map(|m| (m.kind, m.flags, m.number)).collect();
        let nf = NF_TABLES << 8;
        assert_eq!(heads, [(16, 1, 0), (nf, 0x401, 1), (nf | 2, 0x5, 2), (17, 1, 3)]);
        assert_eq!(messages[0].body, [0, 0, 0, 10]);
        assert_eq!(messages[1].body, [&[1, 0, 0, 0][..], name.as_bytes()].concat());
        assert_eq!(bytes.len(), 20 + 28 + 28 + 20);
    }

    #[test]
    fn answers_are_success_failure_or_data() {
        let answer = |kind, body: &'static [u8]| Message { kind, flags: 0, number: 1, body }.result();
        assert!(answer(ERROR, &[0; 20]).unwrap().is_ok());
        assert!(answer(DONE, &[]).unwrap().is_ok());
        assert!(answer(NF_TABLES << 8, &[0; 4]).is_none());
        let refused = -libc::EPERM;
        let body = refused.to_ne_bytes().to_vec();
        let message = Message { kind: ERROR, flags: 0, number: 1, body: &body };
        assert_eq!(message.result().unwrap().unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}

//! Owns a reader of DER (X.690) that is just enough for what webpki does not tell: key usage, extended key usage,
//! validity dates, and the fixed shape of a certificate request. Refuses indefinite and non-minimal lengths and
//! multi-byte tags. It allocates nothing and trusts no length. Used by `svid.rs` and `authority/request.rs`.

use time::{Date, Month, PrimitiveDateTime, Time};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

/// Constructed, context-specific tag.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The rest of one constructed value.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

/// One element: its tag, its content, and the bytes of both with the length.
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    #[cfg_attr(not(feature = "issue"), allow(dead_code, reason = "only requests are compared byte by byte"))]
    pub(crate) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, or nothing at the end or when the bytes are not DER.
    pub(crate) fn next(&mut self) -> Option<Element<'a>> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => rest.split_first().map(|(&a, rest)| (usize::from(a), rest)).filter(|(n, _)| *n > 0x7f)?,
            0x82 => {
                let (&bytes, rest) = rest.split_first_chunk::<2>()?;
                Some((usize::from(u16::from_be_bytes(bytes)), rest)).filter(|(n, _)| *n > 0xff)?
            }
            // Nothing that this crate reads is longer than 64 KiB.
            _ => return None,
        };
        let (content, tail) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - tail.len()];
        self.0 = tail;
        Some(Element { tag, content, whole })
    }

    /// The content of the next element if it has this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|element| element.tag == tag).map(|element| element.content)
    }

    /// A reader inside the next element if it has this tag.
    pub(crate) fn enter(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.expect(tag).map(Reader)
    }

    /// Unix seconds of a certificate's date (RFC 5280 §4.1.2.5: always UTC, always with seconds).
    pub(crate) fn time(&mut self) -> Option<u64> {
        let element = self.next()?;
        let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match (element.tag, text.len()) {
            (UTC_TIME, 12) => {
                let short: i32 = text[..2].parse().ok()?;
                (if short < 50 { 2000 + short } else { 1900 + short }, &text[2..])
            }
            (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
            _ => return None,
        };
        let two = |at: usize| rest[at..at + 2].parse::<u8>().ok();
        let date = Date::from_calendar_date(year, Month::try_from(two(0)?).ok()?, two(2)?).ok()?;
        let time = Time::from_hms(two(4)?, two(6)?, two(8)?).ok()?;
        u64::try_from(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_one_by_one() {
        let mut reader = Reader::new(&[0x02, 1, 7, 0x30, 3, 0x06, 1, 9]);
        assert_eq!(reader.expect(INTEGER), Some(&[7][..]));
        let element = reader.next().unwrap();
        assert_eq!((element.tag, element.whole.len()), (SEQUENCE, 5));
        assert_eq!(Reader::new(element.content).expect(OID), Some(&[9][..]));
        assert!(reader.is_empty() && reader.next().is_none());
    }

    #[test]
    fn broken_lengths_are_refused() {
        let long: Vec<u8> = [&[0x04, 0x82, 0x01, 0x00][..], &[0; 256]].concat();
        assert_eq!(Reader::new(&long).expect(OCTET_STRING).map(<[u8]>::len), Some(256));
        let table: [&[u8]; 9] = [
            &[],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 1, 0],
            &[0x30, 0x81],
            &[0x30, 0x82, 0, 1, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x3f, 0x01, 0],
        ];
        for bytes in table {
            assert!(Reader::new(bytes).next().is_none(), "{bytes:x?}");
        }
    }

    #[test]
    fn dates() {
        let table: [(u8, &str, Option<u64>); 8] = [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "261122010203Z", Some(1_795_309_323)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "261322010203Z", None),
            (UTC_TIME, "261122010203", None),
            (UTC_TIME, "26112201020+Z", None),
            (GENERALIZED_TIME, "261122010203Z", None),
        ];
        for (tag, text, expected) in table {
            let bytes = [&[tag, text.len() as u8], text.as_bytes()].concat();
            assert_eq!(Reader::new(&bytes).time(), expected, "{text}");
        }
    }
}

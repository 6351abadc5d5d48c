//! Owns PEM text (RFC 7468): reads the sections that this crate knows, writes certificates and keys; and hexadecimal.
//! Refuses to guess: a section of a kind that the caller did not ask for is an error there, not skipped here.
//! Certificates go on to `bundle.rs`, keys to `authority.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject as _, SectionKind};

/// Line width of the encoded text (RFC 7468 §2).
const LINE: usize = 64;

/// Every known section of the text, in order.
pub(crate) fn read(text: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    let sections: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).collect();
    sections.map_err(|error| format!("the PEM text is damaged ({error:?})"))
}

/// Appends one section, e.g. with the label `CERTIFICATE`.
pub(crate) fn write(out: &mut String, label: &str, der: &[u8]) {
    let body = STANDARD.encode(der);
    out.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.extend(["-----END ", label, "-----\n"]);
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_round_trip() {
        for len in [0, 1, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut text = String::from("a comment\n");
            write(&mut text, "CERTIFICATE", &der);
            write(&mut text, "PRIVATE KEY", &der);
            assert!(text.lines().all(|line| line.len() <= LINE));
            let expected = vec![(SectionKind::Certificate, der.clone()), (SectionKind::PrivateKey, der)];
            assert_eq!(read(text.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(hex(&[0x00, 0x1f, 0xa0, 0xff]), "001fa0ff");
    }

    #[test]
    fn damaged_text_is_an_error() {
        for text in
            ["-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n"]
        {
            assert!(read(text.as_bytes()).expect_err(text).contains("damaged"));
        }
    }
}

//! Owns how a list of what bypasses the proxy is written: `25,8000-8100`. The init step makes rules of it, the webhook
//! checks it and the controller tells clients which ports have no mesh TLS: one reader, so that all three mean the same.

use std::{fmt, str::FromStr};

/// Entries of a skip list: every one is a rule, and all rules must fit into one message to the kernel.
pub const SKIP_MAX: usize = 128;

/// One port, or a range with both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for Ports {
    type Err = String;

    /// # Errors
    /// What is wrong with it, in words for an operator.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse()
                .ok()
                .filter(|port| digits && *port != 0)
                .ok_or("write ports from 1 to 65535 as 25 or 8000-8100")
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("the range ends before it begins; write {last}-{first}"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Reads a skip list: none, or up to [`SKIP_MAX`] entries separated by commas.
///
/// # Errors
/// Which entry is wrong and how, or that there are too many.
pub fn skip_list<T: FromStr<Err = String>>(value: &str) -> Result<Vec<T>, String> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let count = value.split(',').count();
    if count > SKIP_MAX {
        return Err(format!("{count} entries, of at most {SKIP_MAX}: use ranges"));
    }
    value.split(',').map(|part| part.trim().parse().map_err(|e| format!("{:?}: {e}", part.trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges() {
        for (text, inside, outside) in
            [("25", vec![25], vec![24, 26]), ("1-65535", vec![1, 80, 65535], vec![0]), ("8-9", vec![8, 9], vec![7, 10])]
        {
            let ports: Ports = text.parse().unwrap();
            assert_eq!(ports.to_string(), text);
            assert!(inside.iter().all(|port| ports.contains(*port)), "{text}");
            assert!(!outside.iter().any(|port| ports.contains(*port)), "{text}");
        }
        for bad in ["", "0", "65536", "-1", "1-", "+1", "9-8", "1-2-3", "0-5", "http", " 1"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_have_an_end() {
        assert_eq!(skip_list::<Ports>(""), Ok(vec![]));
        assert_eq!(skip_list("25, 8-9"), Ok(vec![Ports { first: 25, last: 25 }, Ports { first: 8, last: 9 }]));
        for (bad, why) in [("25,", "\"\""), ("25,x", "\"x\""), (&vec!["7"; SKIP_MAX + 1].join(","), "129 entries")] {
            assert!(skip_list::<Ports>(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}

//! Owns wall time: the only place that asks for it. Everything else takes unix seconds as a parameter.
//! Waiting is not done by it: tokio's clock, which tests can stop, is used for that.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch. A clock set before it reads as 0: certificates then fail by their dates, visibly.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_later_than_this_code() {
        assert!(unix_now() > 1_790_000_000);
    }
}

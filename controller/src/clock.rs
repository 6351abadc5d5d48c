//! Owns wall time: the only place that asks for it. Everything else takes unix seconds as a parameter.
//! Waiting is not done by it: tokio's clock, which tests can stop, is used for that.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Seconds since the Unix epoch. A clock set before it reads as 0: certificates then fail by their dates, visibly.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Unix seconds as the API's `MicroTime` (RFC 3339). A time beyond all calendars is the epoch.
pub fn micro_time(now: u64) -> String {
    let time = i64::try_from(now).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000000Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_api_wants_them() {
        assert_eq!(micro_time(1_795_300_000), "2026-11-21T22:26:40.000000Z");
        assert_eq!(micro_time(u64::MAX), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn time_is_later_than_this_code() {
        assert!(unix_now() > 1_790_000_000);
    }
}

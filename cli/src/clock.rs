//! The only file of the command that asks for wall time; everywhere else it is a parameter.
//!
//! Time spans are measured with `Instant`; wall time is for what people and files are told.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch; 0 on a clock set before it.
#[allow(clippy::disallowed_methods)]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

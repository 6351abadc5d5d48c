//! The only file that asks for wall time. Everything else takes it as a parameter, or measures with tokio's clock,
//! which tests can pause.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch; 0 if the clock stands before it.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Pause between looks.
const LOOK: Duration = Duration::from_millis(20);

/// What `look` found within `patience`.
///
/// # Panics
/// It found nothing: the test fails with `what`.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

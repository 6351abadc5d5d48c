//! Owns how a stream learns which of its questions have a new answer: numbers that it chose itself, each once, and one
//! bell. It holds no answers: whoever wakes up reads the latest.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Whose questions have new answers. Bounded by the number of questions.
#[derive(Default)]
pub struct Mailbox {
    due: Mutex<BTreeSet<u32>>,
    bell: Notify,
}

impl Mailbox {
    /// Notes that the question of this number has a new answer.
    pub fn post(&self, number: u32) {
        self.due.lock().insert(number);
        self.bell.notify_one();
    }

    /// Takes what was noted.
    pub fn take(&self) -> BTreeSet<u32> {
        std::mem::take(&mut *self.due.lock())
    }

    /// Waits until something was noted since the last time; may be wrong, never the other way round.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

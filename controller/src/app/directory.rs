//! Owns following a directory of manifests: looks at it again and again, tells the publisher what changed, and keeps the
//! token files of its pods up. Files are read and written beside the runtime's thread, which proxies wait for.

use std::{future::pending, panic::resume_unwind, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    admin::SourceStatus,
    clock,
    publish::Publisher,
    source::{
        SourceError,
        directory::{Directory, POLL_INTERVAL},
    },
    tokens::mint::{MintError, Minter, Pods},
};

/// How often token files are checked when no pod changed.
const MINT_INTERVAL: Duration = Duration::from_secs(10);
/// Pause after token files could not be kept up; doubled each time, up to the longest.
const MINT_RETRY: Duration = Duration::from_secs(1);
const MINT_RETRY_MAX: Duration = Duration::from_secs(30);

/// The directory, and who is told of it.
pub struct Follower {
    pub directory: Directory,
    pub publisher: Arc<Publisher>,
    pub minting: Option<Minting>,
    pub status: Arc<Mutex<SourceStatus>>,
}

impl Follower {
    /// Never ends.
    pub async fn follow(self) {
        let Self { mut directory, publisher, mut minting, status } = self;
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let changes;
            (directory, changes) = beside(directory, Directory::poll).await;
            let changed = changes.is_some();
            if let Some(changes) = changes {
                publisher.apply(changes);
            }
            let mut errors = directory.errors();
            if let Some(mut due) = minting.take() {
                if directory.loaded() && due.is_due(changed, Instant::now()) {
                    let pods = pods(&publisher);
                    let now = clock::unix_now();
                    let outcome;
                    (due.minter, outcome) = beside(due.minter, move |minter| minter.sync(&pods, now)).await;
                    due.note(outcome, Instant::now());
                }
                errors.extend(due.error.clone());
                minting = Some(due);
            }
            *status.lock() = SourceStatus { loaded: directory.loaded(), errors };
        }
    }
}

/// Does work that may block on a thread for that. A panic in it goes on here, and so ends who asked.
async fn beside<T, R>(mut value: T, work: impl FnOnce(&mut T) -> R + Send + 'static) -> (T, R)
where
    T: Send + 'static,
    R: Send + 'static,
{
    let done = spawn_blocking(move || {
        let result = work(&mut value);
        (value, result)
    });
    match done.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only a runtime that ends cancels it, and then nobody waits here any more.
            Err(_) => pending().await,
        },
    }
}

/// Who needs a token, copied: the world must not be held while files are written.
fn pods(publisher: &Publisher) -> Pods {
    publisher
        .with_world(|world| world.pods().map(|(name, pod)| (name.clone(), pod.service_account().to_owned())).collect())
}

/// Keeps token files up when pods may have changed, and now and then.
pub struct Minting {
    minter: Minter,
    /// When to look at them next; nothing before the first time.
    due: Option<Instant>,
    /// After a failure: how long it is waited for.
    retry: Duration,
    /// Why the last time failed.
    error: Option<SourceError>,
}

impl Minting {
    pub fn new(minter: Minter) -> Self {
        Self { minter, due: None, retry: MINT_RETRY, error: None }
    }

    /// After a failure even a change waits its turn: a full disk is not written to five times a second.
    fn is_due(&self, changed: bool, now: Instant) -> bool {
        (changed && self.error.is_none()) || self.due.is_none_or(|due| due <= now)
    }

    /// Sets the next time, and reports a failure that is new.
    fn note(&mut self, outcome: Result<(), MintError>, now: Instant) {
        let error = outcome.err().map(|error| minting_failed(&error));
        if let Some(error) = error.as_ref().filter(|error| self.error.as_ref() != Some(*error)) {
            tracing::error!("{error}");
        }
        let pause = if error.is_some() { self.retry } else { MINT_INTERVAL };
        self.retry = if error.is_some() { (self.retry * 2).min(MINT_RETRY_MAX) } else { MINT_RETRY };
        self.due = Some(now + pause);
        self.error = error;
    }
}

fn minting_failed(error: &MintError) -> SourceError {
    SourceError {
        file: error.path().display().to_string(),
        line: None,
        column: None,
        cause: error.to_string(),
        in_force: "proxies of pods without a token get no certificate".to_owned(),
    }
}

#[cfg(test)]
mod tests;

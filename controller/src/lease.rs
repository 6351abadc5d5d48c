//! Owns who of the replicas may write: one Lease (`coordination.k8s.io/v1`) that its holder renews. Readers need none.
//!
//! No clock is trusted but our own, and of that only how much time passes: a lease is over when it was not seen to change
//! for its duration, whatever times stand in it. The holder stops earlier than anybody may take over. Every write names
//! the version that it replaces, so of two that try one fails. [`decide`] is pure.

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    clock,
    cluster::{ApiError, Cluster, JSON},
};

/// The Lease's name.
pub const NAME: &str = "lacewing-controller";
/// A lease that was not renewed for so long is over.
pub const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// A look, and the write after it, must be over within this: while it lasts nobody notices the deadline.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(4);
/// Time between two looks, about.
pub const RETRY: Duration = Duration::from_secs(2);

/// What is written in a Lease, of which the mesh reads and writes this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub holder_identity: Option<String>,
    pub lease_duration_seconds: Option<u32>,
    pub acquire_time: Option<String>,
    pub renew_time: Option<String>,
    pub lease_transitions: Option<u32>,
}

/// A Lease as it was read.
#[derive(Debug, Clone, Deserialize)]
struct Lease {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

/// What was last seen, and since when it is so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    version: String,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Somebody else has it.
    Wait,
    /// It is ours: write that we are there.
    Renew,
    /// It is nobody's, or its holder was not heard of for too long.
    Take,
}

/// Decides for `own`, when the lease has been seen unchanged for `unchanged`.
pub fn decide(spec: &Spec, own: &str, unchanged: Duration) -> Decision {
    let duration = spec.lease_duration_seconds.map_or(DURATION, |seconds| Duration::from_secs(seconds.into()));
    match spec.holder_identity.as_deref() {
        Some(holder) if holder == own => Decision::Renew,
        None | Some("") => Decision::Take,
        Some(_) if unchanged >= duration => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

/// Takes part in the election, for ever. `leading` is true while this replica may write; `now` is wall time in unix
/// seconds, for people who read the Lease.
pub async fn follow(cluster: Cluster, namespace: String, own: String, leading: watch::Sender<bool>, now: fn() -> u64) {
    let mut election = Election { cluster, namespace, own, now, seen: None, renewed: None };
    loop {
        let began = Instant::now();
        let outcome = timeout(STEP_TIMEOUT, election.step(began)).await;
        if let Err(error) = outcome.unwrap_or_else(|_| Err(ApiError::broken("no answer in time"))) {
            tracing::debug!(%error, "the Lease could not be read or written");
        }
        election.tell(&leading);
        sleep(RETRY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        election.tell(&leading);
    }
}

struct Election {
    cluster: Cluster,
    namespace: String,
    own: String,
    now: fn() -> u64,
    seen: Option<Seen>,
    /// When the last write that made or kept the lease ours was begun.
    renewed: Option<Instant>,
}

impl Election {
    fn leads(&self, now: Instant) -> bool {
        self.renewed.is_some_and(|renewed| now.duration_since(renewed) < RENEW_DEADLINE)
    }

    fn tell(&self, leading: &watch::Sender<bool>) {
        let leads = self.leads(Instant::now());
        leading.send_if_modified(|leading| {
            let changed = *leading != leads;
            if changed {
                tracing::info!(leads, lease = NAME, "whether this replica writes has changed");
            }
            *leading = leads;
            changed
        });
    }

    fn path(&self, name: &str) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases{name}", self.namespace)
    }

    async fn step(&mut self, began: Instant) -> Result<(), ApiError> {
        let path = self.path(&format!("/{NAME}"));
        let lease: Lease = match self.cluster.request(Method::GET, &path, None).await {
            Ok(answer) => serde_json::from_slice(&answer).map_err(|error| ApiError::broken(error.to_string()))?,
            Err(error) if error.is(404) => return self.write(None, &Spec::default(), began).await,
            Err(error) => return Err(error),
        };
        let unchanged = self.unchanged(&lease.metadata.resource_version, began);
        match decide(&lease.spec, &self.own, unchanged) {
            Decision::Wait => {
                self.renewed = None;
                Ok(())
            }
            Decision::Renew | Decision::Take => {
                self.write(Some(lease.metadata.resource_version), &lease.spec, began).await
            }
        }
    }

    /// For how long the lease has been seen as it is.
    fn unchanged(&mut self, version: &str, now: Instant) -> Duration {
        match &self.seen {
            Some(seen) if seen.version == version => now.duration_since(seen.since),
            _ => {
                self.seen = Some(Seen { version: version.to_owned(), since: now });
                Duration::ZERO
            }
        }
    }

    /// Writes that it is ours: over that version, or as the first one.
    async fn write(&mut self, version: Option<String>, old: &Spec, began: Instant) -> Result<(), ApiError> {
        let spec = next(old, &self.own, &clock::micro_time((self.now)()));
        let (method, path) = match version {
            Some(_) => (Method::PUT, self.path(&format!("/{NAME}"))),
            None => (Method::POST, self.path("")),
        };
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": NAME, "namespace": self.namespace, "resourceVersion": version },
            "spec": spec,
        });
        self.cluster.request(method, &path, Some((JSON, lease.to_string().into_bytes()))).await?;
        self.renewed = Some(began);
        Ok(())
    }
}

/// The Lease as `own` writes it at `now`.
fn next(old: &Spec, own: &str, now: &str) -> Spec {
    let kept = old.holder_identity.as_deref() == Some(own);
    let transitions = old.lease_transitions.unwrap_or_default();
    let first = old.holder_identity.is_none();
    Spec {
        holder_identity: Some(own.to_owned()),
        lease_duration_seconds: u32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if kept { old.acquire_time.clone() } else { Some(now.to_owned()) },
        renew_time: Some(now.to_owned()),
        lease_transitions: Some(if kept || first { transitions } else { transitions.saturating_add(1) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: Option<&str>, seconds: Option<u32>) -> Spec {
        Spec { holder_identity: by.map(str::to_owned), lease_duration_seconds: seconds, ..Spec::default() }
    }

    #[test]
    fn a_lease_is_taken_only_when_its_holder_was_not_heard_of() {
        for (holder, seconds, unchanged, decision) in [
            (None, None, 0, Decision::Take),
            (Some(""), Some(15), 0, Decision::Take),
            (Some("me"), Some(15), 0, Decision::Renew),
            (Some("me"), Some(15), 100, Decision::Renew),
            (Some("you"), Some(15), 14, Decision::Wait),
            (Some("you"), Some(15), 15, Decision::Take),
            (Some("you"), Some(60), 15, Decision::Wait),
            (Some("you"), None, 14, Decision::Wait),
            (Some("you"), None, 15, Decision::Take),
        ] {
            let spec = held(holder, seconds);
            assert_eq!(decide(&spec, "me", Duration::from_secs(unchanged)), decision, "{spec:?} {unchanged}");
        }
    }

    #[test]
    fn what_is_written_says_since_when_and_how_often() {
        let first = next(&Spec::default(), "me", "t1");
        assert_eq!((first.acquire_time.as_deref(), first.lease_transitions), (Some("t1"), Some(0)));
        let kept = next(&first, "me", "t2");
        assert_eq!((kept.acquire_time.as_deref(), kept.renew_time.as_deref()), (Some("t1"), Some("t2")));
        let taken = next(&kept, "you", "t3");
        assert_eq!((taken.acquire_time.as_deref(), taken.lease_transitions), (Some("t3"), Some(1)));
        assert_eq!(taken.lease_duration_seconds, Some(15));
    }

    #[test]
    fn the_holder_stops_before_anybody_may_take_over() {
        // A holder notices after a step, or after the pause that follows it, whichever it is in.
        assert!(RENEW_DEADLINE + STEP_TIMEOUT.max(RETRY.mul_f64(1.25)) < DURATION);
    }
}

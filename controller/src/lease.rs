//! Owns who of the replicas may write: one Lease (`coordination.k8s.io/v1`) that its holder renews. Readers need none.
//!
//! No clock is trusted but our own, and of that only how much time passes: a lease is over when it was not seen to change
//! for its duration, whatever times stand in it. The holder stops earlier than anybody may take over. Every write names
//! the version that it replaces, so of two that try one fails. [`decide`] is pure. Whoever stops in peace gives the lease
//! back ([`release`]), so that a rollout leaves nobody waiting for it to be over.

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
/// Giving the lease back, a look and a write, must be over within this: the process waits for it.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

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
    let mut election = Election { place: Place { cluster, namespace }, own, now, seen: None, renewed: None };
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

/// Gives the lease back if `own` led and still has it: the next replica that looks takes it. It comes last, when nothing
/// writes any more, and takes no longer than [`RELEASE_TIMEOUT`]; if it fails, the lease is over in [`DURATION`].
pub async fn release(
    cluster: Cluster,
    namespace: String,
    own: String,
    leading: watch::Receiver<bool>,
    now: fn() -> u64,
) {
    if !*leading.borrow() {
        return;
    }
    let place = Place { cluster, namespace };
    let giving = async {
        loop {
            let Some(lease) = place.read().await? else { return Ok(false) };
            let Some(spec) = released(&lease.spec, &own, now()) else { return Ok(false) };
            match place.write(Some(lease.metadata.resource_version), &spec).await {
                // A renewal of ours was under way, or somebody else has it now: it is read again.
                Err(error) if error.is(409) => {}
                done => return done.map(|()| true),
            }
        }
    };
    match timeout(RELEASE_TIMEOUT, giving).await.unwrap_or_else(|_| Err(ApiError::broken("no answer in time"))) {
        Ok(given) => tracing::info!(given, lease = NAME, "whether the Lease was given back"),
        Err(error) => {
            tracing::warn!(%error, lease = NAME, "the Lease was not given back: nobody leads until it is over");
        }
    }
}

/// Where the Lease is.
struct Place {
    cluster: Cluster,
    namespace: String,
}

impl Place {
    fn path(&self, name: &str) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases{name}", self.namespace)
    }

    /// The Lease, if there is one.
    async fn read(&self) -> Result<Option<Lease>, ApiError> {
        match self.cluster.request(Method::GET, &self.path(&format!("/{NAME}")), None).await {
            Ok(answer) => serde_json::from_slice(&answer).map_err(|error| ApiError::broken(error.to_string())),
            Err(error) if error.is(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it over that version, or as the first one; an error if somebody has written it since.
    async fn write(&self, version: Option<String>, spec: &Spec) -> Result<(), ApiError> {
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
        self.cluster.request(method, &path, Some((JSON, lease.to_string().into_bytes()))).await.map(drop)
    }
}

struct Election {
    place: Place,
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

    async fn step(&mut self, began: Instant) -> Result<(), ApiError> {
        let (version, old) = match self.place.read().await? {
            None => (None, Spec::default()),
            Some(lease) => {
                let unchanged = self.unchanged(&lease.metadata.resource_version, began);
                if decide(&lease.spec, &self.own, unchanged) == Decision::Wait {
                    self.renewed = None;
                    return Ok(());
                }
                (Some(lease.metadata.resource_version), lease.spec)
            }
        };
        self.place.write(version, &next(&old, &self.own, (self.now)())).await?;
        self.renewed = Some(began);
        Ok(())
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
}

/// The Lease as `own` writes it at `now`, in unix seconds.
fn next(old: &Spec, own: &str, now: u64) -> Spec {
    let kept = old.holder_identity.as_deref() == Some(own);
    let transitions = old.lease_transitions.unwrap_or_default();
    let first = old.holder_identity.is_none();
    let now = clock::micro_time(now);
    Spec {
        holder_identity: Some(own.to_owned()),
        lease_duration_seconds: u32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if kept { old.acquire_time.clone() } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if kept || first { transitions } else { transitions.saturating_add(1) }),
    }
}

/// The Lease as `own` leaves it at `now`, as client-go does: nobody's, and over in a second even for who does not know
/// what an empty holder means. None if it is not `own` that has it.
fn released(old: &Spec, own: &str, now: u64) -> Option<Spec> {
    let now = clock::micro_time(now);
    (old.holder_identity.as_deref() == Some(own)).then(|| Spec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: old.lease_transitions,
    })
}

#[cfg(test)]
mod tests;

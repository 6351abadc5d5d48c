//! Owns the Kubernetes source: what is in force of what the API server said, and what is wrong with it.
//!
//! Each kind is listed and then watched by `watch`, all in one task; here their objects become [`Change`]s. Nothing goes
//! on before every kind was listed as a whole: half a cluster would be a wrong one. Only the fields of the slim types
//! are kept, and of annotations only the mesh's own. An object that cannot be read is an error at `/errors`; its last
//! good version stays, and nothing else waits for it. While the API server is away, everything stays as it was.

mod event;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use lacewing_crds::{Kind, Name, Object, ObjectKey};
use parking_lot::Mutex;

use super::{Change, SourceError, locate, validate::validate};
use crate::{admin::SourceStatus, cluster::Cluster, publish::Publisher};
use event::Read;

/// Most objects with an error that are remembered; more are only logged.
pub const ERRORS_MAX: usize = 1_000;

/// Follows the cluster, for ever.
pub async fn follow(cluster: Cluster, publisher: Arc<Publisher>, status: Arc<Mutex<SourceStatus>>) {
    let intake = Mutex::new(Intake::new(publisher, status));
    let [a, b, c, d] = Kind::ALL.map(|kind| Box::pin(watch::follow(kind, &cluster, &intake)));
    tokio::join!(a, b, c, d);
}

/// Where the four kinds meet.
struct Intake {
    publisher: Arc<Publisher>,
    status: Arc<Mutex<SourceStatus>>,
    /// Kinds that were never listed as a whole.
    missing: BTreeSet<Kind>,
    /// What is known of the others until then.
    held: HashMap<ObjectKey, Object>,
    /// Kinds that cannot be listed or watched now.
    troubles: BTreeMap<Kind, SourceError>,
    /// Objects that cannot be honoured as they are.
    refused: BTreeMap<ObjectKey, SourceError>,
}

impl Intake {
    fn new(publisher: Arc<Publisher>, status: Arc<Mutex<SourceStatus>>) -> Self {
        Self {
            publisher,
            status,
            missing: Kind::ALL.into(),
            held: HashMap::new(),
            troubles: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Takes what was read of one kind, in its order, as one step.
    fn take(&mut self, batch: impl IntoIterator<Item = Read>) {
        let errors = self.refused.len();
        let mut touched = false;
        let mut changes = Vec::new();
        for read in batch {
            match read {
                Read::Object(object) => {
                    let key = object.key();
                    touched |= self.check(&key, &object);
                    changes.push(Change::Apply(object));
                }
                Read::Gone(key) => {
                    touched |= self.refused.remove(&key).is_some();
                    changes.push(Change::Remove(key));
                }
                Read::Unreadable(key, cause) => {
                    let in_force = "its last good version, if there was one, stays in force";
                    touched |= self.refuse(key, cause, in_force);
                }
            }
        }
        self.pass(changes);
        if touched || errors != self.refused.len() {
            self.show();
        }
    }

    /// Notes that a kind was listed as a whole, with these names: what else was there of it is gone.
    fn listed(&mut self, kind: Kind, names: &HashSet<Name>) {
        let gone = |key: &ObjectKey| key.kind == kind && !names.contains(&key.name);
        self.refused.retain(|key, _| !gone(key));
        self.held.retain(|key, _| !gone(key));
        if !self.missing.remove(&kind) {
            let gone = self.publisher.with_world(|world| {
                let keys = world.names(kind).map(|name| ObjectKey { kind, name: name.clone() });
                keys.filter(gone).map(Change::Remove).collect::<Vec<_>>()
            });
            self.pass(gone);
        } else if self.missing.is_empty() {
            let all = std::mem::take(&mut self.held);
            tracing::info!(objects = all.len(), "the cluster was read as a whole");
            self.publisher.apply(all.into_values().map(Change::Apply).collect());
        }
        self.show();
    }

    /// Notes why a kind cannot be followed now, or that it can be again. Says what is new, once.
    fn trouble(&mut self, kind: Kind, cause: Option<String>) {
        let Some(cause) = cause else {
            if self.troubles.remove(&kind).is_some() {
                tracing::info!(%kind, "the API server answers again");
                self.show();
            }
            return;
        };
        let in_force = if self.missing.is_empty() {
            "what was last read stays in force"
        } else {
            "nothing is answered before everything was read once"
        };
        let error = about(format!("every {kind}"), cause, in_force);
        if self.troubles.get(&kind) != Some(&error) {
            tracing::error!("{error}; trying again");
            self.troubles.insert(kind, error);
            self.show();
        }
    }

    fn pass(&mut self, changes: Vec<Change>) {
        if self.missing.is_empty() {
            if !changes.is_empty() {
                self.publisher.apply(changes);
            }
            return;
        }
        for change in changes {
            match change {
                Change::Apply(object) => drop(self.held.insert(object.key(), object)),
                Change::Remove(key) => drop(self.held.remove(&key)),
            }
        }
    }

    /// Notes what of an object is not honoured. It is in force all the same: a pod without a place in the world would
    /// be worse than one whose annotation has no effect. Says whether anything changed.
    fn check(&mut self, key: &ObjectKey, object: &Object) -> bool {
        match validate(object) {
            Ok(()) => self.refused.remove(key).is_some(),
            Err((path, why)) => {
                let path = locate::display(&path);
                self.refuse(key.clone(), format!("{path}: {why}"), "the rest of the object is in force")
            }
        }
    }

    fn refuse(&mut self, key: ObjectKey, cause: String, in_force: &str) -> bool {
        let error = about(key.to_string(), cause, in_force);
        if self.refused.get(&key) == Some(&error) {
            return false;
        }
        tracing::error!("{error}");
        if self.refused.len() < ERRORS_MAX || self.refused.contains_key(&key) {
            self.refused.insert(key, error);
        }
        true
    }

    fn show(&self) {
        let errors = self.troubles.values().chain(self.refused.values()).cloned().collect();
        *self.status.lock() = SourceStatus { loaded: self.missing.is_empty(), errors };
    }
}

fn about(object: String, cause: String, in_force: &str) -> SourceError {
    SourceError { file: object, line: None, column: None, cause, in_force: in_force.to_owned() }
}

#[cfg(test)]
mod tests;

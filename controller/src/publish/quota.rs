//! Owns how many different questions each identity follows at a time, over all its streams, so that one workload
//! cannot use up what the controller can follow for everybody. The same question counts once: replicas of a workload
//! ask much the same. What a question is, and the limit for everybody together, is `publish`'s business.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use lacewing_identity::SpiffeId;
use parking_lot::Mutex;

use super::Query;

/// Most different questions that one identity follows at a time.
pub const QUERIES_PER_IDENTITY_MAX: usize = 8_192;

/// Who follows what, and how often.
#[derive(Default)]
pub struct Quotas(Mutex<HashMap<SpiffeId, HashMap<Arc<Query>, usize>>>);

/// A followed question's place in the quota of its identity; given back by dropping it.
pub struct Share {
    quotas: Arc<Quotas>,
    id: SpiffeId,
    query: Arc<Query>,
}

impl Quotas {
    /// A place for the question; none if the identity follows [`QUERIES_PER_IDENTITY_MAX`] others.
    pub fn take(self: &Arc<Self>, id: &SpiffeId, query: &Arc<Query>) -> Option<Share> {
        let mut quotas = self.0.lock();
        let followed = quotas.entry(id.clone()).or_default();
        if !followed.contains_key(query) && followed.len() >= QUERIES_PER_IDENTITY_MAX {
            return None;
        }
        *followed.entry(query.clone()).or_default() += 1;
        Some(Share { quotas: self.clone(), id: id.clone(), query: query.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut quotas = self.quotas.0.lock();
        let Some(followed) = quotas.get_mut(&self.id) else { return };
        if let Entry::Occupied(mut times) = followed.entry(self.query.clone()) {
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
            }
        }
        if followed.is_empty() {
            quotas.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_room_for_so_many_different_questions() {
        let quotas = Arc::new(Quotas::default());
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://cluster.local/ns/a/sa/{name}")).unwrap();
        let query = |n: usize| Arc::new(Query::Target { namespace: "a".into(), target: format!("s{n}:80") });
        let mut shares: Vec<Share> =
            (0..QUERIES_PER_IDENTITY_MAX).map(|n| quotas.take(&id("web"), &query(n)).unwrap()).collect();
        assert!(quotas.take(&id("web"), &query(shares.len())).is_none());
        assert!(quotas.take(&id("voting"), &query(0)).is_some(), "others are not affected");
        let again = quotas.take(&id("web"), &query(0)).expect("the same question counts once");
        drop(shares.remove(0));
        assert!(quotas.take(&id("web"), &query(shares.len() + 1)).is_none(), "somebody still follows it");
        drop(again);
        assert!(quotas.take(&id("web"), &query(shares.len() + 1)).is_some());
        drop(shares);
        assert!(quotas.0.lock().is_empty(), "nothing is remembered of who follows nothing");
    }
}

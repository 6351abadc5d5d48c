//! Owns how many different questions each identity follows at a time, over all its streams, so that one workload
//! cannot use up what the controller can follow for everybody. The same question counts once: replicas of a workload
//! ask much the same. What a question is, and the limit for everybody together, is `publish`'s business.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Weak},
};

use lacewing_identity::SpiffeId;
use parking_lot::Mutex;

use super::Query;

/// Most different questions that one identity follows at a time.
pub const QUERIES_PER_IDENTITY_MAX: usize = 8_192;

/// The quotas of those who follow anything.
#[derive(Default)]
pub struct Quotas(Mutex<HashMap<SpiffeId, Weak<Quota>>>);

/// What one identity follows, and how often.
pub struct Quota {
    id: SpiffeId,
    followed: Mutex<HashMap<Arc<Query>, usize>>,
}

impl Quotas {
    /// The quota of an identity, for as long as somebody holds it.
    pub fn of(&self, id: &SpiffeId) -> Arc<Quota> {
        let mut quotas = self.0.lock();
        if let Some(quota) = quotas.get(id).and_then(Weak::upgrade) {
            return quota;
        }
        quotas.retain(|_, quota| quota.strong_count() > 0);
        let quota = Arc::new(Quota { id: id.clone(), followed: Mutex::default() });
        quotas.insert(id.clone(), Arc::downgrade(&quota));
        quota
    }
}

impl Quota {
    /// Takes a place for the question.
    ///
    /// # Errors
    /// There is none: why, in words for an operator.
    pub fn take(&self, query: &Arc<Query>) -> Result<(), String> {
        let mut followed = self.followed.lock();
        if followed.len() >= QUERIES_PER_IDENTITY_MAX && !followed.contains_key(query) {
            let id = &self.id;
            return Err(format!(
                "{id} follows {QUERIES_PER_IDENTITY_MAX} different keys already, over all its streams"
            ));
        }
        *followed.entry(query.clone()).or_default() += 1;
        Ok(())
    }

    /// Gives the place back.
    pub fn give_back(&self, query: &Arc<Query>) {
        if let Entry::Occupied(mut times) = self.followed.lock().entry(query.clone()) {
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_room_for_so_many_different_questions() {
        let quotas = Quotas::default();
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://cluster.local/ns/a/sa/{name}")).unwrap();
        let query = |n: usize| Arc::new(Query::Target { namespace: "a".into(), target: format!("s{n}:80") });
        let web = quotas.of(&id("web"));
        assert!((0..QUERIES_PER_IDENTITY_MAX).all(|n| web.take(&query(n)).is_ok()));
        let one_more = query(QUERIES_PER_IDENTITY_MAX);
        assert!(quotas.of(&id("web")).take(&one_more).is_err(), "one quota, whoever asks for it");
        assert!(quotas.of(&id("voting")).take(&query(0)).is_ok(), "others are not affected");
        assert!(web.take(&query(0)).is_ok(), "the same question counts once");
        web.give_back(&query(0));
        assert!(web.take(&one_more).is_err(), "somebody still follows it");
        web.give_back(&query(0));
        assert!(web.take(&one_more).is_ok());
        drop(web);
        let _last = quotas.of(&id("last"));
        assert_eq!(quotas.0.lock().len(), 1, "nothing is remembered of who follows nothing");
    }
}

//! Owns the one lock of the controller: the [`World`], and the current answer to every question that somebody follows.
//!
//! A change of the world recomputes the questions that are followed now and wakes only who gets a different answer. It
//! answers nothing before the source was read as a whole: an empty world and an unread one look the same. What goes
//! over the wire, and to whom, is decided in `grpc`.

mod quota;

use std::{collections::HashMap, sync::Arc};

use lacewing_crds::Name;
use lacewing_identity::{SpiffeId, TrustBundle, TrustDomain};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    destination::{self, Backend, Target},
    endpoints,
    locality::{Endpoints, Place},
    policy::{self, InboundPorts},
    source::Change,
    world::World,
};
pub use quota::QUERIES_PER_IDENTITY_MAX;
use quota::{Quotas, Share};

/// Most different questions that are followed at a time, over all streams.
pub const QUERIES_MAX: usize = 200_000;
/// Questions that nobody follows any more are looked for when the number has doubled, but not below this.
const SWEEP_MIN: usize = 64;

/// A question about the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Query {
    /// What `target` is for a client in `namespace`.
    Target {
        namespace: String,
        target: String,
    },
    Endpoints(Backend),
    /// The inbound side of a pod, for a caller that claims to run as `service_account`.
    Inbound {
        pod: Name,
        service_account: String,
    },
    Trust,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Target(Target),
    Endpoints(Endpoints),
    /// The pod's inbound side, and where it runs as a client.
    Inbound(InboundPorts, Place),
    /// DER roots.
    Trust(Vec<Vec<u8>>),
    /// Not to be answered: why, in words for an operator.
    Refused(String),
}

/// The current answer; nothing before the source has been read.
pub type Live = watch::Receiver<Option<Arc<Answer>>>;

/// A question that an identity follows, and its place in the identity's quota.
pub struct Followed {
    pub live: Live,
    /// None for what costs nothing, as everybody follows it.
    _share: Option<Share>,
}

/// Keeps the world and its followed answers.
pub struct Publisher {
    trust_domain: TrustDomain,
    state: Mutex<State>,
    quotas: Arc<Quotas>,
    /// Raised after answers have changed, so that one waiter can follow many of them.
    generation: watch::Sender<u64>,
}

struct State {
    world: World,
    roots: Vec<Vec<u8>>,
    loaded: bool,
    answers: HashMap<Query, watch::Sender<Option<Arc<Answer>>>>,
    sweep_at: usize,
}

impl Publisher {
    pub fn new(trust_domain: TrustDomain) -> Self {
        let state = State {
            world: World::default(),
            roots: Vec::new(),
            loaded: false,
            answers: HashMap::new(),
            sweep_at: SWEEP_MIN,
        };
        Self { trust_domain, state: Mutex::new(state), quotas: Arc::default(), generation: watch::Sender::new(0) }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Follows a question on behalf of an identity.
    ///
    /// # Errors
    /// The identity follows [`QUERIES_PER_IDENTITY_MAX`] different ones already, or everybody together too many.
    pub fn follow_as(&self, id: &SpiffeId, query: Query) -> Result<Followed, String> {
        let share = match query {
            Query::Trust => None,
            _ => Some(self.quotas.take(id, &query).ok_or_else(|| {
                format!("{id} follows {QUERIES_PER_IDENTITY_MAX} different keys already, over all its streams")
            })?),
        };
        Ok(Followed { live: self.follow(query)?, _share: share })
    }

    /// Follows a question.
    ///
    /// # Errors
    /// Too many are followed already.
    pub fn follow(&self, query: Query) -> Result<Live, String> {
        let mut state = self.state.lock();
        if let Some(sender) = state.answers.get(&query) {
            return Ok(sender.subscribe());
        }
        state.sweep_if_due();
        if state.answers.len() >= QUERIES_MAX {
            return Err(format!(
                "the controller follows {QUERIES_MAX} questions already; are there more replicas to ask?"
            ));
        }
        let answer = state.answer(&self.trust_domain, &query);
        let (sender, live) = watch::channel(answer);
        state.answers.insert(query, sender);
        Ok(live)
    }

    /// A number that grows after any followed answer changed.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Takes a batch of the source as one step. The first one, even if empty, is what answers start from.
    pub fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state.lock();
        if changes.is_empty() && state.loaded {
            return;
        }
        for change in changes {
            match change {
                Change::Apply(object) => state.world.apply(object),
                Change::Remove(key) => state.world.remove(&key),
            }
        }
        state.loaded = true;
        self.recompute(&mut state);
    }

    /// Replaces the roots that everybody should trust.
    pub fn trust(&self, bundle: &TrustBundle) {
        let roots: Vec<_> = bundle.certificates().iter().map(|certificate| certificate.to_vec()).collect();
        let mut state = self.state.lock();
        if state.roots != roots {
            state.roots = roots;
            self.recompute(&mut state);
        }
    }

    /// Looks at the world. `look` must be quick: everything waits for it.
    pub fn with_world<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.state.lock().world)
    }

    fn recompute(&self, state: &mut State) {
        let mut answers = std::mem::take(&mut state.answers);
        answers.retain(|_, sender| !sender.is_closed());
        let mut changed = false;
        for (query, sender) in &answers {
            let answer = state.answer(&self.trust_domain, query);
            changed |= sender.send_if_modified(|current| {
                let different = *current != answer;
                if different {
                    *current = answer;
                }
                different
            });
        }
        state.answers = answers;
        if changed {
            self.generation.send_modify(|generation| *generation += 1);
        }
    }
}

impl State {
    fn answer(&self, trust_domain: &TrustDomain, query: &Query) -> Option<Arc<Answer>> {
        let world = &self.world;
        let answer = match query {
            // Trust comes from our own state, not from the source.
            Query::Trust if !self.roots.is_empty() => Answer::Trust(self.roots.clone()),
            _ if !self.loaded => return None,
            Query::Trust => return None,
            Query::Target { namespace, target } => {
                Answer::Target(destination::resolve(world, trust_domain, namespace, target))
            }
            Query::Endpoints(backend) => Answer::Endpoints(endpoints::endpoints(world, trust_domain, backend)),
            Query::Inbound { pod, service_account } => self.inbound(pod, service_account),
        };
        Some(Arc::new(answer))
    }

    /// A pod may ask only for itself; that it runs as the caller's service account is the proof there is.
    fn inbound(&self, name: &Name, service_account: &str) -> Answer {
        match self.world.pod(name) {
            Some(pod) if pod.service_account() == service_account => match policy::inbound(&self.world, name) {
                Some(ports) => Answer::Inbound(ports, Place::of(&self.world, pod)),
                None => Answer::Refused(format!("no Pod {name}")),
            },
            Some(_) => {
                Answer::Refused(format!("Pod {name} does not run as the service account {service_account}, as you do"))
            }
            None => Answer::Refused(format!("no Pod {name}; is LACEWING_POD_NAME right?")),
        }
    }

    /// Forgets questions that nobody follows, often enough to stay bounded and rarely enough to cost nothing.
    fn sweep_if_due(&mut self) {
        if self.answers.len() >= self.sweep_at {
            self.answers.retain(|_, sender| !sender.is_closed());
            self.sweep_at = (self.answers.len() * 2).max(SWEEP_MIN);
        }
    }
}

#[cfg(test)]
mod tests;

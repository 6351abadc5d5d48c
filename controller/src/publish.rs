//! Owns the one lock of the controller: the [`World`], and the current answer to every question that somebody follows.
//!
//! A change of the world makes those answers again that rest on what it touches (`topics`), each once for everybody,
//! and wakes only who gets a different one. It answers nothing before the source was read as a whole: an empty world
//! and an unread one look the same. What goes over the wire, and to whom, is decided in `grpc`.

mod mailbox;
mod questions;
mod quota;

use std::{collections::HashSet, fmt, sync::Arc};

use lacewing_crds::{Name, labels::InboundMode};
use lacewing_identity::{SpiffeId, TrustBundle, TrustDomain};
use parking_lot::Mutex;

use crate::{
    destination::{self, Backend, Target},
    endpoints,
    locality::{Endpoints, Place},
    policy::{self, InboundPorts},
    source::Change,
    topics::{self, Topic},
    world::World,
};
pub use mailbox::Mailbox;
use questions::{Id, Questions, Slot};
pub use quota::QUERIES_PER_IDENTITY_MAX;
pub use quota::Quota;
use quota::Quotas;

/// Most different questions that are followed at a time, over all streams.
pub const QUERIES_MAX: usize = 200_000;

/// A question about the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// In the words of who asks.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target { target, .. } => write!(f, "target {target}"),
            Self::Endpoints(Backend { namespace, service, port }) => {
                write!(f, "endpoints {service}.{namespace}:{port}")
            }
            Self::Inbound { pod, .. } => write!(f, "inbound {}", pod.name),
            Self::Trust => f.write_str("trust"),
        }
    }
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

/// A question that somebody follows, until this is dropped.
pub struct Followed {
    state: Arc<Mutex<State>>,
    id: Id,
    query: Arc<Query>,
    answer: Arc<Slot>,
    mailbox: Arc<Mailbox>,
    number: u32,
    /// Where its place is given back.
    quota: Arc<Quota>,
}

impl Followed {
    /// The question, shared by everybody who follows it.
    pub fn query(&self) -> &Arc<Query> {
        &self.query
    }

    /// The current answer; nothing before the source has been read.
    pub fn answer(&self) -> Option<Arc<Answer>> {
        self.answer.lock().clone()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.state.lock().questions.unfollow(self.id, &self.mailbox, self.number);
        if *self.query != Query::Trust {
            self.quota.give_back(&self.query);
        }
    }
}

/// Keeps the world and its followed answers.
pub struct Publisher {
    trust_domain: TrustDomain,
    state: Arc<Mutex<State>>,
    quotas: Quotas,
}

#[derive(Default)]
struct State {
    known: Known,
    questions: Questions,
}

/// What answers are made from.
#[derive(Default)]
struct Known {
    world: World,
    roots: Vec<Vec<u8>>,
    loaded: bool,
}

impl Publisher {
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, state: Arc::default(), quotas: Quotas::default() }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Takes whom pods serve where nothing is annotated: at the start, before anybody follows anything.
    pub fn set_default_inbound(&self, mode: InboundMode) {
        self.state.lock().known.world.set_default_inbound(mode);
    }

    /// Where it is counted what an identity follows.
    pub fn quota(&self, peer: &SpiffeId) -> Arc<Quota> {
        self.quotas.of(peer)
    }

    /// Follows a question on behalf of the identity whose quota this is. `mailbox` gets `number` whenever there is another answer.
    ///
    /// # Errors
    /// The identity follows [`QUERIES_PER_IDENTITY_MAX`] different ones already, or everybody together [`QUERIES_MAX`].
    pub fn follow(
        &self,
        quota: &Arc<Quota>,
        query: &Query,
        mailbox: &Arc<Mailbox>,
        number: u32,
    ) -> Result<Followed, String> {
        let mut state = self.state.lock();
        let State { known, questions } = &mut *state;
        let existing = questions.id(query);
        let query = existing.and_then(|id| questions.query(id)).unwrap_or_else(|| Arc::new(query.clone()));
        if existing.is_none() && questions.len() >= QUERIES_MAX {
            return Err(format!(
                "the controller follows {QUERIES_MAX} questions already; are there more replicas to ask?"
            ));
        }
        // Everybody follows the trust bundle: it costs nothing.
        if *query != Query::Trust {
            quota.take(&query)?;
        }
        let id = existing.unwrap_or_else(|| {
            let id = questions.add(query.clone());
            known.answer(&self.trust_domain, questions, id);
            id
        });
        let answer = questions.follow(id, mailbox.clone(), number).unwrap_or_default();
        let (state, quota, mailbox) = (self.state.clone(), quota.clone(), mailbox.clone());
        Ok(Followed { state, id, query, answer, mailbox, number, quota })
    }

    /// Takes a batch of the source as one step. The first one, even if empty, is what answers start from.
    pub fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state.lock();
        let State { known, questions } = &mut *state;
        let mut touched = HashSet::new();
        for change in changes {
            if known.loaded {
                topics::of_change(&known.world, &change, &mut touched);
            }
            match change {
                Change::Apply(object) => known.world.apply(object),
                Change::Remove(key) => known.world.remove(&key),
            }
        }
        let due = if known.loaded { questions.on(&touched) } else { questions.all() };
        known.loaded = true;
        known.answer_all(&self.trust_domain, questions, due);
    }

    /// Replaces the roots that everybody should trust.
    pub fn trust(&self, bundle: &TrustBundle) {
        let roots: Vec<_> = bundle.certificates().iter().map(|certificate| certificate.to_vec()).collect();
        let mut state = self.state.lock();
        let State { known, questions } = &mut *state;
        if known.roots != roots {
            known.roots = roots;
            let due = questions.on(&HashSet::from([Topic::Trust]));
            known.answer_all(&self.trust_domain, questions, due);
        }
    }

    /// Looks at the world. `look` must be quick: everything waits for it.
    pub fn with_world<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.state.lock().known.world)
    }
}

impl Known {
    fn answer_all(&self, trust_domain: &TrustDomain, questions: &mut Questions, due: HashSet<Id>) {
        for id in due {
            self.answer(trust_domain, questions, id);
        }
    }

    /// Makes the answer to a question anew.
    fn answer(&self, trust_domain: &TrustDomain, questions: &mut Questions, id: Id) {
        let Some(query) = questions.query(id) else { return };
        let answer = self.make(trust_domain, &query);
        let topics = topics::of_answer(&self.world, &query, answer.as_ref());
        questions.answer(id, answer, topics);
    }

    fn make(&self, trust_domain: &TrustDomain, query: &Query) -> Option<Answer> {
        let world = &self.world;
        Some(match query {
            // Trust comes from our own state, not from the source.
            Query::Trust if !self.roots.is_empty() => Answer::Trust(self.roots.clone()),
            _ if !self.loaded => return None,
            Query::Trust => return None,
            Query::Target { namespace, target } => {
                Answer::Target(destination::resolve(world, trust_domain, namespace, target))
            }
            Query::Endpoints(backend) => Answer::Endpoints(endpoints::endpoints(world, trust_domain, backend)),
            Query::Inbound { pod, service_account } => self.inbound(pod, service_account),
        })
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
}

#[cfg(test)]
mod tests;

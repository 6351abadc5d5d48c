//! Owns the questions that are followed now: the current answer of each, which topics it rests on, and whom to tell.
//! What nobody follows any more is gone with its last follower. How an answer is made is `publish`'s business.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Answer, Mailbox, Query};
use crate::topics::Topic;

/// The current answer of one question; nothing before the source has been read.
pub type Slot = Mutex<Option<Arc<Answer>>>;

/// Names a question for as long as it is followed.
pub type Id = u64;

/// All questions.
#[derive(Default)]
pub struct Questions {
    last_id: Id,
    ids: HashMap<Arc<Query>, Id>,
    by_id: HashMap<Id, Question>,
    by_topic: HashMap<Topic, HashSet<Id>>,
}

struct Question {
    query: Arc<Query>,
    answer: Arc<Slot>,
    topics: Vec<Topic>,
    followers: Vec<Follower>,
}

/// Whom to tell, and under which number.
struct Follower {
    mailbox: Arc<Mailbox>,
    number: u32,
}

impl Questions {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn id(&self, query: &Query) -> Option<Id> {
        self.ids.get(query).copied()
    }

    /// Every question.
    pub fn all(&self) -> HashSet<Id> {
        self.by_id.keys().copied().collect()
    }

    /// The questions whose answers rest on one of these topics.
    pub fn on(&self, topics: &HashSet<Topic>) -> HashSet<Id> {
        topics.iter().filter_map(|topic| self.by_topic.get(topic)).flatten().copied().collect()
    }

    pub fn query(&self, id: Id) -> Option<Arc<Query>> {
        self.by_id.get(&id).map(|question| question.query.clone())
    }

    /// A new question, that nobody follows yet and that has no answer.
    pub fn add(&mut self, query: Arc<Query>) -> Id {
        self.last_id += 1;
        self.ids.insert(query.clone(), self.last_id);
        let question = Question { query, answer: Arc::default(), topics: Vec::new(), followers: Vec::new() };
        self.by_id.insert(self.last_id, question);
        self.last_id
    }

    /// Tells `mailbox` from now on; gives what the current answer is in.
    pub fn follow(&mut self, id: Id, mailbox: Arc<Mailbox>, number: u32) -> Option<Arc<Slot>> {
        let question = self.by_id.get_mut(&id)?;
        question.followers.push(Follower { mailbox, number });
        Some(question.answer.clone())
    }

    /// Ends what [`Self::follow`] began.
    pub fn unfollow(&mut self, id: Id, mailbox: &Arc<Mailbox>, number: u32) {
        let Some(question) = self.by_id.get_mut(&id) else { return };
        let is_it = |follower: &Follower| follower.number == number && Arc::ptr_eq(&follower.mailbox, mailbox);
        if let Some(at) = question.followers.iter().position(is_it) {
            question.followers.swap_remove(at);
        }
        if question.followers.is_empty()
            && let Some(question) = self.by_id.remove(&id)
        {
            self.ids.remove(&question.query);
            self.leave(id, &question.topics);
        }
    }

    /// Notes the answer and what it rests on; tells everybody if it is another one.
    pub fn answer(&mut self, id: Id, answer: Option<Answer>, topics: Vec<Topic>) {
        let Some(question) = self.by_id.get_mut(&id) else { return };
        let mut current = question.answer.lock();
        if current.as_deref() != answer.as_ref() {
            *current = answer.map(Arc::new);
            question.followers.iter().for_each(|follower| follower.mailbox.post(follower.number));
        }
        drop(current);
        if question.topics != topics {
            let old = std::mem::replace(&mut question.topics, topics.clone());
            self.leave(id, &old);
            for topic in topics {
                self.by_topic.entry(topic).or_default().insert(id);
            }
        }
    }

    fn leave(&mut self, id: Id, topics: &[Topic]) {
        for topic in topics {
            if let Some(ids) = self.by_topic.get_mut(topic) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_topic.remove(topic);
                }
            }
        }
    }
}

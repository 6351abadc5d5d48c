//! Owns what one watch stream follows and what it was last sent: pure state, no I/O, no task.
//!
//! An answer is made only when its writer asks for it, from the value of that moment; values in between are never
//! made. Endpoints go out as a snapshot first, then as what changed against what *this* stream was last sent. What
//! cannot be followed is answered `refused`, and the stream goes on; once there is room, it is followed after all.

use std::{
    collections::{HashMap, VecDeque},
    mem::replace,
    net::SocketAddr,
    sync::Arc,
};

use lacewing_identity::SpiffeId;
use lacewing_proto::control as wire;
use wire::{watch_request::Action, watch_response::Answer as WireAnswer};

use super::convert;
use crate::{
    endpoints::Endpoint,
    locality::Place,
    publish::{Answer, Followed, Mailbox, Publisher, Query, Quota},
};

/// Most keys that one stream follows: a proxy needs up to 1,026.
pub const SUBSCRIPTIONS_MAX: usize = 2_048;
/// Most keys of one stream that wait for room to be followed.
const WAITING_MAX: usize = 256;
/// Most endpoints in one message: some 1.5 KiB, since each stream keeps a buffer for the largest that it has sent.
pub const ENDPOINTS_PER_MESSAGE: usize = 8;
/// Most refusals that wait to be sent; while there are more, requests are not read.
const REFUSALS_MAX: usize = 16;

/// What one stream follows.
pub struct Subscriptions {
    peer: SpiffeId,
    quota: Arc<Quota>,
    publisher: Arc<Publisher>,
    epoch: u64,
    counter: u64,
    /// By number, which is never used again on this stream.
    followed: HashMap<u32, Subscription>,
    numbers: HashMap<Arc<Query>, u32>,
    last_number: u32,
    /// Gets the number of what has another answer.
    mailbox: Arc<Mailbox>,
    /// What may have something new, each once.
    due: VecDeque<u32>,
    /// The rest of the answer that is being sent, and what it answers.
    rest: Option<(u32, VecDeque<wire::WatchResponse>)>,
    refusals: VecDeque<(Option<wire::Key>, String)>,
    /// What was refused for want of room, each once.
    waiting: VecDeque<Query>,
    /// Where the proxy's pod runs; nowhere in particular until the stream has asked for its inbound side.
    place: Place,
}

struct Subscription {
    followed: Followed,
    sent: Option<Arc<Answer>>,
    /// Counter of the version last sent, and of the one that the proxy acts on.
    sent_version: u64,
    applied_version: u64,
    is_due: bool,
}

/// One followed key, for the operator.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct View {
    pub key: String,
    /// 0: nothing yet.
    pub sent: u64,
    /// 0: nothing yet.
    pub applied: u64,
}

impl Subscriptions {
    pub fn new(peer: SpiffeId, publisher: Arc<Publisher>, epoch: u64) -> Self {
        let quota = publisher.quota(&peer);
        Self {
            peer,
            quota,
            publisher,
            epoch,
            counter: 0,
            followed: HashMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            mailbox: Arc::default(),
            due: VecDeque::new(),
            rest: None,
            refusals: VecDeque::new(),
            waiting: VecDeque::new(),
            place: Place::default(),
        }
    }

    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Where the proxy's pod runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn len(&self) -> usize {
        self.followed.len()
    }

    /// Whether the proxy acts on the trust bundle of this moment. One that does not follow it is not waited for.
    pub fn has_applied_trust(&self) -> bool {
        let trust = self.numbers.get(&Query::Trust).and_then(|number| self.followed.get(number));
        trust.is_none_or(|trust| trust.sent == trust.followed.answer() && trust.applied_version == trust.sent_version)
    }

    /// What is followed, in the order of the keys.
    pub fn view(&self) -> Vec<View> {
        let mut followed: Vec<_> = self.followed.values().collect();
        followed.sort_by_key(|subscription| subscription.followed.query());
        let view = |subscription: &Subscription| View {
            key: subscription.followed.query().to_string(),
            sent: subscription.sent_version,
            applied: subscription.applied_version,
        };
        followed.into_iter().map(view).collect()
    }

    /// Gets the numbers of what has another answer: see [`Self::look_for_changes`].
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Whether there may be something to send.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty() || self.rest.is_some() || !self.refusals.is_empty()
    }

    /// Whether requests should be read now.
    pub fn accepts(&self) -> bool {
        self.refusals.len() < REFUSALS_MAX
    }

    /// Takes a request of the proxy.
    pub fn handle(&mut self, request: wire::WatchRequest) {
        match request.action {
            Some(Action::Subscribe(key)) => match convert::query(key.clone(), &self.peer) {
                Ok(query) => self.subscribe(query),
                Err(why) => self.refusals.push_back((Some(key), why)),
            },
            Some(Action::Unsubscribe(key)) => {
                if let Ok(query) = convert::query(key, &self.peer) {
                    self.unsubscribe(&query);
                    self.retry();
                }
            }
            Some(Action::Applied(wire::Applied { key: Some(key), version: Some(version) })) => {
                if let Ok(query) = convert::query(key, &self.peer) {
                    self.applied(&query, version);
                }
            }
            Some(Action::Applied(_)) => self.refuse("`applied` names no key or no version"),
            None => self.refuse("the request is empty: is the proxy newer than the controller?"),
        }
    }

    fn refuse(&mut self, why: &str) {
        self.refusals.push_back((None, why.to_owned()));
    }

    /// Follows a question; one that is followed already starts over with a snapshot.
    fn subscribe(&mut self, query: Query) {
        self.unsubscribe(&query);
        if let Err(why) = self.follow(&query) {
            let waits = self.waiting.len() < WAITING_MAX;
            let then =
                if waits { "it is answered once there is room" } else { "unsubscribe from some, then ask again" };
            self.refusals.push_back((Some(convert::key(&query)), format!("{why}; {then}")));
            if waits {
                self.waiting.push_back(query);
            }
        }
    }

    fn follow(&mut self, query: &Query) -> Result<(), String> {
        if self.followed.len() >= SUBSCRIPTIONS_MAX {
            return Err(format!("this stream follows {SUBSCRIPTIONS_MAX} keys already"));
        }
        let number = self.last_number + 1;
        let followed = self.publisher.follow(&self.quota, query, &self.mailbox, number)?;
        self.last_number = number;
        self.numbers.insert(followed.query().clone(), number);
        let subscription = Subscription { followed, sent: None, sent_version: 0, applied_version: 0, is_due: true };
        self.followed.insert(number, subscription);
        self.due.push_back(number);
        Ok(())
    }

    /// Whether keys wait for room: it may return without anything on this stream happening.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Follows what waits for room, as far as there is some.
    pub fn retry(&mut self) {
        while let Some(query) = self.waiting.pop_front() {
            if self.follow(&query).is_err() {
                self.waiting.push_front(query);
                return;
            }
        }
    }

    fn unsubscribe(&mut self, query: &Query) {
        self.waiting.retain(|waiting| waiting != query);
        let Some(number) = self.numbers.remove(query) else { return };
        if self.followed.remove(&number).is_some_and(|subscription| subscription.is_due) {
            self.due.retain(|due| *due != number);
        }
        // The rest of an answer that nobody wants any more is not worth sending.
        if self.rest.as_ref().is_some_and(|(sending, _)| *sending == number) {
            self.rest = None;
        }
    }

    /// Notes what the proxy acts on. Versions that it was never sent are not believed.
    fn applied(&mut self, query: &Query, version: wire::Version) {
        if let Some(number) = self.numbers.get(query)
            && let Some(subscription) = self.followed.get_mut(number)
            && version.epoch == self.epoch
            && version.counter <= subscription.sent_version
        {
            subscription.applied_version = subscription.applied_version.max(version.counter);
        }
    }

    /// Notes what has something new.
    pub fn look_for_changes(&mut self) {
        for number in self.mailbox.take() {
            if let Some(subscription) = self.followed.get_mut(&number)
                && !replace(&mut subscription.is_due, true)
            {
                self.due.push_back(number);
            }
        }
    }

    /// The next message; none if what is due turns out to be nothing new.
    pub fn next(&mut self) -> Option<wire::WatchResponse> {
        if let Some((_, rest)) = &mut self.rest {
            let next = rest.pop_front();
            if rest.is_empty() {
                self.rest = None;
            }
            return next;
        }
        if let Some((key, why)) = self.refusals.pop_front() {
            self.counter += 1;
            return Some(self.message(key, WireAnswer::Refused(why)));
        }
        while let Some(number) = self.due.pop_front() {
            if let Some(first) = self.start(number) {
                return Some(first);
            }
        }
        None
    }

    /// Starts to send the current answer of a subscription, if it is new to this stream.
    fn start(&mut self, number: u32) -> Option<wire::WatchResponse> {
        let subscription = self.followed.get_mut(&number)?;
        subscription.is_due = false;
        let answer = subscription.followed.answer()?;
        if subscription.sent.as_ref() == Some(&answer) {
            return None;
        }
        let sent = subscription.sent.replace(answer.clone());
        let parts = parts(sent.as_deref(), &answer, &self.place);
        // What changed may not concern this client.
        if parts.is_empty() {
            return None;
        }
        self.counter += 1;
        subscription.sent_version = self.counter;
        let wire_key = convert::key(subscription.followed.query());
        if let Answer::Inbound(_, place) = &*answer {
            self.move_to(place);
        }
        let mut messages: VecDeque<_> =
            parts.into_iter().map(|part| self.message(Some(wire_key.clone()), part)).collect();
        let last = messages.len().saturating_sub(1);
        messages.iter_mut().take(last).for_each(|message| message.more = true);
        let first = messages.pop_front();
        if !messages.is_empty() {
            self.rest = Some((number, messages));
        }
        first
    }

    /// What is sent from now on is for a client at `place`. What depends on it is sent anew.
    fn move_to(&mut self, place: &Place) {
        if self.place == *place {
            return;
        }
        self.place = place.clone();
        for (number, subscription) in &mut self.followed {
            if let Some(Answer::Endpoints(endpoints)) = subscription.sent.as_deref()
                && endpoints.depends_on_place()
            {
                subscription.sent = None;
                if !replace(&mut subscription.is_due, true) {
                    self.due.push_back(*number);
                }
            }
        }
    }

    fn message(&self, key: Option<wire::Key>, answer: WireAnswer) -> wire::WatchResponse {
        let version = Some(wire::Version { epoch: self.epoch, counter: self.counter });
        wire::WatchResponse { key, version, more: false, answer: Some(answer) }
    }
}

/// The messages that bring the stream of a client at `place` from what it was `sent` to `answer`: none if that is the
/// same for this client.
fn parts(sent: Option<&Answer>, answer: &Answer, place: &Place) -> Vec<WireAnswer> {
    match (sent, answer) {
        (Some(Answer::Endpoints(sent)), Answer::Endpoints(now)) => delta(&sent.near(place), &now.near(place)),
        (_, Answer::Endpoints(now)) => snapshot(&now.near(place)),
        (_, Answer::Target(target)) => vec![convert::target(target)],
        (_, Answer::Inbound(inbound, _)) => vec![convert::inbound(inbound)],
        (_, Answer::Trust(roots)) => vec![WireAnswer::Trust(wire::TrustBundle { roots: roots.clone() })],
        (_, Answer::Refused(why)) => vec![WireAnswer::Refused(why.clone())],
    }
}

fn snapshot(endpoints: &[Endpoint]) -> Vec<WireAnswer> {
    let part = |chunk: &[Endpoint]| {
        WireAnswer::Snapshot(wire::Endpoints { endpoints: chunk.iter().map(convert::endpoint).collect() })
    };
    match endpoints {
        // No endpoints is an answer too.
        [] => vec![part(&[])],
        _ => endpoints.chunks(ENDPOINTS_PER_MESSAGE).map(part).collect(),
    }
}

/// Both lists are sorted by address and hold each once.
fn delta(sent: &[Endpoint], now: &[Endpoint]) -> Vec<WireAnswer> {
    let find =
        |list: &[Endpoint], address: &SocketAddr| list.binary_search_by_key(address, |endpoint| endpoint.address).ok();
    let upserted = now.iter().filter(|new| find(sent, &new.address).is_none_or(|at| sent[at] != **new));
    let upserted: Vec<_> = upserted.map(convert::endpoint).collect();
    let removed = sent.iter().filter(|old| find(now, &old.address).is_none());
    let removed: Vec<_> = removed.map(|old| old.address.to_string()).collect();
    let (mut upserted, mut removed) = (upserted.chunks(ENDPOINTS_PER_MESSAGE), removed.chunks(ENDPOINTS_PER_MESSAGE));
    let mut parts = Vec::new();
    loop {
        let (upserted, removed) = (upserted.next().unwrap_or_default(), removed.next().unwrap_or_default());
        if upserted.is_empty() && removed.is_empty() {
            return parts;
        }
        let delta = wire::EndpointsDelta { upserted: upserted.to_vec(), removed: removed.to_vec() };
        parts.push(WireAnswer::Delta(delta));
    }
}

#[cfg(test)]
mod tests;

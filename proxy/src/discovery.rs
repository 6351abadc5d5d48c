//! What this proxy knows about the world: targets, backends and its own inbound ports, as the controller last said.
//! The request path asks here; the one task in [`client`] fills it in. While the controller is away nothing is
//! forgotten: the last answer stays in force. Wire types stop in this folder.

pub mod channel;
pub mod client;
mod parse;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::{
    authorize::Mode,
    config::{LOOKUP_TIMEOUT, NO_ENDPOINT_TIMEOUT, TARGET_IDLE, TARGETS_MAX},
    endpoint::{Backend, Context},
    error::Error,
};

/// One port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    pub namespace: String,
    pub service: String,
    pub port: u16,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)
    }
}

/// How the workload's own ports are to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    pub mode: Mode,
    /// Ports that its containers declare.
    pub ports: Vec<u16>,
}

#[derive(Clone)]
enum Answer {
    Waiting,
    Found(Arc<Backend>),
    NotFound(String),
}

struct Target {
    answer: watch::Sender<Answer>,
    used: Mutex<Instant>,
}

/// The control stream, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    Up,
    /// Down, and why.
    Down(String),
}

/// Everything known, and what is still to be asked.
pub struct Discovery {
    context: Arc<Context>,
    state: Mutex<State>,
    stream: watch::Sender<Stream>,
    inbound: watch::Sender<Option<Inbound>>,
    /// Wakes the client task: there is something to subscribe or unsubscribe.
    wake: Notify,
}

#[derive(Default)]
struct State {
    targets: HashMap<String, Arc<Target>>,
    backends: HashMap<BackendKey, Arc<Backend>>,
    changes: Vec<Change>,
}

/// A change of what we ask for; lost when the stream breaks, since a new one asks for everything.
enum Change {
    Target(String),
    Backend(BackendKey),
    ForgetTarget(String),
    ForgetBackend(BackendKey),
}

impl Discovery {
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            state: Mutex::default(),
            stream: watch::Sender::new(Stream::Down("not connected yet".to_owned())),
            inbound: watch::Sender::new(None),
            wake: Notify::new(),
        })
    }

    /// What `name` (`host:port`) is. The first time it is asked of the controller: up to [`LOOKUP_TIMEOUT`] while the
    /// stream is up, [`NO_ENDPOINT_TIMEOUT`] while it is down.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LookupTimeout`], [`Error::LookupDown`] or [`Error::LookupFull`].
    pub async fn look_up(&self, name: &str) -> Result<Arc<Backend>, Error> {
        let target = self.target(name)?;
        // The common case: known, and nothing to wait for.
        if let Answer::Found(found) = &*target.answer.borrow() {
            return Ok(found.clone());
        }
        let up = *self.stream.borrow() == Stream::Up;
        let patience = if up { LOOKUP_TIMEOUT } else { NO_ENDPOINT_TIMEOUT };
        let mut answer = target.answer.subscribe();
        let answered = timeout(patience, answer.wait_for(|answer| !matches!(answer, Answer::Waiting))).await;
        match answered.ok().and_then(|answer| answer.ok().map(|answer| answer.clone())) {
            Some(Answer::Found(found)) => Ok(found),
            Some(Answer::NotFound(reason)) => Err(Error::NotFound { name: name.to_owned(), reason }),
            Some(Answer::Waiting) | None => Err(self.no_answer(name, patience)),
        }
    }

    fn target(&self, name: &str) -> Result<Arc<Target>, Error> {
        let mut state = self.state.lock();
        if let Some(target) = state.targets.get(name) {
            *target.used.lock() = Instant::now();
            return Ok(target.clone());
        }
        if state.targets.len() >= TARGETS_MAX && !state.make_room() {
            return Err(Error::LookupFull { name: name.to_owned(), limit: TARGETS_MAX });
        }
        let target = Arc::new(Target { answer: watch::Sender::new(Answer::Waiting), used: Mutex::new(Instant::now()) });
        state.targets.insert(name.to_owned(), target.clone());
        state.changes.push(Change::Target(name.to_owned()));
        drop(state);
        self.wake.notify_one();
        Ok(target)
    }

    fn no_answer(&self, name: &str, waited: Duration) -> Error {
        let name = name.to_owned();
        // Without a certificate there is no stream to have a reason of its own.
        if let Err(error) = self.context.identity.current() {
            return Error::LookupDown { name, why: error.to_string() };
        }
        match &*self.stream.borrow() {
            Stream::Up => Error::LookupTimeout { name, waited },
            Stream::Down(why) => Error::LookupDown { name, why: why.clone() },
        }
    }

    /// The workload's own ports, once known.
    pub fn inbound(&self) -> &watch::Sender<Option<Inbound>> {
        &self.inbound
    }

    /// Whether the control stream is up.
    pub fn stream(&self) -> &watch::Sender<Stream> {
        &self.stream
    }

    /// Every backend in use.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.state.lock().backends.values().cloned().collect()
    }

    /// Forgets targets that nobody asked for in [`TARGET_IDLE`] (never while the stream is down: they could not be
    /// asked for again), backends that no target needs, and idle connections. Called now and then.
    pub fn sweep(&self) {
        let mut state = self.state.lock();
        for backend in state.backends.values() {
            backend.balancer.endpoints().iter().for_each(|endpoint| endpoint.client.sweep());
        }
        if *self.stream.borrow() != Stream::Up {
            return;
        }
        let State { targets, backends, changes } = &mut *state;
        let idle = targets.extract_if(|_, target| target.used.lock().elapsed() >= TARGET_IDLE);
        changes.extend(idle.map(|(name, _)| Change::ForgetTarget(name)));
        let needed: Vec<String> = targets
            .values()
            .filter_map(|target| match &*target.answer.borrow() {
                Answer::Found(backend) => Some(backend.name.clone()),
                Answer::Waiting | Answer::NotFound(_) => None,
            })
            .collect();
        let unneeded = backends.extract_if(|_, backend| !needed.contains(&backend.name));
        changes.extend(unneeded.map(|(key, _)| Change::ForgetBackend(key)));
        let changed = !changes.is_empty();
        drop(state);
        if changed {
            self.wake.notify_one();
        }
    }

    /// Takes in what the controller says about a target.
    fn set_target(&self, name: &str, answer: parse::TargetAnswer) {
        let mut state = self.state.lock();
        let Some(target) = state.targets.get(name).cloned() else { return };
        let answer = match answer {
            parse::TargetAnswer::NotFound(reason) => Answer::NotFound(reason),
            parse::TargetAnswer::Service(key) => Answer::Found(state.backend(key, &self.context)),
        };
        target.answer.send_replace(answer);
        drop(state);
        self.wake.notify_one();
    }

    fn backend(&self, key: &BackendKey) -> Option<Arc<Backend>> {
        self.state.lock().backends.get(key).cloned()
    }
}

impl State {
    /// Forgets a target that is none: names that somebody made up must not keep real ones out.
    fn make_room(&mut self) -> bool {
        let none = |target: &Arc<Target>| matches!(*target.answer.borrow(), Answer::NotFound(_));
        let Some(name) = self.targets.iter().find(|(_, target)| none(target)).map(|(name, _)| name.clone()) else {
            return false;
        };
        self.targets.remove(&name);
        self.changes.push(Change::ForgetTarget(name));
        true
    }

    fn backend(&mut self, key: BackendKey, context: &Arc<Context>) -> Arc<Backend> {
        if let Some(backend) = self.backends.get(&key) {
            return backend.clone();
        }
        let backend = Backend::new(key.to_string(), context.clone());
        self.backends.insert(key.clone(), backend.clone());
        self.changes.push(Change::Backend(key));
        backend
    }
}

#[cfg(test)]
mod tests;

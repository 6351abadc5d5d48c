//! What this proxy knows about the world: targets, backends and its own inbound ports, as the controller last said.
//! The request path asks here; the one task in [`client`] fills it in. While the controller is away nothing is
//! forgotten: the last answer stays in force. Wire types stop in this folder.

pub mod channel;
pub mod client;
#[doc(hidden)] // public for `fuzz/` alone
pub mod parse;

use std::{collections::HashMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::{
    authorize::Mode,
    config::{LOOKUP_TIMEOUT, NO_ENDPOINT_TIMEOUT, TARGET_IDLE, TARGET_IDLE_FULL, TARGETS_MAX, UNRESOLVED_AFTER},
    endpoint::{Backend, Context, Info},
    error::Error,
    first::Declared,
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
    /// Ports that its containers declare, and what they speak.
    pub ports: Vec<(u16, Declared)>,
    /// The pod is being deleted.
    pub terminating: bool,
}

/// A port of one pod, named by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub info: Info,
    /// The only Service that leads there.
    pub service: Option<BackendKey>,
    pub declared: Declared,
    pub why_no_service: String,
}

#[derive(Clone)]
enum Answer {
    Waiting,
    Found {
        backend: Arc<Backend>,
        declared: Declared,
        /// The backend is one pod, and this target's own.
        pod: bool,
    },
    /// The cluster has nothing there.
    Unknown,
    NotFound(String),
}

/// A destination that is in use, with the answer of this moment.
pub struct Target {
    name: String,
    answer: watch::Sender<Answer>,
    used: Mutex<Instant>,
}

/// What is at an address that the app has dialled.
pub enum Place {
    Known(Arc<Target>),
    /// Nothing of ours: bytes pass as they are.
    AsIs(AsIs),
}

/// Why a destination is not the mesh's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsIs {
    /// Outside the cluster's networks.
    External,
    /// The cluster has nothing at this address.
    Unknown,
    /// Never seen before, and the controller cannot be asked now.
    Unresolved,
}

impl AsIs {
    pub const ALL: [Self; 3] = [Self::External, Self::Unknown, Self::Unresolved];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Unknown => "unknown",
            Self::Unresolved => "unresolved",
        }
    }
}

impl Target {
    /// The backend of this moment, and what it is declared to speak.
    ///
    /// # Errors
    /// [`Error::NotFound`]: it was there, and is gone.
    pub fn current(&self) -> Result<(Arc<Backend>, Declared), Error> {
        let gone = |reason: &str| Error::NotFound { name: self.name.clone(), reason: reason.to_owned() };
        match &*self.answer.borrow() {
            Answer::Found { backend, declared, .. } => Ok((backend.clone(), *declared)),
            Answer::NotFound(reason) => Err(gone(reason)),
            Answer::Unknown | Answer::Waiting => Err(gone("the cluster has nothing at this address any more")),
        }
    }

    /// Nobody asked for it for that long, and no connection held it. To be asked now and then.
    fn is_idle(self: &Arc<Self>, for_at_least: Duration) -> bool {
        let mut used = self.used.lock();
        if Arc::strong_count(self) > 1 {
            *used = Instant::now();
        }
        used.elapsed() >= for_at_least
    }
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
        if let Answer::Found { backend, .. } = &*target.answer.borrow() {
            return Ok(backend.clone());
        }
        let patience = if self.is_up() { LOOKUP_TIMEOUT } else { NO_ENDPOINT_TIMEOUT };
        match answered(&target, patience).await {
            Answer::Found { backend, .. } => Ok(backend),
            Answer::NotFound(reason) => Err(Error::NotFound { name: name.to_owned(), reason }),
            Answer::Unknown => {
                let reason = "the cluster has nothing at this address".to_owned();
                Err(Error::NotFound { name: name.to_owned(), reason })
            }
            Answer::Waiting => Err(self.no_answer(name, patience)),
        }
    }

    /// What is at an address that the app has dialled. Addresses outside the cluster's networks are not looked up. One
    /// that was never seen passes as it is while the controller is away, but only where the workload is permissive.
    ///
    /// # Errors
    /// As for [`Self::look_up`].
    pub async fn at(&self, addr: SocketAddr) -> Result<Place, Error> {
        if !self.context.cluster_networks.iter().any(|network| network.contains(addr.ip())) {
            return Ok(Place::AsIs(AsIs::External));
        }
        let target = self.target(&addr.to_string())?;
        if let Answer::Found { .. } = &*target.answer.borrow() {
            return Ok(Place::Known(target.clone()));
        }
        let up = self.is_up();
        let patience = if up { LOOKUP_TIMEOUT } else { UNRESOLVED_AFTER };
        match answered(&target, patience).await {
            Answer::Found { .. } => Ok(Place::Known(target)),
            Answer::Unknown => Ok(Place::AsIs(AsIs::Unknown)),
            Answer::NotFound(reason) => Err(Error::NotFound { name: addr.to_string(), reason }),
            Answer::Waiting if !up && self.is_permissive() => Ok(Place::AsIs(AsIs::Unresolved)),
            Answer::Waiting => Err(self.no_answer(&addr.to_string(), patience)),
        }
    }

    fn is_up(&self) -> bool {
        *self.stream.borrow() == Stream::Up
    }

    /// Whether the workload is known to take plain text.
    fn is_permissive(&self) -> bool {
        self.inbound.borrow().as_ref().is_some_and(|inbound| inbound.mode == Mode::Permissive)
    }

    fn target(&self, name: &str) -> Result<Arc<Target>, Error> {
        let mut state = self.state.lock();
        if let Some(target) = state.targets.get(name) {
            *target.used.lock() = Instant::now();
            return Ok(target.clone());
        }
        if state.targets.len() >= TARGETS_MAX && !state.make_room(self.is_up()) {
            return Err(Error::LookupFull { name: name.to_owned(), limit: TARGETS_MAX });
        }
        let target = Arc::new(Target {
            name: name.to_owned(),
            answer: watch::Sender::new(Answer::Waiting),
            used: Mutex::new(Instant::now()),
        });
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

    /// Every backend in use: Services, and pods that are dialled by their address.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        let state = self.state.lock();
        let pods = state.targets.values().filter_map(|target| match &*target.answer.borrow() {
            Answer::Found { backend, pod: true, .. } => Some(backend.clone()),
            _ => None,
        });
        state.backends.values().cloned().chain(pods).collect()
    }

    /// Forgets targets that nobody asked for in [`TARGET_IDLE`] (never while the stream is down: they could not be
    /// asked for again), backends that no target needs, and idle connections. Called now and then.
    pub fn sweep(&self) {
        for backend in self.backends() {
            backend.balancer.endpoints().iter().for_each(|endpoint| endpoint.client.sweep());
        }
        if !self.is_up() {
            return;
        }
        let mut state = self.state.lock();
        let State { targets, backends, changes } = &mut *state;
        let idle = targets.extract_if(|_, target| target.is_idle(TARGET_IDLE));
        changes.extend(idle.map(|(name, _)| Change::ForgetTarget(name)));
        let needed: Vec<String> = targets
            .values()
            .filter_map(|target| match &*target.answer.borrow() {
                Answer::Found { backend, pod: false, .. } => Some(backend.name.clone()),
                _ => None,
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
    #[doc(hidden)] // public for `tests/gates` alone
    pub fn set_target(&self, name: &str, answer: parse::TargetAnswer) {
        let mut state = self.state.lock();
        let Some(target) = state.targets.get(name).cloned() else { return };
        let answer = match answer {
            parse::TargetAnswer::NotFound(reason) => Answer::NotFound(reason),
            parse::TargetAnswer::Unknown => Answer::Unknown,
            parse::TargetAnswer::Service(key, declared) => {
                Answer::Found { backend: state.backend(key, &self.context), declared, pod: false }
            }
            parse::TargetAnswer::Pod(pod) => {
                let backend = self.pod_backend(&target, &pod);
                Answer::Found { backend, declared: pod.declared, pod: true }
            }
        };
        target.answer.send_replace(answer);
        drop(state);
        self.wake.notify_one();
    }

    /// The target's backend of one pod: the one that it has, if it is about the same pod.
    fn pod_backend(&self, target: &Target, pod: &Pod) -> Arc<Backend> {
        let fresh = Backend::of_pod(pod, self.context.clone());
        let backend = match &*target.answer.borrow() {
            Answer::Found { backend, pod: true, .. } if backend.is_like(&fresh) => backend.clone(),
            _ => fresh,
        };
        backend.set(vec![pod.info.clone()]);
        backend
    }

    fn backend(&self, key: &BackendKey) -> Option<Arc<Backend>> {
        self.state.lock().backends.get(key).cloned()
    }
}

/// The target's answer, or [`Answer::Waiting`] if there is none in time.
async fn answered(target: &Target, patience: Duration) -> Answer {
    let mut answer = target.answer.subscribe();
    let answered = timeout(patience, answer.wait_for(|answer| !matches!(answer, Answer::Waiting))).await;
    answered.ok().and_then(|answer| answer.ok().map(|answer| answer.clone())).unwrap_or(Answer::Waiting)
}

impl State {
    /// Forgets a target that is none (names that somebody made up must not keep real ones out); or, while it could be
    /// asked for again, one that nobody uses.
    fn make_room(&mut self, up: bool) -> bool {
        let none = |target: &Arc<Target>| matches!(*target.answer.borrow(), Answer::NotFound(_) | Answer::Unknown);
        let idle = |target: &Arc<Target>| up && target.is_idle(TARGET_IDLE_FULL);
        let found = self.targets.iter().find(|(_, target)| none(target));
        let found = found.or_else(|| self.targets.iter().find(|(_, target)| idle(target)));
        let Some(name) = found.map(|(name, _)| name.clone()) else { return false };
        self.targets.remove(&name);
        self.changes.push(Change::ForgetTarget(name));
        true
    }

    fn backend(&mut self, key: BackendKey, context: &Arc<Context>) -> Arc<Backend> {
        if let Some(backend) = self.backends.get(&key) {
            return backend.clone();
        }
        let backend = Backend::of_service(&key, context.clone());
        self.backends.insert(key.clone(), backend.clone());
        self.changes.push(Change::Backend(key));
        backend
    }
}

#[cfg(test)]
mod tests;

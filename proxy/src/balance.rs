//! Picks an endpoint: power of two choices over peak-EWMA latency times requests in flight. Pure and sync; the caller
//! waits and retries.
//!
//! The estimate jumps up to a slower sample at once (the *peak*) and comes down over [`EWMA_DECAY`]. While nobody
//! renews it, it is forgotten ([`EWMA_FORGET`]): so a slow endpoint loses its traffic at once, is tried now and then, and
//! gets its share back soon after it recovers. A new endpoint is tried at once, with one request.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    breaker::{Breaker, Change, Verdict},
    config::{EWMA_DECAY, EWMA_DEFAULT_RTT, EWMA_FORGET, FAILURE_PENALTY},
};

/// A latency estimate from which on an endpoint seems to hang, in seconds.
const HANGS_S: f64 = FAILURE_PENALTY.as_secs_f64() / 2.0;
/// Pairs drawn before all endpoints are looked at: enough while few are ejected or tried already.
const DRAWS_MAX: usize = 4;

/// Latency and health of one endpoint, as this proxy sees them.
pub struct Load {
    state: Mutex<LoadState>,
    /// Requests whose response has not ended, and those of them that wait for its first byte.
    in_flight: AtomicU32,
    awaited: AtomicU32,
}

struct LoadState {
    /// Seconds, as of the last sample; `None` before the first.
    ewma: Option<f64>,
    updated: Instant,
    /// Since when somebody waits and nothing has come.
    waiting_since: Instant,
    breaker: Breaker,
}

impl Default for Load {
    fn default() -> Self {
        let now = Instant::now();
        let state = LoadState { ewma: None, updated: now, waiting_since: now, breaker: Breaker::default() };
        Self { state: Mutex::new(state), in_flight: AtomicU32::new(0), awaited: AtomicU32::new(0) }
    }
}

impl LoadState {
    fn raw(&self) -> f64 {
        self.ewma.unwrap_or(EWMA_DEFAULT_RTT.as_secs_f64())
    }

    /// What is left of the estimate since the last sample.
    fn faded(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.updated);
        self.ewma.map_or(self.raw(), |ewma| ewma * decay(age, EWMA_FORGET))
    }
}

/// What is left after `age` of a weight that falls to 1/e in `constant`.
fn decay(age: Duration, constant: Duration) -> f64 {
    (-age.as_secs_f64() / constant.as_secs_f64()).exp()
}

impl Load {
    /// The cost of one more request here, or `None` if the breaker holds it out; and whether it would be a probe.
    fn cost(&self, now: Instant) -> Option<(f64, Verdict)> {
        let state = self.state.lock();
        let verdict = match state.breaker.verdict(now) {
            Verdict::Ejected => return None,
            verdict => verdict,
        };
        let waiting = self.in_flight.load(Relaxed);
        // New and idle, or due for a probe: it gets the next request that draws it.
        let tried_now = waiting == 0 && (state.ewma.is_none() || verdict == Verdict::Probe);
        let cost = if tried_now { 0.0 } else { self.estimate(&state, now) * f64::from(waiting + 1) };
        Some((cost, verdict))
    }

    /// The cost of one request, in seconds. While somebody waits for an answer it is not forgotten, and at least the time
    /// that nothing has come: an endpoint that hangs must look worse with every moment, not better.
    fn estimate(&self, state: &LoadState, now: Instant) -> f64 {
        if self.awaited.load(Relaxed) == 0 {
            return state.faded(now);
        }
        state.raw().max(now.saturating_duration_since(state.waiting_since).as_secs_f64())
    }

    /// A sample of latency: request sent to first byte of the answer.
    pub fn observe(&self, rtt: Duration, now: Instant) {
        let mut state = self.state.lock();
        let rtt = rtt.as_secs_f64();
        let estimate = state.faded(now);
        state.ewma = Some(if state.ewma.is_none() || rtt > estimate {
            rtt
        } else {
            let weight = decay(now.saturating_duration_since(state.updated), EWMA_DECAY);
            estimate * weight + rtt * (1.0 - weight)
        });
        state.updated = now;
        state.waiting_since = now;
    }

    /// Somebody waited this long and left without an answer: it took at least that long.
    fn given_up(&self, waited: Duration, now: Instant) {
        let slower = waited.as_secs_f64() > self.state.lock().raw();
        if slower {
            self.observe(waited, now);
        }
    }

    /// The latency estimate of this moment.
    pub fn ewma(&self) -> Duration {
        Duration::from_secs_f64(self.estimate(&self.state.lock(), Instant::now()))
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub fn is_ejected(&self) -> bool {
        self.state.lock().breaker.is_ejected()
    }
}

/// Anything with a [`Load`].
pub trait Loaded {
    fn load(&self) -> &Load;
}

/// The endpoints of one backend.
pub struct Balancer<E> {
    endpoints: ArcSwap<Vec<Arc<E>>>,
}

impl<E: Loaded> Default for Balancer<E> {
    fn default() -> Self {
        Self { endpoints: ArcSwap::default() }
    }
}

impl<E: Loaded> Balancer<E> {
    /// Replaces the set. Who stays the same `Arc` keeps its history.
    pub fn set(&self, endpoints: Vec<Arc<E>>) {
        self.endpoints.store(Arc::new(endpoints));
    }

    pub fn endpoints(&self) -> Arc<Vec<Arc<E>>> {
        self.endpoints.load_full()
    }

    /// How many endpoints the breaker holds out.
    pub fn ejected(&self) -> usize {
        self.endpoints.load().iter().filter(|endpoint| endpoint.load().is_ejected()).count()
    }

    /// An endpoint for one request, none of `tried`. `None`: all were tried. Where none of the others works, the breaker is
    /// overruled and all of them are tried: whichever comes back first is found at once, and each gets what it always gets.
    pub fn pick(&self, tried: &[Arc<E>], now: Instant) -> Option<Arc<E>> {
        let all = self.endpoints.load();
        let untried = |endpoint: &Arc<E>| !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
        let usable = |endpoint: &Arc<E>| untried(endpoint).then(|| endpoint.load().cost(now)).flatten();
        let drawn = (0..DRAWS_MAX).find_map(|_| draw_two(&all, &usable));
        // Both drawn hang, or could not be reached: somebody else may be better.
        let drawn =
            drawn.filter(|(endpoint, (cost, _))| *cost < HANGS_S || endpoint.load().ewma().as_secs_f64() < HANGS_S);
        let works = |endpoint: &Arc<E>| usable(endpoint).is_some_and(|(_, verdict)| verdict != Verdict::Failing);
        match drawn.or_else(|| best_of_all(&all, &usable)) {
            Some((endpoint, (_, Verdict::Probe))) => {
                endpoint.load().state.lock().breaker.probe(now);
                Some(endpoint.clone())
            }
            Some((endpoint, (_, verdict))) if verdict == Verdict::Pass || all.iter().any(works) => {
                Some(endpoint.clone())
            }
            _ => fastrand::choice(all.iter().filter(|endpoint| untried(endpoint)).collect::<Vec<_>>()).cloned(),
        }
    }

    /// Records that no answer came from `endpoint`: it could not be reached, or broke off.
    pub fn failed(&self, endpoint: &E, now: Instant) {
        endpoint.load().observe(FAILURE_PENALTY, now);
        self.outcome(endpoint, false, now);
    }

    /// Records that `endpoint` answered well.
    pub fn succeeded(&self, endpoint: &E) {
        endpoint.load().state.lock().breaker.succeeded();
    }

    /// Records whether what `endpoint` answered was a success; its latency goes to [`Load::observe`].
    pub fn outcome(&self, endpoint: &E, success: bool, now: Instant) {
        let change = endpoint.load().state.lock().breaker.record(success, now, fastrand::f64());
        // Too many out already: a failing endpoint is better than none.
        if change == Change::Tripped && (self.ejected() + 1) * 2 <= self.endpoints.load().len() {
            endpoint.load().state.lock().breaker.eject(now, fastrand::f64());
        }
    }
}

type Candidate<'a, E> = (&'a Arc<E>, (f64, Verdict));

fn draw_two<'a, E>(all: &'a [Arc<E>], usable: &impl Fn(&Arc<E>) -> Option<(f64, Verdict)>) -> Option<Candidate<'a, E>> {
    if all.len() < 2 {
        return None;
    }
    let first = fastrand::usize(..all.len());
    let mut second = fastrand::usize(..all.len() - 1);
    if second >= first {
        second += 1;
    }
    let (a, b) = (&all[first], &all[second]);
    match (usable(a), usable(b)) {
        (Some(x), Some(y)) => Some(if y.0 < x.0 { (b, y) } else { (a, x) }),
        // One of two is not a choice: draw again, so that load does not pile up on neighbours of ejected endpoints.
        _ => None,
    }
}

fn best_of_all<'a, E>(
    all: &'a [Arc<E>],
    usable: &impl Fn(&Arc<E>) -> Option<(f64, Verdict)>,
) -> Option<Candidate<'a, E>> {
    let candidates = all.iter().filter_map(|endpoint| Some((endpoint, usable(endpoint)?)));
    candidates.min_by(|(_, (a, _)), (_, (b, _))| a.total_cmp(b))
}

/// A request that waits for the first byte of its answer. Dropped without one, it tells how long it waited.
pub struct Awaiting<E: Loaded> {
    endpoint: Arc<E>,
    since: Instant,
    answered: bool,
}

impl<E: Loaded> Awaiting<E> {
    pub fn new(endpoint: Arc<E>, now: Instant) -> Self {
        let load = endpoint.load();
        load.in_flight.fetch_add(1, Relaxed);
        if load.awaited.fetch_add(1, Relaxed) == 0 {
            load.state.lock().waiting_since = now;
        }
        Self { endpoint, since: now, answered: false }
    }

    /// The answer has begun; `sent` is when the request went out, connecting not included.
    pub fn answered(mut self, sent: Instant, now: Instant) -> InFlight<E> {
        self.answered = true;
        let in_flight = InFlight::new(self.endpoint.clone());
        self.endpoint.load().observe(now.saturating_duration_since(sent), now);
        in_flight
    }
}

impl<E: Loaded> Drop for Awaiting<E> {
    fn drop(&mut self) {
        let load = self.endpoint.load();
        if !self.answered {
            load.given_up(self.since.elapsed(), Instant::now());
        }
        load.in_flight.fetch_sub(1, Relaxed);
        load.awaited.fetch_sub(1, Relaxed);
    }
}

/// A request in flight at an endpoint; counts until dropped.
pub struct InFlight<E: Loaded>(Arc<E>);

impl<E: Loaded> InFlight<E> {
    pub fn new(endpoint: Arc<E>) -> Self {
        endpoint.load().in_flight.fetch_add(1, Relaxed);
        Self(endpoint)
    }
}

impl<E: Loaded> Deref for InFlight<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.0
    }
}

impl<E: Loaded> Drop for InFlight<E> {
    fn drop(&mut self) {
        self.0.load().in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;

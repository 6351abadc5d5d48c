//! Ejects an endpoint after consecutive failures, and lets one probe request decide when it comes back. Pure: time is a
//! parameter. It does not know about other endpoints; `balance.rs` keeps it from ejecting more than half.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::{BREAKER_FAILURES, BREAKER_JITTER, BREAKER_PENALTY_MAX, BREAKER_PENALTY_MIN};

/// One endpoint's breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Closed,
    /// No requests until `until`; the next time out is longer.
    Open { until: Instant, penalty: Duration },
    /// One probe is on its way.
    Probing { since: Instant, penalty: Duration },
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Pass, though it has failed often enough to be ejected: too many were out already.
    Failing,
    /// Pass, and its outcome decides.
    Probe,
    Ejected,
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// Failed often enough to be ejected: the caller says whether it may be ([`Breaker::eject`]).
    Tripped,
    Restored,
}

impl Breaker {
    /// What a request may do now. Asking changes nothing.
    pub fn verdict(&self, now: Instant) -> Verdict {
        match self.state {
            State::Closed if self.failures >= BREAKER_FAILURES => Verdict::Failing,
            State::Closed => Verdict::Pass,
            State::Open { until, .. } if now < until => Verdict::Ejected,
            State::Open { .. } => Verdict::Probe,
            // A probe that never ends must not keep the endpoint out for ever.
            State::Probing { since, penalty } if now >= since + penalty => Verdict::Probe,
            State::Probing { .. } => Verdict::Ejected,
        }
    }

    /// A probe was sent.
    pub fn probe(&mut self, now: Instant) {
        if let State::Open { penalty, .. } | State::Probing { penalty, .. } = self.state {
            self.state = State::Probing { since: now, penalty };
        }
    }

    /// A request ended. `jitter` is between 0 and 1.
    pub fn record(&mut self, success: bool, now: Instant, jitter: f64) -> Change {
        if success {
            return self.succeeded();
        }
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Closed if self.failures >= BREAKER_FAILURES => Change::Tripped,
            State::Probing { penalty, .. } => {
                self.open(now, (penalty * 2).min(BREAKER_PENALTY_MAX), jitter);
                Change::None
            }
            // Late failures of requests that were under way when it was ejected prove nothing new.
            State::Closed | State::Open { .. } => Change::None,
        }
    }

    /// A request ended well, whenever that is.
    pub fn succeeded(&mut self) -> Change {
        self.failures = 0;
        let was = std::mem::take(&mut self.state);
        if matches!(was, State::Closed) { Change::None } else { Change::Restored }
    }

    /// Ejects the endpoint for the first time.
    pub fn eject(&mut self, now: Instant, jitter: f64) {
        self.open(now, BREAKER_PENALTY_MIN, jitter);
    }

    pub fn is_ejected(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    fn open(&mut self, now: Instant, penalty: Duration, jitter: f64) {
        let varied = penalty.mul_f64(1.0 + BREAKER_JITTER * jitter.clamp(0.0, 1.0));
        self.state = State::Open { until: now + varied, penalty };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tripped(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for n in 1..BREAKER_FAILURES {
            assert_eq!(breaker.record(false, now, 0.0), Change::None, "{n}");
        }
        assert_eq!(breaker.record(false, now, 0.0), Change::Tripped);
        breaker.eject(now, 0.0);
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_between_failures_starts_the_count_again() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            for _ in 1..BREAKER_FAILURES {
                assert_eq!(breaker.record(false, now, 0.0), Change::None);
            }
            breaker.record(true, now, 0.0);
        }
        assert_eq!(breaker.verdict(now), Verdict::Pass);
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_decides_and_the_penalty_doubles() {
        let mut now = Instant::now();
        let mut breaker = tripped(now);
        let mut penalty = BREAKER_PENALTY_MIN;
        for _ in 0..8 {
            assert_eq!(breaker.verdict(now + penalty - Duration::from_millis(1)), Verdict::Ejected);
            now += penalty;
            assert_eq!(breaker.verdict(now), Verdict::Probe);
            breaker.probe(now);
            assert_eq!(breaker.verdict(now), Verdict::Ejected, "only one probe");
            breaker.record(false, now, 0.0);
            penalty = (penalty * 2).min(BREAKER_PENALTY_MAX);
        }
        assert_eq!(penalty, BREAKER_PENALTY_MAX);
        now += penalty;
        breaker.probe(now);
        assert_eq!(breaker.record(true, now, 0.0), Change::Restored);
        assert_eq!(breaker.verdict(now), Verdict::Pass);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_probe_is_sent_again() {
        let now = Instant::now();
        let mut breaker = tripped(now);
        let later = now + BREAKER_PENALTY_MIN;
        breaker.probe(later);
        assert_eq!(breaker.verdict(later + BREAKER_PENALTY_MIN), Verdict::Probe);
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_only_lengthens() {
        let now = Instant::now();
        let mut breaker = tripped(now);
        breaker.eject(now, 1.0);
        assert_eq!(breaker.verdict(now + BREAKER_PENALTY_MIN), Verdict::Ejected);
        assert_eq!(breaker.verdict(now + BREAKER_PENALTY_MIN.mul_f64(1.0 + BREAKER_JITTER)), Verdict::Probe);
    }
}

//! The retry budget of one backend: retries are a fraction of requests plus a small floor, so that a failing backend
//! sees at most [`BUDGET_RATIO`] more traffic, never a storm. Pure: time is a parameter. Whether a request *may* be sent
//! again is said by the error (`error.rs`) and the route.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::{BUDGET_FLOOR_PER_S, BUDGET_RATIO, BUDGET_TTL_S};

/// A token bucket, one token a retry.
pub struct Budget(Mutex<Bucket>);

struct Bucket {
    /// From requests; at most what [`BUDGET_TTL_S`] seconds of the present traffic earn, bounded by time below.
    earned: f64,
    floor: f64,
    refilled: Instant,
}

/// Tokens that requests can earn at most: what 1,000 rps earn in [`BUDGET_TTL_S`].
const EARNED_MAX: f64 = BUDGET_RATIO * 1_000.0 * BUDGET_TTL_S;

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(Bucket { earned: 0.0, floor: BUDGET_FLOOR_PER_S, refilled: Instant::now() }))
    }
}

impl Budget {
    /// A first attempt was made.
    pub fn deposit(&self, now: Instant) {
        let mut bucket = self.0.lock();
        bucket.refill(now);
        bucket.earned = (bucket.earned + BUDGET_RATIO).min(EARNED_MAX);
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock();
        bucket.refill(now);
        if bucket.floor >= 1.0 {
            bucket.floor -= 1.0;
        } else if bucket.earned >= 1.0 {
            bucket.earned -= 1.0;
        } else {
            return false;
        }
        true
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.floor = (self.floor + passed * BUDGET_FLOOR_PER_S).min(BUDGET_FLOOR_PER_S);
        // What was earned long ago is not for today's trouble.
        self.earned *= (1.0 - passed / BUDGET_TTL_S).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_backend_sees_a_fifth_more_and_the_floor() {
        let budget = Budget::default();
        let (mut requests, mut retries) = (0_u32, 0_u32);
        for _ in 0..30_000 {
            tokio::time::advance(Duration::from_millis(1)).await; // 1,000 rps for 30 s
            budget.deposit(Instant::now());
            requests += 1;
            retries += u32::from(budget.withdraw(Instant::now()));
        }
        let most = f64::from(requests) * BUDGET_RATIO + BUDGET_FLOOR_PER_S * 31.0;
        assert!(f64::from(retries) <= most, "{retries} > {most}");
        assert!(f64::from(retries) >= f64::from(requests) * BUDGET_RATIO * 0.9, "{retries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_backend_has_the_floor() {
        let budget = Budget::default();
        let burst = (0..100).filter(|_| budget.withdraw(Instant::now())).count();
        assert_eq!(burst, BUDGET_FLOOR_PER_S as usize);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(budget.withdraw(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn savings_lapse() {
        let budget = Budget::default();
        (0..10_000).for_each(|_| budget.deposit(Instant::now()));
        tokio::time::advance(Duration::from_secs(BUDGET_TTL_S as u64 + 1)).await;
        let burst = (0..10_000).filter(|_| budget.withdraw(Instant::now())).count();
        assert_eq!(burst, BUDGET_FLOOR_PER_S as usize);
    }
}

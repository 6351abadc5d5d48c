//! Owns `Certify`: the token says who calls, the request gives the key, and the answer is a certificate for that name.
//!
//! It refuses early and cheaply: too many calls at once, a pod that asks too often, a token that proves nothing.
//! What a token must look like is `tokens`' business, what a request must look like `lacewing_identity`'s.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lacewing_crds::Name;
use lacewing_identity::{Error as IdentityError, SpiffeId};
use lacewing_proto::control::{CertifyRequest, CertifyResponse};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};
use tonic::Status;

use crate::{
    identity::Identity,
    metrics::{CertifyResult, Metrics},
    tokens::{Caller, Refusal, TokenReviewer},
};

/// Calls that are answered at the same time; more are told to come back.
pub const CONCURRENCY_MAX: usize = 16;
/// Calls of one pod in a row: it may start several times.
pub const BURST: f64 = 5.0;
/// Calls of one pod a second, after the burst.
pub const RATE_PER_SECOND: f64 = 1.0;
/// Pods whose rate is remembered. Idle ones are forgotten first; beyond, new ones are told to come back.
pub const PODS_MAX: usize = 10_000;

pub struct Certifier<R> {
    identity: Arc<Identity>,
    reviewer: R,
    metrics: Arc<Metrics>,
    now: fn() -> u64,
    slots: Semaphore,
    buckets: Mutex<Buckets>,
}

impl<R: TokenReviewer> Certifier<R> {
    pub fn new(identity: Arc<Identity>, reviewer: R, metrics: Arc<Metrics>, now: fn() -> u64) -> Self {
        let (slots, buckets) = (Semaphore::new(CONCURRENCY_MAX), Mutex::default());
        Self { identity, reviewer, metrics, now, slots, buckets }
    }

    pub async fn certify(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        let outcome = self.answer(request).await;
        let result = match &outcome {
            Ok(_) => CertifyResult::Issued,
            Err((result, _)) => *result,
        };
        self.metrics.certified(result);
        outcome.map_err(|(_, status)| status)
    }

    async fn answer(&self, request: CertifyRequest) -> Result<CertifyResponse, (CertifyResult, Status)> {
        let Ok(_slot) = self.slots.try_acquire() else {
            let why = format!("{CONCURRENCY_MAX} certificates are being issued right now: ask again in a second");
            return Err((CertifyResult::Throttled, Status::resource_exhausted(why)));
        };
        let now = (self.now)();
        let caller = self.reviewer.review(&request.token, now).await.map_err(|refusal| refused(&refusal))?;
        let id = self.name(&caller)?;
        let pod = Name::new(&caller.namespace, &caller.pod);
        if !self.buckets.lock().take(&pod, Instant::now()) {
            let why =
                format!("Pod {pod} asks for certificates too often: at most {RATE_PER_SECOND} a second after {BURST}");
            return Err((CertifyResult::Throttled, Status::resource_exhausted(why)));
        }
        let (issued, bundle) = self.identity.issue(&request.csr, &id, now).map_err(|error| not_issued(&id, &error))?;
        tracing::debug!(%id, pod = %caller.pod, not_after = issued.not_after, "issued a certificate");
        Ok(CertifyResponse {
            chain: issued.chain,
            trust_bundle: bundle.certificates().iter().map(|root| root.to_vec()).collect(),
            not_before: issued.not_before.cast_signed(),
            not_after: issued.not_after.cast_signed(),
        })
    }

    fn name(&self, caller: &Caller) -> Result<SpiffeId, (CertifyResult, Status)> {
        self.identity
            .name(&caller.namespace, &caller.service_account)
            .map_err(|error| (CertifyResult::BadToken, Status::unauthenticated(format!("token refused: {error}"))))
    }
}

fn refused(refusal: &Refusal) -> (CertifyResult, Status) {
    let why = refusal.to_string();
    match refusal {
        Refusal::Token(_) | Refusal::Pod(_) | Refusal::Review(_) => {
            tracing::warn!(%why, "refused to certify");
            (CertifyResult::BadToken, Status::unauthenticated(why))
        }
        Refusal::Unavailable(_) => (CertifyResult::Failed, Status::unavailable(why)),
    }
}

fn not_issued(id: &SpiffeId, error: &IdentityError) -> (CertifyResult, Status) {
    if matches!(error, IdentityError::Csr(_)) {
        return (CertifyResult::BadRequest, Status::invalid_argument(error.to_string()));
    }
    tracing::error!(%id, %error, "could not issue a certificate");
    (CertifyResult::Failed, Status::internal(error.to_string()))
}

/// How often each pod may still ask: by pod, so that the replicas of a service account cannot starve each other.
#[derive(Default)]
struct Buckets(HashMap<Name, Bucket>);

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn level(&self, now: Instant) -> f64 {
        (self.tokens + now.duration_since(self.at).as_secs_f64() * RATE_PER_SECOND).min(BURST)
    }
}

impl Buckets {
    fn take(&mut self, pod: &Name, now: Instant) -> bool {
        if !self.0.contains_key(pod) && self.0.len() >= PODS_MAX {
            // A full bucket remembers nothing that a new one would not.
            let idle = Duration::from_secs_f64(BURST / RATE_PER_SECOND);
            self.0.retain(|_, bucket| now.duration_since(bucket.at) < idle);
            if self.0.len() >= PODS_MAX {
                return false;
            }
        }
        let bucket = self.0.entry(pod.clone()).or_insert(Bucket { tokens: BURST, at: now });
        let level = bucket.level(now);
        let granted = level >= 1.0;
        *bucket = Bucket { tokens: if granted { level - 1.0 } else { level }, at: now };
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(number: usize) -> Name {
        Name::new("a", format!("web-{number}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_has_a_burst_and_then_a_rate() {
        let mut buckets = Buckets::default();
        let granted =
            |buckets: &mut Buckets, times: usize| (0..times).filter(|_| buckets.take(&pod(0), Instant::now())).count();
        assert_eq!(granted(&mut buckets, 8), 5);
        tokio::time::advance(Duration::from_millis(900)).await;
        assert_eq!(granted(&mut buckets, 3), 0);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert_eq!(granted(&mut buckets, 3), 1);
        assert!(buckets.take(&pod(1), Instant::now()), "others are not affected");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(granted(&mut buckets, 8), 5, "waiting saves up no more than the burst");
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_pods_are_remembered() {
        let mut buckets = Buckets::default();
        for number in 0..PODS_MAX {
            assert!(buckets.take(&pod(number), Instant::now()));
        }
        assert!(!buckets.take(&pod(PODS_MAX), Instant::now()));
        assert!(buckets.take(&pod(0), Instant::now()), "known ones go on");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(buckets.take(&pod(PODS_MAX), Instant::now()), "idle ones make room");
        assert!(buckets.0.len() <= 2);
    }
}

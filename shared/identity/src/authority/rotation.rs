//! Owns when issuer and root change: pure functions of what is kept, the time, and whether everybody has applied it.
//!
//! A root changes in three steps, each kept before the next is looked at, so that any process can go on with it:
//! [`Step::AddRoot`] puts a new root beside the old one; when everybody trusts it, [`Step::SwitchIssuer`] signs under it;
//! when every leaf under the old root has lapsed, [`Step::DropRoots`] forgets that. When a step was taken is read from
//! the certificates' own dates.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Authority, CA_BACKDATE, dates_of, new_root};
use crate::Error;

/// After the last leaf under an old root has lapsed, the root is kept for this long, in seconds: for clocks that differ,
/// and for a controller that sees the switch a moment later than the one that made it.
pub const MARGIN: u64 = 60;
/// A step that waits until everybody has applied the one before is taken anyway after so many times its shortest wait:
/// one peer that never applies anything must not keep the mesh on a root that ends.
pub const PATIENCE: u64 = 3;
/// Part of a root's life after which a new one is made, in percent: with our own, two years before the end.
const ROTATE_AT: u64 = 80;

/// How far the change of a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One root, and the issuer under it; or roots that somebody else rotates.
    Stable,
    /// A new root is published, and the issuer is still under the old one.
    Publishing,
    /// The issuer is under the new root; leaves under old ones may still hold.
    Retiring,
}

impl Phase {
    pub const ALL: [Self; 3] = [Self::Stable, Self::Publishing, Self::Retiring];

    /// Stable: it is a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Publishing => "publishing",
            Self::Retiring => "retiring",
        }
    }
}

/// One change of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    RenewIssuer,
    AddRoot,
    SwitchIssuer,
    DropRoots,
}

/// What a decision depends on beside what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Unix seconds.
    pub now: u64,
    /// In seconds.
    pub leaf_lifetime: u64,
    /// How long a root is published before anything is signed under it, in seconds, at least. A leaf's life where there
    /// are other controllers: whoever holds a leaf after that has renewed it since, and heard of the root from whichever
    /// controller it is with.
    pub overlap: u64,
    /// All that follow the trust bundle here have applied the one that is in force.
    pub applied: bool,
    /// Somebody asks for a new root now.
    pub wanted: bool,
}

impl Authority {
    pub fn phase(&self) -> Phase {
        match &self.root_key {
            Some(key) if key.root != 0 => Phase::Publishing,
            Some(_) if self.bundle.certificates().len() > 1 => Phase::Retiring,
            _ => Phase::Stable,
        }
    }

    /// What to change now, if anything. Nothing without a root's key.
    pub fn due(&self, at: &Situation) -> Option<Step> {
        let key = self.root_key.as_ref()?;
        let has_ended = self.validity.not_after <= at.now;
        match self.phase() {
            Phase::Publishing => {
                let waited = has_waited(self.begin_of_root(key.root), at.overlap, at.now, at.applied);
                // Nobody has a leaf that would be of any use to wait for.
                (waited || has_ended).then_some(Step::SwitchIssuer)
            }
            Phase::Stable if at.wanted || self.root_rotate_at() <= at.now => Some(Step::AddRoot),
            _ if has_ended || self.issuer_renew_at() <= at.now || self.validity.not_before > at.now => {
                Some(Step::RenewIssuer)
            }
            Phase::Retiring if has_waited(self.issuer_begin(), at.leaf_lifetime + MARGIN, at.now, at.applied) => {
                Some(Step::DropRoots)
            }
            _ => None,
        }
    }

    /// What is to be kept after this step, taken `now` (unix seconds).
    ///
    /// # Errors
    /// The step does not fit what is kept, or nothing can be signed.
    pub fn step(&self, step: Step, now: u64) -> Result<Self, Error> {
        let misfit = || Error::Authority(format!("{step:?} does not follow on {}", self.phase().label()));
        let key = self.root_key.as_ref().ok_or_else(misfit)?;
        let mut roots = self.bundle.certificates().to_vec();
        match step {
            Step::RenewIssuer => self.renewed(now),
            Step::AddRoot if self.phase() == Phase::Stable => {
                let (root, key) = new_root(&self.trust_domain, now)?;
                roots.push(root);
                self.with_roots(roots, Some(key))
            }
            Step::SwitchIssuer if self.phase() == Phase::Publishing => {
                roots[..=key.root].rotate_right(1);
                Self::with_new_issuer(&self.trust_domain, roots, key.key.clone_key(), now)
            }
            Step::DropRoots if self.phase() == Phase::Retiring => {
                roots.truncate(1);
                self.with_roots(roots, Some(key.key.clone_key()))
            }
            _ => Err(misfit()),
        }
    }

    fn with_roots(
        &self,
        roots: Vec<CertificateDer<'static>>,
        root_key: Option<PrivateKeyDer<'static>>,
    ) -> Result<Self, Error> {
        Self::assemble(&self.trust_domain, roots, &self.chain, self.issuer_key.clone_key(), root_key)
    }

    /// When the present root should have a successor, in unix seconds.
    fn root_rotate_at(&self) -> u64 {
        let Ok(root) = dates_of(&self.bundle.certificates()[0]) else { return 0 };
        root.not_before + root.not_after.saturating_sub(root.not_before) / 100 * ROTATE_AT
    }

    /// When a root of ours was made.
    fn begin_of_root(&self, index: usize) -> u64 {
        dates_of(&self.bundle.certificates()[index])
            .map_or(u64::MAX, |root| root.not_before.saturating_add(CA_BACKDATE))
    }

    /// When an issuer of ours was made.
    fn issuer_begin(&self) -> u64 {
        dates_of(&self.chain[0]).map_or(u64::MAX, |issuer| issuer.not_before.saturating_add(CA_BACKDATE))
    }
}

/// Whether what was done at `since` has had its shortest wait (in seconds) by `now`, and either everybody has applied it
/// or patience is over.
pub fn has_waited(since: u64, shortest: u64, now: u64, applied: bool) -> bool {
    let Some(waited) = now.checked_sub(since) else { return false };
    waited >= shortest && (applied || waited >= shortest.saturating_mul(PATIENCE))
}

#[cfg(test)]
mod tests;

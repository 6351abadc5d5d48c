//! Owns what is in force of what is kept: which issuer signs now, and which roots everybody is told to trust. Pure.
//!
//! What is kept may change under us, without overlap, by an operator's hand. So an issuer signs only once its root has
//! been published here for long enough; until then the one before does, which is in memory. And roots that vanish stay
//! published until the leaves under them have lapsed ([`Previous`], which the leader keeps for the next start).

use std::sync::Arc;

use lacewing_identity::{
    Authority, TrustBundle,
    authority::rotation::{MARGIN, PATIENCE, Phase, has_waited},
    bundle::MAX_ROOTS,
};

/// Roots that are no longer kept, and until when they are published, in unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    pub roots: TrustBundle,
    pub until: u64,
}

/// How long things last, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub leaf_lifetime: u64,
    /// How long a root is published, at least, before anything is signed under it.
    pub overlap: u64,
}

/// What is in force.
pub struct Trust {
    terms: Terms,
    /// The last good of what is kept.
    kept: Arc<Authority>,
    /// What signs: the same, or the one before.
    signing: Arc<Authority>,
    previous: Option<Previous>,
    bundle: TrustBundle,
    /// Since when each root of the bundle is in it, in unix seconds, in its order.
    since: Vec<u64>,
}

impl Trust {
    /// At the start of a process. What is kept then has been published before, as far as anybody can know.
    pub fn new(kept: Authority, previous: Option<Previous>, terms: Terms, now: u64) -> Self {
        let kept = Arc::new(kept);
        let previous = previous.filter(|previous| previous.until > now);
        let bundle = kept.bundle().clone();
        let since = vec![0; bundle.certificates().len()];
        let mut trust = Self { terms, signing: kept.clone(), kept, previous, bundle, since };
        trust.publish(now);
        trust
    }

    /// How far a change of the root is, whoever makes it.
    pub fn phase(&self) -> Phase {
        if !self.kept.has_issuer_of(&self.signing) {
            return Phase::Publishing;
        }
        match self.kept.phase() {
            Phase::Stable if self.previous.is_some() => Phase::Retiring,
            phase => phase,
        }
    }

    pub fn signing(&self) -> &Arc<Authority> {
        &self.signing
    }

    pub fn kept(&self) -> &Arc<Authority> {
        &self.kept
    }

    /// The roots that everybody should trust; first the one above what is signed now.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// What must outlive this process, beside what is kept.
    pub fn previous(&self) -> Option<&Previous> {
        self.previous.as_ref()
    }

    /// Takes what is kept now (`now` in unix seconds).
    pub fn keep(&mut self, kept: Authority, now: u64) {
        if kept.to_secret() == self.kept.to_secret() {
            return;
        }
        let same_root = kept.bundle().certificates()[0] == self.kept.bundle().certificates()[0];
        // Where a controller keeps the root's key, a root goes only when its time is over.
        if !(kept.has_root_key() && same_root) {
            self.remember_what_vanishes(&kept, now);
        }
        self.kept = Arc::new(kept);
        if self.kept.has_issuer_of(&self.signing) {
            self.signing = self.kept.clone();
        }
        self.publish(now);
    }

    fn remember_what_vanishes(&mut self, kept: &Authority, now: u64) {
        let lost = self.bundle.certificates().iter().filter(|root| !kept.bundle().certificates().contains(root));
        let lost: Vec<_> = lost.map(|root| root.to_vec()).collect();
        // The old issuer signs for the overlap, and its last leaf lives a lifetime after that.
        let until = now + self.terms.overlap + self.terms.leaf_lifetime + MARGIN;
        // None are lost: the bundle would be empty, which is refused.
        if let Ok(roots) = TrustBundle::from_der(lost) {
            self.previous = Some(Previous { roots, until });
        }
    }

    /// Moves on with time: `now` in unix seconds; `applied`: everybody here has applied the bundle.
    pub fn settle(&mut self, now: u64, applied: bool) {
        if !self.kept.has_issuer_of(&self.signing) {
            let root = &self.kept.bundle().certificates()[0];
            let at = self.bundle.certificates().iter().position(|published| published == root);
            let since = at.and_then(|at| self.since.get(at)).copied().unwrap_or(now);
            let same_root = *root == self.signing.bundle().certificates()[0];
            let has_ended = self.signing.issuer_not_after() <= now;
            if same_root || has_ended || has_waited(since, self.terms.overlap, now, applied) {
                self.signing = self.kept.clone();
            }
        }
        let patience = PATIENCE * self.terms.leaf_lifetime;
        let is_over = |previous: &Previous| previous.until <= now && (applied || previous.until + patience <= now);
        if self.previous.as_ref().is_some_and(is_over) {
            self.previous = None;
        }
        self.publish(now);
    }

    fn publish(&mut self, now: u64) {
        let previous = self.previous.iter().flat_map(|previous| previous.roots.certificates());
        let first = &self.signing.bundle().certificates()[..1];
        let mut roots: Vec<Vec<u8>> = Vec::new();
        for root in first.iter().chain(self.kept.bundle().certificates()).chain(previous) {
            if roots.len() < MAX_ROOTS && !roots.iter().any(|known| known[..] == root[..]) {
                roots.push(root.to_vec());
            }
        }
        let since_of = |root: &Vec<u8>| {
            let at = self.bundle.certificates().iter().position(|known| known[..] == root[..]);
            at.and_then(|at| self.since.get(at)).copied().unwrap_or(now)
        };
        let since = roots.iter().map(since_of).collect();
        // Each of them was in a bundle before.
        if let Ok(bundle) = TrustBundle::from_der(roots) {
            self.since = since;
            if bundle != self.bundle {
                self.bundle = bundle;
            }
        }
    }
}

#[cfg(test)]
mod tests;

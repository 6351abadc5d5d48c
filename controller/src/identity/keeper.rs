//! Owns the care for trust: one task that looks at what is kept, moves on what is in force, renews, and tells everybody.
//! Every replica looks; only the leader writes. What to write is decided in `lacewing_identity::authority::rotation`, what
//! is in force in `trust`. A look that fails changes nothing: the last good stays in use, and what is wrong is listed.

use std::{sync::Arc, time::Duration};

use lacewing_identity::{
    Authority, TrustBundle, TrustDomain,
    authority::{
        date,
        rotation::{Situation, Step},
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Identity, Matter, Problem,
    injector::{self, Registration},
    store::{Found, Store, StoreError},
    trust::{Previous, Terms, Trust},
};
use crate::{cluster::Cluster, grpc::streams::Streams, publish::Publisher};

/// How often what is kept is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The same before all is there for the first time: nobody is served until then.
const FIRST_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// For how long being ready waits for the API server to know the webhook and its root: an install may create the webhook's
/// registration after the controller. After that those who are meshed already are better served by a controller whose
/// webhook fails, and says so, than by none.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(30);
/// Part of an issuer's life after which it should have been renewed by whoever renews it, in percent.
const RENEWED_BY: u64 = 80;
const LAST_GOOD: &str = "the last good one stays in use";

/// What the task works with.
pub struct Keeper {
    pub identity: Arc<Identity>,
    pub store: Store,
    pub publisher: Arc<Publisher>,
    pub streams: Arc<Streams>,
    /// Whether this replica writes.
    pub leading: watch::Receiver<bool>,
    /// Where the webhook is registered; none where there is no webhook.
    pub injector: Option<Cluster>,
    /// Wall time in unix seconds.
    pub now: fn() -> u64,
    /// From 0 to 1, at random.
    pub jitter: fn() -> f64,
    pub done: Done,
}

/// What was written or seen last, so that it is done once.
#[derive(Default)]
pub struct Done {
    public: Option<TrustBundle>,
    previous: Option<Previous>,
    /// The API server knew our root when it was last asked.
    registered: bool,
    /// When it was asked first.
    asked: Option<Instant>,
}

impl Keeper {
    /// Looks for the first time, where an answer is at hand: a cluster's may take a while to be reached, which is waited
    /// for in [`Keeper::run`].
    ///
    /// # Errors
    /// What is kept cannot be read or not be used.
    pub async fn start(&mut self) -> Result<(), StoreError> {
        if matches!(self.store, Store::Secrets(_)) {
            return Ok(());
        }
        let outcome = self.look().await;
        if self.identity.kept().is_some() { Ok(()) } else { outcome }
    }

    /// Looks for as long as the process lives.
    pub async fn run(mut self) {
        loop {
            // What is wrong is listed, and tried again.
            let _ = self.look().await;
            let begun = self.identity.kept().is_some() && self.identity.is_announced();
            let next = sleep(if begun { LOOK_INTERVAL } else { FIRST_LOOK_INTERVAL });
            // Who begins to lead has the API server to tell whom to trust: until then, pods start without a proxy.
            tokio::select! {
                () = next => {}
                Ok(()) = self.leading.changed() => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let now = (self.now)();
        let leads = *self.leading.borrow();
        let read = self.read(now, leads).await;
        self.identity.note(Matter::Kept, read.as_ref().map(|_| ()).map_err(|error| self.wrong(error)));
        let applied = self.streams.have_applied_trust();
        self.identity.settle(now, applied);
        if let (true, Ok(wanted)) = (leads, &read) {
            let rotated = self.rotate(now, *wanted, applied).await;
            self.identity.note(Matter::Rotation, rotated);
        }
        self.identity.note(Matter::Issuer, self.ends_soon(now));
        let renewed = self.identity.renew_if_due(now, (self.jitter)());
        self.identity.note(Matter::Own, renewed.map_err(|error| self.problem(&error, "those there are stay in use")));
        self.tell(leads).await;
        read.map(drop)
    }

    /// Takes what is kept; makes it if there is none. Says whether a new root is asked for.
    async fn read(&mut self, now: u64, leads: bool) -> Result<bool, StoreError> {
        let trust_domain = self.identity.trust_domain.clone();
        let mut found = self.store.read(&trust_domain, now).await?;
        if matches!(found, Found::Nothing) {
            self.make(&trust_domain, now, leads).await?;
            // Whoever made it: from here on, what is in it counts.
            found = self.store.read(&trust_domain, now).await?;
        }
        let Found::Kept { authority, wanted } = found else {
            let (place, why) = (self.store.place(), "it is gone; put it back before the controllers start anew");
            return Err(StoreError::Api { place, why: why.to_owned() });
        };
        if self.identity.kept().is_some() {
            self.identity.keep(*authority, now);
        } else {
            let previous = self.previous().await?;
            self.identity.begin(Trust::new(*authority, previous, self.terms(), now));
        }
        Ok(wanted)
    }

    /// Makes a trust root where there was none. One that vanished is made again as it was, if it was ours.
    async fn make(&mut self, trust_domain: &TrustDomain, now: u64, leads: bool) -> Result<(), StoreError> {
        let fresh;
        let authority = match self.identity.kept() {
            None => {
                fresh = Authority::generate(trust_domain, now).map_err(|error| self.unusable(error))?;
                Arc::new(fresh)
            }
            Some(kept) if leads && kept.has_root_key() => kept,
            Some(_) => return Ok(()),
        };
        if self.store.create(&authority).await? {
            tracing::info!(%trust_domain, place = self.store.place(), "made the trust root");
        }
        Ok(())
    }

    /// Roots that were kept before. Ones that cannot be used must not keep the rest from working.
    async fn previous(&mut self) -> Result<Option<Previous>, StoreError> {
        let previous = self.store.previous().await;
        if let Err(error @ StoreError::Unusable { .. }) = &previous {
            let in_force = "certificates under roots that were replaced are refused".to_owned();
            self.identity.note(Matter::Previous, Err(Problem { in_force, ..self.wrong(error) }));
            return Ok(None);
        }
        self.done.previous = previous.as_ref().ok().cloned().flatten();
        previous
    }

    /// Takes the step that is due, if any.
    async fn rotate(&mut self, now: u64, wanted: bool, applied: bool) -> Result<(), Problem> {
        let Some(kept) = self.identity.kept() else { return Ok(()) };
        if wanted && !kept.has_root_key() {
            let cause = "a new root is asked for, but the root's key is not here; rotate it where that key is kept, and \
                         remove the annotation";
            return Err(self.problem(&cause, LAST_GOOD));
        }
        let Terms { leaf_lifetime, overlap } = self.terms();
        let Some(step) = kept.due(&Situation { now, leaf_lifetime, overlap, applied, wanted }) else { return Ok(()) };
        let next = kept.step(step, now).map_err(|error| self.problem(&error, LAST_GOOD))?;
        let answered = wanted && step == Step::AddRoot;
        match self.store.replace(&next, answered).await {
            Ok(true) => {
                tracing::info!(?step, roots = next.bundle().certificates().len(), "the trust root has changed");
                self.identity.keep(next, now);
                self.identity.settle(now, applied);
                Ok(())
            }
            // Somebody was faster: it is read again at the next look.
            Ok(false) => Ok(()),
            Err(error) => Err(self.wrong(&error)),
        }
    }

    /// Tells proxies, starters of proxies, and the API server.
    async fn tell(&mut self, leads: bool) {
        let Some(bundle) = self.identity.bundle() else { return };
        self.publisher.trust(&bundle);
        if self.done.public.as_ref() != Some(&bundle) {
            let published = self.store.publish(&bundle).await.map_err(|error| self.wrong(&error));
            self.done.public = published.is_ok().then(|| bundle.clone());
            self.identity.note(Matter::Public, published);
        }
        let previous = self.identity.previous().filter(|previous| self.done.previous.as_ref() != Some(previous));
        if let Some(previous) = previous.filter(|_| leads) {
            let kept = self.store.keep_previous(&previous).await.map_err(|error| self.wrong(&error));
            self.done.previous = kept.is_ok().then_some(previous);
            self.identity.note(Matter::Previous, kept);
        }
        self.announce(&bundle, leads).await;
    }

    /// Sees to it that the API server can call the webhook: the leader always, the others until they have seen it.
    async fn announce(&mut self, bundle: &TrustBundle, leads: bool) {
        let Some(cluster) = self.injector.as_ref().filter(|_| leads || !self.done.registered) else { return };
        let asked = *self.done.asked.get_or_insert_with(Instant::now);
        let registration = injector::sync(cluster, bundle, leads).await;
        self.done.registered = registration == Registration::Known;
        let problem = |cause: String, way_out: Option<&str>| Problem {
            place: "MutatingWebhookConfiguration lacewing-injector".to_owned(),
            cause,
            way_out: way_out.map(str::to_owned),
            in_force: "new pods may come up without a proxy".to_owned(),
        };
        let outcome = match registration {
            Registration::Known => Ok(()),
            Registration::Absent => {
                let way_out = "install the mesh anew: `mesh install | kubectl apply -f -`";
                Err(problem("no webhook is registered, so no pod is injected".to_owned(), Some(way_out)))
            }
            Registration::Unknown(why) => Err(problem(why, None)),
        };
        self.identity.note(Matter::Injector, outcome);
        if self.done.registered || asked.elapsed() >= REGISTRATION_PATIENCE {
            self.identity.announced();
        }
    }

    /// An issuer that is not ours to renew, and was not renewed in time.
    fn ends_soon(&self, now: u64) -> Result<(), Problem> {
        let Some(kept) = self.identity.kept().filter(|kept| !kept.has_root_key()) else { return Ok(()) };
        let (begin, end) = (kept.issuer_not_before(), kept.issuer_not_after());
        if now < begin.saturating_add(end.saturating_sub(begin) / 100 * RENEWED_BY) {
            return Ok(());
        }
        let cause = format!(
            "the issuer ends at {}, and the root's key is not here: sign a new issuer where that key is kept, and put it \
             there; no restart is needed",
            date(end)
        );
        Err(self.problem(&cause, "it serves to its end; then no certificate can be issued"))
    }

    fn terms(&self) -> Terms {
        self.store.terms(self.identity.leaf_lifetime)
    }

    fn unusable(&self, error: lacewing_identity::Error) -> StoreError {
        let way_out = "see the log of the controller".to_owned();
        StoreError::Unusable { place: self.store.place(), error, way_out }
    }

    fn problem(&self, cause: &dyn std::fmt::Display, in_force: &str) -> Problem {
        let (place, in_force) = (self.store.place(), in_force.to_owned());
        Problem { place, cause: cause.to_string(), way_out: None, in_force }
    }

    fn wrong(&self, error: &StoreError) -> Problem {
        let in_force = if self.identity.kept().is_some() { LAST_GOOD } else { "no certificate can be issued" };
        let (place, cause, way_out) = match error {
            StoreError::File { path, error } => (path.display().to_string(), error.to_string(), None),
            StoreError::Unusable { place, error, way_out } => (place.clone(), error.to_string(), Some(way_out.clone())),
            StoreError::Api { place, why } => (place.clone(), why.clone(), None),
        };
        Problem { place, cause, way_out, in_force: in_force.to_owned() }
    }
}

#[cfg(test)]
mod tests;

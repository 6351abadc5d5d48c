//! Owns what the controller proves and signs with: the trust that is in force, its own certificate, and the webhook's.
//!
//! [`trust`] decides what is in force of what is kept, [`store`] is where that is kept (a file, or a Secret), and
//! [`keeper`] is the one task that looks, renews and writes. Who may have which name is decided by `tokens`; the rules of
//! requests and certificates are `lacewing_identity`'s. What is wrong never ends what serves: it is listed.

mod injector;
pub mod keeper;
pub mod secrets;
pub mod store;
pub mod trust;

use std::{collections::BTreeMap, sync::Arc};

use lacewing_identity::{
    Authority, ClientAuth, Issued, Leaf, SpiffeId, TrustBundle, TrustDomain, authority::rotation::Phase, tls,
};
use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use serde::Serialize;

use trust::{Previous, Trust};

/// Namespace and service account of the controller itself, as proxies expect them.
pub const OWN_NAMESPACE: &str = "lacewing";
pub const OWN_SERVICE_ACCOUNT: &str = "lacewing-controller";
/// What is spoken on the gRPC port.
const ALPN: &[&[u8]] = &[b"h2"];
/// What is spoken on the webhook's port.
const WEBHOOK_ALPN: &[&[u8]] = &[b"http/1.1"];

/// Something that may be wrong, each listed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Matter {
    /// Reading what is kept.
    Kept,
    /// Changing issuer or root.
    Rotation,
    /// An issuer that nobody here can renew, and that ends soon.
    Issuer,
    /// The roots that were kept before.
    Previous,
    /// The controller's own certificates.
    Own,
    /// The registration of the webhook.
    Injector,
    /// The public half, where starters of proxies find it.
    Public,
}

/// What metrics show of trust; times in unix seconds.
#[derive(Debug, Clone, Copy)]
pub struct Levels {
    pub issuer_not_after: u64,
    pub root_not_after: u64,
    pub phase: Phase,
}

/// The trust root, and the controller's own certificates.
pub struct Identity {
    trust_domain: TrustDomain,
    own_id: SpiffeId,
    /// Where the trust root is kept, for messages.
    place: String,
    /// The DNS name under which the API server calls the webhook; none where there is no webhook.
    webhook_name: Option<String>,
    /// In seconds.
    leaf_lifetime: u64,
    state: RwLock<State>,
    problems: Mutex<BTreeMap<Matter, Problem>>,
}

#[derive(Default)]
struct State {
    trust: Option<Trust>,
    own: Option<Own>,
    webhook: Option<Webhook>,
    /// The API server knows the root of the webhook's certificate, or is no longer waited for. Never taken back: a
    /// registration that vanishes later is no reason not to serve those who are meshed.
    announced: bool,
}

/// The controller's own certificate in use.
struct Own {
    leaf: Leaf,
    by: Arc<Authority>,
    bundle: TrustBundle,
    tls: Arc<ServerConfig>,
    /// Unix seconds.
    renew_at: u64,
}

/// The webhook's certificate in use.
struct Webhook {
    by: Arc<Authority>,
    tls: Arc<ServerConfig>,
    /// Unix seconds.
    renew_at: u64,
    begin: u64,
}

impl Identity {
    /// Nothing is in force before the first [`Identity::keep`]. `leaf_lifetime` in seconds; `place`: where the trust root
    /// is kept, for messages; `webhook_name`: the webhook's DNS name, if there is one.
    ///
    /// # Errors
    /// The trust domain is so long that no certificate can carry our name.
    pub fn new(
        trust_domain: &TrustDomain,
        leaf_lifetime: u64,
        place: String,
        webhook_name: Option<String>,
    ) -> Result<Self, lacewing_identity::Error> {
        Ok(Self {
            trust_domain: trust_domain.clone(),
            own_id: SpiffeId::new(trust_domain, OWN_NAMESPACE, OWN_SERVICE_ACCOUNT)?,
            place,
            webhook_name,
            leaf_lifetime,
            state: RwLock::default(),
            problems: Mutex::default(),
        })
    }

    /// The roots that everybody should trust; nothing before the trust root was read.
    pub fn bundle(&self) -> Option<TrustBundle> {
        self.state.read().trust.as_ref().map(|trust| trust.bundle().clone())
    }

    /// The identity of a service account in our trust domain.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn name(&self, namespace: &str, service_account: &str) -> Result<SpiffeId, lacewing_identity::Error> {
        SpiffeId::new(&self.trust_domain, namespace, service_account)
    }

    /// Signs a certificate for `id` and the key of `csr`, from `now` (unix seconds) on. With it comes what its holder
    /// should trust.
    ///
    /// # Errors
    /// The request is refused, or nothing can be signed.
    pub fn issue(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        now: u64,
    ) -> Result<(Issued, TrustBundle), lacewing_identity::Error> {
        let (signing, bundle) = match &self.state.read().trust {
            Some(trust) => (trust.signing().clone(), trust.bundle().clone()),
            None => return Err(lacewing_identity::Error::Authority("the trust root has not been read yet".into())),
        };
        Ok((signing.issue(csr, id, now, self.leaf_lifetime)?, bundle))
    }

    /// The TLS configuration with our own certificate; none before there is one.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.state.read().own.as_ref().map(|own| own.tls.clone())
    }

    /// The TLS configuration of the webhook: to be asked for at each connection, since it changes. None before the trust
    /// root was read.
    pub fn webhook_tls(&self) -> Option<Arc<ServerConfig>> {
        self.state.read().webhook.as_ref().map(|webhook| webhook.tls.clone())
    }

    /// Why connections would fail at `now` (unix seconds); nothing if all is well.
    pub fn unready(&self, now: u64) -> Option<String> {
        let state = self.state.read();
        let why = |matter| self.problems.lock().get(&matter).map_or_else(String::new, |problem| format!(": {problem}"));
        let Some(trust) = &state.trust else {
            return Some(format!("the trust root has not been read yet{}", why(Matter::Kept)));
        };
        let Some(own) = &state.own else {
            return Some(format!("the controller has no certificate yet{}", why(Matter::Own)));
        };
        let (begin, end) = (own.leaf.not_before(), own.leaf.not_after());
        let issuer_begin = trust.signing().issuer_not_before();
        if end <= now {
            let ago = now - end;
            Some(format!("the controller's certificate expired {ago} s ago and could not be renewed; see its log"))
        } else if begin > now {
            let left = begin - now;
            Some(format!("the controller's certificate begins only in {left} s; was the clock set back?"))
        } else if issuer_begin > now {
            let (place, left) = (&self.place, issuer_begin - now);
            Some(format!("the issuer in {place} begins only in {left} s; is this machine's clock right?"))
        } else if self.webhook_name.is_some() && !state.announced {
            let why = why(Matter::Injector);
            Some(format!("the API server does not know the root of the webhook's certificate yet{why}"))
        } else {
            None
        }
    }

    /// What metrics show; nothing before the trust root was read.
    pub fn levels(&self) -> Option<Levels> {
        let state = self.state.read();
        let trust = state.trust.as_ref()?;
        let signing = trust.signing();
        Some(Levels {
            issuer_not_after: signing.issuer_not_after(),
            root_not_after: signing.root_not_after(),
            phase: trust.phase(),
        })
    }

    /// What is wrong now.
    pub fn problems(&self) -> BTreeMap<Matter, Problem> {
        self.problems.lock().clone()
    }

    /// Notes what is wrong with a matter, or that nothing is; says so when it is news.
    fn note(&self, matter: Matter, outcome: Result<(), Problem>) {
        let mut problems = self.problems.lock();
        let Err(problem) = outcome else {
            if problems.remove(&matter).is_some() {
                tracing::info!(?matter, "mended");
            }
            return;
        };
        if problems.get(&matter) != Some(&problem) {
            tracing::error!("{problem}");
            problems.insert(matter, problem);
        }
    }

    fn kept(&self) -> Option<Arc<Authority>> {
        self.state.read().trust.as_ref().map(|trust| trust.kept().clone())
    }

    fn previous(&self) -> Option<Previous> {
        self.state.read().trust.as_ref().and_then(|trust| trust.previous().cloned())
    }

    /// Takes what was read at the start.
    fn begin(&self, trust: Trust) {
        self.state.write().trust = Some(trust);
    }

    /// Takes what is kept at `now` (unix seconds).
    fn keep(&self, kept: Authority, now: u64) {
        if let Some(trust) = &mut self.state.write().trust {
            trust.keep(kept, now);
        }
    }

    /// Whether being ready waits no longer for the API server to know the webhook's root.
    fn is_announced(&self) -> bool {
        self.webhook_name.is_none() || self.state.read().announced
    }

    fn announced(&self) {
        self.state.write().announced = true;
    }

    /// Moves on with time, and says what is in force if that changed.
    fn settle(&self, now: u64, applied: bool) {
        if let Some(trust) = &mut self.state.write().trust {
            let before = trust.signing().clone();
            trust.settle(now, applied);
            if !trust.signing().has_issuer_of(&before) {
                tracing::info!(not_after = trust.signing().issuer_not_after(), "another issuer signs from now on");
            }
        }
    }

    /// Renews our own certificates if they are due at `now` (unix seconds), or if issuer or roots have changed.
    /// `jitter`, from 0 to 1, spreads the replicas' renewals.
    ///
    /// # Errors
    /// What could not be renewed; what is there stays in use.
    fn renew_if_due(&self, now: u64, jitter: f64) -> Result<(), lacewing_identity::Error> {
        let mut state = self.state.write();
        let State { trust: Some(trust), own, webhook, .. } = &mut *state else { return Ok(()) };
        let (signing, bundle) = (trust.signing(), trust.bundle());
        // A certificate of the future is one from before the clock was set back.
        let is_good =
            |own: &&mut Own| own.renew_at > now && own.leaf.not_before() <= now && own.by.has_issuer_of(signing);
        match own.as_mut().filter(is_good) {
            Some(own) if own.bundle == *bundle => {}
            Some(own) => {
                own.tls = server(&own.leaf, bundle)?;
                own.bundle = bundle.clone();
            }
            None => {
                let leaf = signing.issue_own(&self.own_id, now, self.leaf_lifetime)?;
                let (tls, renew_at) = (server(&leaf, bundle)?, leaf.renew_at(jitter));
                tracing::info!(id = %self.own_id, not_after = leaf.not_after(), "issued the controller's own certificate");
                *own = Some(Own { leaf, by: signing.clone(), bundle: bundle.clone(), tls, renew_at });
            }
        }
        let is_good =
            |webhook: &Webhook| webhook.renew_at > now && webhook.begin <= now && webhook.by.has_issuer_of(signing);
        if let Some(name) = &self.webhook_name
            && !webhook.as_ref().is_some_and(is_good)
        {
            let certificate = signing.issue_server(name, now, self.leaf_lifetime)?;
            let (tls, renew_at) = (certificate.tls(WEBHOOK_ALPN)?, certificate.renew_at(jitter));
            *webhook = Some(Webhook { by: signing.clone(), tls, renew_at, begin: now });
        }
        Ok(())
    }
}

/// What is wrong with trust. Served at the admin port's `/errors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The Secret, the file, or another object.
    pub place: String,
    pub cause: String,
    /// The commands that mend it, where the cause does not say it all.
    pub way_out: Option<String>,
    /// What the mesh acts on until it is mended.
    pub in_force: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; ", self.place, self.cause)?;
        if let Some(way_out) = &self.way_out {
            write!(f, "{way_out}; ")?;
        }
        f.write_str(&self.in_force)
    }
}

/// Callers of `Certify` have no certificate yet, so one is asked for but not required; `Watch` checks.
fn server(leaf: &Leaf, bundle: &TrustBundle) -> Result<Arc<ServerConfig>, lacewing_identity::Error> {
    tls::server_config(leaf, bundle, ClientAuth::Optional, ALPN)
}

#[cfg(test)]
mod tests;

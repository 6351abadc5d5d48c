//! Owns the trust root and what the controller does with it: signs workloads' certificates, and holds its own.
//!
//! The root and issuer are made at first start, where making the file is the lock; they live in the state directory,
//! readable by the owner only. Who may have which name is decided by `tokens`; the rules of requests and certificates
//! are `lacewing_identity`'s.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lacewing_identity::{Authority, ClientAuth, Issued, SpiffeId, TrustBundle, TrustDomain, tls};
use parking_lot::RwLock;
use rustls::ServerConfig;
use time::OffsetDateTime;

use crate::files;

/// The signing half: certificates and private keys.
const AUTHORITY_FILE: &str = "authority.pem";
/// The public half, for whoever starts proxies.
const BUNDLE_FILE: &str = "root.pem";
/// Namespace and service account of the controller itself, as proxies expect them.
pub const OWN_NAMESPACE: &str = "lacewing";
pub const OWN_SERVICE_ACCOUNT: &str = "lacewing-controller";
/// What is spoken on the gRPC port.
const ALPN: &[&[u8]] = &[b"h2"];

/// Why the controller has no identity to give or to show.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{}: {error}; the trust root lives there, see LACEWING_STATE_DIR", path.display())]
    File {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{}: {error}; restore it, or remove it for a new root (all proxies must then start anew)", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        error: lacewing_identity::Error,
    },
    #[error(transparent)]
    Issue(#[from] lacewing_identity::Error),
}

/// The trust root, and the controller's own certificate.
pub struct Identity {
    authority_path: PathBuf,
    own_id: SpiffeId,
    /// In seconds.
    leaf_lifetime: u64,
    authority: RwLock<Arc<Authority>>,
    own: RwLock<Option<Own>>,
    /// Without it the issuer is renewed elsewhere.
    has_root_key: bool,
    /// It was said that the issuer is to be renewed elsewhere.
    warned: AtomicBool,
}

/// The controller's own certificate in use.
struct Own {
    tls: Arc<ServerConfig>,
    /// Unix seconds.
    renew_at: u64,
    not_before: u64,
    not_after: u64,
}

impl Identity {
    /// Reads the trust root from the state directory, or makes one at `now` (unix seconds).
    ///
    /// # Errors
    /// The directory or its files cannot be used.
    pub fn open(
        state_dir: &Path,
        trust_domain: &TrustDomain,
        leaf_lifetime: u64,
        now: u64,
    ) -> Result<Self, IdentityError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |error| IdentityError::File { path, error }
        };
        files::private_directory(state_dir).map_err(file(state_dir))?;
        let path = state_dir.join(AUTHORITY_FILE);
        if !path.try_exists().map_err(file(&path))? {
            let fresh = Authority::generate(trust_domain, now)?;
            if files::create_new(&path, fresh.to_pem().as_bytes()).map_err(file(&path))? {
                tracing::info!(%trust_domain, file = %path.display(), "made a new trust root");
            }
        }
        // Whoever made the file: from here on, what is in it counts.
        let text = fs::read_to_string(&path).map_err(file(&path))?;
        let authority = Authority::from_pem(trust_domain, &text)
            .map_err(|error| IdentityError::Authority { path: path.clone(), error })?;
        let bundle = state_dir.join(BUNDLE_FILE);
        files::replace_unflushed(&bundle, authority.bundle().to_pem().as_bytes()).map_err(file(&bundle))?;
        let has_root_key = has_root_key(&authority);
        Ok(Self {
            authority_path: path,
            own_id: SpiffeId::new(trust_domain, OWN_NAMESPACE, OWN_SERVICE_ACCOUNT)?,
            leaf_lifetime,
            authority: RwLock::new(Arc::new(authority)),
            own: RwLock::new(None),
            has_root_key,
            warned: AtomicBool::new(false),
        })
    }

    /// The roots that everybody should trust.
    pub fn bundle(&self) -> TrustBundle {
        self.authority.read().bundle().clone()
    }

    /// The identity of a service account in our trust domain.
    ///
    /// # Errors
    /// A name that no certificate can carry.
    pub fn name(&self, namespace: &str, service_account: &str) -> Result<SpiffeId, lacewing_identity::Error> {
        SpiffeId::new(self.authority.read().trust_domain(), namespace, service_account)
    }

    /// Signs a certificate for `id` and the key of `csr`, from `now` (unix seconds) on.
    ///
    /// # Errors
    /// The request is refused, or nothing can be signed.
    pub fn issue(&self, csr: &[u8], id: &SpiffeId, now: u64) -> Result<Issued, lacewing_identity::Error> {
        let authority = self.authority.read().clone();
        authority.issue(csr, id, now, self.leaf_lifetime)
    }

    /// The TLS configuration with our own certificate; none before there is one.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.own.read().as_ref().map(|own| own.tls.clone())
    }

    /// Why connections would fail at `now` (unix seconds); nothing if all is well.
    pub fn unready(&self, now: u64) -> Option<String> {
        match &*self.own.read() {
            None => Some("the controller has no certificate yet".to_owned()),
            Some(own) if own.not_after <= now => Some(format!(
                "the controller's certificate expired {} s ago and could not be renewed; see its log",
                now - own.not_after
            )),
            Some(own) if own.not_before > now => Some(format!(
                "the controller's certificate begins only in {} s; was the clock set back?",
                own.not_before - now
            )),
            Some(_) => self.begins_later(now),
        }
    }

    /// Why nobody would take what the issuer signs, if it begins only after `now`.
    fn begins_later(&self, now: u64) -> Option<String> {
        let begin = issuer_not_before(&self.authority.read());
        (begin > now).then(|| {
            let path = self.authority_path.display();
            format!("the issuer in {path} begins only in {} s; is this machine's clock right?", begin - now)
        })
    }

    /// Renews the issuer and our own certificate if they are due at `now` (unix seconds), and says when to ask again.
    /// `jitter`, from 0 to 1, spreads the replicas' renewals.
    ///
    /// # Errors
    /// What could not be renewed; what is there stays in use.
    pub fn renew_if_due(&self, now: u64, jitter: f64) -> Result<u64, IdentityError> {
        let issuer = if self.issuer_due(now) { self.renew_issuer(now) } else { Ok(()) };
        // A certificate of the future is one from before the clock was set back.
        let due = self.own.read().as_ref().is_none_or(|own| own.renew_at <= now || own.not_before > now);
        if due {
            self.renew_own(now, jitter)?;
        }
        // Our own certificate matters more than the issuer's renewal, which has half a year to succeed.
        issuer?;
        let own = self.own.read().as_ref().map_or(now, |own| own.renew_at);
        Ok(if self.has_root_key { own.min(self.authority.read().issuer_renew_at()) } else { own })
    }

    /// Whether the issuer should be renewed at `now`. Without the root's key that is the operator's work, who is told.
    fn issuer_due(&self, now: u64) -> bool {
        let (due, end) = {
            let authority = self.authority.read();
            (authority.issuer_renew_at() <= now || issuer_not_before(&authority) > now, authority.issuer_not_after())
        };
        if due && !self.has_root_key && !self.warned.swap(true, Ordering::Relaxed) {
            let end = i64::try_from(end).ok().and_then(|end| OffsetDateTime::from_unix_timestamp(end).ok());
            let end = end.map_or_else(|| "a time beyond all calendars".to_owned(), |end| end.date().to_string());
            tracing::warn!(
                file = %self.authority_path.display(), %end,
                "the issuer is due for renewal, but the root's key is not here: sign a new issuer where that key is \
                 kept, put it into the file before the end, and restart"
            );
        }
        due && self.has_root_key
    }

    fn renew_issuer(&self, now: u64) -> Result<(), IdentityError> {
        let renewed = self.authority.read().renewed(now)?;
        files::replace(&self.authority_path, renewed.to_pem().as_bytes())
            .map_err(|error| IdentityError::File { path: self.authority_path.clone(), error })?;
        *self.authority.write() = Arc::new(renewed);
        tracing::info!("renewed the issuer");
        Ok(())
    }

    fn renew_own(&self, now: u64, jitter: f64) -> Result<(), IdentityError> {
        let authority = self.authority.read().clone();
        let leaf = authority.issue_own(&self.own_id, now, self.leaf_lifetime)?;
        // Callers of `Certify` have no certificate yet, so one is asked for but not required; `Watch` checks.
        let tls = tls::server_config(&leaf, authority.bundle(), ClientAuth::Optional, ALPN)?;
        *self.own.write() = Some(Own {
            tls,
            renew_at: leaf.renew_at(jitter),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
        });
        tracing::info!(id = %self.own_id, not_after = leaf.not_after(), "issued the controller's own certificate");
        Ok(())
    }
}

/// The root's key is there if a key beside the issuer's is.
fn has_root_key(authority: &Authority) -> bool {
    let text = authority.to_pem();
    text.lines().filter(|line| line.starts_with("-----BEGIN") && line.ends_with("PRIVATE KEY-----")).count() > 1
}

/// When the issuer begins, in unix seconds, to one second: its renewal is due half-way from there to its end.
fn issuer_not_before(authority: &Authority) -> u64 {
    let (middle, end) = (authority.issuer_renew_at(), authority.issuer_not_after());
    middle.saturating_sub(end.saturating_sub(middle))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use lacewing_identity::KeyAndCsr;

    use super::*;
    use crate::source::directory::tests::TempDir;

    const NOW: u64 = 1_795_300_000;
    const DAY: u64 = 86_400;

    fn open(temp: &TempDir) -> Identity {
        Identity::open(&temp.0.join("state"), &TrustDomain::parse("cluster.local").unwrap(), DAY, NOW).unwrap()
    }

    #[test]
    fn the_root_is_made_once_and_kept_privately() {
        let temp = TempDir::new();
        let (first, second) = (open(&temp), open(&temp));
        assert_eq!(first.bundle().certificates(), second.bundle().certificates());
        let state = temp.0.join("state");
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        for file in fs::read_dir(&state).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let public = fs::read_to_string(state.join(BUNDLE_FILE)).unwrap();
        assert!(!public.contains("PRIVATE") && TrustBundle::from_pem(&public).is_ok());
    }

    #[test]
    fn a_damaged_root_is_never_replaced_in_silence() {
        let temp = TempDir::new();
        open(&temp);
        let path = temp.0.join("state").join(AUTHORITY_FILE);
        fs::write(&path, "nonsense").unwrap();
        let again = Identity::open(&temp.0.join("state"), &TrustDomain::parse("cluster.local").unwrap(), DAY, NOW);
        let error = again.err().unwrap().to_string();
        assert!(error.contains(AUTHORITY_FILE) && error.contains("remove it"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    }

    #[test]
    fn the_own_certificate_is_there_on_demand_and_renewed_in_time() {
        let temp = TempDir::new();
        let identity = open(&temp);
        assert!(identity.tls().is_none() && identity.unready(NOW).unwrap().contains("no certificate"));
        let next = identity.renew_if_due(NOW, 0.0).unwrap();
        assert!((NOW + DAY * 49 / 100..NOW + DAY * 51 / 100).contains(&next), "{}", next - NOW);
        let first = identity.tls().unwrap();
        assert_eq!(identity.renew_if_due(next - 1, 0.0).unwrap(), next);
        assert!(Arc::ptr_eq(&identity.tls().unwrap(), &first));
        identity.renew_if_due(next, 1.0).unwrap();
        assert!(!Arc::ptr_eq(&identity.tls().unwrap(), &first));
        assert_eq!(identity.unready(next), None);
        assert!(identity.unready(next + 2 * DAY).unwrap().contains("expired"));
    }

    /// An authority as an operator leaves it who keeps the root's key elsewhere.
    fn without_root_key(temp: &TempDir) -> Identity {
        open(temp);
        let path = temp.0.join("state").join(AUTHORITY_FILE);
        let text = fs::read_to_string(&path).unwrap();
        let sections: Vec<&str> = text.split_inclusive("-----END PRIVATE KEY-----\n").collect();
        assert_eq!(sections.len(), 2, "root's certificate and key, issuer's certificate and key");
        let root = sections[0].split("-----BEGIN PRIVATE KEY-----").next().unwrap();
        fs::write(&path, format!("{root}{}", sections[1])).unwrap();
        open(temp)
    }

    #[test]
    fn without_the_roots_key_the_issuer_serves_to_its_end() {
        let temp = TempDir::new();
        let identity = without_root_key(&temp);
        let before = fs::read_to_string(temp.0.join("state").join(AUTHORITY_FILE)).unwrap();
        let late = NOW + 300 * DAY;
        let next = identity.renew_if_due(late, 0.0).unwrap();
        assert!(next > late, "the next renewal is that of the own certificate");
        assert!(identity.warned.load(Ordering::Relaxed) && identity.unready(late).is_none());
        assert_eq!(fs::read_to_string(temp.0.join("state").join(AUTHORITY_FILE)).unwrap(), before);
        assert!(identity.renew_if_due(NOW + 400 * DAY, 0.0).is_err(), "an own certificate needs a living issuer");
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed() {
        let temp = TempDir::new();
        let identity = open(&temp);
        identity.renew_if_due(NOW + 2 * DAY, 0.0).unwrap();
        let first = identity.tls().unwrap();
        assert!(identity.unready(NOW).unwrap().contains("clock set back"));
        identity.renew_if_due(NOW, 0.0).unwrap();
        assert!(!Arc::ptr_eq(&identity.tls().unwrap(), &first));
        assert_eq!(identity.unready(NOW), None);
        // Hours before the root was made are within what root and issuer allow for.
        identity.renew_if_due(NOW - DAY / 2, 0.0).unwrap();
        assert_eq!(identity.unready(NOW - DAY / 2), None);
    }

    #[test]
    fn an_issuer_of_the_future_is_reported_or_replaced() {
        let temp = TempDir::new();
        let (early, identity) = (NOW - 9 * DAY, without_root_key(&temp));
        identity.renew_if_due(early, 0.0).unwrap();
        let why = identity.unready(early).unwrap();
        assert!(why.contains("issuer") && why.contains(AUTHORITY_FILE), "{why}");
        let temp = TempDir::new();
        let identity = open(&temp);
        identity.renew_if_due(early, 0.0).unwrap();
        assert_eq!(identity.unready(early), None);
    }

    #[test]
    fn the_issuer_is_renewed_and_survives_a_restart() {
        let temp = TempDir::new();
        let identity = open(&temp);
        identity.renew_if_due(NOW + 300 * DAY, 0.5).unwrap();
        let (_, csr) = KeyAndCsr::generate().unwrap();
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/web").unwrap();
        // After the end of the first issuer's life.
        let issued = identity.issue(&csr, &id, NOW + 400 * DAY).unwrap();
        assert!(issued.not_after > NOW + 400 * DAY);
        assert_eq!(issued.chain[1], open(&temp).issue(&csr, &id, NOW + 400 * DAY).unwrap().chain[1]);
    }
}

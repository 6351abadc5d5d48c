//! Owns the signing half: a root (ECDSA P-256, 10 years) and an issuer below it (1 year, may sign leaves only).
//! Refuses to sign what a request asks for: from a request it takes the public key, the name is its caller's, read
//! from an authenticated token. It keeps the root's key, so that the issuer can be renewed without a new root; an
//! operator may leave that key out, and then renews the issuer himself. `authority/request.rs` reads requests,
//! `authority/parts.rs` reads and writes what is kept, `authority/rotation.rs` says when issuer and root change.

mod parts;
mod request;
pub mod rotation;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;
use webpki::EndEntityCert;

pub use parts::SecretParts;
pub use request::MAX_CSR;

use crate::leaf::MAX_CHAIN;
use crate::svid::{Validity, validity};
use crate::{Error, Leaf, ServerCertificate, SpiffeId, TrustBundle, TrustDomain, pem, svid, tls};

/// How long before "now" a leaf starts to hold, in seconds: clocks of nodes differ a little.
pub const BACKDATE: u64 = 60;
/// How long before "now" a root and an issuer start to hold, in seconds: a clock that is set right by some hours after
/// they were made must not put their begin into the future.
pub const CA_BACKDATE: u64 = DAY;
/// Life of a root, in seconds (10 years).
pub const ROOT_LIFETIME: u64 = 3650 * DAY;
/// Life of an issuer, in seconds (1 year).
pub const ISSUER_LIFETIME: u64 = 365 * DAY;
/// Longest life of a leaf, in seconds. Nothing revokes a leaf, so it must end by itself soon.
pub const MAX_LEAF_LIFETIME: u64 = 30 * DAY;

const DAY: u64 = 24 * 60 * 60;

/// The roots to trust, and the issuer that signs leaves under the first of them.
pub struct Authority {
    trust_domain: TrustDomain,
    /// The first root is the one above the issuer; what else is there is on its way in or out.
    bundle: TrustBundle,
    /// Missing if the operator keeps it elsewhere.
    root_key: Option<RootKey>,
    issuer: Issuer<'static, KeyPair>,
    issuer_key: PrivateKeyDer<'static>,
    /// The issuer's certificate, then what lies between it and the root.
    chain: Vec<CertificateDer<'static>>,
    /// When the issuer, and everything above it, holds.
    validity: Validity,
}

/// The key of one root, and which.
struct RootKey {
    root: usize,
    key: PrivateKeyDer<'static>,
}

/// A signed leaf: DER, leaf first, and its dates in unix seconds.
#[derive(Clone, Debug)]
pub struct Issued {
    pub chain: Vec<Vec<u8>>,
    pub not_before: u64,
    pub not_after: u64,
}

impl Authority {
    /// A new root and issuer for the trust domain, starting `now` (unix seconds).
    pub fn generate(trust_domain: &TrustDomain, now: u64) -> Result<Self, Error> {
        let (root, key) = new_root(trust_domain, now)?;
        Self::with_new_issuer(trust_domain, vec![root], key, now)
    }

    /// The root certificates, as clients of the mesh need them; the one above the issuer first.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Without the root's key, issuer and root are renewed by whoever keeps it.
    pub fn has_root_key(&self) -> bool {
        self.root_key.is_some()
    }

    /// Whether both sign with the same issuer's certificate.
    pub fn has_issuer_of(&self, other: &Self) -> bool {
        self.chain[0] == other.chain[0]
    }

    /// When the issuer begins, in unix seconds.
    pub fn issuer_not_before(&self) -> u64 {
        self.validity.not_before
    }

    /// When the issuer ends, in unix seconds. No leaf outlives it.
    pub fn issuer_not_after(&self) -> u64 {
        self.validity.not_after
    }

    /// When the root above the issuer ends, in unix seconds.
    pub fn root_not_after(&self) -> u64 {
        validity(&self.bundle.certificates()[0]).map_or(0, |root| root.not_after)
    }

    /// When to call [`Authority::renewed`], in unix seconds: at half of the issuer's life.
    pub fn issuer_renew_at(&self) -> u64 {
        self.validity.not_before.midpoint(self.validity.not_after)
    }

    /// The same root with a new issuer, starting `now` (unix seconds). Leaves of the old issuer stay good.
    pub fn renewed(&self, now: u64) -> Result<Self, Error> {
        let key = self.root_key.as_ref().filter(|key| key.root == 0).ok_or_else(|| {
            Error::Authority("the root's key is not here; renew the issuer where the root's key is kept".into())
        })?;
        Self::with_new_issuer(&self.trust_domain, self.bundle.certificates().to_vec(), key.key.clone_key(), now)
    }

    /// Signs a leaf for `id` and the key in `csr` (DER, RFC 2986), starting `now` (unix seconds, backdated by
    /// [`BACKDATE`]) for `lifetime` seconds, shortened to the issuer's end. Refuses requests that ask for anything.
    pub fn issue(&self, csr: &[u8], id: &SpiffeId, now: u64, lifetime: u64) -> Result<Issued, Error> {
        self.sign(&request::verify(csr)?, id, now, lifetime)
    }

    /// A leaf with a fresh key, for the process that holds the authority.
    pub fn issue_own(&self, id: &SpiffeId, now: u64, lifetime: u64) -> Result<Leaf, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issued = self.sign(&key, id, now, lifetime)?;
        Leaf::new(issued.chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    /// A certificate for a TLS server that is no workload, known to its clients by a DNS name (RFC 6125): the webhook,
    /// as the API server calls it. It carries no SPIFFE ID and may not be a client, so no peer takes it for an identity.
    pub fn issue_server(&self, dns_name: &str, now: u64, lifetime: u64) -> Result<ServerCertificate, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let names = vec![SanType::DnsName(Ia5String::try_from(dns_name)?)];
        let issued = self.sign_for(&key, names, &[ExtendedKeyUsagePurpose::ServerAuth], now, lifetime)?;
        ServerCertificate::new(issued, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn sign(&self, key: &impl PublicKeyData, id: &SpiffeId, now: u64, lifetime: u64) -> Result<Issued, Error> {
        if !id.is_in(&self.trust_domain) {
            return Err(Error::Authority(format!("{id} is not in the trust domain {}", self.trust_domain)));
        }
        let names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_for(key, names, &usages, now, lifetime)
    }

    fn sign_for(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
        now: u64,
        lifetime: u64,
    ) -> Result<Issued, Error> {
        if lifetime == 0 || lifetime > MAX_LEAF_LIFETIME {
            return Err(Error::Authority(format!("a leaf must live 1 to {MAX_LEAF_LIFETIME} seconds, not {lifetime}")));
        }
        let dates = Validity {
            not_before: now.saturating_sub(BACKDATE),
            not_after: now.saturating_add(lifetime).min(self.validity.not_after),
        };
        if dates.not_after <= now {
            return Err(Error::Authority(format!(
                "the issuer ended at {} (unix seconds); it was not renewed in time",
                self.validity.not_after
            )));
        }
        let mut params = params(dates)?;
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer)?;
        let chain = [leaf.der()].into_iter().chain(&self.chain).map(|certificate| certificate.to_vec()).collect();
        Ok(Issued { chain, not_before: dates.not_before, not_after: dates.not_after })
    }

    /// A new issuer under the first of `roots`, whose key is `root_key`.
    fn with_new_issuer(
        trust_domain: &TrustDomain,
        roots: Vec<CertificateDer<'static>>,
        root_key: PrivateKeyDer<'static>,
        now: u64,
    ) -> Result<Self, Error> {
        let root = roots.first().ok_or_else(|| Error::Authority("there is no root".into()))?;
        let mut dates = lifetime(now, ISSUER_LIFETIME);
        dates.not_after = dates.not_after.min(dates_of(root)?.not_after);
        if dates.not_after <= now {
            return Err(Error::Authority("the trust root has ended; a new root is needed".into()));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params(trust_domain, "issuer", BasicConstraints::Constrained(0), dates)?;
        params.use_authority_key_identifier_extension = true;
        let signer = Issuer::from_ca_cert_der(root, KeyPair::try_from(&root_key)?)?;
        let chain = vec![CertificateDer::from(params.signed_by(&key, &signer)?)];
        let issuer_key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Self::assemble(trust_domain, roots, &chain, issuer_key, Some(root_key))
    }

    /// Puts the parts together and checks that they fit: a trial leaf is signed and verified under each of the roots,
    /// so that what does not fit fails here and not at the first handshake. The root that is above the issuer goes first.
    fn assemble(
        trust_domain: &TrustDomain,
        mut roots: Vec<CertificateDer<'static>>,
        chain: &[CertificateDer<'static>],
        issuer_key: PrivateKeyDer<'static>,
        root_key: Option<PrivateKeyDer<'static>>,
    ) -> Result<Self, Error> {
        let issuer = chain.first().ok_or_else(|| Error::Authority("the issuer's certificate is missing".into()))?;
        if chain.len() >= MAX_CHAIN {
            return Err(Error::Authority(format!("the issuer's chain is longer than {}", MAX_CHAIN - 1)));
        }
        for certificate in roots.iter().chain(chain) {
            check_domain(certificate, trust_domain)?;
        }
        svid::check_issuer(issuer).map_err(|why| Error::Authority(format!("the issuer's certificate {why}")))?;
        let key = KeyPair::try_from(&issuer_key)?;
        if key.subject_public_key_info() != public_key(issuer)? {
            return Err(Error::Authority("the issuer's key does not belong to the issuer's certificate".into()));
        }
        let mut validity = dates_of(issuer)?;
        for certificate in chain {
            validity = validity.within(dates_of(certificate)?);
        }
        let signer = Issuer::from_ca_cert_der(issuer, key)?;
        // A certificate that everybody has need not be sent: an issuer may be a root itself.
        let sent = chain.iter().enumerate().filter(|(at, certificate)| *at == 0 || !roots.contains(certificate));
        let chain = sent.map(|(_, certificate)| certificate.clone()).collect();
        let bundle = TrustBundle::from_der(roots.iter().map(|root| root.to_vec()))?;
        let trust_domain = trust_domain.clone();
        let mut authority = Self { trust_domain, bundle, root_key: None, issuer: signer, issuer_key, chain, validity };
        let above = authority.root_above(&roots)?;
        roots[..=above].rotate_right(1);
        // Peers take a root as it is, from when on it holds does not matter to them; but nothing should outlive it.
        authority.validity.not_after = validity.not_after.min(dates_of(&roots[0])?.not_after);
        authority.bundle = TrustBundle::from_der(roots.iter().map(|root| root.to_vec()))?;
        if let Some(key) = root_key {
            authority.root_key = Some(RootKey { root: owner(&key, &roots)?, key });
        }
        Ok(authority)
    }

    /// That the issuer may name DNS servers: the API server verifies the webhook's name, and an issuer with name
    /// constraints could make certificates that nobody accepts.
    fn check_server_names(&self) -> Result<(), Error> {
        let now = self.validity.not_before.saturating_add(BACKDATE);
        let trial = self.issue_server("trial.trial.svc", now, 1)?;
        tls::verify_server_chain(self.bundle.anchors(), trial.chain(), at(now))
            .map_err(|error| Error::Authority(format!("the issuer cannot sign the webhook's certificate ({error})")))
    }

    /// Which of the roots a peer finds above a leaf of this issuer, at a time when the issuer holds.
    fn root_above(&self, roots: &[CertificateDer<'static>]) -> Result<usize, Error> {
        let now = self.validity.not_before.saturating_add(BACKDATE);
        let id = SpiffeId::new(&self.trust_domain, "trial", "trial")?;
        let leaf = self.issue_own(&id, now, 1)?;
        let mut why = None;
        for (index, root) in roots.iter().enumerate() {
            let bundle = TrustBundle::from_der([root.to_vec()])?;
            match tls::verify_workload_chain(&bundle, leaf.chain(), at(now)) {
                Ok(()) => return Ok(index),
                Err(error) => why = Some(error),
            }
        }
        let why = why.map_or_else(|| "there is none".to_owned(), |error| error.to_string());
        let which = if roots.len() == 1 { "this root, `ca.crt`" } else { "any of these roots, `ca.crt`" };
        Err(Error::Authority(format!("the issuer cannot sign leaves under {which} ({why})")))
    }
}

/// Which of the roots the key belongs to.
fn owner(key: &PrivateKeyDer<'static>, roots: &[CertificateDer<'static>]) -> Result<usize, Error> {
    let key = KeyPair::try_from(key)?.subject_public_key_info();
    for (index, root) in roots.iter().enumerate() {
        if public_key(root)? == key {
            return Ok(index);
        }
    }
    Err(Error::Authority(
        "the root's key belongs to none of the roots; if somebody else writes those now, remove it (`root.key`)".into(),
    ))
}

/// A root that starts `now` (unix seconds), and its key.
fn new_root(trust_domain: &TrustDomain, now: u64) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = ca_params(trust_domain, "root", BasicConstraints::Constrained(1), lifetime(now, ROOT_LIFETIME))?;
    let root = CertificateDer::from(params.self_signed(&key)?);
    Ok((root, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

/// What root and issuer have in common. Both carry the trust domain as their name (X509-SVID §3.2) and a number in
/// the subject that tells two roots apart in other tools.
fn ca_params(
    trust_domain: &TrustDomain,
    role: &str,
    constraints: BasicConstraints,
    dates: Validity,
) -> Result<CertificateParams, Error> {
    let mut params = params(dates)?;
    let number = pem::hex(&serial()?[..4]);
    params.distinguished_name.push(DnType::OrganizationName, "Lacewing");
    params.distinguished_name.push(DnType::CommonName, format!("{role} {number}"));
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(trust_domain.uri())?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A certificate with dates and a serial number, and nothing else.
fn params(dates: Validity) -> Result<CertificateParams, Error> {
    let date = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| Error::Authority(format!("{seconds} is not a time; is the clock right?")))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date(dates.not_before)?;
    params.not_after = date(dates.not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    Ok(params)
}

/// 128 bits from the system's generator, of which the first two are fixed: positive, and never shorter.
fn serial() -> Result<[u8; 16], Error> {
    let mut bytes = [0; 16];
    let failed = |_| Error::Authority("the system gives no random bytes".into());
    tls::provider().secure_random.fill(&mut bytes).map_err(failed)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(bytes)
}

fn at(now: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(now))
}

/// A time (unix seconds) for people.
pub fn date(unix_s: u64) -> String {
    let date = i64::try_from(unix_s).ok().and_then(|unix_s| OffsetDateTime::from_unix_timestamp(unix_s).ok());
    date.map_or_else(
        || "a time beyond all calendars".to_owned(),
        |date| format!("{} {:02}:{:02}:{:02} UTC", date.date(), date.hour(), date.minute(), date.second()),
    )
}

fn lifetime(now: u64, seconds: u64) -> Validity {
    Validity { not_before: now.saturating_sub(CA_BACKDATE), not_after: now.saturating_add(seconds) }
}

fn dates_of(certificate: &CertificateDer<'_>) -> Result<Validity, Error> {
    validity(certificate).ok_or_else(|| Error::Authority("the dates of a certificate are not readable".into()))
}

fn parse<'a>(certificate: &'a CertificateDer<'a>) -> Result<EndEntityCert<'a>, Error> {
    EndEntityCert::try_from(certificate)
        .map_err(|error| Error::Authority(format!("a certificate is not readable ({error})")))
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> Result<bool, Error> {
    let certificate = parse(certificate)?;
    Ok(certificate.subject() == certificate.issuer())
}

fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    Ok(parse(certificate)?.subject_public_key_info().to_vec())
}

/// A certificate above leaves that names a trust domain must name ours; an operator's need not name one.
fn check_domain(certificate: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), Error> {
    let parsed = parse(certificate)?;
    let other = parsed.valid_uri_names().find(|name| name.starts_with("spiffe://") && *name != trust_domain.uri());
    match other {
        Some(other) => Err(Error::Authority(format!(
            "a certificate belongs to {other}, but the trust domain is {trust_domain}; was the setting changed?"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

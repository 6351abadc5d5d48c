//! Owns the signing half: a root (ECDSA P-256, 10 years) and an issuer below it (1 year, may sign leaves only).
//! Refuses to sign what a request asks for: from a request it takes the public key, the name is its caller's, read
//! from an authenticated token. It keeps the root's key, so that the issuer can be renewed without a new root; an
//! operator may leave that key out, and then renews the issuer himself. `authority/request.rs` reads requests.

mod request;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, UnixTime};
use time::OffsetDateTime;
use webpki::EndEntityCert;

pub use request::MAX_CSR;

use crate::svid::{Validity, validity};
use crate::{Error, Leaf, SpiffeId, TrustBundle, TrustDomain, pem, tls};

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

/// A trust root and the issuer that signs leaves under it.
pub struct Authority {
    trust_domain: TrustDomain,
    bundle: TrustBundle,
    /// Missing if the operator keeps it elsewhere.
    root_key: Option<PrivateKeyDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    issuer_certificate: CertificateDer<'static>,
    issuer_validity: Validity,
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
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = ca_params(trust_domain, "root", BasicConstraints::Constrained(1), lifetime(now, ROOT_LIFETIME))?;
        let root = CertificateDer::from(params.self_signed(&key)?);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Self::with_new_issuer(trust_domain, &root, key, now)
    }

    /// Reads what [`Authority::to_pem`] wrote, or an operator's files put together in any order: the root's
    /// certificate, the issuer's certificate, the issuer's key, and (optional) the root's key. A trial leaf is
    /// signed and verified, so that files that do not fit fail here and not at the first handshake.
    pub fn from_pem(trust_domain: &TrustDomain, text: &str) -> Result<Self, Error> {
        let (mut roots, mut issuers, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, der) in pem::read(text.as_bytes()).map_err(Error::Authority)? {
            match kind {
                SectionKind::Certificate => {
                    let certificate = CertificateDer::from(der);
                    if is_self_issued(&certificate)? { &mut roots } else { &mut issuers }.push(certificate);
                }
                SectionKind::PrivateKey => keys.push(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der))),
                SectionKind::EcPrivateKey => keys.push(PrivateSec1KeyDer::from(der).into()),
                other => return Err(Error::Authority(format!("a {other:?} section does not belong there"))),
            }
        }
        let (Ok([root]), Ok([issuer])) = (<[_; 1]>::try_from(roots), <[_; 1]>::try_from(issuers)) else {
            return Err(Error::Authority("exactly one root and one issuer certificate are needed".into()));
        };
        check_domain(&root, trust_domain)?;
        let (mut root_key, mut issuer_key) = (None, None);
        for key in keys {
            match KeyPair::try_from(&key)?.subject_public_key_info() {
                spki if spki == public_key(&root)? => root_key = Some(key),
                spki if spki == public_key(&issuer)? => issuer_key = Some(key),
                _ => return Err(Error::Authority("a key there belongs to neither certificate".into())),
            }
        }
        let issuer_key = issuer_key.ok_or_else(|| Error::Authority("the issuer's key is missing".into()))?;
        let authority = Self::assemble(trust_domain.clone(), &root, root_key, issuer, KeyPair::try_from(&issuer_key)?)?;
        authority.check()?;
        Ok(authority)
    }

    /// Certificates and keys as PEM text. It holds private keys: write it only where nobody else reads.
    pub fn to_pem(&self) -> String {
        let mut text = self.bundle.to_pem();
        if let Some(key) = &self.root_key {
            let label = if matches!(key, PrivateKeyDer::Sec1(_)) { "EC PRIVATE KEY" } else { "PRIVATE KEY" };
            pem::write(&mut text, label, key.secret_der());
        }
        pem::write(&mut text, "CERTIFICATE", &self.issuer_certificate);
        pem::write(&mut text, "PRIVATE KEY", self.issuer.key().serialized_der());
        text
    }

    /// The root certificate, as clients of the mesh need it.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// When the issuer ends, in unix seconds. No leaf outlives it.
    pub fn issuer_not_after(&self) -> u64 {
        self.issuer_validity.not_after
    }

    /// When to call [`Authority::renewed`], in unix seconds: at half of the issuer's life.
    pub fn issuer_renew_at(&self) -> u64 {
        self.issuer_validity.not_before.midpoint(self.issuer_validity.not_after)
    }

    /// The same root with a new issuer, starting `now` (unix seconds). Leaves of the old issuer stay good.
    pub fn renewed(&self, now: u64) -> Result<Self, Error> {
        let key = self.root_key.as_ref().ok_or_else(|| {
            Error::Authority("the root's key is not here; renew the issuer where the root's key is kept".into())
        })?;
        Self::with_new_issuer(&self.trust_domain, &self.bundle.certificates()[0], key.clone_key(), now)
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

    fn sign(&self, key: &impl PublicKeyData, id: &SpiffeId, now: u64, lifetime: u64) -> Result<Issued, Error> {
        if !id.is_in(&self.trust_domain) {
            return Err(Error::Authority(format!("{id} is not in the trust domain {}", self.trust_domain)));
        }
        if lifetime == 0 || lifetime > MAX_LEAF_LIFETIME {
            return Err(Error::Authority(format!("a leaf must live 1 to {MAX_LEAF_LIFETIME} seconds, not {lifetime}")));
        }
        let dates = Validity {
            not_before: now.saturating_sub(BACKDATE),
            not_after: now.saturating_add(lifetime).min(self.issuer_validity.not_after),
        };
        if dates.not_after <= now {
            return Err(Error::Authority(format!(
                "the issuer ended at {} (unix seconds); it was not renewed in time",
                self.issuer_validity.not_after
            )));
        }
        let mut params = params(dates)?;
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer)?;
        let chain = vec![leaf.der().to_vec(), self.issuer_certificate.to_vec()];
        Ok(Issued { chain, not_before: dates.not_before, not_after: dates.not_after })
    }

    fn with_new_issuer(
        trust_domain: &TrustDomain,
        root: &CertificateDer<'static>,
        root_key: PrivateKeyDer<'static>,
        now: u64,
    ) -> Result<Self, Error> {
        let mut dates = lifetime(now, ISSUER_LIFETIME);
        dates.not_after = dates.not_after.min(dates_of(root)?.not_after);
        if dates.not_after <= now {
            return Err(Error::Authority("the trust root has ended; a new root is needed".into()));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params(trust_domain, "issuer", BasicConstraints::Constrained(0), dates)?;
        params.use_authority_key_identifier_extension = true;
        let signer = Issuer::from_ca_cert_der(root, KeyPair::try_from(&root_key)?)?;
        let certificate = CertificateDer::from(params.signed_by(&key, &signer)?);
        Self::assemble(trust_domain.clone(), root, Some(root_key), certificate, key)
    }

    fn assemble(
        trust_domain: TrustDomain,
        root: &CertificateDer<'static>,
        root_key: Option<PrivateKeyDer<'static>>,
        issuer_certificate: CertificateDer<'static>,
        issuer_key: KeyPair,
    ) -> Result<Self, Error> {
        let issuer_validity = dates_of(&issuer_certificate)?;
        let issuer = Issuer::from_ca_cert_der(&issuer_certificate, issuer_key)?;
        let bundle = TrustBundle::from_der([root.to_vec()])?;
        Ok(Self { trust_domain, bundle, root_key, issuer, issuer_certificate, issuer_validity })
    }

    /// Signs a trial leaf and verifies it as a peer would, at a time when the issuer holds.
    fn check(&self) -> Result<(), Error> {
        let now = self.issuer_validity.not_before.saturating_add(BACKDATE);
        let id = SpiffeId::new(&self.trust_domain, "trial", "trial")?;
        let leaf = self.issue_own(&id, now, 1)?;
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        tls::verify_server_chain(self.bundle.anchors(), &leaf.chain()[0], &leaf.chain()[1..], at)
            .map_err(|error| Error::Authority(format!("the issuer cannot sign leaves under this root ({error})")))
    }
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

/// A root that names a trust domain must name ours; an operator's root need not name one.
fn check_domain(root: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), Error> {
    let parsed = parse(root)?;
    let other = parsed.valid_uri_names().find(|name| name.starts_with("spiffe://") && *name != trust_domain.uri());
    match other {
        Some(other) => Err(Error::Authority(format!(
            "the root belongs to {other}, but the trust domain is {trust_domain}; was the setting changed?"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

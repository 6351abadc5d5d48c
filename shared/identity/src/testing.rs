//! Owns what the tests of this crate share: a fixed "now", authorities, leaves (good and forged) and a clock that
//! stands where it is put. Refuses to be part of the library: it is compiled for tests only.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;

use crate::{Authority, Leaf, SpiffeId, TrustDomain, pem};

/// A moment in November 2026, in unix seconds. Tests move around it; nothing reads the real clock.
pub(crate) const NOW: u64 = 1_795_300_000;
/// A day, in seconds.
pub(crate) const DAY: u64 = 24 * 60 * 60;

pub(crate) fn authority(trust_domain: &str) -> Authority {
    Authority::generate(&TrustDomain::parse(trust_domain).unwrap(), NOW).unwrap()
}

pub(crate) fn id(namespace: &str, service_account: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::parse("cluster.local").unwrap(), namespace, service_account).unwrap()
}

/// A day's leaf for `spiffe://<its trust domain>/ns/test/sa/<service account>`.
pub(crate) fn leaf(authority: &Authority, service_account: &str) -> Leaf {
    let id = SpiffeId::new(authority.trust_domain(), "test", service_account).unwrap();
    authority.issue_own(&id, NOW, DAY).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// A leaf for `ns/test/sa/forged` signed by the authority's true issuer, after `edit` broke it.
pub(crate) fn forged(authority: &Authority, edit: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut parts = pem::read(authority.to_pem().as_bytes()).unwrap();
    let (_, issuer_key) = parts.pop().unwrap();
    let issuer_certificate = CertificateDer::from(parts.pop().unwrap().1);
    let issuer_key = KeyPair::try_from(issuer_key).unwrap();
    let issuer = Issuer::from_ca_cert_der(&issuer_certificate, issuer_key).unwrap();
    let id = SpiffeId::new(authority.trust_domain(), "test", "forged").unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::from_unix_timestamp(NOW.cast_signed() - 60).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp((NOW + DAY).cast_signed()).unwrap();
    params.subject_alt_names = vec![uri(id.as_str())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    edit(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateDer::from(params.signed_by(&key, &issuer).unwrap());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Leaf::unchecked(vec![certificate, issuer_certificate], key.into(), id)
}

/// A clock that stands still, in unix seconds.
#[derive(Debug)]
pub(crate) struct Clock(pub(crate) u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

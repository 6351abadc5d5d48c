//! Owns the rules for a workload's certificate (SPIFFE X509-SVID): exactly one URI name, which is a SPIFFE ID with a
//! path; not a CA; key usage present, critical, for signing only; both TLS usages when usages are listed.
//! Refuses to judge trust or time: webpki does that in `tls.rs` before these rules are asked.

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::der::{self, Reader};
use crate::{Error, SpiffeId};

/// Object identifiers of the three extensions read here (RFC 5280 §4.2.1), without tag and length.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// id-kp-serverAuth and id-kp-clientAuth.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// Bits of the first byte of a key usage (RFC 5280 §4.2.1.3).
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;
/// Part of its life after which a certificate may be renewed, and must be.
const RENEW_FROM: f64 = 0.50;
const RENEW_UNTIL: f64 = 0.70;

/// What is known of the peer of a finished handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    pub id: SpiffeId,
    /// Last second, in unix time, in which its certificate holds.
    pub not_after: u64,
}

/// Reads the first of the certificates that the peer of a finished handshake presented.
///
/// # Errors
/// There is none, or it is no workload's.
pub fn peer_certificate(certificates: &[CertificateDer<'_>]) -> Result<PeerCertificate, Error> {
    let leaf = certificates.first().ok_or_else(|| Error::Svid("the peer presented no certificate".into()))?;
    Svid::parse(leaf).map(|svid| PeerCertificate { id: svid.id, not_after: svid.validity.not_after })
}

/// Who the peer of a finished handshake is: the identity in the first certificate that it presented.
pub fn peer_id(certificates: &[CertificateDer<'_>]) -> Result<SpiffeId, Error> {
    peer_certificate(certificates).map(|peer| peer.id)
}

/// What the mesh reads from a workload's certificate.
pub(crate) struct Svid {
    pub(crate) id: SpiffeId,
    pub(crate) validity: Validity,
    /// Big-endian, as in the certificate.
    pub(crate) serial: Vec<u8>,
}

/// First and last second, in unix time, in which a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Validity {
    /// The time in which both hold.
    #[cfg(feature = "issue")]
    pub(crate) fn within(self, other: Self) -> Self {
        Self { not_before: self.not_before.max(other.not_before), not_after: self.not_after.min(other.not_after) }
    }

    /// When to ask for the next certificate, in unix seconds: between 50 % (`jitter` 0) and 70 % (`jitter` 1) of this
    /// one's life, so that what started together does not ask together. Other jitters are clamped.
    pub(crate) fn renew_at(self, jitter: f64) -> u64 {
        let life = self.not_after.saturating_sub(self.not_before);
        let share = RENEW_FROM + (RENEW_UNTIL - RENEW_FROM) * jitter.clamp(0.0, 1.0);
        self.not_before.saturating_add((life as f64 * share) as u64)
    }
}

impl Svid {
    pub(crate) fn parse(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Svid(why.into());
        let parsed = EndEntityCert::try_from(certificate)
            .map_err(|error| Error::Svid(format!("the certificate is not readable ({error})")))?;
        let mut names = parsed.valid_uri_names();
        let name = names.next().ok_or_else(|| refuse("the certificate has no URI name"))?;
        if names.next().is_some() {
            return Err(refuse("the certificate has more than one URI name"));
        }
        let id = SpiffeId::parse(name).map_err(|error| Error::Svid(error.to_string()))?;
        let fields = Fields::read(certificate).ok_or_else(|| refuse("its extensions are not readable"))?;
        fields.check().map_err(refuse)?;
        Ok(Self { id, validity: fields.validity, serial: parsed.serial().to_vec() })
    }
}

/// First and last second of any certificate; nothing if it cannot be read.
#[cfg(feature = "issue")]
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    Fields::read(certificate).map(|fields| fields.validity)
}

/// That a certificate may sign others; if not, why. Whether it is trusted is webpki's business.
#[cfg(feature = "issue")]
pub(crate) fn check_issuer(certificate: &CertificateDer<'_>) -> Result<(), &'static str> {
    let fields = Fields::read(certificate).ok_or("is not readable")?;
    if !fields.is_ca {
        return Err("is not one of a CA (cert-manager: set `isCA: true` in the Certificate)");
    }
    let usage = fields.key_usage.and_then(|usage| Reader::new(usage.value).expect(der::BIT_STRING));
    match usage {
        Some([_, bits, ..]) if bits & KEY_CERT_SIGN == 0 => Err("may not sign certificates (its key usage)"),
        _ => Ok(()),
    }
}

/// The parts of a certificate that webpki checks only for some roles, or not at all.
struct Fields<'a> {
    validity: Validity,
    is_ca: bool,
    key_usage: Option<Extension<'a>>,
    extended_key_usage: Option<Extension<'a>>,
}

#[derive(Clone, Copy)]
struct Extension<'a> {
    critical: bool,
    value: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Walks a certificate (RFC 5280 §4.1) that webpki has found well-formed.
    fn read(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        let mut tbs = Reader::new(certificate).enter(der::SEQUENCE)?.enter(der::SEQUENCE)?;
        tbs.expect(der::context(0))?; // version
        tbs.expect(der::INTEGER)?; // serial
        tbs.expect(der::SEQUENCE)?; // signature algorithm
        tbs.expect(der::SEQUENCE)?; // issuer
        let mut dates = tbs.enter(der::SEQUENCE)?;
        let validity = Validity { not_before: dates.time()?, not_after: dates.time()? };
        let mut fields = Self { validity, is_ca: false, key_usage: None, extended_key_usage: None };
        while let Some(element) = tbs.next() {
            if element.tag == der::context(3) {
                let mut list = Reader::new(element.content).enter(der::SEQUENCE)?;
                while !list.is_empty() {
                    fields.add(list.enter(der::SEQUENCE)?)?;
                }
            }
        }
        Some(fields)
    }

    fn add(&mut self, mut extension: Reader<'a>) -> Option<()> {
        let oid = extension.expect(der::OID)?;
        let mut element = extension.next()?;
        let critical = element.tag == der::BOOLEAN;
        if critical {
            element = extension.next()?;
        }
        let found = (element.tag == der::OCTET_STRING).then_some(Extension { critical, value: element.content })?;
        match oid {
            KEY_USAGE => self.key_usage = Some(found),
            EXTENDED_KEY_USAGE => self.extended_key_usage = Some(found),
            BASIC_CONSTRAINTS => {
                let mut constraints = Reader::new(found.value).enter(der::SEQUENCE)?;
                self.is_ca = constraints.next().is_some_and(|first| first.tag == der::BOOLEAN && first.content != [0]);
            }
            _ => {}
        }
        Some(())
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.is_ca {
            return Err("it is the certificate of a CA, not of a workload");
        }
        let usage = self.key_usage.ok_or("it has no key usage")?;
        // Content of the bit string: the number of unused bits, then the bits.
        let bits = match Reader::new(usage.value).expect(der::BIT_STRING) {
            Some([_, bits, ..]) => *bits,
            _ => return Err("its key usage is not readable"),
        };
        if !usage.critical || bits & DIGITAL_SIGNATURE == 0 {
            return Err("its key usage must be critical and allow digital signatures");
        }
        if bits & (KEY_CERT_SIGN | CRL_SIGN) != 0 {
            return Err("its key may sign certificates or revocation lists, which no workload may");
        }
        if !self.extended_key_usage.is_none_or(has_both_usages) {
            return Err("its extended key usage must name both TLS servers and TLS clients");
        }
        Ok(())
    }
}

fn has_both_usages(extension: Extension<'_>) -> bool {
    let Some(mut list) = Reader::new(extension.value).enter(der::SEQUENCE) else { return false };
    let (mut server, mut client) = (false, false);
    while let Some(oid) = list.expect(der::OID) {
        server |= oid == SERVER_AUTH;
        client |= oid == CLIENT_AUTH;
    }
    server && client
}

#[cfg(all(test, feature = "issue"))]
mod tests {
    use super::*;
    use crate::testing::{DAY, NOW, authority, id, leaf};

    #[test]
    fn a_peer_is_known_by_its_name_and_until_when() {
        let leaf = leaf(&authority("cluster.local"), "web");
        let peer = peer_certificate(leaf.chain()).unwrap();
        assert_eq!(peer, PeerCertificate { id: id("test", "web"), not_after: NOW + DAY });
        assert!(peer_certificate(&[]).is_err());
    }
}

//! Owns a workload's certificate together with its private key. Refuses a chain that does not fit the key or is not
//! an X.509-SVID, so that a bad answer of the controller is noticed before any peer sees it, and refuses to print
//! or return the key. Goes to `tls.rs`; the holder replaces it at [`Leaf::renew_at`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::svid::{Svid, Validity};
use crate::{Error, SpiffeId, TrustBundle, pem, tls};

/// Longest chain, leaf included: leaf, issuer, and room for an operator's intermediates.
pub const MAX_CHAIN: usize = 8;
/// How long after a leaf's begin the certificates above it surely hold as well, in seconds: leaves are backdated.
const INSIDE: u64 = 60;

/// A certificate chain and its key. Cloning copies pointers.
#[derive(Clone)]
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    id: SpiffeId,
    validity: Validity,
    serial: Arc<[u8]>,
}

impl Leaf {
    pub(crate) fn new(chain: Vec<Vec<u8>>, key: PrivateKeyDer<'static>) -> Result<Self, Error> {
        if chain.len() > MAX_CHAIN {
            return Err(Error::Leaf(format!("the chain is longer than {MAX_CHAIN} certificates")));
        }
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let first = chain.first().ok_or_else(|| Error::Leaf("the chain is empty".into()))?;
        let svid = Svid::parse(first)?;
        for certificate in &chain[1..] {
            webpki::anchor_from_trusted_cert(certificate)
                .map_err(|error| Error::Leaf(format!("a certificate of the chain is not readable ({error})")))?;
        }
        let certified = CertifiedKey::from_der(chain, key, tls::provider())
            .map_err(|error| Error::Leaf(format!("the certificate does not belong to the key ({error})")))?;
        Ok(Self { certified: Arc::new(certified), id: svid.id, validity: svid.validity, serial: svid.serial.into() })
    }

    /// A leaf that no rule was applied to, for playing a hostile peer.
    #[cfg(test)]
    #[cfg(feature = "issue")]
    pub(crate) fn unchecked(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, id: SpiffeId) -> Self {
        let key = tls::provider().key_provider.load_private_key(key).unwrap();
        let certified = Arc::new(CertifiedKey::new(chain, key));
        Self { certified, id, validity: Validity { not_before: 0, not_after: 0 }, serial: [].into() }
    }

    /// Who the certificate says we are.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// DER, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Unix seconds.
    pub fn not_before(&self) -> u64 {
        self.validity.not_before
    }

    /// Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.validity.not_after
    }

    /// The serial number in lower-case hexadecimal, as other tools print it.
    pub fn serial_hex(&self) -> String {
        pem::hex(&self.serial)
    }

    /// When to ask for the next certificate, in unix seconds: between 50 % (`jitter` 0) and 70 % (`jitter` 1) of
    /// this one's life, so that workloads started together do not ask together. Other jitters are clamped.
    pub fn renew_at(&self, jitter: f64) -> u64 {
        self.validity.renew_at(jitter)
    }

    /// Whether it lies under the first root of the bundle, the one that new certificates lie under. One that does not
    /// holds for as long as its root is in the bundle, so it is better replaced.
    pub fn is_under_first(&self, bundle: &TrustBundle) -> bool {
        let inside = self.validity.not_before.saturating_add(INSIDE).min(self.validity.not_after);
        let first = bundle.certificates().first().map(|root| TrustBundle::from_der([root.to_vec()]));
        let at = UnixTime::since_unix_epoch(Duration::from_secs(inside));
        first.is_some_and(|first| first.is_ok_and(|first| tls::verify_workload_chain(&first, self.chain(), at).is_ok()))
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leaf({}, until {})", self.id, self.validity.not_after)
    }
}

#[cfg(test)]
#[cfg(feature = "issue")]
mod tests {
    use super::*;
    use crate::KeyAndCsr;
    use crate::testing::{DAY, NOW, authority, forged, id, leaf};

    #[test]
    fn a_key_and_its_answer_make_a_leaf() {
        let authority = authority("cluster.local");
        let (key, csr) = KeyAndCsr::generate().unwrap();
        assert!(csr.len() < 256, "{}", csr.len());
        let issued = authority.issue(&csr, &id("emojivoto", "voting"), NOW, DAY).unwrap();
        let serial = Svid::parse(&issued.chain[0].clone().into()).unwrap().serial;
        let leaf = key.with_chain(issued.chain, issued.not_before, issued.not_after).unwrap();
        assert_eq!(leaf.id().to_string(), "spiffe://cluster.local/ns/emojivoto/sa/voting");
        assert_eq!((leaf.not_before(), leaf.not_after(), leaf.chain().len()), (NOW - 60, NOW + DAY, 2));
        assert_eq!(leaf.serial_hex(), pem::hex(&serial));
        let text = format!("{leaf:?}");
        assert!(text.starts_with("Leaf(spiffe://") && text.len() < 80, "{text}");
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        let authority = authority("cluster.local");
        let issue = |csr: &[u8]| authority.issue(csr, &id("a", "b"), NOW, DAY).unwrap();
        let other = issue(&KeyAndCsr::generate().unwrap().1);
        let nameless = forged(&authority, |params| params.subject_alt_names.clear());
        let table: [(&str, Vec<&[u8]>); 6] = [
            ("the chain is empty", vec![]),
            ("does not belong to the key", vec![&other.chain[0], &other.chain[1]]),
            ("no URI name", vec![&nameless.chain()[0]]),
            ("the certificate is not readable", vec![&[0x30, 0]]),
            ("a certificate of the chain is not readable", vec![&other.chain[0], &other.chain[1][..40]]),
            ("longer than 8", vec![&other.chain[0]; 9]),
        ];
        for (part, chain) in table {
            let (key, _) = KeyAndCsr::generate().unwrap();
            let chain = chain.into_iter().map(<[u8]>::to_vec).collect();
            let error = key.with_chain(chain, other.not_before, other.not_after).expect_err(part).to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
        let (key, csr) = KeyAndCsr::generate().unwrap();
        let issued = issue(&csr);
        let error = key.with_chain(issued.chain, issued.not_before, issued.not_after + 1).unwrap_err().to_string();
        assert!(error.contains("the issuer said"), "{error}");
    }

    #[test]
    fn renewal_lies_between_half_and_seven_tenths_of_life() {
        let leaf = leaf(&authority("cluster.local"), "a");
        let (start, life) = (leaf.not_before(), leaf.not_after() - leaf.not_before());
        for (jitter, percent) in [(0.0, 50), (0.5, 60), (1.0, 70), (-3.0, 50), (9.0, 70)] {
            assert!(leaf.renew_at(jitter).abs_diff(start + life * percent / 100) <= 1, "{jitter}");
        }
    }
}

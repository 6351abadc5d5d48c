//! Owns the trust bundle: the root certificates under which every certificate of the mesh must lie.
//! Refuses empty, oversized and unreadable bundles, and anything in the text that is not a certificate, so that a
//! key pasted by mistake is noticed. Goes to `tls.rs`, and as text into pod specs and the control stream.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::SectionKind;

use crate::{Error, pem};

/// Most root certificates in one bundle. Two are needed while a root rotates; the rest is room for operators.
pub const MAX_ROOTS: usize = 16;

/// One to [`MAX_ROOTS`] root certificates. Cloning copies pointers.
#[derive(Clone)]
pub struct TrustBundle {
    certificates: Arc<[CertificateDer<'static>]>,
    /// The same, parsed once and shared by every TLS configuration made from this bundle.
    anchors: Arc<RootCertStore>,
}

impl TrustBundle {
    /// Takes DER certificates; each must be readable as a trust anchor.
    pub fn from_der(certificates: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, Error> {
        // One more than allowed is enough to know that there are too many.
        let certificates: Vec<_> = certificates.into_iter().take(MAX_ROOTS + 1).map(CertificateDer::from).collect();
        if certificates.is_empty() {
            return Err(Error::Bundle("it holds no certificate".into()));
        }
        if certificates.len() > MAX_ROOTS {
            return Err(Error::Bundle(format!("it holds more than {MAX_ROOTS} certificates")));
        }
        let mut anchors = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            let refuse = |error| Error::Bundle(format!("certificate {} is not readable ({error})", index + 1));
            anchors.add(certificate.clone()).map_err(refuse)?;
        }
        Ok(Self { certificates: certificates.into(), anchors: Arc::new(anchors) })
    }

    /// Takes PEM text with `CERTIFICATE` sections only.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let sections = pem::read(text.as_bytes()).map_err(Error::Bundle)?;
        if let Some((kind, _)) = sections.iter().find(|(kind, _)| *kind != SectionKind::Certificate) {
            return Err(Error::Bundle(format!("it holds a {kind:?} section; only certificates belong there")));
        }
        Self::from_der(sections.into_iter().map(|(_, der)| der))
    }

    pub fn to_pem(&self) -> String {
        let mut text = String::new();
        for certificate in self.certificates() {
            pem::write(&mut text, "CERTIFICATE", certificate);
        }
        text
    }

    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    pub(crate) fn anchors(&self) -> &Arc<RootCertStore> {
        &self.anchors
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({} roots)", self.certificates.len())
    }
}

#[cfg(test)]
#[cfg(feature = "issue")]
mod tests {
    use super::*;
    use crate::testing::authority;

    #[test]
    fn text_round_trips() {
        let (one, two) = (authority("cluster.local"), authority("cluster.local"));
        let both = TrustBundle::from_pem(&(one.bundle().to_pem() + &two.bundle().to_pem())).unwrap();
        assert_eq!(both.certificates().len(), 2);
        assert_eq!(TrustBundle::from_pem(&both.to_pem()).unwrap(), both);
        assert_ne!(*one.bundle(), both);
    }

    #[test]
    fn unusable_bundles_are_refused() {
        let authority = authority("cluster.local");
        let root = authority.bundle().certificates()[0].to_vec();
        TrustBundle::from_der(vec![root.clone(); MAX_ROOTS]).unwrap();
        let table = [
            (TrustBundle::from_pem(""), "no certificate"),
            (TrustBundle::from_pem(&authority.to_pem()), "PrivateKey"),
            (TrustBundle::from_der(vec![root; MAX_ROOTS + 1]), "more than 16"),
            (TrustBundle::from_der([vec![0x30, 0]]), "certificate 1 is not readable"),
        ];
        for (result, part) in table {
            let error = result.expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

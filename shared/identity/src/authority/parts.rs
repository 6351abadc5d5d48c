//! Owns how an authority is kept: as one PEM text (the state directory), or as the entries of a `kubernetes.io/tls`
//! Secret, which an operator or a tool such as cert-manager may have written as well. Refuses what does not fit, naming
//! the entry. What the parts must be to each other is checked in `authority.rs`, where both end.

use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

use super::{Authority, date, is_self_issued, public_key};
use crate::{Error, TrustDomain, pem};

/// The entries of the Secret, each PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretParts {
    /// `tls.crt`: the issuer's certificate, then what lies between it and the root.
    pub chain: String,
    /// `tls.key`: the issuer's key.
    pub key: String,
    /// `ca.crt`: the roots.
    pub roots: String,
    /// `root.key`: only in a Secret that a controller made. Without it the Secret is somebody else's.
    pub root_key: Option<String>,
}

impl std::fmt::Debug for SecretParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretParts(not shown)")
    }
}

impl Authority {
    /// Reads what [`Authority::to_pem`] wrote, or an operator's files put together in any order: the certificates of
    /// roots and issuer, the issuer's key, and (optional) a root's key. What does not fit fails here.
    pub fn from_pem(trust_domain: &TrustDomain, text: &str) -> Result<Self, Error> {
        let (mut roots, mut chain, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, der) in pem::read(text.as_bytes()).map_err(Error::Authority)? {
            if kind == SectionKind::Certificate {
                let certificate = CertificateDer::from(der);
                if is_self_issued(&certificate)? { &mut roots } else { &mut chain }.push(certificate);
            } else {
                keys.push(private_key(kind, der)?);
            }
        }
        if roots.is_empty() || chain.is_empty() {
            return Err(Error::Authority("at least one root and one issuer certificate are needed".into()));
        }
        let (mut root_key, mut issuer_key) = (None, None);
        for key in keys {
            let public = KeyPair::try_from(&key)?.subject_public_key_info();
            if public == public_key(&chain[0])? {
                issuer_key = Some(key);
            } else if root_key.replace(key).is_some() {
                return Err(Error::Authority(
                    "there are keys that do not belong to the issuer; one is a root's".into(),
                ));
            }
        }
        let issuer_key = issuer_key.ok_or_else(|| Error::Authority("the issuer's key is missing".into()))?;
        Self::assemble(trust_domain, roots, &chain, issuer_key, root_key)
    }

    /// Certificates and keys as PEM text. It holds private keys: write it only where nobody else reads.
    pub fn to_pem(&self) -> String {
        let parts = self.to_secret();
        [parts.roots, parts.root_key.unwrap_or_default(), parts.chain, parts.key].concat()
    }

    /// Reads the entries of a Secret at `now` (unix seconds). One without a root's key must hold now: whoever wrote it
    /// renews it, too. One with it may be renewed here, however old it is.
    pub fn from_secret(trust_domain: &TrustDomain, parts: &SecretParts, now: u64) -> Result<Self, Error> {
        let roots = certificates("ca.crt", &parts.roots)?;
        let chain = certificates("tls.crt", &parts.chain)?;
        let issuer_key = only_key("tls.key", &parts.key)?;
        let root_key = parts.root_key.as_deref().map(|text| only_key("root.key", text)).transpose()?;
        let authority = Self::assemble(trust_domain, roots, &chain, issuer_key, root_key)?;
        if !authority.has_root_key() {
            let (begin, end) = (authority.validity.not_before, authority.validity.not_after);
            if end <= now {
                return Err(Error::Authority(format!("tls.crt expired at {}", date(end))));
            }
            if begin > now {
                return Err(Error::Authority(format!("tls.crt is not valid before {}", date(begin))));
            }
        }
        authority.check_server_names()?;
        Ok(authority)
    }

    /// The entries of a Secret. They hold private keys.
    pub fn to_secret(&self) -> SecretParts {
        let mut chain = String::new();
        for certificate in &self.chain {
            pem::write(&mut chain, "CERTIFICATE", certificate);
        }
        SecretParts {
            chain,
            key: key_text(&self.issuer_key),
            roots: self.bundle.to_pem(),
            root_key: self.root_key.as_ref().map(|root| key_text(&root.key)),
        }
    }
}

fn certificates(entry: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let sections = pem::read(text.as_bytes()).map_err(|why| Error::Authority(format!("{entry}: {why}")))?;
    if sections.is_empty() {
        return Err(Error::Authority(format!("{entry} holds no certificate")));
    }
    let one = |(kind, der): (SectionKind, Vec<u8>)| match kind {
        SectionKind::Certificate => Ok(CertificateDer::from(der)),
        other => Err(Error::Authority(format!("{entry}: a {other:?} section does not belong there"))),
    };
    sections.into_iter().map(one).collect()
}

fn only_key(entry: &str, text: &str) -> Result<PrivateKeyDer<'static>, Error> {
    let sections = pem::read(text.as_bytes()).map_err(|why| Error::Authority(format!("{entry}: {why}")))?;
    let mut keys = sections.into_iter();
    match (keys.next(), keys.next()) {
        (Some((kind, der)), None) => {
            let key = private_key(kind, der).map_err(|error| Error::Authority(format!("{entry}: {error}")))?;
            KeyPair::try_from(&key).map_err(|error| {
                Error::Authority(format!("{entry} is no key that can sign here ({error}); ECDSA P-256 is best"))
            })?;
            Ok(key)
        }
        _ => Err(Error::Authority(format!("{entry} must hold one private key"))),
    }
}

fn private_key(kind: SectionKind, der: Vec<u8>) -> Result<PrivateKeyDer<'static>, Error> {
    match kind {
        SectionKind::PrivateKey => Ok(PrivatePkcs8KeyDer::from(der).into()),
        SectionKind::EcPrivateKey => Ok(PrivateSec1KeyDer::from(der).into()),
        SectionKind::RsaPrivateKey => Ok(PrivatePkcs1KeyDer::from(der).into()),
        other => Err(Error::Authority(format!("a {other:?} section does not belong there"))),
    }
}

fn key_text(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let mut text = String::new();
    pem::write(&mut text, label, key.secret_der());
    text
}

#[cfg(test)]
mod tests;

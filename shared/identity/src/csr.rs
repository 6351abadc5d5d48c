//! Owns the asking half of certification: a fresh key, and a request (PKCS #10, RFC 2986) that proves possession
//! of it. The request carries no name at all: who we are is what the controller reads from our token. Refuses to
//! let the key out: it stays in memory and ends in a [`Leaf`]. The answer comes back through [`PendingKey::with_chain`].

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::{Error, Leaf};

/// Makes a key and its request.
pub struct KeyAndCsr;

impl KeyAndCsr {
    /// A fresh ECDSA P-256 key, and the DER of a request for it (about 190 bytes).
    pub fn generate() -> Result<(PendingKey, Vec<u8>), Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?.der().to_vec();
        Ok((PendingKey(key), request))
    }
}

/// A key whose certificate is not there yet.
pub struct PendingKey(KeyPair);

impl PendingKey {
    /// Joins the key with the chain (DER, leaf first) that was issued for it. The dates are those that the issuer
    /// stated, in unix seconds; an error if they, or the key, are not those of the certificate.
    pub fn with_chain(self, chain: Vec<Vec<u8>>, not_before: u64, not_after: u64) -> Result<Leaf, Error> {
        let leaf = Leaf::new(chain, PrivatePkcs8KeyDer::from(self.0.serialize_der()).into())?;
        if (leaf.not_before(), leaf.not_after()) != (not_before, not_after) {
            return Err(Error::Leaf(format!(
                "the issuer said that it holds from {not_before} to {not_after}, the certificate says {} to {}",
                leaf.not_before(),
                leaf.not_after()
            )));
        }
        Ok(leaf)
    }
}

//! Owns the rules for a certificate request (PKCS #10, RFC 2986): a proof of possession of a P-256 key and nothing
//! else. Refuses every request that names, asks for or attaches anything, instead of ignoring it. The shape is fixed,
//! so reading it is a comparison, and only then the signature is verified. The key goes back to `authority.rs`.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;
use webpki::aws_lc_rs::ECDSA_P256_SHA256;

use crate::Error;
use crate::der::{self, Reader};

/// Largest request that is looked at, in bytes. A good one has about 190.
pub const MAX_CSR: usize = 8 * 1024;

/// SubjectPublicKeyInfo of a P-256 key up to its 65-byte uncompressed point (RFC 5480).
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P256_POINT: usize = 65;
/// Content of the AlgorithmIdentifier ecdsa-with-SHA256 (RFC 5758).
const ECDSA_WITH_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A public key whose owner has proved that it has the private one.
#[derive(Debug)]
pub(super) struct RequestedKey([u8; P256_POINT]);

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The key of a request that breaks no rule.
pub(super) fn verify(csr: &[u8]) -> Result<RequestedKey, Error> {
    if csr.len() > MAX_CSR {
        return Err(refused("it is larger than 8 KiB"));
    }
    let parts = Parts::read(csr).ok_or_else(|| refused("it is not a readable PKCS #10 request"))?;
    if !parts.subject.is_empty() {
        return Err(refused("its subject must be empty: the name comes from the token"));
    }
    if !parts.attributes.is_empty() {
        return Err(refused(
            "it asks for extensions or attributes: the name comes from the token, nothing else is granted",
        ));
    }
    let point = parts.spki.strip_prefix(P256_PREFIX).and_then(|point| <[u8; P256_POINT]>::try_from(point).ok());
    let point = point.ok_or_else(|| refused("its key must be ECDSA P-256"))?;
    if parts.algorithm != ECDSA_WITH_SHA256 {
        return Err(refused("it must be signed with ECDSA and SHA-256"));
    }
    let spki = SubjectPublicKeyInfoDer::from(parts.spki);
    RawPublicKeyEntity::try_from(&spki)
        .and_then(|key| key.verify_signature(ECDSA_P256_SHA256, parts.signed, parts.signature))
        .map_err(|_| refused("its signature is wrong: the sender does not have the private key"))?;
    Ok(RequestedKey(point))
}

fn refused(why: &str) -> Error {
    Error::Csr(why.into())
}

/// The pieces of a request, as they lie in it.
struct Parts<'a> {
    /// The bytes that the signature covers.
    signed: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    attributes: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(csr: &'a [u8]) -> Option<Self> {
        let mut outer = Reader::new(csr);
        let mut request = outer.enter(der::SEQUENCE)?;
        let info = request.next().filter(|info| info.tag == der::SEQUENCE)?;
        let algorithm = request.expect(der::SEQUENCE)?;
        // The first byte of a bit string is the number of unused bits.
        let signature = request.expect(der::BIT_STRING)?.strip_prefix(&[0])?;
        let mut fields = Reader::new(info.content);
        let version = fields.expect(der::INTEGER)?;
        let subject = fields.expect(der::SEQUENCE)?;
        let spki = fields.next().filter(|spki| spki.tag == der::SEQUENCE)?.whole;
        let attributes = fields.expect(der::context(0))?;
        let complete = outer.is_empty() && request.is_empty() && fields.is_empty() && version == [0];
        complete.then_some(Self { signed: info.whole, subject, spki, attributes, algorithm, signature })
    }
}

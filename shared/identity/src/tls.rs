//! Owns the two TLS configurations of the mesh and what they verify: TLS 1.3 only, post-quantum key exchange first,
//! mutual X.509-SVIDs. A client accepts exactly one SPIFFE ID and ignores the server's DNS names; a server accepts
//! any identity of its own trust domain. Refuses resumption and early data (why: [`server_config`]).
//! The caller runs the handshake; a failed one is explained by `refusal.rs`.

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

pub use crate::svid::peer_id;

use crate::svid::Svid;
use crate::{Error, IdentityMismatch, Leaf, SpiffeId, TrustBundle};

/// Whether a server insists on a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A certificate is asked for; one that is presented must be good.
    Optional,
}

/// The configuration for connections to the workload `server`, presenting `leaf`. Without a leaf no certificate is
/// presented, which is for asking for the first one. `alpn` is in order of preference.
pub fn client_config(
    leaf: Option<&Leaf>,
    bundle: &TrustBundle,
    server: &SpiffeId,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    client_config_with_time(leaf, bundle, server, alpn, Arc::new(DefaultTimeProvider))
}

/// [`client_config`] with another source of time for certificate dates.
pub fn client_config_with_time(
    leaf: Option<&Leaf>,
    bundle: &TrustBundle,
    server: &SpiffeId,
    alpn: &[&[u8]],
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = ServerVerifier { expected: server.clone(), anchors: bundle.anchors().clone() };
    let builder = ClientConfig::builder_with_details(provider().clone(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // rustls' word for every verifier but its own, which knows DNS names only
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match leaf {
        Some(leaf) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(leaf.certified().clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Our servers send no tickets, so a cache here would be memory for nothing, once per expected identity.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The configuration for accepting connections as `leaf`, from clients of the same trust domain. `alpn` is in order
/// of preference; a client that names only others is refused, one that names none is not.
///
/// There is no session resumption: a ticket would carry the client's identity past the end of its certificate and
/// past a change of the trust bundle, for up to 12 hours. Mesh connections are pooled and multiplexed, so the
/// handshakes that it would save are few.
pub fn server_config(
    leaf: &Leaf,
    bundle: &TrustBundle,
    auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    server_config_with_time(leaf, bundle, auth, alpn, Arc::new(DefaultTimeProvider))
}

/// [`server_config`] with another source of time for certificate dates.
pub fn server_config_with_time(
    leaf: &Leaf,
    bundle: &TrustBundle,
    auth: ClientAuth,
    alpn: &[&[u8]],
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, Error> {
    // The names of the roots are no hint to a client that has one certificate: leave them out of the handshake.
    let chain = WebPkiClientVerifier::builder_with_provider(bundle.anchors().clone(), provider().clone())
        .clear_root_hint_subjects();
    let chain = match auth {
        ClientAuth::Required => chain,
        ClientAuth::Optional => chain.allow_unauthenticated(),
    };
    let chain = chain.build().map_err(|error| Error::Bundle(error.to_string()))?;
    let verifier = ClientVerifier { chain, trust_domain: leaf.id().trust_domain().to_owned() };
    let mut config = ServerConfig::builder_with_details(provider().clone(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf.certified().clone())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The cryptography of the mesh, made once. AES-128 goes first: 12 to 15 % cheaper handshakes than AES-256.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
            ..default_provider()
        })
    });
    &PROVIDER
}

/// Accepts a chain under the bundle whose leaf is exactly `expected`.
#[derive(Debug)]
struct ServerVerifier {
    expected: SpiffeId,
    anchors: Arc<RootCertStore>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_chain(&self.anchors, end_entity, intermediates, now)?;
        let presented = Svid::parse(end_entity).map_err(not_accepted)?.id;
        if presented != self.expected {
            return Err(not_accepted(IdentityMismatch {
                expected: self.expected.to_string(),
                presented: presented.to_string(),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts what rustls' own verifier accepts, if it is also an X.509-SVID of our trust domain.
#[derive(Debug)]
struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let presented = Svid::parse(end_entity).map_err(not_accepted)?.id;
        if presented.trust_domain() != self.trust_domain {
            return Err(not_accepted(IdentityMismatch {
                expected: format!("any identity of the trust domain {}", self.trust_domain),
                presented: presented.to_string(),
            }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The chain (leaf first) holds at this time, for a TLS server as well as for a client. Names are not looked at.
pub(crate) fn verify_workload_chain(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (leaf, rest) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    verify_chain(bundle.anchors(), leaf, rest, now)?;
    let clients = WebPkiClientVerifier::builder_with_provider(bundle.anchors().clone(), provider().clone()).build();
    let clients = clients.map_err(|error| rustls::Error::General(error.to_string()))?;
    clients.verify_client_cert(leaf, rest, now).map(drop)
}

/// The chain (server's certificate first) holds at this time, for a TLS server. Names are not looked at.
#[cfg(feature = "issue")]
pub(crate) fn verify_server_chain(
    anchors: &RootCertStore,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (first, rest) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    verify_chain(anchors, first, rest, now)
}

fn verify_chain(
    anchors: &RootCertStore,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let leaf = ParsedCertificate::try_from(end_entity)?;
    let algorithms = provider().signature_verification_algorithms.all;
    rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, anchors, intermediates, now, algorithms)
}

fn not_accepted(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Never reached: both configurations allow TLS 1.3 only.
fn no_tls12() -> rustls::Error {
    rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into()
}

#[cfg(test)]
#[cfg(feature = "issue")]
mod tests;

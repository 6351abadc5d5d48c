//! Owns the certificate of a TLS server that is no workload: the API server calls the webhook by a DNS name. Refuses to
//! be an identity: it has no SPIFFE ID, and no peer of the mesh accepts it. Clients prove nothing here: what they may ask
//! is their server's business. The holder replaces it at [`ServerCertificate::renew_at`].

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::svid::Validity;
use crate::{Error, Issued, tls};

/// A chain, its key and its dates.
pub struct ServerCertificate {
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl ServerCertificate {
    pub(crate) fn new(issued: Issued, key: PrivateKeyDer<'static>) -> Result<Self, Error> {
        let validity = Validity { not_before: issued.not_before, not_after: issued.not_after };
        let chain: Vec<_> = issued.chain.into_iter().map(CertificateDer::from).collect();
        let certified = Arc::new(CertifiedKey::from_der(chain, key, tls::provider())?);
        Ok(Self { certified, validity })
    }

    /// DER, the server's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.validity.not_after
    }

    /// As for a workload's certificate: between 50 % (`jitter` 0) and 70 % (`jitter` 1) of its life.
    pub fn renew_at(&self, jitter: f64) -> u64 {
        self.validity.renew_at(jitter)
    }

    /// The configuration for serving with it. TLS 1.3 only, no client certificates, no resumption.
    pub fn tls(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(tls::provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

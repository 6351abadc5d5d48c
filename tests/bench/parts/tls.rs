//! Where a floor stands and what TLS it speaks: TLS 1.3, AES-128-GCM, both sides verified, as every peer is configured.
//! Nothing is checked here but that the peer's certificate is under the one root.

use std::{net::SocketAddr, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// The name in every certificate of the benchmark.
pub const NAME: &str = "peer.bench";

/// Which of a pair's proxies it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// No other: plain text on both sides.
    Single,
    /// The client's: dials with TLS.
    Out,
    /// The server's: accepts TLS.
    In,
}

/// Both ends of a floor.
pub struct Ends {
    pub place: Place,
    pub listen: SocketAddr,
    pub dial: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    connector: Option<TlsConnector>,
}

impl Ends {
    /// `certs` is a folder with `ca.pem`, `leaf.pem` and `leaf.key`; a single floor does not look into it.
    pub fn new(place: Place, kind: &str, listen: SocketAddr, dial: SocketAddr, certs: &Path) -> Self {
        // Between the two of a pair it is always HTTP/2 where it is HTTP at all.
        let alpn: Vec<Vec<u8>> = if kind.starts_with('h') { vec![b"h2".to_vec()] } else { Vec::new() };
        let acceptor = (place == Place::In).then(|| server_config(certs, alpn.clone()).into());
        let connector = (place == Place::Out).then(|| Arc::new(client_config(certs, alpn)).into());
        Self { place, listen, dial, acceptor, connector }
    }

    pub async fn listener(&self) -> TcpListener {
        TcpListener::bind(self.listen).await.unwrap_or_else(|error| panic!("{}: {error}", self.listen))
    }

    pub async fn accept(&self, socket: TcpStream) -> Option<server::TlsStream<TcpStream>> {
        self.acceptor.as_ref().expect("only the inner one accepts TLS").accept(socket).await.ok()
    }

    pub async fn dial(&self) -> Option<TcpStream> {
        let socket = TcpStream::connect(self.dial).await.ok()?;
        socket.set_nodelay(true).ok()?;
        Some(socket)
    }

    pub async fn dial_tls(&self) -> Option<client::TlsStream<TcpStream>> {
        let connector = self.connector.as_ref().expect("only the outer one dials TLS");
        let name = ServerName::try_from(NAME).expect("a name");
        connector.connect(name, self.dial().await?).await.ok()
    }
}

pub fn client_config(certs: &Path, alpn: Vec<Vec<u8>>) -> ClientConfig {
    let (chain, key) = leaf(certs);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(root(certs))
        .with_client_auth_cert(chain, key)
        .expect("the leaf and its key");
    config.alpn_protocols = alpn;
    config
}

fn server_config(certs: &Path, alpn: Vec<Vec<u8>>) -> Arc<ServerConfig> {
    let (chain, key) = leaf(certs);
    let verifier = WebPkiClientVerifier::builder_with_provider(root(certs), provider()).build().expect("a root");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("the leaf and its key");
    config.alpn_protocols = alpn;
    Arc::new(config)
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    })
}

fn root(certs: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.join("ca.pem")).expect("ca.pem")).expect("a root");
    Arc::new(roots)
}

pub fn leaf(certs: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(certs.join("leaf.pem")).expect("leaf.pem");
    let key = PrivateKeyDer::from_pem_file(certs.join("leaf.key")).expect("leaf.key");
    (chain.collect::<Result<_, _>>().expect("certificates"), key)
}

//! Mutual TLS handshakes against a proxy's mesh port, one after the other on one thread: nothing is sent, the connection
//! is closed. Without a session to resume, and with one where the server gives tickets.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::{Value, json};

use super::tls::{NAME, leaf, provider};

/// For one handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a ticket may take to come.
const TICKET: Duration = Duration::from_millis(20);

/// Full handshakes, or resumed ones: none of those if the server gives no tickets. `alpn` is the mesh's.
pub fn run(to: SocketAddr, measured: Duration, certs: &Path, alpn: &str, resumed: bool) -> Value {
    if !resumed {
        return many(to, measured, &config(certs, alpn, Resumption::disabled()), HandshakeKind::Full);
    }
    let resumable = config(certs, alpn, Resumption::in_memory_sessions(8));
    // The first brings the ticket.
    match one(to, &resumable, true).and_then(|_| one(to, &resumable, true)) {
        Ok(HandshakeKind::Resumed) => many(to, measured, &resumable, HandshakeKind::Resumed),
        Ok(_) => json!({ "handshakes": 0, "errors": 0 }),
        Err(error) => json!({ "handshakes": 0, "errors": 1, "error": error.to_string() }),
    }
}

fn many(to: SocketAddr, measured: Duration, config: &Arc<ClientConfig>, kind: HandshakeKind) -> Value {
    let (began, mut count, mut errors) = (Instant::now(), 0_u64, 0_u64);
    while began.elapsed() < measured {
        // Tickets are used once: each handshake has to wait for the next one's.
        match one(to, config, kind == HandshakeKind::Resumed) {
            Ok(was) if was == kind => count += 1,
            _ => errors += 1,
        }
    }
    json!({ "handshakes": count, "per_second": count as f64 / began.elapsed().as_secs_f64(), "errors": errors })
}

fn one(to: SocketAddr, config: &Arc<ClientConfig>, wait: bool) -> io::Result<HandshakeKind> {
    let mut socket = TcpStream::connect(to)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(NAME).expect("a name");
    let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    if wait {
        socket.set_read_timeout(Some(TICKET))?;
        if tls.read_tls(&mut socket).is_ok() {
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
    tls.handshake_kind().ok_or_else(|| io::Error::other("no handshake"))
}

fn config(certs: &Path, alpn: &str, resumption: Resumption) -> Arc<ClientConfig> {
    let (chain, key) = leaf(certs);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(chain, key)
        .expect("the leaf and its key");
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = resumption;
    Arc::new(config)
}

/// Any certificate will do, whatever its name: the server's work is what is measured. The signature is checked.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

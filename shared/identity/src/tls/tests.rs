//! Whole handshakes in memory: what the two configurations agree on, and each way in which they must not agree.

use std::io;

use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::{CipherSuite, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

use super::*;
use crate::testing::{Clock, DAY, NOW, authority, forged, id, leaf, uri};
use crate::{Authority, Refusal, RefusalKind, TrustDomain, identity_mismatch, refusal};

const ALPN: &[&[u8]] = &[b"lacewing/h2", b"lacewing/tcp"];

/// What each side has after the bytes went back and forth until nobody had more to say.
struct Outcome {
    client: Result<ClientConnection, rustls::Error>,
    server: Result<ServerConnection, rustls::Error>,
}

impl Outcome {
    fn client_refusal(self) -> Refusal {
        self.client.map(drop).map_err(as_tokio_does).expect_err("the client must refuse")
    }

    fn server_refusal(self) -> Refusal {
        self.server.map(drop).map_err(as_tokio_does).expect_err("the server must refuse")
    }
}

/// tokio-rustls hands out rustls' errors in this wrapping.
fn as_tokio_does(error: rustls::Error) -> Refusal {
    refusal(&io::Error::new(io::ErrorKind::InvalidData, error))
}

fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
    let name = ServerName::try_from("p8080.voting.emojivoto.lacewing").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&mut server, &wire, &mut server_error);
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&mut client, &wire, &mut client_error);
    }
    let client = client_error.map_or(Ok(client), Err);
    let server = server_error.map_or(Ok(server), Err);
    Outcome { client, server }
}

/// Gives received bytes to one side; its first error stays.
fn feed<S>(side: &mut rustls::ConnectionCommon<S>, mut wire: &[u8], error: &mut Option<rustls::Error>)
where
    S: rustls::SideData,
{
    while error.is_none() && !wire.is_empty() {
        side.read_tls(&mut wire).unwrap();
        *error = side.process_new_packets().err();
    }
}

fn clock(at: u64) -> Arc<dyn TimeProvider> {
    Arc::new(Clock(at))
}

fn client(own: Option<&Leaf>, authority: &Authority, server: &SpiffeId) -> Arc<ClientConfig> {
    client_config_with_time(own, authority.bundle(), server, ALPN, clock(NOW)).unwrap()
}

fn server(own: &Leaf, authority: &Authority, auth: ClientAuth) -> Arc<ServerConfig> {
    server_config_with_time(own, authority.bundle(), auth, ALPN, clock(NOW)).unwrap()
}

#[test]
fn good_peers_get_tls13_with_post_quantum_exchange_and_aes128() {
    let authority = authority("cluster.local");
    let (one, two) = (leaf(&authority, "one"), leaf(&authority, "two"));
    let client = client(Some(&one), &authority, two.id());
    let server = server(&two, &authority, ClientAuth::Required);
    // Twice with the same configurations: the second must be a full handshake too.
    for _ in 0..2 {
        let outcome = handshake(&client, &server);
        let (mut client, mut server) = (outcome.client.unwrap(), outcome.server.unwrap());
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(client.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.alpn_protocol(), Some(&b"lacewing/h2"[..]));
        assert_eq!(server.server_name(), Some("p8080.voting.emojivoto.lacewing"));
        assert_eq!(peer_id(server.peer_certificates().unwrap()).unwrap(), *one.id());
        assert_eq!(peer_id(client.peer_certificates().unwrap()).unwrap(), *two.id());
        assert!(client.early_data().is_none() && server.early_data().is_none());
    }
}

#[test]
fn a_server_with_another_identity_is_a_mismatch() {
    let authority = authority("cluster.local");
    let (one, two) = (leaf(&authority, "one"), leaf(&authority, "two"));
    let server = server(&two, &authority, ClientAuth::Optional);
    let expected = id("test", "three");
    let outcome = handshake(&client(Some(&one), &authority, &expected), &server);
    let mismatch = identity_mismatch(outcome.client.as_ref().err().unwrap()).unwrap();
    assert_eq!(mismatch.expected, expected.to_string());
    assert_eq!(mismatch.presented, two.id().to_string());
    // The client's certificate and request were never sent: the server saw an alert only.
    let error = outcome.server.as_ref().err().unwrap().clone();
    assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error}");
    let refusal = outcome.client_refusal();
    assert_eq!(refusal.label(), "identity_mismatch");
    let text = refusal.to_string();
    assert!(text.contains("/sa/three") && text.contains("/sa/two") && text.contains("another workload"), "{text}");
}

#[test]
fn another_root_is_untrusted_both_ways() {
    let (ours, theirs) = (authority("cluster.local"), authority("cluster.local"));
    let (one, two) = (leaf(&ours, "one"), leaf(&theirs, "two"));
    // The client trusts another root than the server's.
    let outcome = handshake(&client(Some(&one), &ours, two.id()), &server(&two, &theirs, ClientAuth::Optional));
    assert_eq!(outcome.client_refusal().kind, RefusalKind::UntrustedCertificate);
    // The server trusts another root than the client's; the client hears of it by an alert.
    let outcome = handshake(&client(Some(&one), &theirs, two.id()), &server(&two, &theirs, ClientAuth::Required));
    let heard = outcome.client.as_ref().err().unwrap().clone();
    assert_eq!(outcome.server_refusal().kind, RefusalKind::UntrustedCertificate);
    let heard = as_tokio_does(heard);
    assert!(heard.by_peer() && heard.to_string().starts_with("the peer refused us"), "{heard}");
    assert_eq!(heard.kind, RefusalKind::UntrustedCertificate);
}

#[test]
fn while_a_root_rotates_both_are_trusted() {
    let (old, new) = (authority("cluster.local"), authority("cluster.local"));
    let both = TrustBundle::from_pem(&(old.bundle().to_pem() + &new.bundle().to_pem())).unwrap();
    let (one, two) = (leaf(&old, "one"), leaf(&new, "two"));
    let client = client_config_with_time(Some(&one), &both, two.id(), ALPN, clock(NOW)).unwrap();
    let server = server_config_with_time(&two, &both, ClientAuth::Required, ALPN, clock(NOW)).unwrap();
    let outcome = handshake(&client, &server);
    assert!(outcome.client.is_ok() && outcome.server.is_ok());
}

#[test]
fn another_trust_domain_is_refused_even_under_a_trusted_root() {
    let (ours, theirs) = (authority("cluster.local"), authority("other.example"));
    let both = TrustBundle::from_pem(&(ours.bundle().to_pem() + &theirs.bundle().to_pem())).unwrap();
    let (one, two) = (leaf(&theirs, "one"), leaf(&ours, "two"));
    let client = client_config_with_time(Some(&one), &both, two.id(), ALPN, clock(NOW)).unwrap();
    let server = server_config_with_time(&two, &both, ClientAuth::Required, ALPN, clock(NOW)).unwrap();
    let refusal = handshake(&client, &server).server_refusal();
    assert_eq!(refusal.kind, RefusalKind::IdentityMismatch);
    assert!(refusal.to_string().contains("trust domain cluster.local"), "{refusal}");
}

#[test]
fn dates_are_exact() {
    let authority = authority("cluster.local");
    let (one, two) = (leaf(&authority, "one"), leaf(&authority, "two"));
    let table = [(NOW - 61, false), (NOW - 60, true), (NOW, true), (NOW + DAY, true), (NOW + DAY + 1, false)];
    for (at, good) in table {
        let config = client_config_with_time(Some(&one), authority.bundle(), two.id(), ALPN, clock(at)).unwrap();
        let outcome = handshake(&config, &server(&two, &authority, ClientAuth::Required));
        assert_eq!(outcome.client.is_ok(), good, "client at {at}");
        if !good {
            assert_eq!(outcome.client_refusal().kind, RefusalKind::ExpiredCertificate);
        }
        let config = server_config_with_time(&two, authority.bundle(), ClientAuth::Required, ALPN, clock(at)).unwrap();
        let outcome = handshake(&client(Some(&one), &authority, two.id()), &config);
        assert_eq!(outcome.server.is_ok(), good, "server at {at}");
        if !good {
            assert_eq!(outcome.server_refusal().kind, RefusalKind::ExpiredCertificate);
        }
    }
}

/// Every broken rule of SPIFFE X509-SVID, under a trusted root and with the right name where there is one.
#[test]
fn certificates_that_are_no_svid_are_refused_both_ways() {
    type Edit = fn(&mut rcgen::CertificateParams);
    let table: [(&str, Edit); 16] = [
        ("CA", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("no URI", |p| p.subject_alt_names.clear()),
        ("DNS name only", |p| p.subject_alt_names = vec![rcgen::SanType::DnsName("forged.test".try_into().unwrap())]),
        ("two URIs", |p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/test/sa/other"))),
        ("the same URI twice", |p| p.subject_alt_names.push(p.subject_alt_names[0].clone())),
        ("root path", |p| p.subject_alt_names = vec![uri("spiffe://cluster.local")]),
        ("root path with slash", |p| p.subject_alt_names = vec![uri("spiffe://cluster.local/")]),
        ("not SPIFFE", |p| p.subject_alt_names = vec![uri("https://cluster.local/ns/test/sa/forged")]),
        ("upper case", |p| p.subject_alt_names = vec![uri("spiffe://Cluster.local/ns/test/sa/forged")]),
        ("may sign certificates", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ("may sign revocation lists", |p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        ("no key usage", |p| p.key_usages.clear()),
        ("no signatures", |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ("servers only", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ("clients only", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ("unknown critical extension", |p| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            p.custom_extensions.push(extension);
        }),
    ];
    let authority = authority("cluster.local");
    let good = leaf(&authority, "good");
    for (what, edit) in table {
        let bad = forged(&authority, edit);
        let outcome = handshake(
            &client(Some(&good), &authority, &id("test", "forged")),
            &server(&bad, &authority, ClientAuth::Required),
        );
        assert_eq!(outcome.client_refusal().label(), "untrusted_certificate", "server: {what}");
        let outcome =
            handshake(&client(Some(&bad), &authority, good.id()), &server(&good, &authority, ClientAuth::Required));
        assert_eq!(outcome.server_refusal().label(), "untrusted_certificate", "client: {what}");
    }
    // The same forgery without a fault passes: the table is about the faults.
    let fine = forged(&authority, |_| ());
    let outcome = handshake(
        &client(Some(&good), &authority, &id("test", "forged")),
        &server(&fine, &authority, ClientAuth::Required),
    );
    assert!(outcome.client.is_ok() && outcome.server.is_ok());
}

#[test]
fn certificates_of_clients_are_optional_only_where_said() {
    let authority = authority("cluster.local");
    let two = leaf(&authority, "two");
    let nobody = client(None, &authority, two.id());
    let outcome = handshake(&nobody, &server(&two, &authority, ClientAuth::Optional));
    assert!(outcome.client.is_ok());
    assert!(outcome.server.unwrap().peer_certificates().is_none());

    let outcome = handshake(&nobody, &server(&two, &authority, ClientAuth::Required));
    let heard = as_tokio_does(outcome.client.as_ref().err().unwrap().clone());
    assert_eq!((heard.label(), heard.by_peer()), ("no_certificate", true));
    assert_eq!(outcome.server_refusal().label(), "no_certificate");

    // Optional does not mean unchecked.
    let stranger = Authority::generate(&TrustDomain::parse("cluster.local").unwrap(), NOW).unwrap();
    let config = client_config_with_time(Some(&leaf(&stranger, "one")), authority.bundle(), two.id(), ALPN, clock(NOW));
    let outcome = handshake(&config.unwrap(), &server(&two, &authority, ClientAuth::Optional));
    assert_eq!(outcome.server_refusal().label(), "untrusted_certificate");
}

#[test]
fn protocols_must_overlap() {
    let authority = authority("cluster.local");
    let (one, two) = (leaf(&authority, "one"), leaf(&authority, "two"));
    let config = client_config_with_time(Some(&one), authority.bundle(), two.id(), &[b"h2"], clock(NOW)).unwrap();
    let outcome = handshake(&config, &server(&two, &authority, ClientAuth::Required));
    assert_eq!(as_tokio_does(outcome.client.as_ref().err().unwrap().clone()).label(), "alpn");
    assert_eq!(outcome.server_refusal().label(), "alpn");
}

#[test]
fn other_first_bytes_have_a_name() {
    let authority = authority("cluster.local");
    let config = server(&leaf(&authority, "two"), &authority, ClientAuth::Required);
    // A TLS 1.2 ClientHello: no extension, so no supported_versions.
    let mut old = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    old.extend([7; 32]);
    old.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let table: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "not_tls"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_tls"),
        (&[0xff; 64], "not_tls"),
        (&old, "tls_version"),
    ];
    for (bytes, label) in table {
        let mut server = ServerConnection::new(config.clone()).unwrap();
        let mut error = None;
        feed(&mut server, bytes, &mut error);
        let refusal = as_tokio_does(error.expect(label));
        assert_eq!(refusal.label(), label, "{refusal}");
    }
    let closed = refusal(&io::Error::from(io::ErrorKind::UnexpectedEof));
    assert_eq!(closed.label(), "io");
}

#[test]
fn labels_are_stable_and_different() {
    let labels: Vec<_> = RefusalKind::ALL.map(RefusalKind::label).into();
    let expected =
        "identity_mismatch no_certificate untrusted_certificate expired_certificate tls_version not_tls alpn io";
    assert_eq!(labels.join(" "), expected);
}

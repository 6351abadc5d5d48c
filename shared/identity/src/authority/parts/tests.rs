//! Secrets as operators and their tools write them: what is used, and what is refused in which words.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize,
};
use time::OffsetDateTime;

use super::*;
use crate::svid::Svid;
use crate::testing::{DAY, NOW, id, uri};

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

/// A certificate of an operator, as tools make them: it names nothing of ours.
struct Made {
    pem: String,
    key: KeyPair,
    params: CertificateParams,
}

fn made(name: &str, key: KeyPair, above: Option<&Made>, edit: impl FnOnce(&mut CertificateParams)) -> Made {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = OffsetDateTime::from_unix_timestamp(NOW.cast_signed() - 100).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp((NOW + 90 * DAY).cast_signed()).unwrap();
    edit(&mut params);
    let certificate = match above {
        Some(above) => params.signed_by(&key, &rcgen::Issuer::from_params(&above.params, &above.key)).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let mut pem = String::new();
    pem::write(&mut pem, "CERTIFICATE", certificate.der());
    Made { pem, key, params }
}

fn ca(name: &str, above: Option<&Made>) -> Made {
    made(name, KeyPair::generate().unwrap(), above, |_| ())
}

fn key(label: &str, der: &[u8]) -> String {
    let mut text = String::new();
    pem::write(&mut text, label, der);
    text
}

fn parts(issuer: &Made, roots: &[&Made]) -> SecretParts {
    let roots = roots.iter().map(|root| root.pem.as_str()).collect();
    SecretParts {
        chain: issuer.pem.clone(),
        key: key("PRIVATE KEY", issuer.key.serialized_der()),
        roots,
        root_key: None,
    }
}

fn read(parts: &SecretParts) -> Result<Authority, String> {
    Authority::from_secret(&domain(), parts, NOW).map_err(|error| error.to_string())
}

/// That certificates come out of it, and no longer than what is above them.
fn works(parts: &SecretParts) -> Authority {
    let authority = read(parts).unwrap();
    let leaf = authority.issue_own(&id("a", "b"), NOW, DAY).unwrap();
    assert!(leaf.is_under_first(authority.bundle()));
    assert!(!authority.has_root_key() && authority.issuer_not_after() <= NOW + 90 * DAY);
    authority
}

#[test]
fn what_tools_write_is_used() {
    let root = ca("root", None);
    let (issuer, other) = (ca("issuer", Some(&root)), ca("other", None));
    works(&parts(&issuer, &[&root]));
    // The root that is above the issuer goes first.
    assert_eq!(works(&parts(&issuer, &[&other, &root])).to_secret().roots, format!("{}{}", root.pem, other.pem));
    // Self-signed: the issuer is the root.
    let leaf = works(&parts(&root, &[&root])).issue_own(&id("a", "b"), NOW, DAY).unwrap();
    assert_eq!(leaf.chain().len(), 2);
    // With what lies between, and with the root sent along, which is left out.
    let lower = ca("lower", Some(&issuer));
    let mut chain = parts(&lower, &[&root]);
    chain.chain = [lower.pem.as_str(), &issuer.pem, &root.pem].concat();
    assert_eq!(works(&chain).issue_own(&id("a", "b"), NOW, DAY).unwrap().chain().len(), 3);
    // Other keys: P-384, and RSA as cert-manager makes it by default.
    let p384 = made("p384", KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(), Some(&root), |_| ());
    works(&parts(&p384, &[&root]));
    let rsa = made("rsa", KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(), None, |_| ());
    works(&parts(&rsa, &[&rsa]));
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let (root, other) = (ca("root", None), ca("other", None));
    let issuer = ca("issuer", Some(&root));
    let good = parts(&issuer, &[&root]);
    let edited = |edit: &dyn Fn(&mut CertificateParams)| {
        let made = made("issuer", KeyPair::generate().unwrap(), Some(&root), edit);
        parts(&made, &[&root])
    };
    let time = |unix_s: u64| OffsetDateTime::from_unix_timestamp(unix_s.cast_signed()).unwrap();
    let with = |edit: &dyn Fn(&mut SecretParts)| {
        let mut parts = good.clone();
        edit(&mut parts);
        parts
    };
    let constraints = |name: &str| NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(name.to_owned())],
        excluded_subtrees: vec![],
    };
    let table = [
        ("tls.crt expired at 2026-", edited(&|p| p.not_after = time(NOW - 1))),
        ("tls.crt is not valid before 2026-", edited(&|p| p.not_before = time(NOW + 900))),
        ("issuer's key does not belong", with(&|p| p.key = key("PRIVATE KEY", root.key.serialized_der()))),
        ("is not one of a CA", edited(&|p| p.is_ca = IsCa::NoCa)),
        ("may not sign certificates", edited(&|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature])),
        ("under this root, `ca.crt` (", parts(&issuer, &[&other])),
        ("under any of these roots, `ca.crt` (", parts(&issuer, &[&other, &other])),
        (
            "cannot sign leaves under this root",
            edited(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        ("belongs to spiffe://other.example", edited(&|p| p.subject_alt_names = vec![uri("spiffe://other.example")])),
        ("cannot sign the webhook's", edited(&|p| p.name_constraints = Some(constraints("example.org")))),
        ("ca.crt holds no certificate", with(&|p| p.roots = String::new())),
        ("tls.crt holds no certificate", with(&|p| p.chain = String::new())),
        ("tls.key must hold one", with(&|p| p.key = String::new())),
        ("tls.key: the PEM text is damaged", with(&|p| p.key = "-----BEGIN PRIVATE KEY-----\n%".into())),
        ("tls.key is no key", with(&|p| p.key = key("PRIVATE KEY", &[48, 0]))),
        ("ca.crt: a PrivateKey section", with(&|p| p.roots.push_str(&key("PRIVATE KEY", &[48, 0])))),
        ("belongs to none of the roots", with(&|p| p.root_key = Some(key("PRIVATE KEY", other.key.serialized_der())))),
        ("not readable", with(&|p| p.roots = key("CERTIFICATE", &[48, 0]))),
    ];
    for (part, parts) in table {
        let error = read(&parts).map(drop).expect_err(part);
        assert!(error.contains(part), "{part}: {error}");
        assert!(!error.contains("BEGIN"), "{error}");
    }
    read(&good).unwrap();
    assert!(!format!("{good:?}").contains("BEGIN"));
}

#[test]
fn a_server_that_is_no_workload_is_nobodys_peer() {
    let root = ca("root", None);
    let authority = works(&parts(&ca("issuer", Some(&root)), &[&root]));
    let server = authority.issue_server("lacewing-controller.lacewing.svc", NOW, DAY).unwrap();
    assert_eq!(server.not_after(), NOW + DAY);
    let certificate = &server.chain()[0];
    assert!(Svid::parse(certificate).is_err(), "it has no SPIFFE ID");
    let names: Vec<_> =
        webpki::EndEntityCert::try_from(certificate).unwrap().valid_dns_names().map(str::to_owned).collect();
    assert_eq!(names, ["lacewing-controller.lacewing.svc"]);
    let at = super::super::at(NOW);
    crate::tls::verify_server_chain(authority.bundle().anchors(), server.chain(), at).unwrap();
    assert!(crate::tls::verify_workload_chain(authority.bundle(), server.chain(), at).is_err(), "nor is it a client");
    server.tls(&[b"http/1.1"]).unwrap();
}

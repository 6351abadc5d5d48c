//! What the authority signs, what it refuses to sign, and what it refuses to load.

use std::collections::HashSet;

use rcgen::{Attribute, CustomExtension, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};

use super::*;
use crate::KeyAndCsr;
use crate::svid::Svid;
use crate::testing::{DAY, NOW, authority, id, leaf, uri};

fn request(edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    edit(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn request_with_key(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn san(names: Vec<SanType>) -> Vec<u8> {
    request(|params| params.subject_alt_names = names)
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

fn common_name(name: &str) -> Vec<u8> {
    request(|params| params.distinguished_name.push(DnType::CommonName, name))
}

#[test]
fn hostile_requests_are_refused() {
    let voting = "spiffe://cluster.local/ns/emojivoto/sa/voting";
    let ext = |oid: &[u64]| CustomExtension::from_oid_content(oid, vec![5, 0]);
    let challenge = Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values: vec![0x31, 4, 0x0c, 2, b'h', b'i'] };
    let good = KeyAndCsr::generate().unwrap().1;
    let asks = "asks for extensions";
    let table: Vec<(&str, &str, Vec<u8>)> = vec![
        ("own URI name", asks, san(vec![uri(voting)])),
        ("other URI name", asks, san(vec![uri("spiffe://cluster.local/ns/lacewing/sa/lacewing-controller")])),
        ("two URI names", asks, san(vec![uri(voting), uri("spiffe://cluster.local/ns/a/sa/b")])),
        ("DNS name", asks, san(vec![dns("voting.emojivoto.svc")])),
        ("wildcard", asks, san(vec![dns("*.svc")])),
        ("IDN", asks, san(vec![dns("xn--bcher-kva.example")])),
        ("upper case", asks, san(vec![uri("SPIFFE://CLUSTER.LOCAL/NS/A/SA/B")])),
        ("NUL in a name", asks, san(vec![uri("spiffe://cluster.local/ns/a/sa/b\0c")])),
        ("IPv4", asks, san(vec![SanType::IpAddress([127, 0, 0, 1].into())])),
        ("IPv6", asks, san(vec![SanType::IpAddress([0u16; 8].into())])),
        ("mail", asks, san(vec![SanType::Rfc822Name("root@cluster.local".try_into().unwrap())])),
        ("CA:TRUE", asks, request(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("CA:FALSE, said aloud", asks, request(|p| p.is_ca = IsCa::ExplicitNoCa)),
        ("key usage", asks, request(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign])),
        (
            "extended key usage",
            asks,
            request(|p| {
                p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            }),
        ),
        ("unknown extension", asks, request(|p| p.custom_extensions = vec![ext(&[1, 2, 3])])),
        ("name constraints", asks, request(|p| p.custom_extensions = vec![ext(&[2, 5, 29, 30])])),
        ("challenge password", asks, {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            let key = KeyPair::generate().unwrap();
            params.serialize_request_with_attributes(&key, vec![challenge]).unwrap().der().to_vec()
        }),
        ("common name", "subject must be empty", common_name("voting")),
        ("common name with NUL", "subject must be empty", common_name("voting\0.evil")),
        ("10 KB name", "larger than 8 KiB", san(vec![uri(&format!("spiffe://cluster.local/{}", "a".repeat(10_000)))])),
        ("10 KB of zeros", "larger than 8 KiB", vec![0; 10_000]),
        ("RSA", "must be ECDSA P-256", {
            request_with_key(&KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap())
        }),
        ("P-384", "must be ECDSA P-256", request_with_key(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap())),
        ("Ed25519", "must be ECDSA P-256", request_with_key(&KeyPair::generate_for(&PKCS_ED25519).unwrap())),
        ("nothing", "not a readable", vec![]),
        ("a byte too many", "not a readable", [&good[..], &[0]].concat()),
        ("a certificate", "not a readable", authority("cluster.local").bundle().certificates()[0].to_vec()),
    ];
    let authority = authority("cluster.local");
    for (what, part, csr) in table {
        let error = authority.issue(&csr, &id("a", "b"), NOW, DAY).expect_err(what).to_string();
        assert!(error.contains(part), "{what}: {error}");
    }
}

#[test]
fn somebody_elses_key_is_refused() {
    // A good request into which the key of another one is put: everything is right but the signature.
    let (mine, theirs) = (KeyAndCsr::generate().unwrap().1, KeyAndCsr::generate().unwrap().1);
    let at = mine.windows(4).position(|bytes| bytes == [0x03, 0x42, 0x00, 0x04]).unwrap();
    let mut stolen = mine;
    stolen[at..at + 68].copy_from_slice(&theirs[at..at + 68]);
    let error = request::verify(&stolen).unwrap_err().to_string();
    assert!(error.contains("does not have the private key"), "{error}");
}

#[test]
fn no_bit_of_a_request_can_change() {
    let good = KeyAndCsr::generate().unwrap().1;
    request::verify(&good).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(request::verify(&bad).is_err(), "bit {bit} is not looked at");
    }
    for len in 0..good.len() {
        assert!(request::verify(&good[..len]).is_err(), "{len} bytes are enough");
    }
}

#[test]
fn leaves_have_the_shape_of_svids() {
    let authority = authority("cluster.local");
    let (key, csr) = KeyAndCsr::generate().unwrap();
    let issued = authority.issue(&csr, &id("emojivoto", "voting"), NOW, 3600).unwrap();
    assert_eq!((issued.not_before, issued.not_after, issued.chain.len()), (NOW - BACKDATE, NOW + 3600, 2));
    let certificate = CertificateDer::from(issued.chain[0].clone());
    let svid = Svid::parse(&certificate).unwrap();
    assert_eq!(svid.id, id("emojivoto", "voting"));
    assert!(EndEntityCert::try_from(&certificate).unwrap().subject().is_empty());
    key.with_chain(issued.chain, issued.not_before, issued.not_after).unwrap();
}

#[test]
fn serials_are_long_and_never_repeat() {
    let authority = authority("cluster.local");
    let key = KeyPair::generate().unwrap();
    let (mut whole, mut heads, mut tails) = (HashSet::new(), HashSet::new(), HashSet::new());
    for _ in 0..1000 {
        let issued = authority.sign(&key, &id("a", "b"), NOW, DAY).unwrap();
        let serial = Svid::parse(&issued.chain[0].clone().into()).unwrap().serial;
        assert!(serial.len() == 16 && serial[0] < 0x80, "{serial:x?}");
        heads.insert(serial[..8].to_vec());
        tails.insert(serial[8..].to_vec());
        whole.insert(serial);
    }
    // Both halves alone are unique: neither is a counter's constant part.
    assert_eq!((whole.len(), heads.len(), tails.len()), (1000, 1000, 1000));
}

#[test]
fn lifetimes_have_limits() {
    let authority = authority("cluster.local");
    let end = authority.issuer_not_after();
    assert_eq!(end, NOW + ISSUER_LIFETIME);
    let issue = |now, lifetime| authority.issue_own(&id("a", "b"), now, lifetime);
    // Never longer than the issuer.
    assert_eq!(issue(end - 100, DAY).unwrap().not_after(), end);
    assert_eq!(issue(end - 100, 50).unwrap().not_after(), end - 50);
    let table = [(end, DAY, "was not renewed"), (NOW, 0, "1 to"), (NOW, MAX_LEAF_LIFETIME + 1, "1 to")];
    for (now, lifetime, part) in table {
        let error = issue(now, lifetime).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
    let other = SpiffeId::parse("spiffe://other.example/ns/a/sa/b").unwrap();
    let error = authority.issue_own(&other, NOW, DAY).unwrap_err().to_string();
    assert!(error.contains("not in the trust domain"), "{error}");
}

#[test]
fn text_round_trips_in_any_order() {
    let first = authority("cluster.local");
    let text = first.to_pem();
    let mut sections: Vec<String> = text.split_inclusive("-----\n").map(str::to_owned).collect();
    sections = sections.chunks(2).map(<[String]>::concat).collect();
    assert_eq!(sections.len(), 4);
    for _ in 0..4 {
        sections.rotate_left(1);
        let again = Authority::from_pem(first.trust_domain(), &sections.concat()).unwrap();
        assert_eq!(again.to_pem(), text);
        assert_eq!(again.bundle(), first.bundle());
    }
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let (one, two, other) = (authority("cluster.local"), authority("cluster.local"), authority("other.example"));
    let domain = one.trust_domain().clone();
    let parts = |authority: &Authority| -> Vec<String> {
        let text = authority.to_pem();
        let lines: Vec<_> = text.split_inclusive("-----\n").collect();
        lines.chunks(2).map(<[&str]>::concat).collect()
    };
    let (a, b) = (parts(&one), parts(&two));
    let table = [
        (other.to_pem(), "was the setting changed?"),
        (a[0].clone() + &a[2], "issuer's key is missing"),
        (a[0].clone() + &a[2] + &b[3], "issuer's key is missing"),
        (a[0].clone() + &a[2] + &a[3] + &b[3], "belongs to none of the roots"),
        (one.to_pem() + &b[1], "do not belong to the issuer"),
        (a[0].clone() + &a[3], "at least one root and one issuer"),
        (b[0].clone() + &a[2] + &a[3], "cannot sign leaves under this root"),
        (String::new(), "at least one root"),
        ("-----BEGIN CERTIFICATE-----\n".into(), "damaged"),
    ];
    for (text, part) in table {
        let error = Authority::from_pem(&domain, &text).map(drop).expect_err(part).to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn an_issuer_is_renewed_under_the_same_root() {
    let old = authority("cluster.local");
    let now = old.issuer_renew_at();
    assert!(now > NOW && now < old.issuer_not_after());
    let new = old.renewed(now).unwrap();
    assert_eq!(new.bundle(), old.bundle());
    assert_eq!(new.issuer_not_after(), now + ISSUER_LIFETIME);
    // A leaf of either verifies under the one root.
    for leaf in [old.issue_own(&id("a", "b"), now, DAY).unwrap(), new.issue_own(&id("a", "b"), now, DAY).unwrap()] {
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        tls::verify_workload_chain(new.bundle(), leaf.chain(), at).unwrap();
    }
    // The root's own end bounds the issuer, and ends renewal.
    let late = NOW + ROOT_LIFETIME - DAY;
    assert_eq!(old.renewed(late).unwrap().issuer_not_after(), NOW + ROOT_LIFETIME);
    assert!(old.renewed(NOW + ROOT_LIFETIME).is_err());
}

#[test]
fn without_the_roots_key_only_leaves_are_signed() {
    let text = authority("cluster.local").to_pem();
    let lines: Vec<_> = text.split_inclusive("-----\n").collect();
    let without = [&lines[..2], &lines[4..]].concat().concat();
    let authority = Authority::from_pem(&TrustDomain::parse("cluster.local").unwrap(), &without).unwrap();
    assert_eq!(authority.to_pem(), without);
    assert_eq!(leaf(&authority, "a").id().service_account(), "a");
    let error = authority.renewed(NOW).map(drop).unwrap_err().to_string();
    assert!(error.contains("root's key is not here"), "{error}");
}

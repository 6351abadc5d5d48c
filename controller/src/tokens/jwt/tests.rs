//! A good token, and every way that we know of to make a bad one.

use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_795_300_000;
const AUDIENCE: &str = super::super::AUDIENCE;

fn key(seed: u8) -> Key {
    Key::new(&[seed; KEY_BYTES])
}

fn caller() -> Caller {
    Caller { namespace: "emojivoto".into(), service_account: "voting".into(), pod: "voting-1".into() }
}

fn header() -> Value {
    json!({"alg": "HS256", "typ": "JWT"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "system:serviceaccount:emojivoto:voting", "aud": [AUDIENCE], "exp": NOW + 60, "iat": NOW,
        "kubernetes.io": {"namespace": "emojivoto", "pod": {"name": "voting-1"}}})
}

/// Any parts, rightly signed.
fn sign(header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let tag = hmac::sign(&key(1).0, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    match value.pointer_mut(pointer) {
        Some(place) => *place = new,
        None => value[pointer.trim_start_matches('/')] = new,
    }
    value
}

#[test]
fn what_is_minted_is_taken_until_it_expires() {
    let token = mint(&key(1), &caller(), AUDIENCE, NOW, 60);
    assert_eq!(verify(&key(1), &token, AUDIENCE, NOW), Ok(caller()));
    assert_eq!(verify(&key(1), &token, AUDIENCE, NOW + 59), Ok(caller()));
    assert_eq!(verify(&key(1), &token, AUDIENCE, NOW + 60), Err(Invalid::Expired(0)));
    assert_eq!(verify(&key(1), &token, AUDIENCE, NOW + 90), Err(Invalid::Expired(30)));
    assert_eq!(verify(&key(1), &token, AUDIENCE, NOW - CLOCK_SKEW_MAX), Ok(caller()));
    assert_eq!(verify(&key(1), &token, AUDIENCE, NOW - CLOCK_SKEW_MAX - 1), Err(Invalid::Early));
    assert_eq!(verify(&key(2), &token, AUDIENCE, NOW), Err(Invalid::Signature));
    assert_eq!(verify(&key(1), &token, "https://kubernetes.default.svc", NOW), Err(Invalid::Audience));
    assert_eq!(verify(&key(1), &sign(&header(), &claims()), AUDIENCE, NOW), Ok(caller()));
}

#[test]
fn rightly_signed_tokens_of_another_shape_are_refused() {
    let claim = |pointer: &str, new: Value| sign(&header(), &with(claims(), pointer, new));
    for (token, why) in [
        (claim("/aud", json!([])), Invalid::Audience),
        (claim("/aud", json!([AUDIENCE, "other"])), Invalid::Audience),
        (claim("/aud", json!(["other"])), Invalid::Audience),
        (claim("/aud", json!([format!("{AUDIENCE} ")])), Invalid::Audience),
        (claim("/aud", json!(AUDIENCE)), Invalid::Claims),
        (claim("/aud", json!(null)), Invalid::Claims),
        (claim("/exp", json!(0)), Invalid::Expired(NOW)),
        (claim("/exp", json!(-1)), Invalid::Claims),
        (claim("/exp", json!("never")), Invalid::Claims),
        (claim("/exp", json!(null)), Invalid::Claims),
        (claim("/iat", json!(NOW + 3600)), Invalid::Early),
        (claim("/iss", json!("kubernetes")), Invalid::Claims),
        (claim("/sub", json!("voting")), Invalid::Claims),
        (claim("/sub", json!("system:serviceaccount:emojivoto:")), Invalid::Claims),
        (claim("/sub", json!("system:serviceaccount::voting")), Invalid::Claims),
        (claim("/sub", json!("system:serviceaccount:other:voting")), Invalid::Claims),
        (claim("/kubernetes.io/pod/name", json!("")), Invalid::Claims),
        (claim("/kubernetes.io", json!({})), Invalid::Claims),
        (sign(&header(), &json!([])), Invalid::Claims),
        (sign(&with(header(), "/crit", json!(["exp"])), &claims()), Invalid::Algorithm),
        (sign(&with(header(), "/alg", json!("HS512")), &claims()), Invalid::Algorithm),
    ] {
        assert_eq!(verify(&key(1), &token, AUDIENCE, NOW), Err(why), "{token}");
    }
}

#[test]
fn no_algorithm_but_ours_is_taken() {
    for alg in ["none", "None", "NONE", "nOnE", "", "RS256", "ES256", "EdDSA", "hs256", "HS256 "] {
        let good = sign(&with(header(), "/alg", json!(alg)), &claims());
        let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
        for token in [good, unsigned] {
            assert_eq!(verify(&key(1), &token, AUDIENCE, NOW), Err(Invalid::Algorithm), "{alg}");
        }
    }
}

#[test]
fn changed_tokens_are_refused() {
    let token = mint(&key(1), &caller(), AUDIENCE, NOW, 60);
    let parts: Vec<&str> = token.split('.').collect();
    let [head, body, tag] = parts[..] else { panic!("{token}") };
    let other = encode(&with(claims(), "/kubernetes.io/pod/name", json!("web-1")));
    for (token, why) in [
        (format!("{head}.{other}.{tag}"), Invalid::Signature),
        (format!("{head}.{body}."), Invalid::Signature),
        (format!("{head}.{body}.{}", &tag[..20]), Invalid::Signature),
        (format!("{head}.{body}.{tag}="), Invalid::Malformed),
        (format!("{head}.{body}"), Invalid::Malformed),
        (format!("{token}.{tag}"), Invalid::Malformed),
        (format!(".{body}.{tag}"), Invalid::Malformed),
        (format!(" {token}"), Invalid::Malformed),
        (format!("{token}\n"), Invalid::Malformed),
        (String::new(), Invalid::Malformed),
        ("..".to_owned(), Invalid::Malformed),
        ("a".repeat(TOKEN_BYTES_MAX + 1), Invalid::Long),
    ] {
        assert_eq!(verify(&key(1), &token, AUDIENCE, NOW), Err(why), "{token}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let token = mint(&key(1), &caller(), AUDIENCE, NOW, 60).into_bytes();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut changed = token.clone();
            changed[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(changed) else { continue };
            assert!(verify(&key(1), &changed, AUDIENCE, NOW).is_err(), "byte {at}, bit {bit}");
        }
    }
}

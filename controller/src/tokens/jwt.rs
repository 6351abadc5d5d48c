//! Owns the tokens of the directory source: compact JWTs (RFC 7519, RFC 7515 §3.1) with HMAC-SHA-256 and nothing else,
//! shaped like the projected service-account tokens of Kubernetes.
//!
//! It refuses every other algorithm, audience and shape. The signature is checked, in constant time, before anything in
//! the token is believed; the key never leaves [`Key`].

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Caller, TOKEN_BYTES_MAX};

/// Length of the key, in bytes: that of the digest (RFC 7518 §3.2).
pub const KEY_BYTES: usize = 32;
/// How far ahead of ours the clock of whoever minted a token may be, in seconds.
pub const CLOCK_SKEW_MAX: u64 = 60;
/// The one header that is minted and taken.
const ALGORITHM: &str = "HS256";
/// Who says so.
const ISSUER: &str = "lacewing.dev/directory";
/// What the subject of a service account's token starts with.
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// The key that signs and checks tokens.
pub struct Key(hmac::Key);

impl Key {
    /// Random bytes for a new key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<[u8; KEY_BYTES], Invalid> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Invalid::Randomness)?;
        Ok(bytes)
    }

    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("it is longer than {TOKEN_BYTES_MAX} bytes")]
    Long,
    #[error("it is no compact JWT")]
    Malformed,
    #[error("its algorithm is not {ALGORITHM}")]
    Algorithm,
    #[error("its signature is not by this controller's key; was the state directory made anew since it was written?")]
    Signature,
    #[error("its claims are not those of a service account's token")]
    Claims,
    #[error("it is for another audience")]
    Audience,
    #[error("it expired {0} s ago")]
    Expired(u64),
    #[error("it is from the future: is a clock wrong?")]
    Early,
    #[error("the system gives no random bytes")]
    Randomness,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    /// Extensions that must be understood (RFC 7515 §4.1.11): we understand none.
    #[serde(skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: u64,
    iat: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    pod: Pod,
}

#[derive(Serialize, Deserialize)]
struct Pod {
    name: String,
}

/// Mints a token for `caller`, from `now` (unix seconds) on, for `lifetime` seconds.
pub fn mint(key: &Key, caller: &Caller, audience: &str, now: u64, lifetime: u64) -> String {
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: subject(&caller.namespace, &caller.service_account),
        aud: vec![audience.to_owned()],
        exp: now.saturating_add(lifetime),
        iat: now,
        kubernetes: Kubernetes { namespace: caller.namespace.clone(), pod: Pod { name: caller.pod.clone() } },
    };
    let header = Header { alg: ALGORITHM.to_owned(), typ: Some("JWT".to_owned()), crit: None };
    let mut token = format!("{}.{}", encode(&header), encode(&claims));
    let tag = hmac::sign(&key.0, token.as_bytes());
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(tag.as_ref()));
    token
}

/// Checks `token` at the time `now` (unix seconds).
///
/// # Errors
/// The first thing that is wrong with it.
pub fn verify(key: &Key, token: &str, audience: &str, now: u64) -> Result<Caller, Invalid> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Invalid::Long);
    }
    let (signed, tag) = token.rsplit_once('.').ok_or(Invalid::Malformed)?;
    let (header, claims) =
        signed.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(Invalid::Malformed)?;
    let header: Header = decode(header).ok_or(Invalid::Malformed)?;
    if header.alg != ALGORITHM || header.crit.is_some() {
        return Err(Invalid::Algorithm);
    }
    let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| Invalid::Malformed)?;
    hmac::verify(&key.0, signed.as_bytes(), &tag).map_err(|_| Invalid::Signature)?;
    let claims: Claims = decode(claims).ok_or(Invalid::Claims)?;
    caller(claims, audience, now)
}

fn caller(claims: Claims, audience: &str, now: u64) -> Result<Caller, Invalid> {
    if claims.aud != [audience] {
        return Err(Invalid::Audience);
    }
    if claims.exp <= now {
        return Err(Invalid::Expired(now - claims.exp));
    }
    if claims.iat > now.saturating_add(CLOCK_SKEW_MAX) {
        return Err(Invalid::Early);
    }
    let (namespace, service_account) =
        claims.sub.strip_prefix(SUBJECT_PREFIX).and_then(|rest| rest.split_once(':')).ok_or(Invalid::Claims)?;
    let whole = !namespace.is_empty() && !service_account.is_empty() && !claims.kubernetes.pod.name.is_empty();
    if !whole || claims.iss != ISSUER || namespace != claims.kubernetes.namespace {
        return Err(Invalid::Claims);
    }
    Ok(Caller {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: claims.kubernetes.pod.name,
    })
}

fn subject(namespace: &str, service_account: &str) -> String {
    format!("{SUBJECT_PREFIX}{namespace}:{service_account}")
}

fn encode(part: &impl Serialize) -> String {
    // Texts and numbers always serialize; an empty part would only make a token that nobody takes.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).unwrap_or_default())
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests;

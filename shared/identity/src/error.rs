//! The one error type of this crate. Every message says what was refused and the likely cause.
//! It owns no policy: callers decide what is logged, counted or shown. Failed handshakes do not come
//! through here but through rustls; see `refusal.rs`.

/// Longest piece of a foreign value that an error message repeats, in characters.
const MAX_QUOTED: usize = 128;

/// Why a name, certificate, request or bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A trust domain or SPIFFE ID that does not have the one accepted form.
    #[error("{value:?} is not a valid {what}: {why}")]
    Name { what: &'static str, value: String, why: String },
    /// Trust bundle (root certificates) that cannot be used.
    #[error("unusable trust bundle: {0}")]
    Bundle(String),
    /// A certificate that is not an X.509-SVID (SPIFFE X509-SVID §2 to §5).
    #[error("not an X.509-SVID: {0}")]
    Svid(String),
    /// A certificate chain that does not fit the key, or the dates that came with it.
    #[error("unusable certificate: {0}")]
    Leaf(String),
    /// A certificate signing request (RFC 2986) that is refused.
    #[error("certificate request refused: {0}")]
    Csr(String),
    /// A signing authority that cannot be loaded or cannot sign.
    #[error("cannot issue certificates: {0}")]
    Authority(String),
    /// Key generation or encoding failed in the cryptographic library.
    #[error("cannot make a key or certificate: {0}")]
    Crypto(#[from] rcgen::Error),
    /// rustls refused a configuration.
    #[error("cannot configure TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Error {
    pub(crate) fn name(what: &'static str, value: &str, why: impl Into<String>) -> Self {
        Self::Name { what, value: value.chars().take(MAX_QUOTED).collect(), why: why.into() }
    }
}

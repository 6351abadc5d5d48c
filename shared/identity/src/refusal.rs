//! Owns the words for a failed handshake: one small kind with a stable label for metrics, and one sentence for people
//! with the likely cause. Refuses to decide what happens next: an identity that does not match is never a reason to
//! fall back to plain text, but that rule lives with the callers.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error as TlsError, PeerIncompatible};

/// The peer proved an identity, but not the one that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, but the peer is {presented}")]
pub struct IdentityMismatch {
    /// A SPIFFE ID, or the set of identities that would have been accepted, in words.
    pub expected: String,
    /// The SPIFFE ID in the peer's certificate.
    pub presented: String,
}

/// The mismatch inside a rustls error, if that is what it is.
pub fn identity_mismatch(error: &TlsError) -> Option<&IdentityMismatch> {
    match error {
        TlsError::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// What kind of failure ended a handshake. `label()` is stable: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    IdentityMismatch,
    NoCertificate,
    UntrustedCertificate,
    ExpiredCertificate,
    TlsVersion,
    NotTls,
    Alpn,
    Io,
}

impl RefusalKind {
    /// Every kind, for metrics that start at zero.
    pub const ALL: [Self; 8] = [
        Self::IdentityMismatch,
        Self::NoCertificate,
        Self::UntrustedCertificate,
        Self::ExpiredCertificate,
        Self::TlsVersion,
        Self::NotTls,
        Self::Alpn,
        Self::Io,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::IdentityMismatch => "identity_mismatch",
            Self::NoCertificate => "no_certificate",
            Self::UntrustedCertificate => "untrusted_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::TlsVersion => "tls_version",
            Self::NotTls => "not_tls",
            Self::Alpn => "alpn",
            Self::Io => "io",
        }
    }

    fn likely_cause(self) -> &'static str {
        match self {
            Self::IdentityMismatch => "the address may have gone to another workload a moment ago",
            Self::NoCertificate => "the client is probably not in the mesh",
            Self::UntrustedCertificate => "the two sides probably do not share a trust root",
            Self::ExpiredCertificate => "renewal failed, or the clocks of the two nodes differ",
            Self::TlsVersion => "the mesh speaks TLS 1.3 only",
            Self::NotTls => "the peer is probably not a mesh proxy, or speaks plain text here",
            Self::Alpn => "the peer is probably not a mesh proxy, or of another version",
            Self::Io => "the peer closed the connection or the network failed",
        }
    }
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// What exactly happened, from the library or the system.
    detail: String,
    /// The peer refused us, by a TLS alert; otherwise we refused the peer.
    by_peer: bool,
}

impl Refusal {
    /// A refusal that a caller found out by itself, after or before the handshake.
    pub fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), by_peer: false }
    }

    pub fn label(&self) -> &'static str {
        self.kind.label()
    }

    /// True if it was the peer that ended the handshake, by an alert.
    pub fn by_peer(&self) -> bool {
        self.by_peer
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.by_peer { "the peer refused us: " } else { "" };
        write!(f, "{who}{}; {}", self.detail, self.kind.likely_cause())
    }
}

/// Classifies the error that a TLS stream (tokio-rustls, or rustls' own) returned from its handshake, or from the
/// first read after it: a TLS 1.3 client learns only there that its certificate was refused.
pub fn refusal(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(error) => tls_refusal(error),
        None => Refusal { kind: RefusalKind::Io, detail: error.to_string(), by_peer: false },
    }
}

fn tls_refusal(error: &TlsError) -> Refusal {
    let detail = match (error, identity_mismatch(error)) {
        (_, Some(mismatch)) => mismatch.to_string(),
        (TlsError::InvalidCertificate(CertificateError::Other(other)), None) => other.0.to_string(),
        (TlsError::AlertReceived(alert), None) => format!("TLS alert {alert:?}"),
        (other, None) => other.to_string(),
    };
    Refusal { kind: kind_of(error), detail, by_peer: matches!(error, TlsError::AlertReceived(_)) }
}

fn kind_of(error: &TlsError) -> RefusalKind {
    match error {
        error if identity_mismatch(error).is_some() => RefusalKind::IdentityMismatch,
        TlsError::NoCertificatesPresented => RefusalKind::NoCertificate,
        TlsError::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => RefusalKind::ExpiredCertificate,
        TlsError::PeerIncompatible(
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon,
        )
        | TlsError::InvalidCertificate(_) => RefusalKind::UntrustedCertificate,
        TlsError::PeerIncompatible(_) => RefusalKind::TlsVersion,
        TlsError::NoApplicationProtocol => RefusalKind::Alpn,
        TlsError::AlertReceived(alert) => kind_of_alert(*alert),
        TlsError::InvalidMessage(_)
        | TlsError::InappropriateMessage { .. }
        | TlsError::InappropriateHandshakeMessage { .. }
        | TlsError::PeerMisbehaved(_)
        | TlsError::PeerSentOversizedRecord
        | TlsError::DecryptError => RefusalKind::NotTls,
        // Our own trouble (no randomness, no clock, handshake ended early): nothing about the peer.
        _ => RefusalKind::Io,
    }
}

/// What the peer's alert (RFC 8446 §6.2) says about us.
fn kind_of_alert(alert: AlertDescription) -> RefusalKind {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => RefusalKind::NoCertificate,
        AlertDescription::CertificateExpired => RefusalKind::ExpiredCertificate,
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => RefusalKind::UntrustedCertificate,
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity => RefusalKind::TlsVersion,
        AlertDescription::NoApplicationProtocol => RefusalKind::Alpn,
        AlertDescription::UserCanceled | AlertDescription::CloseNotify | AlertDescription::InternalError => {
            RefusalKind::Io
        }
        _ => RefusalKind::NotTls,
    }
}

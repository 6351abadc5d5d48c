//! The one error type of the request path. Each kind answers, in this file and by exhaustive `match`: what does the
//! client see, may the request be sent again, and under which label is it counted. Messages name the likely cause.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use lacewing_identity::Refusal;

use crate::http::{body::Broke, patience::Cut};

/// Why a request or a connection was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("no destination {name:?}: {reason}")]
    NotFound { name: String, reason: String },
    #[error("looking up {name:?} took longer than {}: the controller did not answer in time", show(*waited))]
    LookupTimeout { name: String, waited: Duration },
    #[error(
        "{name:?} is not known yet and the controller cannot be reached: {why}; known destinations keep working, try again when it is back"
    )]
    LookupDown { name: String, why: String },
    #[error("{name:?} is refused: {limit} destinations are in use already")]
    LookupFull { name: String, limit: usize },
    #[error("no endpoint of {service} is ready ({why}) since {}; see `mesh stat svc` and the pods' readiness", show(*since))]
    NoEndpoint { service: String, why: &'static str, since: Duration },
    #[error("cannot connect to {addr}: {cause}; the process may be gone, or a NetworkPolicy may be in the way")]
    Connect { addr: SocketAddr, cause: Arc<std::io::Error> },
    #[error("mesh TLS with {addr} failed: {refusal}")]
    Handshake { addr: SocketAddr, refusal: Refusal },
    #[error("this proxy has no certificate yet: {0}")]
    NoCertificate(String),
    #[error("the endpoint's proxy refused the request before its app saw it")]
    Refused,
    #[error(
        "the connection broke before an answer came ({0}): the other side crashed, or does not speak the request's HTTP version (1 or 2)"
    )]
    Broken(Broke),
    #[error(
        "the app behind {addr} broke off before it answered: it crashed, or it does not speak the request's HTTP version (1 or 2)"
    )]
    AppBroken { addr: SocketAddr },
    #[error("the server reset the request: {0}")]
    Reset(h2::Reason),
    #[error("the request's body broke off: {0}")]
    ClientBody(Broke),
    #[error("{0}")]
    BadAnswer(&'static str),
    #[error("{0}")]
    Denied(&'static str),
    #[error("connection refused: {0}")]
    Forbidden(Refusal),
    #[error("{0}")]
    Cut(Cut),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Whether the request may be sent again elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Another attempt cannot help, or could do harm.
    Never,
    /// It may have been processed: only where processing twice equals once.
    IfIdempotent,
    /// It was certainly not processed.
    Always,
}

impl Error {
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. } | Self::Handshake { .. } | Self::Refused => Retry::Always,
            Self::Broken(_) | Self::AppBroken { .. } | Self::Reset(_) => Retry::IfIdempotent,
            Self::BadRequest(_)
            | Self::NotFound { .. }
            | Self::LookupTimeout { .. }
            | Self::LookupDown { .. }
            | Self::LookupFull { .. }
            | Self::NoEndpoint { .. }
            | Self::NoCertificate(_)
            | Self::ClientBody(_)
            | Self::BadAnswer(_)
            | Self::Denied(_)
            | Self::Forbidden(_)
            | Self::Cut(_)
            | Self::Io(_) => Retry::Never,
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::ClientBody(_) | Self::Cut(_) => StatusCode::BAD_REQUEST,
            Self::NotFound { .. }
            | Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Broken(_)
            | Self::AppBroken { .. }
            | Self::BadAnswer(_)
            | Self::Reset(_)
            | Self::Io(_) => StatusCode::BAD_GATEWAY,
            Self::LookupTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::LookupDown { .. }
            | Self::LookupFull { .. }
            | Self::NoEndpoint { .. }
            | Self::NoCertificate(_)
            | Self::Refused => StatusCode::SERVICE_UNAVAILABLE,
            Self::Denied(_) | Self::Forbidden(_) => StatusCode::FORBIDDEN,
        }
    }

    /// The same error for another request that waited for the same connection.
    #[must_use]
    pub fn shared(&self) -> Self {
        match self {
            Self::Connect { addr, cause } => Self::Connect { addr: *addr, cause: cause.clone() },
            Self::Handshake { addr, refusal } => Self::Handshake { addr: *addr, refusal: refusal.clone() },
            Self::NoCertificate(why) => Self::NoCertificate(why.clone()),
            other => Self::Io(std::io::Error::other(other.to_string())),
        }
    }

    /// gRPC status code for the same (gRPC's "HTTP to gRPC status code mapping", and UNAVAILABLE where a retry by the
    /// client is safe).
    pub fn grpc_status(&self) -> u16 {
        match self.status() {
            StatusCode::BAD_REQUEST => 13,
            StatusCode::FORBIDDEN => 7,
            StatusCode::GATEWAY_TIMEOUT => 4,
            _ => 14,
        }
    }

    /// The label under which it is counted; also the value of the `l6g-error` response header.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::NotFound { .. } => "not_found",
            Self::LookupTimeout { .. } => "lookup_timeout",
            Self::LookupDown { .. } => "controller_away",
            Self::LookupFull { .. } => "lookup_full",
            Self::NoEndpoint { .. } => "no_endpoint",
            Self::Connect { .. } => "connect",
            Self::Handshake { refusal, .. } | Self::Forbidden(refusal) => refusal.label(),
            Self::NoCertificate(_) => "no_certificate_yet",
            Self::Refused => "refused",
            Self::Broken(_) => "broken",
            Self::AppBroken { .. } => "app_broken",
            Self::Reset(_) => "reset",
            Self::ClientBody(_) => "client_body",
            Self::BadAnswer(_) => "bad_answer",
            Self::Denied(_) => "denied",
            Self::Cut(cut) => cut.label(),
            Self::Io(_) => "io",
        }
    }
}

/// Seconds for people: `0.8s`, `12s`.
fn show(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1}s", duration.as_secs_f64())
    } else {
        format!("{}s", duration.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_processed_is_always_sent_again() {
        let addr = "127.0.0.1:1".parse().unwrap();
        let gone = Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(Error::Connect { addr, cause: gone }.retry(), Retry::Always);
        assert_eq!(Error::Refused.retry(), Retry::Always);
        assert_eq!(Error::BadRequest("x").retry(), Retry::Never);
    }

    #[test]
    fn messages_say_what_and_what_next() {
        let none = Error::NoEndpoint {
            service: "shop/web:80".to_owned(),
            why: "2 known, all failing",
            since: Duration::from_secs(12),
        };
        let text = none.to_string();
        assert!(text.contains("shop/web:80") && text.contains("12s") && text.contains("mesh stat"), "{text}");
        assert_eq!((none.status(), none.grpc_status()), (StatusCode::SERVICE_UNAVAILABLE, 14));
    }
}

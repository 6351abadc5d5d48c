//! What a request's head decides: for whom it is, over which HTTP version it travels, and whether it may be sent again.
//! Pure. Rules of routes and profiles become further inputs of [`route`]; the spine does not change.

use http::{Method, Version, header::CONTENT_LENGTH, request, uri};

use crate::{
    config::{REPLAY_BODY_MAX, TARGET_NAME_MAX},
    error::{Error, Retry},
    http::{client::Carrier, headers},
};

/// Where a request goes and how it may be treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// As the client named it; goes on unchanged.
    pub authority: uri::Authority,
    /// Sending it twice equals sending it once (RFC 9110, 9.2.2).
    pub idempotent: bool,
    /// Its body is small and of declared length, so it can be kept for another attempt.
    pub replayable: bool,
    /// It came as HTTP/2.
    pub http2: bool,
}

/// The name of the route that every request takes while nobody defined others.
pub const DEFAULT_ROUTE: &str = "default";

/// Reads the head.
///
/// # Errors
/// [`Error::BadRequest`]: no destination, or an ambiguous one; [`Error::Denied`]: `CONNECT`; [`Error::Upgrade`].
pub fn route(head: &request::Parts) -> Result<Route, Error> {
    if head.method == Method::CONNECT {
        return Err(Error::Denied("CONNECT is not allowed: name the service in the request instead"));
    }
    if let Some(protocol) = headers::upgrade(&head.headers) {
        return Err(Error::Upgrade(protocol));
    }
    let authority = headers::authority(head)?;
    if authority.as_str().len() > TARGET_NAME_MAX {
        return Err(Error::BadRequest("the request's host name is too long"));
    }
    let chunked = head.headers.contains_key(http::header::TRANSFER_ENCODING);
    let declared =
        head.headers.get(CONTENT_LENGTH).map(|value| value.to_str().ok().and_then(|n| n.parse::<u64>().ok()));
    let idempotent = matches!(
        head.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    let replayable = match declared {
        Some(length) => length.is_some_and(|length| length <= REPLAY_BODY_MAX),
        // Without a length, HTTP/1 has no body unless chunked; HTTP/2 might have one of any size.
        None => !chunked && head.version < Version::HTTP_2,
    };
    Ok(Route { authority, idempotent, replayable, http2: head.version == Version::HTTP_2 })
}

impl Route {
    /// `host:port` to look up, in lower case; port 80 where none is named.
    pub fn target(&self) -> String {
        let port = self.authority.port_u16().unwrap_or(80);
        format!("{}:{port}", self.authority.host().to_ascii_lowercase())
    }

    /// The version that carries it to a peer that is meshed or not.
    pub fn carrier(&self, meshed: bool) -> Carrier {
        match (self.http2, meshed) {
            (true, _) => Carrier::Http2,
            (false, true) => Carrier::Http1InHttp2,
            (false, false) => Carrier::Http1,
        }
    }

    /// Whether a request that failed with `error` may be sent again, apart from limits and budget.
    pub fn may_retry(&self, error: &Error) -> bool {
        match error.retry() {
            Retry::Always => true,
            Retry::IfIdempotent => self.idempotent,
            Retry::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, request::Builder};

    use super::*;

    fn read(request: Builder) -> Result<Route, Error> {
        route(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn targets() {
        for (uri, host, expected) in [
            ("/", "web", "web:80"),
            ("/", "WEB.Shop:8080", "web.shop:8080"),
            ("http://voting.emojivoto:8080/api", "other", "voting.emojivoto:8080"),
            ("/", "[::1]:81", "[::1]:81"),
            ("/", "10.0.0.1:81", "10.0.0.1:81"),
        ] {
            assert_eq!(read(Request::get(uri).header("host", host)).unwrap().target(), expected);
        }
    }

    #[test]
    fn what_may_be_sent_again() {
        let request = |method: &str, version, length: Option<&str>, chunked: bool| {
            let mut builder = Request::builder().method(method).uri("http://web/").version(version);
            if let Some(length) = length {
                builder = builder.header("content-length", length);
            }
            if chunked {
                builder = builder.header("transfer-encoding", "chunked");
            }
            let route = read(builder).unwrap();
            (route.idempotent, route.replayable)
        };
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        assert_eq!(request("GET", h1, None, false), (true, true));
        assert_eq!(request("PUT", h1, Some("65536"), false), (true, true));
        assert_eq!(request("PUT", h1, Some("65537"), false), (true, false));
        assert_eq!(request("PUT", h1, Some("x"), false), (true, false));
        assert_eq!(request("POST", h1, Some("3"), false), (false, true));
        assert_eq!(request("POST", h1, None, true), (false, false));
        assert_eq!(request("GET", h2, None, false), (true, false));
        assert_eq!(request("POST", h2, Some("3"), false), (false, true));
    }

    #[test]
    fn connect_and_upgrades_are_refused_by_name() {
        assert!(matches!(read(Request::connect("web:80").header("host", "web")), Err(Error::Denied(_))));
        let get = || Request::get("/").header("host", "web").header("connection", "upgrade");
        assert!(matches!(read(get().header("upgrade", "websocket")), Err(Error::Upgrade(_))));
        assert!(read(get().header("upgrade", "h2c")).is_ok(), "offers of HTTP/2 are ignored (RFC 9113, 3.1)");
    }
}

//! What a request's head decides: for whom it is, over which HTTP version it travels, and whether it may be sent again.
//! Pure. Rules of routes and profiles become further inputs of [`route`]; the spine does not change.

use std::net::SocketAddr;

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
    /// It wants to turn its connection into a tunnel (`Upgrade`, `CONNECT`), so it needs one of its own.
    pub tunnel: bool,
}

/// The name of the route that every request takes while nobody defined others.
pub const DEFAULT_ROUTE: &str = "default";

/// Reads the head. `dialled`: where the app's connection was meant for, if that is known; then the head need not say.
///
/// # Errors
/// [`Error::BadRequest`]: no destination, or an ambiguous one; [`Error::Denied`]: `CONNECT` that is not to be carried.
pub fn route(head: &request::Parts, dialled: Option<SocketAddr>, allow_connect: bool) -> Result<Route, Error> {
    let connect = head.method == Method::CONNECT;
    let tunnel = connect || headers::upgrade(head.version, &head.headers).is_some();
    match (connect, dialled) {
        (true, None) => return Err(Error::Denied("CONNECT is not allowed: name the service in the request instead")),
        (true, Some(_)) if !allow_connect => {
            return Err(Error::Denied("CONNECT is not allowed for this workload (LACEWING_ALLOW_CONNECT)"));
        }
        (true, Some(_)) if head.version != Version::HTTP_11 => {
            return Err(Error::Denied("CONNECT is carried over HTTP/1.1 only"));
        }
        _ => {}
    }
    let authority = headers::authority(head, dialled)?;
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
    Ok(Route { authority, idempotent, replayable, http2: head.version == Version::HTTP_2, tunnel })
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
            (false, true) if !self.tunnel => Carrier::Http1InHttp2,
            (false, _) => Carrier::Http1,
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
        route(&request.body(()).unwrap().into_parts().0, None, true)
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
            let mut builder =
                Request::builder().method(method).uri("http://web/").header("host", "web").version(version);
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
    fn tunnels_get_a_connection_of_their_own() {
        let get = || Request::get("/").header("host", "web").header("connection", "upgrade");
        let websocket = read(get().header("upgrade", "websocket")).unwrap();
        assert_eq!((websocket.carrier(true), websocket.carrier(false)), (Carrier::Http1, Carrier::Http1));
        let h2c = read(get().header("upgrade", "h2c")).unwrap();
        assert_eq!(h2c.carrier(true), Carrier::Http1InHttp2, "offers of HTTP/2 are ignored (RFC 9113, 3.1)");
    }

    #[test]
    fn connect_is_carried_only_where_it_is_allowed_and_the_app_has_dialled_somebody() {
        let dialled = Some("10.0.0.1:3128".parse().unwrap());
        let connect = |version, dialled, allowed| {
            let request = Request::connect("db:5432").version(version).header("host", "db:5432");
            route(&request.body(()).unwrap().into_parts().0, dialled, allowed)
        };
        assert!(connect(Version::HTTP_11, dialled, true).unwrap().tunnel);
        for (version, dialled, allowed) in
            [(Version::HTTP_11, None, true), (Version::HTTP_11, dialled, false), (Version::HTTP_2, dialled, true)]
        {
            assert!(matches!(connect(version, dialled, allowed), Err(Error::Denied(_))));
        }
    }
}

//! What happens to a message's head on its way: whom it is for, which fields end here, and how it changes between
//! HTTP/1 and HTTP/2. Pure. It refuses heads whose destination is ambiguous; framing is hyper's, made new on each hop.

use std::net::{Ipv6Addr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HOST,
        PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    request, uri,
};
use lacewing_identity::SpiffeId;

use crate::{config::HEADER_FIELDS_MAX, error::Error};

/// Fields of this prefix (and `-`) are the mesh's own: they never come in from an app or from a peer that proved nothing.
const RESERVED: &str = "l6g";
/// Set on inbound requests: the client's SPIFFE ID.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("l6g-client-id");
/// Set on answers that a proxy made: the error's label.
pub const ERROR: HeaderName = HeaderName::from_static("l6g-error");
/// Set by an inbound proxy on HTTP/1 answers: the app certainly did not see the request.
pub const REFUSED: HeaderName = HeaderName::from_static("l6g-refused");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const NEVER_TRAILERS: [HeaderName; 18] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    TE,
    TRAILER,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    CONTENT_RANGE,
    HOST,
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    COOKIE,
    SET_COOKIE,
    EXPECT,
];

/// `host[:port]` that the request is for (RFC 9112, 3.2; RFC 9113, 8.3.1). An HTTP/1.0 client that says none means the
/// address that it has `dialled`.
///
/// # Errors
/// None, several or an unusable one; or framing that two parsers could read differently (RFC 9112, 6.3).
pub fn authority(head: &request::Parts, dialled: Option<SocketAddr>) -> Result<uri::Authority, Error> {
    unambiguous(head)?;
    target_form(head)?;
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Error::BadRequest("more than one Host field")),
        (host, None) => host.map(parse_host).transpose()?,
    };
    let named = match (head.uri.authority(), host) {
        (Some(_), None) if head.version == Version::HTTP_11 => {
            return Err(Error::BadRequest("the request has no Host field (RFC 9112, 3.2)"));
        }
        (Some(authority), Some(host)) if head.version == Version::HTTP_2 && *authority != host => {
            return Err(Error::BadRequest("the Host field and :authority differ"));
        }
        // The request target wins over Host where both are there.
        (Some(authority), _) => Some(authority.clone()),
        (None, host) => host,
    };
    let dialled = dialled.filter(|_| head.version == Version::HTTP_10);
    let named = named.or_else(|| uri::Authority::try_from(dialled?.to_string()).ok());
    let authority =
        named.ok_or(Error::BadRequest("the request names no host: send a Host field or an absolute URI"))?;
    well_formed(&authority)?;
    Ok(authority)
}

/// Of the forms of a target (RFC 9112, 3.2; RFC 9113, 8.3.1) those that go on as they came.
fn target_form(head: &request::Parts) -> Result<(), Error> {
    if head.method == Method::CONNECT {
        return Ok(()); // its target is an authority
    }
    let http2 = head.version == Version::HTTP_2;
    match (head.uri.scheme_str(), head.uri.authority()) {
        (Some("http" | "https"), Some(_)) | (None, None) => {}
        (None, Some(_)) => return Err(Error::BadRequest("the request's target is neither a path nor an absolute URI")),
        _ => return Err(Error::BadRequest("the request's scheme is neither http nor https")),
    }
    let target = head.uri.path_and_query().map_or("", uri::PathAndQuery::as_str);
    // Without a path, an absolute URI means `/`; HTTP/2 always says one.
    let absolute = head.uri.scheme().is_some() && !http2 && (target.is_empty() || target.starts_with('?'));
    let asterisk = target == "*" && head.method == Method::OPTIONS;
    if !(target.starts_with('/') || absolute || asterisk) {
        return Err(Error::BadRequest("the request's target is no path"));
    }
    Ok(())
}

/// `host[:port]` as anybody would read it: `http`'s own reading leaves room for more (RFC 3986, 3.2 does, too).
fn well_formed(authority: &uri::Authority) -> Result<(), Error> {
    let text = authority.as_str();
    let (host_is_good, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').unwrap_or((rest, "]"));
        (address.parse::<Ipv6Addr>().is_ok(), if rest.is_empty() { Some("") } else { rest.strip_prefix(':') })
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (!host.is_empty() && host.bytes().all(good), Some(port))
    };
    if !host_is_good {
        return Err(Error::BadRequest("the host in the request's authority is neither a name nor an address"));
    }
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if !port.is_some_and(|port| port.is_empty() || digits(port) && port.parse::<u16>().is_ok()) {
        return Err(Error::BadRequest("the port in the request's authority is no port"));
    }
    Ok(())
}

fn parse_host(value: &HeaderValue) -> Result<uri::Authority, Error> {
    uri::Authority::try_from(value.as_bytes()).map_err(|_| Error::BadRequest("the Host field is not host[:port]"))
}

fn unambiguous(head: &request::Parts) -> Result<(), Error> {
    if head.version > Version::HTTP_11 {
        return few_fields(&head.headers); // framed by HTTP/2 itself
    }
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else { return Ok(()) };
    if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Error::BadRequest("Transfer-Encoding is not exactly `chunked`"));
    }
    if head.headers.contains_key(CONTENT_LENGTH) {
        return Err(Error::BadRequest("both Transfer-Encoding and Content-Length"));
    }
    Ok(())
}

/// Over HTTP/1 hyper counts. Crumbs of a cookie are one field (RFC 9113, 8.2.3).
fn few_fields(headers: &HeaderMap) -> Result<(), Error> {
    let too_many = headers.len() > HEADER_FIELDS_MAX
        && headers.len() - headers.get_all(COOKIE).iter().count() >= HEADER_FIELDS_MAX;
    if too_many { Err(Error::BadRequest("more than 128 header fields")) } else { Ok(()) }
}

/// Refuses an answer over HTTP/1 whose framing two parsers could read differently (RFC 9112, 6.3).
///
/// # Errors
/// [`Error::BadAnswer`].
pub fn unambiguous_answer(headers: &HeaderMap) -> Result<(), Error> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let lengths = headers.get_all(CONTENT_LENGTH);
    match (encodings.next(), encodings.next()) {
        (None, _) => {
            if lengths.iter().any(|length| length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit)) {
                return Err(Error::BadAnswer("the answer's Content-Length is no number"));
            }
        }
        (Some(encoding), None) if encoding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if lengths.iter().next().is_some() {
                return Err(Error::BadAnswer("the answer has both Transfer-Encoding and Content-Length"));
            }
        }
        _ => return Err(Error::BadAnswer("the answer's Transfer-Encoding is not exactly `chunked`")),
    }
    Ok(())
}

/// Fields that concern one connection only (RFC 9110, 7.6.1), whatever `Connection` says of them.
const HOP_BY_HOP: [HeaderName; 5] = [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS];
/// What a name stands for in a set of those that end at a proxy; the first bits are for [`HOP_BY_HOP`].
const ENDS_CONNECTION: u8 = 1 << 5;
const ENDS_TE: u8 = 1 << 6;
const ENDS_RESERVED: u8 = 1 << 7;

/// Removes what ends at a proxy: the mesh's own fields, those that concern one connection only (RFC 9110, 7.6.1), and those
/// that `Connection` names, except fields that others rely on: a client must not be able to talk us into removing them.
/// Call it on every head that comes in.
pub fn strip(headers: &mut HeaderMap) {
    // One look at the names tells what there is: as a rule nothing, or `connection: keep-alive`.
    let found = headers.keys().fold(0, |found, name| found | ends_here(name));
    if found & ENDS_RESERVED != 0 {
        strip_reserved(headers);
    }
    if found & ENDS_CONNECTION != 0 {
        strip_connection(headers);
    }
    for (bit, name) in HOP_BY_HOP.iter().enumerate() {
        if found & 1 << bit != 0 {
            headers.remove(name);
        }
    }
    // Of TE only `trailers` means anything beyond this hop; gRPC needs it.
    if found & ENDS_TE != 0 && headers.get(TE).is_some_and(|te| te.as_bytes() != b"trailers") {
        headers.remove(TE);
    }
}

fn ends_here(name: &HeaderName) -> u8 {
    match name.as_str() {
        "connection" => ENDS_CONNECTION,
        "te" => ENDS_TE,
        "keep-alive" => 1,
        "proxy-connection" => 1 << 1,
        "transfer-encoding" => 1 << 2,
        "upgrade" => 1 << 3,
        "http2-settings" => 1 << 4,
        _ if is_reserved(name) => ENDS_RESERVED,
        _ => 0,
    }
}

/// Removes the mesh's own fields.
fn strip_reserved(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_reserved(name)).cloned() {
        headers.remove(name);
    }
}

/// Apps that read their fields as CGI does (WSGI, Rack, PHP) take `_` for `-`.
fn is_reserved(name: &HeaderName) -> bool {
    name.as_str().strip_prefix(RESERVED).is_some_and(|rest| rest.starts_with(['-', '_']))
}

/// Removes from trailers what must not be there (RFC 9110, 6.5.1): the mesh's own fields, and those by which a message is
/// framed, routed or authorized.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_reserved(trailers);
    for name in NEVER_TRAILERS {
        trailers.remove(name);
    }
}

/// Removes `Connection` and what it names.
fn strip_connection(headers: &mut HeaderMap) {
    let unknown =
        |name: &&str| ["keep-alive", "close", "upgrade"].iter().all(|known| !name.eq_ignore_ascii_case(known));
    let named: Vec<HeaderName> = (headers.get_all(CONNECTION).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(unknown)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !is_kept(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

fn is_kept(name: &HeaderName) -> bool {
    let (reserved, name) = (is_reserved(name), name.as_str());
    matches!(name, "host" | "authorization" | "cookie" | "content-length" | "te")
        || name.starts_with("x-forwarded-")
        || reserved
}

/// Makes the head one of HTTP/2 to `authority`.
pub fn to_http2(head: &mut request::Parts, authority: &uri::Authority) {
    head.headers.remove(HOST);
    head.uri = absolute(authority, path(&head.uri));
    head.version = Version::HTTP_2;
}

/// Makes the head one of HTTP/1.1 for a server, with the target in origin form.
pub fn to_http1(head: &mut request::Parts, authority: &uri::Authority) {
    // The target of CONNECT stays in authority form (RFC 9112, 3.2.3).
    if head.method != Method::CONNECT {
        head.uri = Uri::from(path(&head.uri));
    }
    head.version = Version::HTTP_11;
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        head.headers.insert(HOST, host);
    }
    // Cookie crumbs of HTTP/2 are one field in HTTP/1 (RFC 9113, 8.2.3).
    let mut crumbs = head.headers.get_all(http::header::COOKIE).iter();
    if let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) {
        let all: Vec<&[u8]> = head.headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            head.headers.insert(http::header::COOKIE, joined);
        }
    }
}

/// The target's path and query. In an absolute URI the path may be absent, which means `/` (RFC 9112, 3.2.1).
fn path(uri: &Uri) -> uri::PathAndQuery {
    let root = || uri::PathAndQuery::from_static("/");
    match uri.path_and_query() {
        Some(query) if query.as_str().starts_with('?') => {
            format!("/{}", query.as_str()).try_into().unwrap_or_else(|_| root())
        }
        Some(path) => path.clone(),
        None => root(),
    }
}

fn absolute(authority: &uri::Authority, path: uri::PathAndQuery) -> Uri {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query = Some(path);
    // Scheme, authority and path are all there: this cannot fail.
    Uri::from_parts(parts).unwrap_or_default()
}

/// A client's identity as the app is told it, in [`CLIENT_ID`].
pub fn client_id(client: &SpiffeId) -> Option<HeaderValue> {
    HeaderValue::from_str(&client.to_string()).ok()
}

/// The protocol that the client wants to switch to (RFC 9110, 7.8), other than HTTP/2, which is never negotiated that way
/// any more (RFC 9113, 3.1). Only HTTP/1.1 can.
pub fn upgrade(version: Version, headers: &HeaderMap) -> Option<&HeaderValue> {
    let wanted = headers.get(UPGRADE).filter(|_| version == Version::HTTP_11)?;
    let tokens = |value: &HeaderValue, token: &str| {
        value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let asked = headers.get_all(CONNECTION).iter().any(|value| tokens(value, "upgrade"));
    (asked && !tokens(wanted, "h2c")).then_some(wanted)
}

/// Whether the message is gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    // `application/grpc-web` carries its status in the body: to us it is plain HTTP.
    let kind =
        headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(request: request::Builder) -> request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn authority_table() {
        let get = |uri: &str| Request::get(uri);
        for (request, expected) in [
            (get("/").header("host", "web:80"), Some("web:80")),
            (get("http://web/x").header("host", "other"), Some("web")),
            (get("http://web:81/x").header("host", ""), None),
            (get("http://web:81/x"), None),
            (get("http://web:81/x").version(Version::HTTP_10), Some("web:81")),
            (get("http://web:81/x").version(Version::HTTP_2), Some("web:81")),
            (get("http://web:81/x").version(Version::HTTP_2).header("host", "WEB:81"), Some("web:81")),
            (get("http://web:81/x").version(Version::HTTP_2).header("host", "web"), None),
            (get("ftp://web/x").header("host", "web"), None),
            (get("web:81").header("host", "web:81"), None),
            (get("*").header("host", "web"), None),
            (Request::options("*").header("host", "web"), Some("web")),
            (get("/").header("host", "[::1]:80"), Some("[::1]:80")),
            (get("/").header("host", "[::g]"), None),
            (get("/").header("host", "[::1]x:80"), None),
            (get("/").header("host", "a,b"), None),
            (get("/").header("host", "web:+80"), None),
            (get("/").header("host", "web:"), Some("web:")),
            (get("/"), None),
            (get("/").header("host", "a").header("host", "a"), None),
            (get("/").header("host", "a b"), None),
            (get("/").header("host", ""), None),
            (get("/").header("host", "user@web"), None),
            (get("http://user:pw@web/"), None),
            (get("/").header("host", "web:99999"), None),
            (get("/").header("host", "web:0x50"), None),
            (get("/").header("host", "a").header("transfer-encoding", "chunked"), Some("a")),
            (get("/").header("host", "a").header("transfer-encoding", "Chunked"), Some("a")),
            (get("/").header("host", "a").header("transfer-encoding", "identity, chunked"), None),
            (
                get("/")
                    .header("host", "a")
                    .header("transfer-encoding", "chunked")
                    .header("transfer-encoding", "chunked"),
                None,
            ),
            (get("/").header("host", "a").header("transfer-encoding", "chunked").header("content-length", "1"), None),
        ] {
            let head = head(request);
            let found = authority(&head, None).ok().map(|a| a.to_string());
            assert_eq!(found.as_deref(), expected, "{head:?}");
        }
    }

    #[test]
    fn an_old_client_means_what_it_dialled() {
        let dialled = Some("10.0.0.1:81".parse().unwrap());
        let old = head(Request::get("/").version(Version::HTTP_10));
        assert_eq!(authority(&old, dialled).unwrap().as_str(), "10.0.0.1:81");
        let named = head(Request::get("/").version(Version::HTTP_10).header("host", "web"));
        assert_eq!(authority(&named, dialled).unwrap().as_str(), "web");
        assert!(authority(&head(Request::get("/")), dialled).is_err(), "HTTP/1.1 must say");
    }

    #[test]
    fn upgrades_are_asked_for_in_both_fields() {
        let wanted = |version, connection: &str, upgrade_to: &str| {
            let request = Request::get("/").header("connection", connection).header("upgrade", upgrade_to);
            upgrade(version, &head(request).headers).is_some()
        };
        let http1 = Version::HTTP_11;
        assert!(wanted(http1, "Upgrade", "websocket") && wanted(http1, "keep-alive, upgrade", "WebSocket"));
        assert!(!wanted(http1, "keep-alive", "websocket") && !wanted(Version::HTTP_10, "upgrade", "websocket"));
        assert!(!wanted(http1, "upgrade, http2-settings", "h2c") && !wanted(http1, "upgrade", "h2c, websocket"));
    }

    #[test]
    fn fields_of_http2_are_counted_and_crumbs_are_not() {
        let with = |fields: usize, crumbs: usize| {
            let mut request = Request::get("http://web/").version(Version::HTTP_2);
            for n in 0..fields {
                request = request.header(format!("x-{n}"), "1");
            }
            for n in 0..crumbs {
                request = request.header("cookie", format!("c{n}=1"));
            }
            authority(&head(request), None).is_ok()
        };
        assert!(with(HEADER_FIELDS_MAX, 0) && with(HEADER_FIELDS_MAX - 1, 300));
        assert!(!with(HEADER_FIELDS_MAX + 1, 0) && !with(HEADER_FIELDS_MAX, 300));
    }

    #[test]
    fn reserved_fields_never_pass() {
        let mut head = head(
            Request::get("/")
                .header("L6G-Client-Id", "spiffe://x")
                .header("l6g-client-id", "y")
                .header("l6g-x", "z")
                .header("l6g_client_id", "w")
                .header("l6", "ok"),
        );
        strip(&mut head.headers);
        assert_eq!(head.headers.len(), 1);
    }

    #[test]
    fn hop_by_hop_fields_end_here_but_nominations_do_not_reach_others() {
        let mut head = head(
            Request::get("/")
                .header("connection", "close, x-private, Authorization, x-forwarded-for")
                .header("x-private", "1")
                .header("authorization", "secret")
                .header("x-forwarded-for", "1.2.3.4")
                .header("upgrade", "h2c")
                .header("http2-settings", "AAA")
                .header("te", "gzip")
                .header("keep-alive", "timeout=5"),
        );
        strip(&mut head.headers);
        let mut left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-forwarded-for"]);
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        strip(&mut head.headers);
        assert!(head.headers.contains_key(TE));
    }

    #[test]
    fn there_and_back_between_versions() {
        let mut parts = head(Request::get("/a?b=c").header("host", "web:80"));
        let to = authority(&parts, None).unwrap();
        to_http2(&mut parts, &to);
        assert_eq!((parts.uri.to_string().as_str(), parts.headers.len()), ("http://web:80/a?b=c", 0));
        parts.headers.append("cookie", HeaderValue::from_static("a=1"));
        parts.headers.append("cookie", HeaderValue::from_static("b=2"));
        to_http1(&mut parts, &to);
        assert_eq!(parts.uri.to_string(), "/a?b=c");
        assert_eq!(parts.headers[HOST], "web:80");
        assert_eq!(parts.headers.get_all("cookie").iter().count(), 1);
        assert_eq!(parts.headers["cookie"], "a=1; b=2");
    }

    #[test]
    fn options_star_survives() {
        let mut parts = head(Request::options("*").header("host", "web"));
        let to = authority(&parts, None).unwrap();
        to_http1(&mut parts, &to);
        assert_eq!(parts.uri.to_string(), "*");
    }
}

//! A request's head: whom it is for is told without a panic; what is emitted, as HTTP/1 or as HTTP/2 or as one after the
//! other, is read again as the same destination and the same path; and no field of the mesh's own is left in it.
//! The input is text: method, target, version and `name: value` lines.

#![no_main]

use http::{HeaderName, HeaderValue, Method, Request, Version, request::Parts};
use lacewing_proxy::{
    http::headers::{strip, strip_trailers, to_http1, to_http2, unambiguous_answer},
    route::route,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(mut head) = head(bytes) else { return };
    let _ = unambiguous_answer(&head.headers);
    let dialled = "10.0.0.1:80".parse().ok();
    let Ok(found) = route(&head, dialled, true) else { return };
    let path = |head: &Parts| head.uri.path_and_query().map(ToString::to_string);
    let (before, target) = (path(&head), found.target());
    strip(&mut head.headers);
    let mut trailers = head.headers.clone();
    strip_trailers(&mut trailers);
    assert!(!trailers.contains_key("host") && !trailers.contains_key("content-length"));
    for name in head.headers.keys() {
        assert!(!name.as_str().starts_with("l6g-") && !name.as_str().starts_with("l6g_"), "{name}");
    }
    if head.method == Method::CONNECT {
        return; // it is carried as it came
    }
    let mut http1 = head.clone();
    to_http1(&mut http1, &found.authority);
    let mut http2 = head;
    to_http2(&mut http2, &found.authority);
    let mut back = http2.clone();
    to_http1(&mut back, &found.authority);
    for emitted in [http1, http2, back] {
        let again = route(&emitted, dialled, true);
        let again = again.unwrap_or_else(|error| panic!("what we emit is refused: {error}: {emitted:?}"));
        assert_eq!((again.target(), path(&emitted)), (target.clone(), before.clone()), "{emitted:?}");
        assert!(!emitted.headers.contains_key("transfer-encoding") && !emitted.headers.contains_key("connection"));
    }
});

fn head(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let method = Method::from_bytes(lines.next()?).ok()?;
    let target = lines.next()?;
    let version = match lines.next()? {
        b"1.0" => Version::HTTP_10,
        b"2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let mut head = Request::builder().method(method).uri(target).version(version).body(()).ok()?.into_parts().0;
    for line in lines.take(64) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        // As hyper hands them on: without blanks around.
        head.headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(head)
}

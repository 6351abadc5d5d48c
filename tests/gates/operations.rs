//! Owns the hot path's single operations, each on inputs that are ready before the counting starts and dropped after
//! it. Inputs are what a typical request brings; what depends on chance has a fixed seed.

use std::{
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use http::{HeaderMap, Request, StatusCode, Version, request::Parts, uri::Authority};
use lacewing_proxy::{
    balance::{Balancer, Load, Loaded},
    http::{headers, strict::Reader},
    live::{Direction, Key},
    metrics::{Class, Metrics},
    retry::Budget,
    route::route,
};
use rustls_pki_types::UnixTime;
use tokio::time::Instant;

use crate::{Gate, measured, spines};

const TIMES: u32 = 1_000;

pub const GATES: &[Gate] = &[
    Gate { name: "pick-2", function: "balance::Balancer::pick", run: |times| pick(2, times), times: TIMES },
    Gate { name: "pick-100", function: "balance::Balancer::pick", run: |times| pick(100, times), times: TIMES },
    Gate { name: "route", function: "route::route", run: routes, times: TIMES },
    Gate { name: "head-out", function: "http::headers, as outbound calls it", run: heads_out, times: TIMES },
    Gate { name: "head-in", function: "http::headers, as inbound calls it", run: heads_in, times: TIMES },
    Gate { name: "answer-head", function: "http::headers, for an answer", run: answers, times: TIMES },
    Gate { name: "record", function: "metrics::Peer::{request, response}", run: records, times: TIMES },
    Gate { name: "strict-head", function: "http::strict::Reader::read", run: strict, times: TIMES },
    Gate { name: "deposit", function: "retry::Budget::deposit", run: deposits, times: TIMES },
    Gate { name: "look-up", function: "discovery::Discovery::at", run: look_ups, times: TIMES },
];

/// A browser's request behind a gateway, more or less.
const FIELDS: &[(&str, &str)] = &[
    ("host", "web.shop:8080"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "application/json, text/plain, */*"),
    ("accept-encoding", "gzip, deflate, br"),
    ("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1c2VyIn0.c2lnbmF0dXJl"),
    ("cookie", "session=6f1ed002ab5595859014ebf0951522d9; theme=dark"),
    ("x-request-id", "7b0d7a5c-5f1e-4c8e-9a51-0d6f6c1f0b11"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-forwarded-for", "203.0.113.7"),
    ("content-type", "application/json"),
    ("content-length", "42"),
];

fn head(version: Version) -> Parts {
    let http2 = version == Version::HTTP_2;
    let uri = if http2 { "http://web.shop:8080/api/carts/1?fields=items" } else { "/api/carts/1?fields=items" };
    let mut request = Request::post(uri).version(version);
    for (name, value) in FIELDS.iter().filter(|(name, _)| !(http2 && *name == "host")) {
        request = request.header(*name, *value);
    }
    if !http2 {
        request = request.header("connection", "keep-alive");
    }
    request.body(()).unwrap().into_parts().0
}

/// Counts `work` on each of `inputs`, after it was done once.
fn count<I: Clone, O>(input: I, times: u32, mut work: impl FnMut(I) -> O) {
    black_box(work(input.clone()));
    let inputs = vec![input; times as usize];
    let mut outputs = Vec::with_capacity(inputs.len());
    let mut inputs = inputs.into_iter();
    measured(&mut || {
        for input in inputs.by_ref() {
            outputs.push(work(black_box(input)));
        }
    });
    black_box(outputs);
}

#[derive(Default)]
struct Endpoint(Load);

impl Loaded for Endpoint {
    fn load(&self) -> &Load {
        &self.0
    }
}

fn pick(endpoints: u32, times: u32) {
    let balancer = Balancer::default();
    let all: Vec<Arc<Endpoint>> = (0..endpoints).map(|_| Arc::default()).collect();
    let mut now = Instant::now();
    for (endpoint, n) in all.iter().zip(1..) {
        endpoint.0.observe(Duration::from_micros(300 + n), now);
    }
    balancer.set(all);
    count((), times, |()| {
        now += Duration::from_millis(1);
        balancer.pick(&[], now).unwrap()
    });
}

fn routes(times: u32) {
    let dialled = Some("10.1.0.1:8080".parse().unwrap());
    count(head(Version::HTTP_11), times, |head| (route(&head, dialled, false).unwrap(), head));
}

fn heads_out(times: u32) {
    let authority = Authority::from_static("web.shop:8080");
    count(head(Version::HTTP_11), times, |mut head| {
        headers::strip(&mut head.headers);
        headers::to_http2(&mut head, &authority);
        head
    });
}

fn heads_in(times: u32) {
    let at = Some("10.1.0.1:8080".parse().unwrap());
    let client = lacewing_identity::SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/client").unwrap();
    let id = headers::client_id(&client);
    count(head(Version::HTTP_2), times, |mut head| {
        let authority = headers::authority(&head, at).unwrap();
        headers::strip(&mut head.headers);
        head.headers.extend(id.clone().map(|id| (headers::CLIENT_ID, id)));
        headers::to_http1(&mut head, &authority);
        head
    });
}

fn answers(times: u32) {
    let mut answer = HeaderMap::new();
    for (name, value) in [
        ("server", "nginx"),
        ("date", "Sun, 22 Nov 2026 07:00:00 GMT"),
        ("content-type", "application/json"),
        ("content-length", "1024"),
        ("connection", "keep-alive"),
        ("cache-control", "no-store"),
        ("etag", "\"5f1e4c8e\""),
        ("vary", "accept-encoding"),
    ] {
        answer.insert(name, value.parse().unwrap());
    }
    count(answer, times, |mut answer| {
        headers::unambiguous_answer(&answer).unwrap();
        headers::strip(&mut answer);
        answer
    });
}

fn records(times: u32) {
    let (metrics, _registry) = Metrics::new(UnixTime::since_unix_epoch(Duration::ZERO));
    let key = Key {
        direction: Direction::Outbound,
        peer_namespace: "shop".to_owned(),
        peer: "deployment/web".to_owned(),
        service: Some("shop/web:8080".to_owned()),
        route: "default".to_owned(),
    };
    let peer = metrics.peer(&key, vec![("dst_pod", "web-1".to_owned()), ("tls", "true".to_owned())]);
    let mut latency = Duration::from_micros(300);
    count((), times, |()| {
        latency += Duration::from_nanos(700);
        peer.request();
        peer.response(StatusCode::OK, None, Class::Success, latency);
    });
}

fn strict(times: u32) {
    let mut text = b"GET /api/carts/1?fields=items HTTP/1.1\r\n".to_vec();
    for (name, value) in FIELDS.iter().filter(|(name, _)| !name.starts_with("content-")) {
        text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    let mut reader = Reader::default();
    count(text, times, |mut text| {
        assert_eq!(reader.read(&mut text), text.len());
        text
    });
}

fn deposits(times: u32) {
    let budget = Budget::default();
    let mut now = Instant::now();
    count((), times, |()| {
        now += Duration::from_millis(1);
        budget.deposit(now);
    });
}

fn look_ups(times: u32) {
    let runtime = spines::runtime();
    let (discovery, addr) = runtime.block_on(spines::known_target());
    count((), times, |()| {
        let known = pin!(discovery.at(addr)).poll(&mut TaskContext::from_waker(Waker::noop()));
        assert!(matches!(known, Poll::Ready(Ok(_))), "it had to wait");
        known
    });
}

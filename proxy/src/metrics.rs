//! Every metric family of the process, with the names that boards and queries made for Linkerd know. Handles are
//! resolved once per peer, so that the hot path adds to numbers and looks nothing up.
//!
//! Cardinality: per family, one series per (direction, peer, backend) and, for responses, per status; never more than
//! [`METRIC_SERIES_MAX`], the rest shares one that says `overflow="true"`. No label comes from a client.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use rustls_pki_types::UnixTime;
use tokio::time::Instant;

use crate::{
    config::{LOG_PAUSE, METRIC_SERIES_MAX},
    error::Error,
    live::{self, Direction, Live, Series},
};

type Labels = Vec<(&'static str, String)>;

/// Upper bounds of `response_latency_ms`, in milliseconds.
const LATENCY_MS: [f64; 25] = [
    1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1_000.0, 2_000.0,
    3_000.0, 4_000.0, 5_000.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0,
];

/// A histogram of latencies without locks.
#[derive(Clone, Debug)]
pub struct Latency(Arc<LatencyInner>);

#[derive(Debug)]
struct LatencyInner {
    buckets: [AtomicU64; LATENCY_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Self(Arc::new(LatencyInner { buckets, sum_us: AtomicU64::new(0) }))
    }
}

impl Latency {
    fn observe(&self, latency: Duration) {
        let ms = latency.as_secs_f64() * 1_000.0;
        let bucket = LATENCY_MS.partition_point(|bound| *bound < ms);
        self.0.buckets[bucket].fetch_add(1, Relaxed);
        self.0.sum_us.fetch_add(latency.as_micros() as u64, Relaxed);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = LATENCY_MS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.0.buckets.iter().map(|count| count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum_us.load(Relaxed) as f64 / 1_000.0, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A family that stops growing.
struct Capped<M> {
    family: Family<Labels, M>,
    series: AtomicUsize,
}

impl<M> Default for Capped<M>
where
    Family<Labels, M>: Default,
{
    fn default() -> Self {
        Self { family: Family::default(), series: AtomicUsize::new(0) }
    }
}

impl<M: Clone + Default + Send + Sync + 'static> Capped<M> {
    fn remove(&self, labels: &Labels) {
        if self.family.remove(labels) {
            self.series.fetch_sub(1, Relaxed);
        }
    }

    fn get(&self, labels: &Labels) -> M {
        if let Some(known) = self.family.get(labels).map(|metric| metric.clone()) {
            return known;
        }
        if self.series.fetch_add(1, Relaxed) < METRIC_SERIES_MAX {
            self.family.get_or_create_owned(labels)
        } else {
            self.series.fetch_sub(1, Relaxed);
            self.family.get_or_create_owned(&vec![("overflow", "true".to_owned())])
        }
    }
}

/// When something was last said in the log, and how often it happened since.
#[derive(Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Said {
    /// Whether to say it now; if so, how many others went unsaid.
    fn say(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_PAUSE) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// How a response is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Success,
    Failure,
}

impl Class {
    /// By status, or by gRPC status where there is one: a server error is a failure, a client's mistake is not.
    pub fn of(status: http::StatusCode, grpc: Option<u16>) -> Self {
        let failed = match grpc {
            // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            Some(code) => matches!(code, 2 | 4 | 7 | 13 | 14 | 15),
            None => status.is_server_error(),
        };
        if failed { Self::Failure } else { Self::Success }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// All families, and the live ring beside them.
pub struct Metrics {
    requests: Capped<Counter>,
    responses: Capped<Counter>,
    latency: Capped<Latency>,
    tcp_open: Capped<Counter>,
    tcp_open_now: Capped<Gauge>,
    tcp_read: Capped<Counter>,
    tcp_write: Capped<Counter>,
    tcp_close: Capped<Counter>,
    errors: Capped<Counter>,
    retries: Capped<Counter>,
    retries_skipped: Capped<Counter>,
    denied: Capped<Counter>,
    allowed: Capped<Counter>,
    control_connected: Gauge,
    control_reconnects: Counter,
    cert_refreshes: Counter,
    cert_expiry: Gauge,
    /// When each kind of error was last said in the log, and how many there were since.
    said: Mutex<HashMap<(Direction, &'static str), Said>>,
    /// Peers in use, so that one that comes back finds its numbers, and one that is gone frees its series.
    peers: Mutex<HashMap<Labels, Weak<Peer>>>,
    pub live: Live,
}

impl Metrics {
    /// The families, registered with their help texts.
    pub fn new(started: UnixTime) -> (Arc<Self>, Registry) {
        let metrics = Self {
            requests: Capped::default(),
            responses: Capped::default(),
            latency: Capped::default(),
            tcp_open: Capped::default(),
            tcp_open_now: Capped::default(),
            tcp_read: Capped::default(),
            tcp_write: Capped::default(),
            tcp_close: Capped::default(),
            errors: Capped::default(),
            retries: Capped::default(),
            retries_skipped: Capped::default(),
            denied: Capped::default(),
            allowed: Capped::default(),
            control_connected: Gauge::default(),
            control_reconnects: Counter::default(),
            cert_refreshes: Counter::default(),
            cert_expiry: Gauge::default(),
            said: Mutex::default(),
            peers: Mutex::default(),
            live: Live::default(),
        };
        let mut registry = Registry::default();
        metrics.register(&mut registry, started);
        (Arc::new(metrics), registry)
    }

    fn register(&self, to: &mut Registry, started: UnixTime) {
        to.register("request", "Requests", self.requests.family.clone());
        to.register("response", "Responses whose stream has ended", self.responses.family.clone());
        to.register(
            "response_latency_ms",
            "Request head received to first byte of the response",
            self.latency.family.clone(),
        );
        to.register("tcp_open", "Connections opened", self.tcp_open.family.clone());
        to.register("tcp_open_connections", "Connections open now", self.tcp_open_now.family.clone());
        to.register("tcp_read_bytes", "Bytes read from the peer over raw TCP", self.tcp_read.family.clone());
        to.register("tcp_write_bytes", "Bytes written to the peer over raw TCP", self.tcp_write.family.clone());
        to.register("tcp_close", "Connections closed", self.tcp_close.family.clone());
        to.register(
            "proxy_errors",
            "Attempts and connections that failed, by cause; an attempt that was made again elsewhere counts, too",
            self.errors.family.clone(),
        );
        to.register("retry", "Requests sent again to another endpoint", self.retries.family.clone());
        to.register("retry_skipped", "Retries that were not made, by reason", self.retries_skipped.family.clone());
        to.register("inbound_tcp_authz_deny", "Inbound connections refused, by reason", self.denied.family.clone());
        to.register("inbound_tcp_authz_allow", "Inbound connections let in", self.allowed.family.clone());
        to.register("control_connected", "1 while the control stream is up", self.control_connected.clone());
        to.register("control_reconnects", "Control streams opened", self.control_reconnects.clone());
        to.register("control_identity_cert_refreshes", "Certificates obtained", self.cert_refreshes.clone());
        to.register(
            "control_identity_cert_expiration_timestamp_seconds",
            "When the present certificate lapses",
            self.cert_expiry.clone(),
        );
        let start = Gauge::<i64>::default();
        start.set(i64::try_from(started.as_secs()).unwrap_or(i64::MAX));
        to.register("process_start_time_seconds", "When this process started", start);
        let build = Family::<Labels, Gauge>::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        to.register("proxy_build_info", "What this proxy is", build);
    }

    /// The handles for one peer, resolved.
    pub fn peer(self: &Arc<Self>, what: &live::Key, mut labels: Labels) -> Arc<Peer> {
        labels.insert(0, ("direction", what.direction.as_str().to_owned()));
        let mut peers = self.peers.lock();
        if let Some(known) = peers.get(&labels).and_then(Weak::upgrade) {
            return known;
        }
        let peer = Arc::new(Peer {
            requests: self.requests.get(&labels),
            responses: Mutex::default(),
            live: self.live.series(what),
            metrics: self.clone(),
            labels: labels.clone(),
        });
        peers.insert(labels, Arc::downgrade(&peer));
        peer
    }

    /// Counts a failed attempt or connection, and says in the log what happened: once in [`LOG_PAUSE`] for each kind, so
    /// that a flood of failures is no flood of lines.
    pub fn error(&self, direction: Direction, error: &Error, from: Option<SocketAddr>) {
        let label = error.label();
        // A denial's reason says more than its label, and there are as few.
        let kind = if let Error::Denied(reason) = error { reason } else { label };
        if let Some(others) = self.said.lock().entry((direction, kind)).or_default().say(Instant::now()) {
            let from = from.map(tracing::field::display);
            tracing::info!(%error, label, from, others, "{} request or connection failed", direction.as_str());
        }
        self.errors.get(&vec![("direction", direction.as_str().to_owned()), ("error", label.to_owned())]).inc();
    }

    pub fn retry(&self, backend: &str) {
        self.retries.get(&vec![("backend", backend.to_owned())]).inc();
    }

    pub fn retry_skipped(&self, backend: &str, why: &'static str) {
        self.retries_skipped.get(&vec![("backend", backend.to_owned()), ("skipped", why.to_owned())]).inc();
    }

    /// An inbound connection to a port was let in; `port` is one that the workload declares, or says that it does not.
    pub fn allowed(&self, port: String) {
        self.allowed.get(&vec![("srv_port", port)]).inc();
    }

    /// An inbound connection or request was refused. Its port is no label: the client may have made it up.
    pub fn denied(&self, error: &Error) {
        let reason = if let Error::Denied(reason) = error { reason } else { error.label() };
        self.denied.get(&vec![("reason", reason.to_owned())]).inc();
    }

    pub fn control_stream(&self, up: bool) {
        self.control_connected.set(i64::from(up));
        if up {
            self.control_reconnects.inc();
        }
    }

    pub fn certificate(&self, not_after: u64) {
        self.cert_refreshes.inc();
        self.cert_expiry.set(i64::try_from(not_after).unwrap_or(i64::MAX));
    }
}

/// Numbers about one peer: an endpoint (outbound) or a client (inbound).
pub struct Peer {
    labels: Labels,
    requests: Counter,
    responses: Mutex<Vec<Responses>>,
    live: Arc<Series>,
    metrics: Arc<Metrics>,
}

/// Handles for responses of one kind; a peer has a few.
struct Responses {
    kind: (u16, Option<u16>, Class),
    total: Counter,
    latency: Latency,
}

impl Peer {
    pub fn request(&self) {
        self.requests.inc();
    }

    /// A response's stream ended. `latency` is the time to its first byte.
    pub fn response(&self, status: http::StatusCode, grpc: Option<u16>, class: Class, latency: Duration) {
        self.live.request(latency, class == Class::Success);
        // Servers may send any number; labels may not.
        let kind = (if status.as_u16() < 600 { status.as_u16() } else { 0 }, grpc.map(|code| code.min(17)), class);
        let mut known = self.responses.lock();
        let at = known.iter().position(|responses| responses.kind == kind);
        let at = at.unwrap_or_else(|| {
            known.push(self.responses_of(kind));
            known.len() - 1
        });
        known[at].total.inc();
        known[at].latency.observe(latency);
    }

    fn responses_of(&self, kind: (u16, Option<u16>, Class)) -> Responses {
        let (total, latency) = labels_of(&self.labels, kind);
        Responses { kind, total: self.metrics.responses.get(&total), latency: self.metrics.latency.get(&latency) }
    }

    /// A connection with this peer opened; the guard records its end.
    pub fn connection(self: &Arc<Self>) -> ConnectionGuard {
        self.metrics.tcp_open.get(&self.labels).inc();
        let open = self.metrics.tcp_open_now.get(&self.labels);
        open.inc();
        ConnectionGuard {
            _peer: self.clone(),
            open,
            read: self.metrics.tcp_read.get(&self.labels),
            write: self.metrics.tcp_write.get(&self.labels),
            close: self.metrics.tcp_close.get(&self.labels),
            live: self.live.clone(),
            _open: self.live.open(),
        }
    }
}

/// Labels of a peer's responses of one kind: of their number, and of their latency.
fn labels_of(peer: &Labels, kind: (u16, Option<u16>, Class)) -> (Labels, Labels) {
    let mut latency = peer.clone();
    latency.push(("status_code", kind.0.to_string()));
    let mut total = latency.clone();
    total.push(("classification", kind.2.as_str().to_owned()));
    if let Some(code) = kind.1 {
        total.push(("grpc_status", code.to_string()));
    }
    (total, latency)
}

impl Drop for Peer {
    /// The peer is gone: its series go, too, or a few rollouts would fill the families.
    fn drop(&mut self) {
        let metrics = &self.metrics;
        for responses in self.responses.get_mut() {
            let (total, latency) = labels_of(&self.labels, responses.kind);
            metrics.responses.remove(&total);
            metrics.latency.remove(&latency);
        }
        metrics.requests.remove(&self.labels);
        for family in [&metrics.tcp_open, &metrics.tcp_read, &metrics.tcp_write, &metrics.tcp_close] {
            family.remove(&self.labels);
        }
        metrics.tcp_open_now.remove(&self.labels);
        metrics.peers.lock().remove(&self.labels);
    }
}

/// An open connection with a peer; it keeps the peer's series.
pub struct ConnectionGuard {
    _peer: Arc<Peer>,
    open: Gauge,
    read: Counter,
    write: Counter,
    close: Counter,
    live: Arc<Series>,
    _open: live::OpenGuard,
}

impl ConnectionGuard {
    /// Bytes of raw TCP went by.
    pub fn bytes(&self, read: u64, written: u64) {
        self.read.inc_by(read);
        self.write.inc_by(written);
        self.live.bytes(read, written);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.open.dec();
        self.close.inc();
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn key() -> live::Key {
        live::Key {
            direction: Direction::Outbound,
            peer_namespace: "shop".to_owned(),
            peer: "deployment/web".to_owned(),
            service: None,
            route: "default".to_owned(),
        }
    }

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn classic_names_and_labels() {
        let (metrics, registry) = Metrics::new(UnixTime::since_unix_epoch(Duration::from_secs(1)));
        let peer = metrics.peer(&key(), vec![("tls", "true".to_owned())]);
        peer.request();
        peer.response(StatusCode::OK, None, Class::Success, Duration::from_micros(1_500));
        peer.response(StatusCode::OK, Some(14), Class::Failure, Duration::from_secs(90));
        let open = peer.connection();
        open.bytes(10, 20);
        let text = text(&registry);
        for line in [
            r#"request_total{direction="outbound",tls="true"} 1"#,
            r#"response_total{direction="outbound",tls="true",status_code="200",classification="success"} 1"#,
            r#"response_total{direction="outbound",tls="true",status_code="200",classification="failure",grpc_status="14"} 1"#,
            r#"response_latency_ms_bucket{le="1.0",direction="outbound",tls="true",status_code="200"} 0"#,
            r#"response_latency_ms_bucket{le="2.0",direction="outbound",tls="true",status_code="200"} 1"#,
            r#"response_latency_ms_bucket{le="+Inf",direction="outbound",tls="true",status_code="200"} 2"#,
            r#"tcp_open_connections{direction="outbound",tls="true"} 1"#,
            r#"tcp_read_bytes_total{direction="outbound",tls="true"} 10"#,
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn families_stop_growing() {
        let (metrics, registry) = Metrics::new(UnixTime::since_unix_epoch(Duration::ZERO));
        for n in 0..METRIC_SERIES_MAX + 50 {
            metrics.retry(&format!("shop/{n}:80"));
        }
        let text = text(&registry);
        assert_eq!(text.matches("retry_total{").count(), METRIC_SERIES_MAX + 1);
        assert!(text.contains(r#"retry_total{overflow="true"} 50"#));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_gone_frees_its_series_and_one_that_is_not_keeps_its_numbers() {
        let (metrics, registry) = Metrics::new(UnixTime::since_unix_epoch(Duration::ZERO));
        let peer = metrics.peer(&key(), vec![("dst_pod", "web-1".to_owned())]);
        peer.request();
        peer.response(StatusCode::OK, None, Class::Success, Duration::ZERO);
        let again = metrics.peer(&key(), vec![("dst_pod", "web-1".to_owned())]);
        drop(peer);
        again.request();
        let connection = again.connection();
        assert!(text(&registry).contains(r#"request_total{direction="outbound",dst_pod="web-1"} 2"#));
        drop(again);
        assert!(text(&registry).contains("web-1"), "an open connection keeps it");
        drop(connection);
        assert!(!text(&registry).contains("web-1"), "{}", text(&registry));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_failures_is_no_flood_of_lines() {
        let mut said = Said::default();
        assert_eq!(said.say(Instant::now()), Some(0));
        assert!((0..99).all(|_| said.say(Instant::now()).is_none()));
        tokio::time::advance(LOG_PAUSE).await;
        assert_eq!(said.say(Instant::now()), Some(99));
        assert_eq!(said.say(Instant::now()), None);
    }

    #[test]
    fn classes() {
        let class = |status, grpc| Class::of(StatusCode::from_u16(status).unwrap(), grpc);
        assert_eq!(class(200, None), Class::Success);
        assert_eq!(class(404, None), Class::Success);
        assert_eq!(class(500, None), Class::Failure);
        assert_eq!(class(200, Some(0)), Class::Success);
        assert_eq!(class(200, Some(5)), Class::Success);
        assert_eq!(class(200, Some(14)), Class::Failure);
    }
}

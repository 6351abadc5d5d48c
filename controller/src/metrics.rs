//! Owns every metric of the controller. Labels are closed sets of our own words: nothing that a client sends becomes
//! one. Gauges that mirror other parts' state are set when they are scraped.

use std::fmt::Write;

use lacewing_crds::Kind;
use lacewing_identity::authority::rotation::Phase;
use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::identity;

/// How a `Certify` call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertifyResult {
    Issued,
    /// The token proved nothing.
    BadToken,
    /// The certificate request was refused.
    BadRequest,
    /// The caller, or all callers together, asked too often.
    Throttled,
    /// Our own fault.
    Failed,
}

impl CertifyResult {
    const ALL: [Self; 5] = [Self::Issued, Self::BadToken, Self::BadRequest, Self::Throttled, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::BadToken => "bad_token",
            Self::BadRequest => "bad_request",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
        }
    }
}

/// How a question to the webhook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Injection {
    Injected,
    /// The pod stays as it is: why, in one of `inject`'s own words.
    Skipped(&'static str),
    /// The pod must not be created like this.
    Refused,
    /// It was no question, or could not be answered.
    Failed,
}

impl Injection {
    fn label(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Skipped(why) => why,
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One label with one of our own words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Word {
    key: &'static str,
    value: &'static str,
}

impl EncodeLabelSet for Word {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        let mut label = encoder.encode_label();
        let mut key = label.encode_label_key()?;
        key.write_str(self.key)?;
        let mut value = key.encode_label_value()?;
        value.write_str(self.value)?;
        value.finish()
    }
}

/// What gauges show, taken at the scrape.
#[derive(Debug, Clone, Copy, Default)]
pub struct Levels {
    pub streams: usize,
    pub subscriptions: usize,
    pub source_errors: usize,
    /// Pods that should have a proxy and have none.
    pub unmeshed_pods: usize,
    pub leading: bool,
    pub connections: usize,
    /// Nothing before the trust root was read.
    pub trust: Option<identity::Levels>,
    pub trust_problems: usize,
    /// In the order of [`Kind::ALL`].
    pub objects: [usize; 4],
}

/// Every metric.
pub struct Metrics {
    registry: Registry,
    certify: Family<Word, Counter>,
    injections: Family<Word, Counter>,
    connections_refused: Counter,
    streams: Gauge,
    subscriptions: Gauge,
    connections: Gauge,
    source_errors: Gauge,
    unmeshed_pods: Gauge,
    leading: Gauge,
    trust_problems: Gauge,
    issuer_not_after: Gauge,
    root_not_after: Gauge,
    rotation_phase: Family<Word, Gauge>,
    objects: Family<Word, Gauge>,
}

#[allow(clippy::too_many_lines, reason = "a list: each metric with its name and meaning")]
impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("lacewing_controller"),
            certify: Family::default(),
            injections: Family::default(),
            connections_refused: Counter::default(),
            streams: Gauge::default(),
            subscriptions: Gauge::default(),
            connections: Gauge::default(),
            source_errors: Gauge::default(),
            unmeshed_pods: Gauge::default(),
            leading: Gauge::default(),
            trust_problems: Gauge::default(),
            issuer_not_after: Gauge::default(),
            root_not_after: Gauge::default(),
            rotation_phase: Family::default(),
            objects: Family::default(),
        };
        // Every series starts at zero, so that a rate over the first event is right.
        for result in CertifyResult::ALL {
            drop(metrics.certify.get_or_create_owned(&word("result", result.label())));
        }
        for result in [Injection::Injected, Injection::Refused, Injection::Failed] {
            drop(metrics.injections.get_or_create_owned(&word("result", result.label())));
        }
        let registry = &mut metrics.registry;
        registry.register("certify", "Certify calls by how they ended", metrics.certify.clone());
        registry.register(
            "injections",
            "Pods that the webhook was asked about, by what came of it; the other words say why a pod was left as it is",
            metrics.injections.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections that ended before a request: limit, handshake",
            metrics.connections_refused.clone(),
        );
        registry.register("connections", "Open connections to the gRPC port", metrics.connections.clone());
        registry.register("streams", "Open watch streams", metrics.streams.clone());
        registry.register("subscriptions", "Keys that streams follow", metrics.subscriptions.clone());
        registry.register(
            "source_errors",
            "Objects, or files of the manifest directory, that are not in force as they are, and kinds that cannot be read",
            metrics.source_errors.clone(),
        );
        registry.register(
            "unmeshed_pods",
            "Pods that should have a proxy and have none",
            metrics.unmeshed_pods.clone(),
        );
        registry.register("leading", "1 where this replica is the one that writes", metrics.leading.clone());
        registry.register(
            "trust_problems",
            "What is wrong with the trust root or the controller's certificates; see /errors",
            metrics.trust_problems.clone(),
        );
        registry.register(
            "trust_issuer_not_after_seconds",
            "End of the issuer that signs, in unix seconds",
            metrics.issuer_not_after.clone(),
        );
        registry.register(
            "trust_root_not_after_seconds",
            "End of the root above it, in unix seconds",
            metrics.root_not_after.clone(),
        );
        registry.register(
            "trust_rotation_phase",
            "1 for how far the change of the root is",
            metrics.rotation_phase.clone(),
        );
        registry.register("world_objects", "Objects in memory by kind", metrics.objects.clone());
        metrics
    }
}

impl Metrics {
    pub fn certified(&self, result: CertifyResult) {
        self.certify.get_or_create_owned(&word("result", result.label())).inc();
    }

    pub fn injected(&self, result: Injection) {
        self.injections.get_or_create_owned(&word("result", result.label())).inc();
    }

    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// The exposition text (OpenMetrics), with gauges at these levels.
    pub fn render(&self, levels: &Levels) -> String {
        let set = |gauge: &Gauge, level: usize| gauge.set(i64::try_from(level).unwrap_or(i64::MAX));
        set(&self.streams, levels.streams);
        set(&self.subscriptions, levels.subscriptions);
        set(&self.connections, levels.connections);
        set(&self.source_errors, levels.source_errors);
        set(&self.unmeshed_pods, levels.unmeshed_pods);
        set(&self.leading, levels.leading.into());
        set(&self.trust_problems, levels.trust_problems);
        if let Some(trust) = levels.trust {
            self.issuer_not_after.set(trust.issuer_not_after.cast_signed());
            self.root_not_after.set(trust.root_not_after.cast_signed());
        }
        for phase in Phase::ALL {
            let is_it = levels.trust.is_some_and(|trust| trust.phase == phase);
            set(&self.rotation_phase.get_or_create_owned(&word("phase", phase.label())), is_it.into());
        }
        for (kind, count) in Kind::ALL.into_iter().zip(levels.objects) {
            set(&self.objects.get_or_create_owned(&word("kind", kind.as_str())), count);
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn word(key: &'static str, value: &'static str) -> Word {
    Word { key, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_there_from_the_start() {
        let metrics = Metrics::default();
        metrics.certified(CertifyResult::Issued);
        metrics.connection_refused();
        metrics.injected(Injection::Skipped("host_network"));
        let text = metrics.render(&Levels { streams: 2, subscriptions: 7, objects: [1, 2, 3, 4], ..Levels::default() });
        for line in [
            "lacewing_controller_certify_total{result=\"issued\"} 1",
            "lacewing_controller_certify_total{result=\"bad_token\"} 0",
            "lacewing_controller_connections_refused_total 1",
            "lacewing_controller_injections_total{result=\"host_network\"} 1",
            "lacewing_controller_injections_total{result=\"refused\"} 0",
            "lacewing_controller_streams 2",
            "lacewing_controller_subscriptions 7",
            "lacewing_controller_source_errors 0",
            "lacewing_controller_unmeshed_pods 0",
            "lacewing_controller_leading 0",
            "lacewing_controller_trust_problems 0",
            "lacewing_controller_trust_rotation_phase{phase=\"publishing\"} 0",
            "lacewing_controller_world_objects{kind=\"EndpointSlice\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}

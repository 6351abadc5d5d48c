//! The two admin ports. 4191, to everyone: `/live`, `/ready`, `/metrics`, and for `tcpSocket` probes that injection has
//! written anew `/probe/PORT`, nothing else. 4192, on loopback and read-only,
//! with a header that a browser or a forged request cannot send: `/stats`, `/identity`, `/config`, `/destinations`.
//! Nothing that changes the proxy listens anywhere.

use std::{net::SocketAddr, sync::Arc};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use lacewing_ops::admin::{Answer, answer, json, text};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json as value;
use tokio::time::timeout;

use crate::{
    balance::Loaded,
    clock,
    config::Config,
    discovery::{Discovery, Stream},
    live::{SCHEMA_VERSION, WINDOW_MAX_S},
    metrics::Metrics,
    tls::Identity,
};

/// Requests to the private port must carry this field, with any value.
pub const PRIVATE_HEADER: &str = "l6g-admin";
/// Window of `/stats` where none is asked for, in seconds.
const WINDOW_DEFAULT_S: u64 = 60;
/// Before the number of a port that a `tcpSocket` probe names.
const PROBE_PATH: &str = "/probe/";

/// What the admin ports show.
pub struct Admin {
    pub config: Config,
    pub discovery: Arc<Discovery>,
    pub identity: Arc<Identity>,
    pub metrics: Arc<Metrics>,
    pub registry: Registry,
}

impl Admin {
    /// The public port.
    pub async fn public(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if let Some(port) = path.strip_prefix(PROBE_PATH) {
            return self.probe(port).await;
        }
        match path {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => match self.waiting_for() {
                None => text(StatusCode::OK, "ready\n"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            },
            "/metrics" => self.prometheus(),
            _ => text(StatusCode::NOT_FOUND, "here are /live, /ready, /metrics and /probe/PORT\n"),
        }
    }

    /// Dials the app as the kubelet would, which would reach this proxy instead: only ports that the pod's spec names.
    async fn probe(&self, port: &str) -> Answer {
        let known = self.config.tcp_probes.iter().find(|(known, _)| known.to_string() == port);
        let (Some((port, patience)), Some(ip)) = (known, self.config.pod_ips.first()) else {
            let why = "no tcpSocket probe of this pod is for that port (LACEWING_TCP_PROBES)\n";
            return text(StatusCode::NOT_FOUND, why);
        };
        let app = SocketAddr::new(*ip, *port);
        match timeout(*patience, self.config.dialer.open(app)).await {
            Ok(Ok(_)) => text(StatusCode::OK, format!("{app} takes connections\n")),
            Ok(Err(error)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{app}: {error}\n")),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{app}: no connection within {patience:?}\n")),
        }
    }

    /// The private port.
    pub fn private(&self, request: &Request<Incoming>) -> Answer {
        if !request.headers().contains_key(PRIVATE_HEADER) {
            return text(StatusCode::FORBIDDEN, format!("send the header {PRIVATE_HEADER}: 1\n"));
        }
        match request.uri().path() {
            "/stats" => match window(request.uri().query()) {
                Ok(window) => self.stats(window),
                Err(why) => text(StatusCode::BAD_REQUEST, why),
            },
            "/identity" => self.show_identity(),
            "/destinations" => self.destinations(),
            "/config" => text(StatusCode::OK, format!("{:#?}\n", self.config)),
            _ => text(StatusCode::NOT_FOUND, "here are /stats, /identity, /destinations and /config\n"),
        }
    }

    /// Why the proxy is not ready: it needs a certificate and the first answers.
    fn waiting_for(&self) -> Option<String> {
        if let Err(error) = self.identity.current() {
            return Some(error.to_string());
        }
        if self.discovery.inbound().borrow().is_some() {
            return None;
        }
        Some(match &*self.discovery.stream().borrow() {
            Stream::Up => "the controller has not said yet which ports this workload serves".to_owned(),
            Stream::Down(why) => why.clone(),
        })
    }

    fn prometheus(&self) -> Answer {
        let mut body = String::new();
        match encode(&mut body, &self.registry) {
            Ok(()) => answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body.into()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")),
        }
    }

    fn stats(&self, window: u64) -> Answer {
        let report = self.metrics.live.report(&self.config.pod, &self.config.namespace, window);
        match serde_json::to_vec(&report) {
            Ok(body) => json(body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("statistics cannot be written: {error}\n")),
        }
    }

    fn show_identity(&self) -> Answer {
        let Ok(current) = self.identity.current() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.waiting_for().unwrap_or_default()));
        };
        let leaf = &current.leaf;
        let shown = value!({
            "schema_version": SCHEMA_VERSION,
            "pod": self.config.pod,
            "namespace": self.config.namespace,
            "id": leaf.id().as_str(),
            "serial": leaf.serial_hex(),
            "not_before": leaf.not_before(),
            "not_after": leaf.not_after(),
            "renew_from": leaf.renew_at(0.0),
            "renew_until": leaf.renew_at(1.0),
            "now": clock::unix_now(),
            "roots": current.bundle.certificates().len(),
            "under_first_root": leaf.is_under_first(&current.bundle),
        });
        json(shown.to_string())
    }

    /// Every backend in use, with what the balancer thinks of each endpoint.
    fn destinations(&self) -> Answer {
        let backends: Vec<_> = (self.discovery.backends().iter())
            .map(|backend| {
                let endpoints: Vec<_> = (backend.balancer.endpoints().iter())
                    .map(|endpoint| {
                        value!({
                            "address": endpoint.info.addr,
                            "pod": endpoint.info.pod,
                            "workload": endpoint.info.workload,
                            "identity": endpoint.info.identity.as_ref().map(lacewing_identity::SpiffeId::as_str),
                            "latency_ewma_ms": endpoint.load().ewma().as_secs_f64() * 1_000.0,
                            "in_flight": endpoint.load().in_flight(),
                            "ejected": endpoint.load().is_ejected(),
                        })
                    })
                    .collect();
                let mut shown = value!({ "backend": backend.name, "endpoints": endpoints });
                if !backend.why_no_service.is_empty() {
                    shown["why_no_service"] = backend.why_no_service.clone().into();
                }
                shown
            })
            .collect();
        let stream = match &*self.discovery.stream().borrow() {
            Stream::Up => "up".to_owned(),
            Stream::Down(why) => format!("down: {why}"),
        };
        json(value!({ "schema_version": SCHEMA_VERSION, "control_stream": stream, "backends": backends }).to_string())
    }
}

fn window(query: Option<&str>) -> Result<u64, String> {
    let Some(value) = query.and_then(|query| query.strip_prefix("window=")) else { return Ok(WINDOW_DEFAULT_S) };
    let window = value.parse().ok().filter(|window| (1..=WINDOW_MAX_S).contains(window));
    window.ok_or_else(|| format!("window must be 1 to {WINDOW_MAX_S} seconds\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        assert_eq!(window(None), Ok(60));
        assert_eq!(window(Some("window=10")), Ok(10));
        for bad in ["window=0", "window=601", "window=x", "window="] {
            assert!(window(Some(bad)).is_err(), "{bad}");
        }
    }
}

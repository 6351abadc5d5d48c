//! Owns what the admin port shows: liveness, readiness with the reason, metrics, watch streams, and what is wrong with
//! the manifests. Read-only; nothing secret is in any of it. The HTTP server is `lacewing_ops::admin`.

use std::sync::Arc;

use hyper::{Method, Request, StatusCode};
use lacewing_crds::Kind;
use lacewing_ops::admin::{Answer, answer, json, text};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{
    conditions::{self, Warning},
    grpc::streams::Streams,
    identity::Identity,
    listen::CONNECTIONS_MAX,
    metrics::{Levels, Metrics},
    publish::Publisher,
    source::SourceError,
};

/// The exposition format that `prometheus-client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How the source is doing.
#[derive(Debug, Default)]
pub struct SourceStatus {
    /// It was read as a whole at least once.
    pub loaded: bool,
    pub errors: Vec<SourceError>,
}

/// Everything that the admin port looks at.
pub struct Admin {
    pub publisher: Arc<Publisher>,
    pub identity: Arc<Identity>,
    pub streams: Arc<Streams>,
    pub metrics: Arc<Metrics>,
    pub source: Arc<Mutex<SourceStatus>>,
    pub slots: Arc<Semaphore>,
    /// Wall time in unix seconds.
    pub now: fn() -> u64,
}

/// The body of `/errors`.
#[derive(Serialize)]
struct Errors<'a> {
    /// Not in force as written.
    errors: &'a [SourceError],
    /// In force, but not all of it as written.
    warnings: Vec<Warning>,
}

impl Admin {
    pub fn answer<B>(&self, request: &Request<B>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => self.ready(),
            "/metrics" => answer(StatusCode::OK, OPENMETRICS, self.metrics.render(&self.levels()).into()),
            "/streams" => to_json(&self.streams.view()),
            "/errors" => self.errors(),
            _ => text(StatusCode::NOT_FOUND, "there are /live /ready /metrics /streams /errors\n"),
        }
    }

    fn ready(&self) -> Answer {
        match self.unready() {
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            None => text(StatusCode::OK, "ready\n"),
        }
    }

    fn unready(&self) -> Option<String> {
        let source = self.source.lock();
        if !source.loaded {
            let why = source.errors.first().map(|error| format!(": {error}"));
            return Some(format!("the manifests have not been read yet{}", why.unwrap_or_default()));
        }
        self.identity.unready((self.now)())
    }

    fn errors(&self) -> Answer {
        let warnings = self.publisher.with_world(|world| conditions::warnings(world, self.publisher.trust_domain()));
        to_json(&Errors { errors: &self.source.lock().errors, warnings })
    }

    fn levels(&self) -> Levels {
        let (streams, subscriptions) = self.streams.count();
        Levels {
            streams,
            subscriptions,
            manifest_errors: self.source.lock().errors.len(),
            connections: CONNECTIONS_MAX.saturating_sub(self.slots.available_permits()),
            objects: self.publisher.with_world(|world| Kind::ALL.map(|kind| world.count(kind))),
        }
    }
}

fn to_json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => json(body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

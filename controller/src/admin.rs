//! Owns what the admin port shows: liveness, readiness with the reason, metrics, watch streams, and what is wrong with
//! the source. Read-only; nothing secret is in any of it. The HTTP server is `lacewing_ops::admin`.

use std::{collections::BTreeMap, sync::Arc};

use hyper::{Method, Request, StatusCode};
use lacewing_crds::Kind;
use lacewing_ops::admin::{Answer, answer, json, text};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use crate::{
    conditions::{self, Warning},
    grpc::streams::Streams,
    identity::{Identity, Matter, Problem},
    listen::CONNECTIONS_MAX,
    metrics::{Levels, Metrics},
    pods,
    publish::Publisher,
    source::SourceError,
};

/// The exposition format that `prometheus-client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a browser or a tricked server cannot send across origins: lists that name workloads and files are given only
/// to who sends it.
const HEADER: &str = "l6g-admin";
/// Most streams that `/streams` lists.
pub const STREAMS_LISTED_MAX: usize = 1_000;
/// Most errors, and most warnings, that `/errors` lists.
pub const ERRORS_LISTED_MAX: usize = 1_000;

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
    /// Whether this replica is the one that may write.
    pub leading: watch::Receiver<bool>,
    pub slots: Arc<Semaphore>,
    /// Wall time in unix seconds.
    pub now: fn() -> u64,
}

/// The body of `/errors`.
#[derive(Serialize)]
struct Listing<'a> {
    /// Not in force as written.
    errors: &'a [SourceError],
    /// What is wrong with the trust root or our own certificates, by matter.
    trust: BTreeMap<Matter, Problem>,
    /// In force, but not all of it as written.
    warnings: Vec<Warning>,
    /// How many errors and warnings there are that are not listed.
    left_out: usize,
}

impl<'a> Listing<'a> {
    /// The first [`ERRORS_LISTED_MAX`] of each.
    fn of(errors: &'a [SourceError], trust: BTreeMap<Matter, Problem>, mut warnings: Vec<Warning>) -> Self {
        let all = errors.len() + warnings.len();
        let errors = &errors[..errors.len().min(ERRORS_LISTED_MAX)];
        warnings.truncate(ERRORS_LISTED_MAX);
        let left_out = all - errors.len() - warnings.len();
        Self { errors, trust, warnings, left_out }
    }
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
            "/streams" | "/errors" if !request.headers().contains_key(HEADER) => {
                text(StatusCode::FORBIDDEN, "send the header `l6g-admin: 1`, for example with curl -H 'l6g-admin: 1'\n")
            }
            "/streams" => self.streams(),
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
            return Some(format!("the cluster has not been read yet{}", why.unwrap_or_default()));
        }
        self.identity.unready((self.now)())
    }

    fn streams(&self) -> Answer {
        let mut streams = self.streams.view();
        streams.truncate(STREAMS_LISTED_MAX);
        to_json(&streams)
    }

    fn errors(&self) -> Answer {
        let warnings = self.publisher.with_world(|world| conditions::warnings(world, self.publisher.trust_domain()));
        to_json(&Listing::of(&self.source.lock().errors, self.identity.problems(), warnings))
    }

    fn levels(&self) -> Levels {
        let (streams, subscriptions) = self.streams.count();
        Levels {
            streams,
            subscriptions,
            source_errors: self.source.lock().errors.len(),
            leading: *self.leading.borrow(),
            connections: CONNECTIONS_MAX.saturating_sub(self.slots.available_permits()),
            trust: self.identity.levels(),
            trust_problems: self.identity.problems().len(),
            objects: self.publisher.with_world(|world| Kind::ALL.map(|kind| world.count(kind))),
            unmeshed_pods: self.publisher.with_world(|world| pods::unmeshed(world).count()),
        }
    }
}

fn to_json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => json(body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_the_rest_is_counted() {
        let error = |file: usize| SourceError {
            file: format!("{file}.yaml"),
            line: None,
            column: None,
            cause: "bad".to_owned(),
            in_force: "nothing".to_owned(),
        };
        let errors: Vec<SourceError> = (0..ERRORS_LISTED_MAX + 3).map(error).collect();
        let listed = Listing::of(&errors, BTreeMap::new(), Vec::new());
        assert_eq!((listed.errors.len(), listed.left_out), (ERRORS_LISTED_MAX, 3));
        assert_eq!(Listing::of(&errors[..2], BTreeMap::new(), Vec::new()).left_out, 0);
    }
}

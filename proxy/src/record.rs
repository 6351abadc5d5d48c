//! The last phase of every request: when its response's stream has ended, however it ended, the outcome goes to the
//! metrics, the live ring and, outbound, to the balancer. Nothing can be missed: dropping the record records, too.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, response};
use tokio::time::Instant;

use crate::{
    balance::{InFlight, Loaded},
    config::FAILURE_PENALTY,
    endpoint::{Backend, Endpoint},
    http::{client::Reusable, headers},
    metrics::{Class, Peer},
};

/// How a stream ended.
pub enum End<'a> {
    Complete(Option<&'a HeaderMap>),
    Broken,
}

/// What is known when the response's head is there.
pub struct Record {
    peer: Arc<Peer>,
    outbound: Option<Outbound>,
    /// Goes back to its pool when the response was read to its end.
    connection: Option<Reusable>,
    status: StatusCode,
    is_grpc: bool,
    /// gRPC status in the head; the trailers have the last word.
    grpc: Option<u16>,
    latency: Duration,
    /// No traffic of a client's: nothing is said of it.
    uncounted: bool,
    done: bool,
}

struct Outbound {
    backend: Arc<Backend>,
    endpoint: InFlight<Endpoint>,
}

impl Record {
    /// `latency` is the time from the request's head to the response's first byte.
    pub fn new(peer: Arc<Peer>, head: &response::Parts, connection: Option<Reusable>, latency: Duration) -> Self {
        let is_grpc = headers::is_grpc(&head.headers);
        let grpc = grpc_status(&head.headers);
        let status = head.status;
        Self { peer, outbound: None, connection, status, is_grpc, grpc, latency, uncounted: false, done: false }
    }

    /// Goes into no metrics where `uncounted`.
    #[must_use]
    pub fn uncounted(mut self, uncounted: bool) -> Self {
        self.uncounted = uncounted;
        self
    }

    /// Also tells the balancer.
    #[must_use]
    pub fn outbound(mut self, backend: Arc<Backend>, endpoint: InFlight<Endpoint>) -> Self {
        self.outbound = Some(Outbound { backend, endpoint });
        self
    }

    /// The stream ended: with trailers, without, or it broke. Dropping the record without means that the receiver went
    /// away first.
    pub fn end(mut self, end: &End<'_>) {
        match end {
            End::Complete(trailers) => {
                // gRPC without any status is a broken server: UNKNOWN (2), as gRPC clients see it.
                let status = trailers.and_then(grpc_status).or(self.grpc).unwrap_or(2);
                let grpc = self.is_grpc.then_some(status);
                self.finish(grpc, Class::of(self.status, grpc));
                if let Some(connection) = self.connection.take() {
                    connection.done();
                }
            }
            End::Broken => self.finish(self.grpc, Class::Failure),
        }
    }

    /// The stream ended by itself: the breaker learns how.
    fn finish(&mut self, grpc: Option<u16>, class: Class) {
        self.done = true;
        self.count(grpc, class);
        if let Some(Outbound { backend, endpoint }) = &self.outbound {
            if is_overloaded(self.status, grpc) {
                // Healthy, but it wants less: others look better for a while, and nobody is ejected.
                endpoint.load().observe(FAILURE_PENALTY, Instant::now());
            }
            match class {
                Class::Success => backend.balancer.succeeded(endpoint),
                Class::Failure => backend.balancer.outcome(endpoint, false, Instant::now()),
            }
        }
    }

    fn count(&self, grpc: Option<u16>, class: Class) {
        if !self.uncounted {
            self.peer.response(self.status, grpc, class, self.latency);
        }
    }
}

impl Drop for Record {
    /// The receiver left before the end: counted by what was seen, and no evidence for the breaker either way.
    fn drop(&mut self) {
        if !self.done {
            let grpc = self.is_grpc.then(|| self.grpc.unwrap_or(0));
            self.count(grpc, Class::of(self.status, grpc));
        }
    }
}

/// Too Many Requests (RFC 6585, 4), or gRPC's RESOURCE_EXHAUSTED.
fn is_overloaded(status: StatusCode, grpc: Option<u16>) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || grpc == Some(8)
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

//! The last phase of every request: when its response's stream has ended, however it ended, the outcome goes to the
//! metrics, the live ring and, outbound, to the balancer. Nothing can be missed: dropping the record records, too.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, response};
use tokio::time::Instant;

use crate::{
    balance::InFlight,
    endpoint::{Backend, Endpoint},
    http::{
        body::{End, Recorder},
        client::Reusable,
        headers,
    },
    metrics::{Class, Peer},
};

/// What is known when the response's head is there.
pub struct Record {
    peer: Arc<Peer>,
    outbound: Option<Outbound>,
    /// Goes back to its pool when the response was read to its end.
    connection: Option<Reusable>,
    status: StatusCode,
    /// gRPC: the status so far; the trailers have the last word.
    grpc: Option<Option<u16>>,
    latency: Duration,
    done: bool,
}

struct Outbound {
    backend: Arc<Backend>,
    endpoint: Arc<Endpoint>,
    _in_flight: InFlight<Endpoint>,
}

impl Record {
    /// `latency` is the time from the request's head to the response's first byte.
    pub fn new(peer: Arc<Peer>, head: &response::Parts, connection: Option<Reusable>, latency: Duration) -> Self {
        let grpc = headers::is_grpc(&head.headers).then(|| grpc_status(&head.headers));
        Self { peer, outbound: None, connection, status: head.status, grpc, latency, done: false }
    }

    /// Also tells the balancer.
    pub fn outbound(mut self, backend: Arc<Backend>, endpoint: Arc<Endpoint>, in_flight: InFlight<Endpoint>) -> Self {
        self.outbound = Some(Outbound { backend, endpoint, _in_flight: in_flight });
        self
    }

    fn finish(&mut self, grpc: Option<u16>, broken: bool) {
        self.done = true;
        let class = if broken { Class::Failure } else { Class::of(self.status, grpc) };
        self.peer.response(self.status, grpc, class, self.latency);
        if let Some(Outbound { backend, endpoint, .. }) = &self.outbound {
            backend.balancer.outcome(endpoint, class == Class::Success, Instant::now());
        }
    }
}

impl Recorder for Record {
    fn end(mut self: Box<Self>, end: End<'_>) {
        match end {
            End::Complete(trailers) => {
                let last = trailers.and_then(grpc_status);
                // gRPC without any status is a broken server: UNKNOWN (2), as gRPC clients see it.
                let grpc = self.grpc.map(|first| last.or(first).unwrap_or(2));
                self.finish(grpc, false);
                if let Some(connection) = self.connection.take() {
                    connection.done();
                }
            }
            End::Broken(_) => self.finish(self.grpc.flatten(), true),
        }
    }
}

impl Drop for Record {
    /// The receiver left before the end: judged by what was seen, for it is not the server's doing.
    fn drop(&mut self) {
        if !self.done {
            self.finish(self.grpc.map(|first| first.unwrap_or(0)), false);
        }
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

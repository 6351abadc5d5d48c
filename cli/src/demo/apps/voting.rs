//! The service that counts votes, over HTTP/1.1 or HTTP/2, whichever the client speaks.
//!
//! It fails every vote for the doughnut: that is what there is to find in the demo.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, Uri, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::TcpListener;

use super::{
    accept,
    emoji::EMOJI,
    web::{for_method, read, text},
};
use crate::demo::faults::Switch;

/// The vote that this service cannot count.
pub const UNCOUNTABLE: &str = "doughnut";

#[derive(Clone)]
struct Poll {
    switch: Switch,
    /// Votes counted by this replica.
    votes: Arc<AtomicU64>,
}

pub async fn serve(listener: TcpListener, switch: Switch) {
    let poll = Poll { switch, votes: Arc::default() };
    accept::connections(listener, |socket| {
        let poll = poll.clone();
        async move {
            let service = service_fn(move |request| answer(poll.clone(), request));
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new());
            server.http2().timer(TokioTimer::new());
            // A broken connection concerns only whoever broke it.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        }
    })
    .await;
}

async fn answer(poll: Poll, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let head = read(request).await;
    Ok(for_method(&head.method, vote(&poll, &head.uri).await))
}

async fn vote(poll: &Poll, uri: &Uri) -> Response<Full<Bytes>> {
    if poll.switch.pass().await.is_err() {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "told to fail by `mesh demo fault`\n");
    }
    if uri.path() != "/api/vote" {
        return text(StatusCode::NOT_FOUND, "vote at /api/vote?choice=NAME\n");
    }
    match count(uri.query().unwrap_or_default()) {
        Ok(choice) => {
            let votes = poll.votes.fetch_add(1, Relaxed) + 1;
            text(StatusCode::OK, format!("{choice} counted; {votes} votes here\n"))
        }
        Err((status, why)) => text(status, why),
    }
}

fn count(query: &str) -> Result<&str, (StatusCode, &'static str)> {
    let choice = query.split('&').find_map(|pair| pair.strip_prefix("choice=")).unwrap_or_default();
    if choice == UNCOUNTABLE {
        return Err((StatusCode::INTERNAL_SERVER_ERROR, "the doughnut counter is broken\n"));
    }
    let known = EMOJI.iter().any(|(name, _)| *name == choice);
    if known { Ok(choice) } else { Err((StatusCode::BAD_REQUEST, "choice= must name an emoji\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vote_counts_but_the_doughnuts() {
        for (name, _) in EMOJI.iter().filter(|(name, _)| *name != UNCOUNTABLE) {
            assert_eq!(count(&format!("x=1&choice={name}")), Ok(*name));
        }
        let status = |query| count(query).expect_err(query).0;
        assert_eq!(status("choice=doughnut"), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(status("choice=nothing"), StatusCode::BAD_REQUEST);
        assert_eq!(status(""), StatusCode::BAD_REQUEST);
    }
}

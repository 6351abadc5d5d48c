//! The gRPC service: which picture goes with a name.
//!
//! It has one call of each kind, so that any gRPC client can try the mesh with all of them.

use std::pin::Pin;

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::accept;
use crate::demo::{
    emoji::{
        Counted, FindRequest, Found, ListRequest,
        emoji_server::{Emoji, EmojiServer},
    },
    faults::Switch,
};

/// Everything one can vote for.
pub const EMOJI: [(&str, &str); 16] = [
    ("doughnut", "🍩"),
    ("avocado", "🥑"),
    ("bee", "🐝"),
    ("butterfly", "🦋"),
    ("cactus", "🌵"),
    ("clapper", "🎬"),
    ("crab", "🦀"),
    ("kite", "🪁"),
    ("lighthouse", "🗼"),
    ("ninja", "🥷"),
    ("otter", "🦦"),
    ("pizza", "🍕"),
    ("rocket", "🚀"),
    ("sunflower", "🌻"),
    ("taco", "🌮"),
    ("trumpet", "🎺"),
];

type Answers = Pin<Box<dyn Stream<Item = Result<Found, Status>> + Send>>;

struct Catalogue {
    switch: Switch,
}

pub async fn serve(listener: TcpListener, switch: Switch) {
    let service = EmojiServer::new(Catalogue { switch });
    accept::connections(listener, |socket| {
        let service = TowerToHyperService::new(service.clone());
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(socket), service);
        async move {
            // A broken connection concerns only whoever broke it.
            let _ = connection.await;
        }
    })
    .await;
}

fn find(shortcode: &str) -> Result<Found, Status> {
    let name = shortcode.trim_matches(':');
    let known = EMOJI.iter().find(|(known, _)| *known == name);
    let (shortcode, unicode) = known.ok_or_else(|| Status::not_found(format!("no emoji is called {name:?}")))?;
    Ok(Found { shortcode: (*shortcode).to_owned(), unicode: (*unicode).to_owned() })
}

impl Catalogue {
    async fn pass(&self) -> Result<(), Status> {
        self.switch.pass().await.map_err(|_| Status::unavailable("told to fail by `mesh demo fault`"))
    }
}

#[tonic::async_trait]
impl Emoji for Catalogue {
    type ListStream = Answers;
    type EchoStream = Answers;

    async fn find(&self, request: Request<FindRequest>) -> Result<Response<Found>, Status> {
        self.pass().await?;
        find(&request.into_inner().shortcode).map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Answers>, Status> {
        self.pass().await?;
        let limit = match request.into_inner().limit {
            0 => EMOJI.len(),
            limit => limit as usize,
        };
        let all = EMOJI.iter().take(limit).map(|(name, _)| find(name));
        Ok(Response::new(Box::pin(tokio_stream::iter(all))))
    }

    async fn count(&self, request: Request<Streaming<FindRequest>>) -> Result<Response<Counted>, Status> {
        self.pass().await?;
        let mut asked = request.into_inner();
        let mut counted = Counted { known: 0, unknown: 0 };
        while let Some(question) = asked.message().await? {
            match find(&question.shortcode) {
                Ok(_) => counted.known = counted.known.saturating_add(1),
                Err(_) => counted.unknown = counted.unknown.saturating_add(1),
            }
        }
        Ok(Response::new(counted))
    }

    async fn echo(&self, request: Request<Streaming<FindRequest>>) -> Result<Response<Answers>, Status> {
        self.pass().await?;
        let answers = request.into_inner().map(|question| find(&question?.shortcode));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_and_without_colons() {
        for name in ["doughnut", ":doughnut:"] {
            assert_eq!(find(name).expect("known").unicode, "🍩");
        }
        assert_eq!(find("nothing").expect_err("unknown").code(), tonic::Code::NotFound);
    }

    #[test]
    fn every_emoji_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = EMOJI.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), EMOJI.len());
    }
}

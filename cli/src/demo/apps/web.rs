//! The front: plain HTTP/1.1. `/` shows a random emoji (from the gRPC service), `/vote/NAME` passes a vote on.
//!
//! What fails behind it fails here; what cannot be reached is a 503 that says who.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body as _, Incoming},
    header,
    http::request,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tonic::Code;

use super::{
    accept, authority,
    client::{Channel, Http1},
    emoji::EMOJI,
};
use crate::demo::{
    cast::App,
    emoji::{FindRequest, emoji_client::EmojiClient},
    faults::Switch,
};

/// Port of the services behind.
const BACKEND_PORT: u16 = 8080;
/// Longest name that is passed on, in bytes.
const NAME_MAX: usize = 64;
/// Most of a request's body that is read, in bytes.
const BODY_MAX: usize = 64 * 1024;

struct Front {
    switch: Switch,
    emoji: EmojiClient<Channel>,
    voting: Http1,
}

pub async fn serve(listener: TcpListener, proxy: SocketAddr, switch: Switch) {
    let origin =
        Uri::builder().scheme("http").authority(authority(App::Emoji, BACKEND_PORT)).path_and_query("/").build();
    let Ok(origin) = origin else {
        tracing::error!("the authority of emoji is no authority");
        return;
    };
    let emoji = EmojiClient::with_origin(Channel::new(proxy), origin);
    let voting = Http1::new(proxy, authority(App::Voting, BACKEND_PORT));
    let front = Arc::new(Front { switch, emoji, voting });
    accept::connections(listener, |socket| {
        let front = front.clone();
        async move {
            let service = service_fn(move |request| answer(front.clone(), request));
            // A broken connection concerns only whoever broke it.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service).await;
        }
    })
    .await;
}

async fn answer(front: Arc<Front>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let head = read(request).await;
    if front.switch.pass().await.is_err() {
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "told to fail by `mesh demo fault`\n"));
    }
    let path = head.uri.path();
    let answer = match (path, path.strip_prefix("/vote/")) {
        ("/", _) => front.show().await,
        (_, Some(name)) => front.vote(name).await,
        _ => text(StatusCode::NOT_FOUND, "there is / and /vote/NAME\n"),
    };
    Ok(for_method(&head.method, answer))
}

impl Front {
    async fn show(&self) -> Response<Full<Bytes>> {
        let (shortcode, _) = EMOJI[fastrand::usize(..EMOJI.len())];
        match self.emoji.clone().find(FindRequest { shortcode: shortcode.to_owned() }).await {
            Ok(found) => {
                let found = found.into_inner();
                text(StatusCode::OK, format!("{} {}\n", found.unicode, found.shortcode))
            }
            Err(status) if status.code() == Code::Unavailable => unavailable("emoji", &status),
            Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("emoji: {}\n", status.message())),
        }
    }

    async fn vote(&self, name: &str) -> Response<Full<Bytes>> {
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(|b| b.is_ascii_lowercase()) {
            return text(StatusCode::NOT_FOUND, "vote for a name in lower-case letters\n");
        }
        match self.voting.get(&format!("/api/vote?choice={name}")).await {
            Ok((status, body)) => text(status, body),
            Err(error) => unavailable("voting", &error),
        }
    }
}

fn unavailable(service: &str, error: &dyn std::fmt::Display) -> Response<Full<Bytes>> {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{service} cannot be reached: {error}\n"))
}

/// A plain-text answer.
/// Reads a request as a careful server does: its body to the end (at most [`BODY_MAX`]) before anything is answered, since
/// an answer that comes first can be cut off by the reset that the unread rest causes.
pub async fn read(request: Request<Incoming>) -> request::Parts {
    let (head, body) = request.into_parts();
    // Nothing here wants the body; one that is too long or breaks off is the client's loss.
    let _ = Limited::new(body, BODY_MAX).collect().await;
    head
}

/// The answer to a HEAD request: all but the body (RFC 9110, 9.3.2). hyper does that for HTTP/1 only.
pub fn for_method(method: &Method, mut answer: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    if method == Method::HEAD {
        let length = answer.body().size_hint().exact().unwrap_or_default();
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        *answer.body_mut() = Full::default();
    }
    answer
}

pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

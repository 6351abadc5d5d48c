//! Floors that carry HTTP messages with hyper and nothing else: HTTP/1.1 or HTTP/2 from the client, one HTTP/2
//! connection over mutual TLS between the two of a pair, and what the client spoke to the app. No header is added, nothing
//! is counted; a request that fails is answered 502.

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header::HOST, uri::Scheme};
use http_body_util::{Either, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1 as client1, http2 as client2},
    server::conn::{http1 as server1, http2 as server2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{LocalSet, spawn_local},
};

use super::tls::{Ends, Place};

/// Streams that may be reset before they were looked at.
const RESETS: usize = 1024;

type Multiplexed = client2::SendRequest<Incoming>;
type Pooled = client1::SendRequest<Incoming>;
type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// Serves until killed; `kind` is what the client speaks, `h1` or `h2`.
pub async fn serve(ends: Ends, kind: &str) {
    let listener = ends.listener().await;
    let h2_client = kind == "h2";
    let floor = Rc::new(Floor {
        // Between the two it is HTTP/2; to the app it is what the client speaks.
        upstream: if ends.place == Place::Out || h2_client {
            Upstream::One(RefCell::default())
        } else {
            Upstream::Pool(RefCell::default())
        },
        h2_in: h2_client || ends.place == Place::In,
        ends,
    });
    let accepting = async {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            let floor = floor.clone();
            spawn_local(async move {
                if floor.ends.place == Place::In {
                    if let Some(socket) = floor.ends.accept(socket).await {
                        floor.connection(socket).await;
                    }
                } else {
                    floor.connection(socket).await;
                }
            });
        }
    };
    LocalSet::new().run_until(accepting).await;
}

struct Floor {
    ends: Ends,
    h2_in: bool,
    upstream: Upstream,
}

enum Upstream {
    /// One HTTP/2 connection for everything.
    One(RefCell<Option<Multiplexed>>),
    /// HTTP/1.1 connections, the last used first.
    Pool(RefCell<Vec<Pooled>>),
}

/// Runs tasks where they are made.
#[derive(Clone)]
struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, task: F) {
        spawn_local(async move {
            task.await;
        });
    }
}

impl Floor {
    async fn connection(self: Rc<Self>, socket: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let h2 = self.h2_in;
        let service = service_fn(move |request| {
            let floor = self.clone();
            async move { Ok::<_, Infallible>(floor.carry(request).await) }
        });
        let socket = TokioIo::new(socket);
        if h2 {
            let mut server = server2::Builder::new(Here);
            // A client that goes takes all its streams along: the connection that others share must survive that.
            server.timer(TokioTimer::new()).max_pending_accept_reset_streams(RESETS);
            let _ = server.serve_connection(socket, service).await;
        } else {
            let _ = server1::Builder::new().timer(TokioTimer::new()).serve_connection(socket, service).await;
        }
    }

    async fn carry(&self, mut request: Request<Incoming>) -> Answer {
        let answer = match &self.upstream {
            Upstream::One(connection) => {
                to_h2(&mut request);
                self.carry_multiplexed(connection, request).await
            }
            Upstream::Pool(pool) => {
                to_h1(&mut request);
                self.carry_pooled(pool, request).await
            }
        };
        answer.map_or_else(bad_gateway, |answer| answer.map(Either::Left))
    }

    async fn carry_multiplexed(
        &self,
        connection: &RefCell<Option<Multiplexed>>,
        request: Request<Incoming>,
    ) -> Option<Response<Incoming>> {
        let open = connection.borrow().as_ref().filter(|open| !open.is_closed()).cloned();
        let mut open = if let Some(open) = open {
            open
        } else {
            let open = self.open().await.ok()?;
            connection.borrow_mut().insert(open).clone()
        };
        open.send_request(request).await.ok()
    }

    async fn carry_pooled(
        &self,
        pool: &RefCell<Vec<Pooled>>,
        request: Request<Incoming>,
    ) -> Option<Response<Incoming>> {
        let mut connection = if let Some(connection) = idle(pool) {
            connection
        } else {
            let (sender, driver) = client1::handshake(TokioIo::new(self.ends.dial().await?)).await.ok()?;
            spawn_local(driver);
            sender
        };
        let answer = connection.send_request(request).await.ok();
        // It is ready for others when its body was read.
        pool.borrow_mut().push(connection);
        answer
    }

    async fn open(&self) -> Result<Multiplexed, ()> {
        if self.ends.place == Place::Out {
            Self::open_on(self.ends.dial_tls().await.ok_or(())?).await
        } else {
            Self::open_on(self.ends.dial().await.ok_or(())?).await
        }
    }

    async fn open_on(socket: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Multiplexed, ()> {
        let builder = client2::Builder::new(Here);
        let (sender, driver) = builder.handshake(TokioIo::new(socket)).await.map_err(drop)?;
        spawn_local(driver);
        Ok(sender)
    }
}

/// The connection that was used last among those that can be used at once.
fn idle(pool: &RefCell<Vec<Pooled>>) -> Option<Pooled> {
    let mut pool = pool.borrow_mut();
    pool.retain(|connection| !connection.is_closed());
    let at = pool.iter().rposition(client1::SendRequest::is_ready)?;
    Some(pool.remove(at))
}

fn to_h2(request: &mut Request<Incoming>) {
    *request.version_mut() = Version::HTTP_2;
    if request.uri().authority().is_none() {
        let authority = request.headers_mut().remove(HOST).and_then(|host| host.to_str().ok()?.parse().ok());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = authority;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
}

fn to_h1(request: &mut Request<Incoming>) {
    *request.version_mut() = Version::HTTP_11;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = parts.authority.take().and_then(|name| HeaderValue::from_str(name.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    parts.scheme = None;
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

fn bad_gateway() -> Answer {
    let mut answer = Response::new(Either::Right(Empty::new()));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer
}

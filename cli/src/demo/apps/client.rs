//! Owns how the demo's apps call others: ordinary HTTP/1.1 with kept connections, and ordinary gRPC over one HTTP/2
//! connection, both to the app's own proxy, which goes by the authority.
//!
//! No retries and no balancing here: that is what the proxy is for.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::codegen::Service;

/// Connections kept for the next request.
const IDLE_MAX: usize = 64;
/// An answer must be complete within this.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

type Problem = Box<dyn std::error::Error + Send + Sync>;
type Sender = http1::SendRequest<Empty<Bytes>>;

async fn connect(proxy: SocketAddr) -> io::Result<TokioIo<TcpStream>> {
    let socket = TcpStream::connect(proxy).await?;
    socket.set_nodelay(true)?;
    Ok(TokioIo::new(socket))
}

/// An HTTP/1.1 client.
pub struct Http1 {
    proxy: SocketAddr,
    authority: String,
    idle: Mutex<Vec<Sender>>,
}

impl Http1 {
    pub fn new(proxy: SocketAddr, authority: String) -> Self {
        Self { proxy, authority, idle: Mutex::default() }
    }

    /// Status and body of `GET path`.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Problem> {
        tokio::time::timeout(TIMEOUT, self.exchange(path)).await?
    }

    async fn exchange(&self, path: &str) -> Result<(StatusCode, Bytes), Problem> {
        let mut sender = self.sender().await?;
        let request = Request::get(path).header(header::HOST, &self.authority).body(Empty::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await?.to_bytes();
        // Ready again only if the connection may be kept.
        if sender.ready().await.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MAX {
                idle.push(sender);
            }
        }
        Ok((status, body))
    }

    async fn sender(&self) -> Result<Sender, Problem> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(sender) if sender.is_closed() => {}
                Some(sender) => return Ok(sender),
                None => break,
            }
        }
        let (sender, connection) = http1::handshake(connect(self.proxy).await?).await?;
        tokio::spawn(async move {
            // Its requests report what goes wrong.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// One HTTP/2 connection for gRPC, made again when it is gone.
#[derive(Clone)]
pub struct Channel(Arc<Http2>);

struct Http2 {
    proxy: SocketAddr,
    sender: tokio::sync::Mutex<Option<http2::SendRequest<tonic::body::Body>>>,
}

impl Channel {
    pub fn new(proxy: SocketAddr) -> Self {
        Self(Arc::new(Http2 { proxy, sender: tokio::sync::Mutex::new(None) }))
    }

    async fn sender(&self) -> Result<http2::SendRequest<tonic::body::Body>, Problem> {
        let mut kept = self.0.sender.lock().await;
        if let Some(sender) = kept.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), connect(self.0.proxy).await?).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        *kept = Some(sender.clone());
        Ok(sender)
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Problem>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move {
            let mut sender = channel.sender().await?;
            sender.ready().await?;
            Ok(tokio::time::timeout(TIMEOUT, sender.send_request(request)).await??)
        })
    }
}

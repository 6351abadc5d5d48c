//! A server that writes down every request before it does anything else, echoes its token, and behaves as it is told:
//! well, slowly, badly. Asked to stop, it does what ordinary good servers do on SIGTERM: it accepts no more, finishes
//! what it has, and closes idle connections. Killed, it is gone at once, with its connections.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};

use super::{Book, Protocol, client::message};
use crate::net::Host;

/// What a stopping server waits for connections to end.
const STOPPING: Duration = Duration::from_secs(20);
/// An answer is on its way to the kernel by then.
const WRITTEN: Duration = Duration::from_millis(2);

/// What it does with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Ok,
    Slow(Duration),
    /// Answers so, at once. In gRPC 429 is RESOURCE_EXHAUSTED, 503 UNAVAILABLE, and others INTERNAL.
    Status(u16),
    /// Breaks off without an answer: closes the HTTP/1 connection, resets the HTTP/2 stream.
    Drop,
    /// Answers, and closes the connection without having said so.
    AnswerThenClose,
}

/// A running server; killed on drop.
pub struct Server {
    pub name: String,
    settings: Arc<Settings>,
    wish: watch::Sender<Wish>,
    thread: Option<JoinHandle<()>>,
}

struct Settings {
    name: String,
    book: Book,
    protocol: Protocol,
    mode: Mutex<Mode>,
    /// Closes connections that are idle for this long.
    idle: Option<Duration>,
    connections: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Serve,
    Stop,
    Die,
}

impl Server {
    /// Serves `protocol` on all of the host's addresses, at [`Protocol::port`].
    pub fn start(host: &Host, name: &str, protocol: Protocol, book: &Book) -> Self {
        Self::with_idle(host, name, protocol, book, None)
    }

    /// The same; HTTP/1 connections are closed when they were idle for so long.
    pub fn with_idle(host: &Host, name: &str, protocol: Protocol, book: &Book, idle: Option<Duration>) -> Self {
        let listener = host.listen(protocol.port());
        listener.set_nonblocking(true).expect("a socket");
        let mode = Mutex::default();
        let (book, connections) = (book.clone(), AtomicUsize::new(0));
        let settings = Arc::new(Settings { name: name.to_owned(), book, protocol, mode, idle, connections });
        let (wish, wished) = watch::channel(Wish::Serve);
        let shared = settings.clone();
        let thread = host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut dying = wished.clone();
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = serve(listener, shared, wished) => {}
                    _ = dying.wait_for(|wish| *wish == Wish::Die) => {}
                }
            });
        });
        Self { name: name.to_owned(), settings, wish, thread: Some(thread) }
    }

    pub fn set(&self, mode: Mode) {
        *self.settings.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Connections that reached it.
    pub fn connections(&self) -> usize {
        self.settings.connections.load(SeqCst)
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) {
        self.wish.send_replace(Wish::Stop);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }

    /// SIGKILL.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.wish.send_replace(Wish::Die);
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, settings: Arc<Settings>, mut wished: watch::Receiver<Wish>) {
    let mut connections = JoinSet::new();
    let mut stopping = wished.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                settings.connections.fetch_add(1, SeqCst);
                connections.spawn(connection(socket, settings.clone(), wished.clone()));
            }
            _ = stopping.wait_for(|wish| *wish >= Wish::Stop) => break,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = sleep(STOPPING) => {}
        _ = wished.wait_for(|wish| *wish == Wish::Die) => {}
    }
}

/// Requests on one connection.
#[derive(Default)]
struct Busy {
    now: AtomicUsize,
    last: Mutex<Option<Instant>>,
    close: Notify,
}

async fn connection(socket: TcpStream, settings: Arc<Settings>, mut wished: watch::Receiver<Wish>) {
    let _ = socket.set_nodelay(true);
    let busy = Arc::<Busy>::default();
    let service = {
        let (settings, busy) = (settings.clone(), busy.clone());
        service_fn(move |request| {
            let (settings, busy) = (settings.clone(), busy.clone());
            async move {
                busy.now.fetch_add(1, SeqCst);
                let answer = answer(request, &settings, &busy).await;
                busy.now.fetch_sub(1, SeqCst);
                *busy.last.lock().expect("nobody panics with it") = Some(Instant::now());
                answer
            }
        })
    };
    let stop = async { drop(wished.wait_for(|wish| *wish >= Wish::Stop).await) };
    // How a connection ends shows in what the client saw.
    macro_rules! until_stopped {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            tokio::select! {
                _ = &mut connection => {}
                () = tired(&busy, settings.idle) => {}
                () = stop => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        }};
    }
    match settings.protocol {
        Protocol::Http1 => until_stopped!(http1::Builder::new().serve_connection(TokioIo::new(socket), service)),
        Protocol::Http2 | Protocol::Grpc => {
            let builder = http2::Builder::new(TokioExecutor::new());
            until_stopped!(builder.serve_connection(TokioIo::new(socket), service));
        }
    }
}

/// Ends when the connection is to be closed without a word: idle for too long, or after this answer.
async fn tired(busy: &Busy, idle: Option<Duration>) {
    let since = Instant::now();
    if idle.is_none() {
        busy.close.notified().await;
    }
    let patience = idle.unwrap_or(WRITTEN);
    loop {
        let last = busy.last.lock().expect("nobody panics with it").unwrap_or(since);
        let quiet = if busy.now.load(SeqCst) > 0 { Duration::ZERO } else { last.elapsed() };
        if quiet >= patience {
            return;
        }
        sleep(patience.saturating_sub(quiet)).await;
    }
}

#[derive(Debug)]
struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("told to break off")
    }
}

impl std::error::Error for BrokenOff {}

type Answer = Result<Response<BoxBody<Bytes, Infallible>>, BrokenOff>;

async fn answer(request: Request<Incoming>, settings: &Settings, busy: &Busy) -> Answer {
    let token = request.headers().get("x-token").map(|token| String::from_utf8_lossy(token.as_bytes()).into_owned());
    // A request without one is no part of the history.
    if let Some(token) = &token {
        settings.book.note(&settings.name, token, request.method() == Method::POST);
    }
    let mode = *settings.mode.lock().unwrap_or_else(PoisonError::into_inner);
    // A body that broke off shows in what the client saw.
    let _ = request.into_body().collect().await;
    let status = match mode {
        Mode::Ok => 200,
        Mode::Slow(time) => {
            sleep(time).await;
            200
        }
        Mode::Status(status) => status,
        Mode::Drop => return Err(BrokenOff),
        Mode::AnswerThenClose => {
            busy.close.notify_one();
            200
        }
    };
    Ok(response(&format!("echo {} {}", token.unwrap_or_default(), settings.name), status, settings.protocol))
}

fn response(echo: &str, status: u16, protocol: Protocol) -> Response<BoxBody<Bytes, Infallible>> {
    if protocol != Protocol::Grpc {
        let body = Full::new(Bytes::from(echo.to_owned())).boxed();
        return Response::builder().status(status).body(body).expect("a good answer");
    }
    let grpc = match status {
        200 => 0,
        429 => 8,
        503 => 14,
        _ => 13,
    };
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from(grpc))]);
    let body = Full::new(message(echo)).with_trailers(async move { Some(Ok(trailers)) }).boxed();
    Response::builder().header("content-type", "application/grpc").body(body).expect("a good answer")
}

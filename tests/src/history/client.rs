//! The load client: requests at a fixed rate, each due at its own time whatever became of those before, over kept
//! HTTP/1.1 connections or a few HTTP/2 ones. It retries nothing: what it writes down is what an app would see.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{Event, Outcome, Protocol};
use crate::net::Host;

/// An answer must have come within this, or the request has failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// A load that waits looks so often whether it is stopped.
const LOOK: Duration = Duration::from_millis(50);
/// HTTP/2 connections of one stream of load.
const CONNECTIONS: usize = 3;
/// What tells loads apart.
static LOADS: AtomicU64 = AtomicU64::new(0);

/// What a load is like.
#[derive(Clone, Debug)]
pub struct Stream {
    pub protocol: Protocol,
    pub to: SocketAddr,
    pub authority: String,
    /// From one request to the next.
    pub gap: Duration,
    /// One request in so many is a POST; 0: none. gRPC has nothing else.
    pub post_each: u64,
}

/// Requests under way, until [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<Event>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins at once, on `host`, as an app there would.
    pub fn start(host: &Host, stream: Stream) -> Self {
        let (stop, events) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Event>>>::default());
        let shared = (stop.clone(), events.clone());
        let thread = host.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(stream, &shared.0, &shared.1));
        });
        Self { stop, events, thread: Some(thread) }
    }

    /// What has an outcome by now.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, waits for what is under way, and says what happened.
    pub fn stop(mut self) -> Vec<Event> {
        self.stop.store(true, SeqCst);
        self.thread.take().expect("it is stopped once").join().expect("the client does not panic");
        self.events()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(stream: Stream, stop: &AtomicBool, events: &Arc<Mutex<Vec<Event>>>) {
    let number = LOADS.fetch_add(1, SeqCst);
    let client = Arc::new(Client { stream, idle: Mutex::default(), open: Default::default() });
    let gap = client.stream.gap;
    let mut due = Instant::now();
    let mut running = JoinSet::new();
    let mut sent = 0;
    while is_due(due, stop).await {
        let (client, events, n) = (client.clone(), events.clone(), sent);
        running.spawn(async move {
            let event = client.one(number, n, due).await;
            events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        });
        while running.try_join_next().is_some() {}
        sent += 1;
        due += gap;
    }
    while running.join_next().await.is_some() {}
}

/// Waits until then; `false`: it was stopped meanwhile.
async fn is_due(due: Instant, stop: &AtomicBool) -> bool {
    while !stop.load(SeqCst) {
        let now = Instant::now();
        if now >= due {
            return true;
        }
        sleep_until(due.min(now + LOOK).into()).await;
    }
    false
}

struct Client {
    stream: Stream,
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    open: [tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>; CONNECTIONS],
}

impl Client {
    async fn one(&self, load: u64, n: u64, due: Instant) -> Event {
        let Stream { protocol, post_each, .. } = self.stream;
        let post = protocol == Protocol::Grpc || (post_each > 0 && n.is_multiple_of(post_each));
        let token = format!("t{load}-{n}");
        let request = self.request(&token, post);
        let exchange = async {
            match protocol {
                Protocol::Http1 => self.http1(request).await,
                Protocol::Http2 | Protocol::Grpc => self.http2(request, n as usize % CONNECTIONS).await,
            }
        };
        let outcome = match timeout(PATIENCE, exchange).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed(said(error.as_ref())),
            Err(_) => Outcome::Failed("no answer in time".to_owned()),
        };
        Event { token, protocol, post, due, took: due.elapsed(), outcome }
    }

    fn request(&self, token: &str, post: bool) -> Request<Full<Bytes>> {
        let Stream { protocol, authority, .. } = &self.stream;
        let method = if post { Method::POST } else { Method::GET };
        let request = Request::builder().method(method).header("x-token", token);
        let body = if post { token.to_owned() } else { String::new() };
        let (request, body) = match protocol {
            Protocol::Http1 => (request.uri("/item").header("host", authority), body.into()),
            Protocol::Http2 => (request.uri(format!("http://{authority}/item")), body.into()),
            Protocol::Grpc => {
                let request = request.uri(format!("http://{authority}/shop.Shop/Buy"));
                (request.header("content-type", "application/grpc").header("te", "trailers"), message(&body))
            }
        };
        request.body(Full::new(body)).expect("a good request")
    }

    async fn http1(&self, request: Request<Full<Bytes>>) -> Result<Outcome, Problem> {
        let kept = {
            let mut idle = self.idle.lock().expect("nobody panics with it");
            std::iter::from_fn(|| idle.pop()).find(http1::SendRequest::is_ready)
        };
        let mut sender = if let Some(sender) = kept {
            sender
        } else {
            let (sender, connection) = http1::handshake(self.connect().await?).await?;
            tokio::spawn(connection);
            sender
        };
        let outcome = read(sender.send_request(request).await?).await?;
        self.idle.lock().expect("nobody panics with it").push(sender);
        Ok(outcome)
    }

    async fn http2(&self, request: Request<Full<Bytes>>, slot: usize) -> Result<Outcome, Problem> {
        let mut sender = {
            let mut slot = self.open[slot].lock().await;
            match &*slot {
                Some(sender) if sender.is_ready() => sender.clone(),
                _ => {
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), self.connect().await?).await?;
                    tokio::spawn(connection);
                    slot.insert(sender).clone()
                }
            }
        };
        read(sender.send_request(request).await?).await
    }

    async fn connect(&self) -> io::Result<TokioIo<TcpStream>> {
        let socket = TcpStream::connect(self.stream.to).await?;
        socket.set_nodelay(true)?;
        Ok(TokioIo::new(socket))
    }
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

async fn read(response: Response<Incoming>) -> Result<Outcome, Problem> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let number = |fields: &HeaderMap| fields.get("grpc-status")?.to_str().ok()?.parse().ok();
    let grpc = collected.trailers().and_then(number).or_else(|| number(&head.headers));
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
    let error = head.headers.get("l6g-error").map(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    let body = collected.to_bytes();
    let text = if is_grpc { body.get(5..).unwrap_or_default() } else { &body };
    let text = String::from_utf8_lossy(text).into_owned();
    let echo = text.strip_prefix("echo ").and_then(|echo| echo.split_once(' '));
    let echo = echo.map(|(token, server)| (token.to_owned(), server.to_owned()));
    Ok(Outcome::Answered { status: head.status.as_u16(), grpc, error, echo })
}

/// A message of gRPC: not compressed, its length, its bytes.
pub(super) fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).expect("it is short").to_be_bytes();
    [&[0], &length[..], text.as_bytes()].concat().into()
}

/// An error with what is behind it.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

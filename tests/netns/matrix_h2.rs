//! The matrix's rows of HTTP/2 with prior knowledge: many streams at a time, gRPC's shapes (unary, both ways, trailers
//! alone), resets from either side. The client and the server are hyper's; what is between them is ours.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::{self as client, SendRequest},
    server::conn::http2 as server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lacewing_tests::wait::until;
use tokio::{sync::mpsc, time::timeout};

use super::{
    matrix::{Way, World},
    wire::{PATIENCE, Wire},
};

/// Streams at a time on one connection.
const STREAMS: usize = 300;
/// Bytes of a large answer.
const LARGE: usize = 16 << 20;

/// A body that is made as it goes.
struct Parts(mpsc::Receiver<Result<Frame<Bytes>, io::Error>>);
type Sender = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }
}

fn parts() -> (Sender, Parts) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Parts(receiver))
}

#[allow(clippy::unnecessary_wraps, reason = "parts of a body are sent like that")]
fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::data(bytes.into()))
}

#[allow(clippy::unnecessary_wraps, reason = "parts of a body are sent like that")]
fn trailers(fields: &[(&'static str, &str)]) -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::trailers(
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect(),
    ))
}

/// Streams of `/hang` that the client has reset.
#[derive(Clone, Default)]
struct Resets(Arc<AtomicUsize>);

async fn serve(request: Request<Incoming>, resets: Resets) -> Result<Response<Parts>, Infallible> {
    let (sender, body) = parts();
    let mut response = Response::new(body);
    let (head, incoming) = request.into_parts();
    let fields = response.headers_mut();
    fields.insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Some(client) = head.headers.get("l6g-client-id") {
        fields.insert("x-client", client.clone());
    }
    fields.insert("x-te", head.headers.get("te").cloned().unwrap_or_else(|| HeaderValue::from_static("none")));
    fields.insert("x-authority", HeaderValue::from_str(head.uri.authority().map_or("none", |a| a.as_str())).unwrap());
    match head.uri.path() {
        // An answer of trailers alone: its head is the end.
        "/refuse" => {
            fields.insert("grpc-status", HeaderValue::from_static("5"));
        }
        "/stream" => drop(tokio::spawn(echo(incoming, sender))),
        "/large" => drop(tokio::spawn(async move {
            let chunk = Bytes::from(vec![b'x'; 64 << 10]);
            for _ in 0..LARGE / chunk.len() {
                // A client may leave.
                let _ = sender.send(data(chunk.clone())).await;
            }
        })),
        "/reset" => drop(tokio::spawn(async move {
            sender.send(data("the beginning")).await.unwrap();
            // Time for what was sent to pass: a reset overtakes it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = sender.send(Err(io::Error::other("broke"))).await;
        })),
        "/hang" => drop(tokio::spawn(async move {
            sender.send(data("waiting")).await.unwrap();
            sender.closed().await;
            resets.0.fetch_add(1, SeqCst);
        })),
        _ => {
            // Unary: all of the question, then the answer.
            let question = incoming.collect().await.unwrap();
            let sum = question.trailers().and_then(|fields| fields.get("x-sum")).cloned();
            let sum = sum.unwrap_or_else(|| HeaderValue::from_static("none"));
            let question = question.to_bytes();
            tokio::spawn(async move {
                sender.send(data(question)).await.unwrap();
                let sum = sum.to_str().unwrap();
                sender.send(trailers(&[("grpc-status", "0"), ("x-sum", sum)])).await.unwrap();
            });
        }
    }
    Ok(response)
}

async fn echo(mut incoming: Incoming, sender: Sender) {
    while let Some(Ok(frame)) = incoming.frame().await {
        if let Ok(bytes) = frame.into_data() {
            let _ = sender.send(data(bytes)).await;
        }
    }
    let _ = sender.send(trailers(&[("grpc-status", "0")])).await;
}

fn app(resets: &Resets) -> impl Fn(&mut Wire) + Clone + Send + 'static {
    let resets = resets.clone();
    move |wire| {
        let resets = resets.clone();
        runtime().block_on(async {
            let service = service_fn(move |request| serve(request, resets.clone()));
            let mut builder = server::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(1_000);
            // However it ends: clients and probes come and go.
            let _ = builder.serve_connection(io_of(wire), service).await;
        });
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn io_of(wire: &Wire) -> TokioIo<tokio::net::TcpStream> {
    let socket = wire.socket.try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    TokioIo::new(tokio::net::TcpStream::from_std(socket).unwrap())
}

/// Runs `talk` with a client's connection.
fn talk<F: Future<Output = ()>>(way: &Way<'_>, talk: impl FnOnce(SendRequest<Parts>) -> F) {
    let wire = way.connect();
    runtime().block_on(async {
        let (sender, connection) = client::handshake(TokioExecutor::new(), io_of(&wire)).await.unwrap();
        tokio::spawn(connection);
        timeout(PATIENCE, talk(sender)).await.unwrap_or_else(|_| panic!("{}: it hangs", way.name));
    });
}

async fn ask(sender: &mut SendRequest<Parts>, path: &str) -> (Sender, Response<Incoming>) {
    let (question, body) = parts();
    let request = Request::post(format!("http://shop.example{path}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    sender.ready().await.unwrap();
    let answer = sender.send_request(request).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    (question, answer)
}

#[track_caller]
fn is_served(way: &Way<'_>, fields: &HeaderMap) {
    let field = |name: &str| fields.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(field("x-client"), way.client_id.as_deref(), "{}: {fields:?}", way.name);
    assert_eq!((field("x-te"), field("x-authority")), (Some("trailers"), Some("shop.example")), "{}", way.name);
}

#[test]
fn many_streams_with_trailers() {
    let world = World::new();
    world.serve(app(&Resets::default())).each_family(|way| {
        talk(way, |sender| async move {
            let all: Vec<_> = (0..STREAMS)
                .map(|n| {
                    let mut sender = sender.clone();
                    tokio::spawn(async move {
                        let (question, body) = parts();
                        let request =
                            Request::post("http://shop.example/unary").header("te", "trailers").body(body).unwrap();
                        sender.ready().await.unwrap();
                        let text = format!("question {n} ").repeat(n);
                        let asked = text.clone();
                        tokio::spawn(async move {
                            question.send(data(asked)).await.unwrap();
                            question.send(trailers(&[("x-sum", &n.to_string())])).await.unwrap();
                        });
                        let answer = sender.send_request(request).await.unwrap();
                        let fields = answer.headers().clone();
                        let body = answer.into_body().collect().await.unwrap();
                        let ends = body.trailers().cloned().unwrap();
                        assert_eq!(
                            (&ends["grpc-status"], ends["x-sum"].to_str().unwrap()),
                            (&HeaderValue::from_static("0"), &*n.to_string())
                        );
                        assert!(body.to_bytes() == text, "the answer to another question");
                        fields
                    })
                })
                .collect();
            for one in all {
                is_served(way, &one.await.unwrap());
            }
        });
    });
}

#[test]
fn grpc_both_ways_and_trailers_alone() {
    let world = World::new();
    world.serve(app(&Resets::default())).each_family(|way| {
        talk(way, |mut sender| async move {
            let (question, mut answer) = ask(&mut sender, "/stream").await;
            is_served(way, answer.headers());
            for n in 0..20 {
                // Each word only when the one before has come back: nothing is held for more.
                question.send(data(format!("word {n}"))).await.unwrap();
                let back = answer.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(back, format!("word {n}"), "{}", way.name);
            }
            question.send(trailers(&[("x-end", "1")])).await.unwrap();
            drop(question);
            let ends = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(ends["grpc-status"], "0");
            let (_, answer) = ask(&mut sender, "/refuse").await;
            assert_eq!(answer.headers()["grpc-status"], "5", "{}", way.name);
            let rest = answer.into_body().collect().await.unwrap();
            assert!(rest.trailers().is_none() && rest.to_bytes().is_empty());
        });
    });
}

#[test]
fn resets_pass_and_end_one_stream_only() {
    let world = World::new();
    let resets = Resets::default();
    world.serve(app(&resets)).each(|way| {
        let before = resets.0.load(SeqCst);
        let seen = resets.0.clone();
        talk(way, |mut sender| async move {
            let (question, mut other) = ask(&mut sender, "/stream").await;
            let (_open, mut broken) = ask(&mut sender, "/reset").await;
            assert_eq!(broken.frame().await.unwrap().unwrap().into_data().unwrap(), "the beginning");
            let end = broken.frame().await;
            assert!(matches!(end, Some(Err(_))), "{}: {end:?}", way.name);
            let (open, mut left) = ask(&mut sender, "/hang").await;
            assert_eq!(left.frame().await.unwrap().unwrap().into_data().unwrap(), "waiting");
            drop((open, left));
            // The connection is alive, and so is the stream beside them.
            question.send(data("still here")).await.unwrap();
            assert_eq!(other.frame().await.unwrap().unwrap().into_data().unwrap(), "still here");
            let heard = async {
                while seen.load(SeqCst) == before {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{}: the server knows nothing of it", way.name));
        });
    });
    let open = || world.meshed_server.metric("tcp_open_connections", &["direction=\"inbound\"", "tls=\"no_identity\""]);
    until("plain connections end with their clients", PATIENCE, || (open() as u64 == 0).then_some(()));
}

#[test]
fn a_large_answer_leaves_room_for_others() {
    let world = World::new();
    world.serve(app(&Resets::default())).each(|way| {
        talk(way, |mut sender| async move {
            // Somebody who does not read, somebody who does, and somebody with a small question.
            let (_, idle) = ask(&mut sender, "/large").await;
            let (question, large) = ask(&mut sender, "/large").await;
            drop(question);
            let reading = tokio::spawn(async move { large.into_body().collect().await.unwrap().to_bytes().len() });
            for _ in 0..20 {
                let (question, mut answer) = ask(&mut sender, "/stream").await;
                question.send(data("small")).await.unwrap();
                assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "small", "{}", way.name);
            }
            assert_eq!(reading.await.unwrap(), LARGE, "{}", way.name);
            drop(idle);
        });
    });
}

/// The app for rows whose client is somebody else.
pub fn plain_app(wire: &mut Wire) {
    app(&Resets::default())(wire);
}

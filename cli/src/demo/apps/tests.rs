//! Tests of the demo's services over real sockets, without the mesh: what a client must also get through it.
//!
//! The "proxy" of an app is here the other app itself, which does not care about the authority.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, Uri, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_stream::StreamExt;

use super::{
    client::{Channel, Http1},
    *,
};
use crate::demo::{
    emoji::{FindRequest, Found, ListRequest, emoji_client::EmojiClient},
    faults::{self, Fault},
    state::tests::Scratch,
};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

async fn emoji_service(switch: Switch) -> EmojiClient<Channel> {
    let (socket, address) = listener().await;
    tokio::spawn(emoji::serve(socket, switch));
    EmojiClient::with_origin(Channel::new(address), Uri::from_static("http://emoji.emojivoto:8080"))
}

fn question(name: &str) -> FindRequest {
    FindRequest { shortcode: name.to_owned() }
}

fn name(found: Result<Found, tonic::Status>) -> String {
    found.map_or_else(|status| format!("{:?}", status.code()), |found| found.shortcode)
}

#[tokio::test]
async fn emoji_answers_all_four_kinds_of_call() {
    let mut client = emoji_service(Switch::default()).await;
    let found = client.find(question("otter")).await.expect("found").into_inner();
    assert_eq!(found.unicode, "🦦");
    assert_eq!(client.find(question("x")).await.expect_err("unknown").code(), tonic::Code::NotFound);
    let listed = client.list(ListRequest { limit: 3 }).await.expect("listed").into_inner();
    assert_eq!(listed.map(name).collect::<Vec<_>>().await, ["doughnut", "avocado", "bee"]);
    let names = ["bee", "x", "kite"].map(question);
    let counted = client.count(tokio_stream::iter(names.clone())).await.expect("counted").into_inner();
    assert_eq!((counted.known, counted.unknown), (2, 1));
    let echoed = client.echo(tokio_stream::iter(names)).await.expect("echoed").into_inner();
    assert_eq!(echoed.map(name).collect::<Vec<_>>().await, ["bee", "NotFound"], "an error ends the stream");
}

#[tokio::test]
async fn a_fault_file_makes_an_app_fail_and_heal() {
    let scratch = Scratch::new("app-fault");
    let switch = Switch::default();
    tokio::spawn(switch.clone().follow(faults::path(&scratch, "emoji-1")));
    let mut client = emoji_service(switch).await;
    faults::set(&scratch, "emoji-1", Fault::Fail).expect("set");
    let mut codes = Vec::new();
    for healed in [false, true] {
        if healed {
            faults::clear(&scratch, "emoji-1").expect("clear");
        }
        let done = async {
            while client.find(question("bee")).await.is_ok() != healed {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), done).await.expect("the app follows its switch");
        codes.push(client.find(question("bee")).await.map_or_else(|status| status.code(), |_| tonic::Code::Ok));
    }
    assert_eq!(codes, [tonic::Code::Unavailable, tonic::Code::Ok]);
}

#[tokio::test]
async fn voting_answers_http_1_and_http_2() {
    let (socket, address) = listener().await;
    tokio::spawn(voting::serve(socket, Switch::default()));
    let http1 = Http1::new(address, "voting.emojivoto:8080".to_owned());
    for (path, expected) in [
        ("/api/vote?choice=pizza", StatusCode::OK),
        ("/api/vote?choice=doughnut", StatusCode::INTERNAL_SERVER_ERROR),
        ("/api/vote?choice=soap", StatusCode::BAD_REQUEST),
        ("/", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(http1.get(path).await.expect("answered").0, expected, "{path}");
    }
    let socket = TokioIo::new(TcpStream::connect(address).await.expect("connected"));
    let (mut http2, connection) = http2::handshake(TokioExecutor::new(), socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("http://voting.emojivoto:8080/api/vote?choice=pizza");
    let answer = http2.send_request(request.body(Full::<bytes::Bytes>::default()).expect("a request")).await;
    let body = answer.expect("answered").into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, "pizza counted; 2 votes here\n");
}

#[tokio::test]
async fn web_passes_votes_and_failures_on() {
    let (voting, proxy) = listener().await;
    tokio::spawn(voting::serve(voting, Switch::default()));
    let (socket, address) = listener().await;
    tokio::spawn(web::serve(socket, proxy, Switch::default()));
    let client = Http1::new(address, "web.emojivoto:8080".to_owned());
    for (path, expected) in [
        ("/vote/pizza", StatusCode::OK),
        ("/vote/doughnut", StatusCode::INTERNAL_SERVER_ERROR),
        ("/vote/../etc", StatusCode::NOT_FOUND),
        ("/vote/", StatusCode::NOT_FOUND),
        ("/other", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(client.get(path).await.expect("answered").0, expected, "{path}");
    }
}

#[tokio::test]
async fn web_shows_an_emoji_or_says_who_is_away() {
    let (emoji, proxy) = listener().await;
    tokio::spawn(emoji::serve(emoji, Switch::default()));
    let (front, address) = listener().await;
    tokio::spawn(web::serve(front, proxy, Switch::default()));
    let (status, body) = Http1::new(address, "web".to_owned()).get("/").await.expect("answered");
    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
    assert_eq!(status, StatusCode::OK);
    assert!(emoji::EMOJI.iter().any(|(name, picture)| body == format!("{picture} {name}\n")), "{body}");
    // Bound and dropped: nobody listens there.
    let (_, nobody) = listener().await;
    let (front, address) = listener().await;
    tokio::spawn(web::serve(front, nobody, Switch::default()));
    let (status, body) = Http1::new(address, "web".to_owned()).get("/vote/pizza").await.expect("answered");
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.starts_with(b"voting cannot be reached"), "{body:?}");
}

#[tokio::test]
async fn echo_says_all_it_hears_then_closes() {
    let (socket, address) = listener().await;
    tokio::spawn(echo::serve(socket, Switch::default()));
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let said = vec![b'x'; 100_000];
    let (mut read, mut write) = socket.split();
    let mut heard = Vec::new();
    let speak = async {
        write.write_all(&said).await.expect("said");
        write.shutdown().await.expect("done");
    };
    let ((), result) = tokio::join!(speak, read.read_to_end(&mut heard));
    result.expect("heard");
    assert_eq!(heard, said);
}

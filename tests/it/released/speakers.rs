//! A released proxy and a released controller, as far as their protocol goes: both speak the bytes of their release's
//! schema over mesh TLS. Neither has a line of the product's own code for the protocol.

use std::{
    convert::Infallible,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lacewing_identity::{Authority, ClientAuth, SpiffeId, TrustDomain, tls};
use lacewing_tests::solo::Solo;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

use super::{
    PATIENCE,
    frames::{Messages, frame},
    schema::{PACKAGE, Schema},
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Life of the certificates here, in seconds.
const LIFETIME: u64 = 3_600;

#[allow(clippy::disallowed_methods, reason = "certificates begin now")]
fn now() -> u64 {
    UNIX_EPOCH.elapsed().expect("a clock that is not before 1970").as_secs()
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").expect("a trust domain")
}

fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), namespace, account).expect("a name")
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(PATIENCE, work).await.expect("an answer in time") })
}

/// A body of these messages that stays open until `messages` is dropped.
fn open_body() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (messages, receiver) = mpsc::unbounded_channel::<Bytes>();
    let frames = UnboundedReceiverStream::new(receiver).map(|data| Ok(Frame::data(data)));
    (messages, StreamBody::new(frames).boxed_unsync())
}

/// Asks today's controller all `keys` as the client's proxy, in the words of `schema`, and gives what was answered to
/// each: without the version, and of the trust bundle only that there is one, since both are new each time.
pub fn converse(solo: &Solo, schema: &Schema, keys: &[Value]) -> Vec<Value> {
    run(async {
        let pem = fs::read_to_string(solo.dir.join("controller/authority.pem")).expect("the controller's authority");
        let authority = Authority::from_pem(&trust_domain(), &pem).expect("a good authority");
        let leaf = authority.issue_own(&id("it", "client"), now(), LIFETIME).expect("a certificate");
        let server = id("lacewing", "lacewing-controller");
        let config = tls::client_config(Some(&leaf), authority.bundle(), &server, &[b"h2"]).expect("a configuration");
        let address = solo.controller_grpc();
        let socket = TcpStream::connect(address).await.expect("the controller listens");
        let tls = TlsConnector::from(config).connect(address.ip().into(), socket).await.expect("mesh TLS");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let (messages, body) = open_body();
        for key in keys {
            let request = schema.encode("WatchRequest", &json!({"subscribe": key}));
            messages.send(frame(&request)).expect("the body is open");
        }
        let request = Request::post(format!("https://controller/{PACKAGE}.Control/Watch"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        let mut answers = Messages::of(response.into_body());
        let mut found = vec![Value::Null; keys.len()];
        while found.contains(&Value::Null) {
            let answer = schema.decode("WatchResponse", &answers.next().await.expect("an answer"));
            let at =
                keys.iter().position(|key| *key == answer["key"]).unwrap_or_else(|| panic!("nobody asked {answer}"));
            found[at] = comparable(answer);
        }
        found
    })
}

fn comparable(mut answer: Value) -> Value {
    let fields = answer.as_object_mut().expect("a message is an object");
    fields.remove("version").expect("each answer has its version");
    fields.remove("key");
    if let Some(roots) = fields.get_mut("trust").and_then(|trust| trust.get_mut("roots")) {
        assert!(roots.as_array().is_some_and(|roots| !roots.is_empty()), "no roots");
        *roots = json!([]);
    }
    answer
}

/// A controller of a release: certifies whoever comes with the name in its token file, and says what its release said.
pub struct FakeController {
    applied: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Part {
    schema: Schema,
    authority: Authority,
    spoken: Vec<Value>,
    applied: Arc<AtomicUsize>,
}

impl FakeController {
    pub fn start(solo: &Solo, schema: Schema, spoken: Vec<Value>) -> Self {
        let authority = Authority::generate(&trust_domain(), now()).expect("an authority");
        for folder in ["controller", "tokens"] {
            fs::create_dir_all(solo.dir.join(folder)).expect("a folder");
        }
        fs::write(solo.dir.join("controller/root.pem"), authority.bundle().to_pem()).expect("a file");
        for pod in solo.pods() {
            let account = pod.split('-').next().expect("a word");
            fs::write(solo.dir.join(format!("tokens/it_{pod}.token")), account).expect("a file");
        }
        let leaf = authority.issue_own(&id("lacewing", "lacewing-controller"), now(), LIFETIME).expect("a certificate");
        let config =
            tls::server_config(&leaf, authority.bundle(), ClientAuth::Optional, &[b"h2"]).expect("a configuration");
        let applied = Arc::new(AtomicUsize::new(0));
        let part = Arc::new(Part { schema, authority, spoken, applied: applied.clone() });
        let (stop, stopped) = oneshot::channel();
        let address = solo.controller_grpc();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.expect("the controller's port");
                tokio::select! {
                    () = serve(listener, TlsAcceptor::from(config), part) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self { applied, stop: Some(stop), thread: Some(thread) }
    }

    /// Versions that proxies have reported.
    pub fn applied(&self) -> usize {
        self.applied.load(SeqCst)
    }
}

impl Drop for FakeController {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, part: Arc<Part>) {
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        let (acceptor, part) = (acceptor.clone(), part.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(socket).await else { return };
            let service = service_fn(move |request| answer(part.clone(), request));
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}

async fn answer(part: Arc<Part>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let mut asked = Messages::of(request.into_body());
    let body = match method.as_str() {
        "Certify" => {
            let message = asked.next().await.expect("a request");
            let certified = part.certify(&part.schema.decode("CertifyRequest", &message));
            let trailers =
                HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
            let frames = [Ok(Frame::data(frame(&certified))), Ok(Frame::trailers(trailers))];
            StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
        }
        "Watch" => {
            let (answers, body) = open_body();
            tokio::spawn(async move {
                while let Some(message) = asked.next().await {
                    part.watched(&part.schema.decode("WatchRequest", &message), &answers);
                }
            });
            body
        }
        other => panic!("no method {other}"),
    };
    Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"))
}

impl Part {
    fn certify(&self, request: &Value) -> Vec<u8> {
        let text = |name: &str| request[name].as_str().unwrap_or_default();
        let csr = BASE64.decode(text("csr")).expect("bytes");
        let issued = self.authority.issue(&csr, &id("it", text("token")), now(), LIFETIME).expect("a certificate");
        let chain: Vec<String> = issued.chain.iter().map(|der| BASE64.encode(der)).collect();
        let answer = json!({
            "chain": chain, "trustBundle": self.roots(),
            "notBefore": issued.not_before.to_string(), "notAfter": issued.not_after.to_string(),
        });
        self.schema.encode("CertifyResponse", &answer)
    }

    fn roots(&self) -> Vec<String> {
        self.authority.bundle().certificates().iter().map(|der| BASE64.encode(der)).collect()
    }

    fn watched(&self, request: &Value, answers: &mpsc::UnboundedSender<Bytes>) {
        if request.get("applied").is_some() {
            self.applied.fetch_add(1, SeqCst);
        }
        let Some(key) = request.get("subscribe") else { return };
        let said = self.spoken.iter().find(|one| one["key"] == *key).map(|one| one["answer"].clone());
        // Server pods asked for their own inbound side when the release was made, too, with the same answer.
        let as_client =
            || self.spoken.iter().find(|one| one["key"].get("inbound").is_some()).map(|one| one["answer"].clone());
        let said = said.or_else(|| key.get("inbound").and_then(|_| as_client()));
        let mut answer = said.unwrap_or_else(|| json!({"refused": "the recorded controller was never asked this"}));
        answer["key"] = key.clone();
        answer["version"] = json!({"epoch": "7", "counter": "1"});
        if answer.get("trust").is_some() {
            answer["trust"] = json!({"roots": self.roots()});
        }
        let _ = answers.send(frame(&self.schema.encode("WatchResponse", &answer)));
    }
}

//! An API server as far as the controller needs one: lists by pages, watches, token reviews, and a place for its own
//! objects. On a thread and a runtime of its own, in plain HTTP/1.1 on loopback.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc::channel},
    thread,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What is watched: the path, and `kind` and `apiVersion` of what is there.
pub const KINDS: [(&str, &str, &str); 4] = [
    ("/api/v1/namespaces", "Namespace", "v1"),
    ("/api/v1/pods", "Pod", "v1"),
    ("/api/v1/services", "Service", "v1"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice", "discovery.k8s.io/v1"),
];

/// Where an install registers the webhook: being ready waits for it.
const INJECTOR: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/lacewing-injector";

/// The API server's memory.
#[derive(Clone, Default)]
pub struct Api(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    version: u64,
    /// By path; each in the order of its keys.
    watched: HashMap<&'static str, BTreeMap<String, Bytes>>,
    watchers: HashMap<&'static str, Vec<mpsc::UnboundedSender<Bytes>>>,
    /// The controller's own objects, by path.
    kept: BTreeMap<String, Value>,
}

impl Api {
    /// Serves until the process ends.
    pub fn serve(&self) -> SocketAddr {
        let (sender, address) = channel();
        let api = self.clone();
        let injector =
            json!({"metadata": {"name": "lacewing-injector"}, "webhooks": [{"name": "inject.lacewing.dev"}]});
        self.0.lock().expect("nobody panics here").kept.insert(INJECTOR.to_owned(), injector);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                sender.send(listener.local_addr().expect("an address")).expect("somebody waits");
                loop {
                    let (socket, _) = listener.accept().await.expect("a connection");
                    socket.set_nodelay(true).expect("a socket");
                    let api = api.clone();
                    let service = service_fn(move |request| {
                        let api = api.clone();
                        async move { Ok::<_, Infallible>(api.answer(request).await) }
                    });
                    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
                }
            });
        });
        address.recv().expect("the API server starts")
    }

    /// Writes an object and tells who watches.
    pub fn write(&self, path: &'static str, mut object: Value) {
        let mut inner = self.0.lock().expect("nobody panics here");
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        if let Some((_, kind, version)) = KINDS.iter().find(|(known, ..)| *known == path) {
            (object["kind"], object["apiVersion"]) = (json!(kind), json!(version));
        }
        let metadata = &object["metadata"];
        let key = format!(
            "{}/{}",
            metadata["namespace"].as_str().unwrap_or_default(),
            metadata["name"].as_str().unwrap_or_default()
        );
        let text = object.to_string();
        let is_new = inner.watched.entry(path).or_default().insert(key, Bytes::from(text.clone())).is_none();
        let kind = if is_new { "ADDED" } else { "MODIFIED" };
        let event = Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{text}}}\n"));
        inner.watchers.entry(path).or_default().retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    /// One of the controller's own objects.
    pub fn kept(&self, path: &str) -> Option<Value> {
        self.0.lock().expect("nobody panics here").kept.get(path).cloned()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        if let Some((path, kind, version)) = KINDS.iter().find(|(known, ..)| *known == path) {
            return if query.contains("watch=1") { self.watch(path) } else { self.list(path, kind, version, query) };
        }
        let given = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if path.ends_with("/tokenreviews") {
            return whole(StatusCode::CREATED, &reviewed(&given));
        }
        self.own(&parts.method, path, given)
    }

    fn list(&self, path: &str, kind: &str, version: &str, query: &str) -> Response<Body> {
        let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let from = parameter("continue").and_then(|token| token.parse().ok()).unwrap_or(0_usize);
        let inner = self.0.lock().expect("nobody panics here");
        let all = inner.watched.get(path);
        let count = all.map_or(0, BTreeMap::len);
        let page: Vec<&str> = all
            .into_iter()
            .flatten()
            .skip(from)
            .take(limit)
            .map(|(_, text)| std::str::from_utf8(text).expect("JSON"))
            .collect();
        let next = if from + page.len() < count { (from + page.len()).to_string() } else { String::new() };
        let text = format!(
            "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":{{\"resourceVersion\":\"{}\",\"continue\":\"{next}\"}},\
             \"items\":[{}]}}",
            inner.version,
            page.join(",")
        );
        response(StatusCode::OK, Full::new(Bytes::from(text)).boxed_unsync())
    }

    /// From now on: nothing happens between a list and its watch here.
    fn watch(&self, path: &'static str) -> Response<Body> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().expect("nobody panics here").watchers.entry(path).or_default().push(sender);
        let stream = UnboundedReceiverStream::new(receiver).map(|event| Ok(Frame::data(event)));
        response(StatusCode::OK, StreamBody::new(stream).boxed_unsync())
    }

    /// Enough of reading and writing for the controller's Secrets, Leases and Events.
    fn own(&self, method: &Method, path: &str, mut given: Value) -> Response<Body> {
        let mut inner = self.0.lock().expect("nobody panics here");
        inner.version += 1;
        if given.is_object() {
            given["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        }
        let name = given["metadata"]["name"].as_str().unwrap_or_default();
        let path = if *method == Method::POST { format!("{path}/{name}") } else { path.to_owned() };
        let there = inner.kept.get(&path);
        match (method.as_str(), there) {
            ("GET", Some(object)) => whole(StatusCode::OK, object),
            ("GET", None) => failure(StatusCode::NOT_FOUND, "NotFound"),
            ("POST", Some(_)) => failure(StatusCode::CONFLICT, "AlreadyExists"),
            ("DELETE", _) => whole(StatusCode::OK, &inner.kept.remove(&path).unwrap_or_default()),
            _ => {
                inner.kept.insert(path, given.clone());
                whole(if *method == Method::POST { StatusCode::CREATED } else { StatusCode::OK }, &given)
            }
        }
    }
}

/// The token says whose it is: `namespace/service-account/pod`.
fn reviewed(review: &Value) -> Value {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let [namespace, account, pod] = token.split('/').collect::<Vec<_>>()[..] else {
        return json!({"status": {"authenticated": false, "error": "not a token of this test"}});
    };
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "status": {
            "authenticated": true, "audiences": review["spec"]["audiences"],
            "user": {
                "username": format!("system:serviceaccount:{namespace}:{account}"),
                "extra": {"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": ["x"]},
            },
        },
    })
}

fn failure(status: StatusCode, reason: &str) -> Response<Body> {
    whole(
        status,
        &json!({"kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": status.as_u16()}),
    )
}

fn whole(status: StatusCode, value: &Value) -> Response<Body> {
    response(status, Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn response(status: StatusCode, body: Body) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", "application/json").body(body);
    response.expect("a response")
}

//! An API server that says what a table tells it, and what becomes of its answers: words, next command, exit code.
//!
//! It speaks plain HTTP on loopback. What a real server answers is held in the cluster ring.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::*;
use crate::{
    demo::state::tests::Scratch,
    failure::{Exit, Failure},
};

/// What to answer: `"GET /api/v1/pods"` → status and body. A query is not part of the key, but see [`Fake::start`].
type Answers = BTreeMap<String, (u16, Value)>;

/// An API server of canned answers; it ends with the runtime that started it.
pub struct Fake {
    pub address: SocketAddr,
}

impl Fake {
    /// Serves `answers`. A key may have the query, which is then looked for first. Access reviews are allowed unless
    /// an answer `"deny RESOURCE"` is there.
    pub fn start(answers: impl IntoIterator<Item = (impl Into<String>, u16, Value)>) -> Self {
        let answers = answers.into_iter().map(|(key, status, body)| (key.into(), (status, body)));
        let answers: Arc<Answers> = Arc::new(answers.collect());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("bound");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let answers = answers.clone();
                let service = service_fn(move |request| answer(answers.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { address }
    }

    /// Flags that lead here, by a kubeconfig in `scratch`.
    pub fn flags(&self, scratch: &Scratch) -> Flags {
        let flags = Flags { kubeconfig: Some(kubeconfig(scratch, self.address)), ..Flags::default() };
        assert!(flags.choose_cluster());
        flags
    }
}

/// Writes a kubeconfig with the contexts `dev` (current, namespace `shop`) and `other`.
pub fn kubeconfig(scratch: &Scratch, address: SocketAddr) -> PathBuf {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: dev\n\
         clusters:\n- name: here\n  cluster: {{server: 'http://{address}'}}\n\
         users:\n- name: me\n  user: {{token: secret}}\n\
         contexts:\n- name: dev\n  context: {{cluster: here, user: me, namespace: shop}}\n\
         - name: other\n  context: {{cluster: here, user: me}}\n"
    );
    let path = scratch.join("kubeconfig");
    std::fs::write(&path, text).expect("write");
    path
}

async fn answer(answers: Arc<Answers>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let whole = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let keys = [format!("{} {whole}", parts.method), format!("{} {}", parts.method, parts.uri.path())];
    let found = keys.iter().find_map(|key| answers.get(key)).cloned();
    let (status, body) = match found {
        Some(found) => found,
        None if whole.ends_with("/selfsubjectaccessreviews") => (201, review(&answers, &body)),
        None => (404, status(404, "NotFound", &format!("{whole} not found"))),
    };
    let answer = Response::builder().status(status).header("date", "Sun, 22 Nov 2026 12:00:00 GMT");
    Ok(answer.body(Full::new(body.to_string().into())).expect("an answer"))
}

fn review(answers: &Answers, asked: &[u8]) -> Value {
    let mut review: Value = serde_json::from_slice(asked).expect("a review");
    let resource = review["spec"]["resourceAttributes"]["resource"].as_str().unwrap_or_default();
    let denied = answers.contains_key(&format!("deny {resource}"));
    review["status"] = json!({ "allowed": !denied });
    review
}

/// A `Status`, as the server's errors have it.
pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message })
}

async fn connect(flags: &Flags) -> Result<Cluster, Failure> {
    Cluster::connect(flags).await.map_err(Failure::from)
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let scratch = Scratch::new("cluster-pages");
    let pod = |name: &str| json!({ "metadata": { "name": name } });
    let fake = Fake::start([
        ("GET /api/v1/pods?limit=500", 200, json!({ "metadata": { "continue": "a+b" }, "items": [pod("one")] })),
        ("GET /api/v1/pods?limit=500&continue=a%2Bb", 200, json!({ "metadata": {}, "items": [pod("two")] })),
    ]);
    let cluster = connect(&fake.flags(&scratch)).await.expect("a cluster");
    assert_eq!(cluster.namespace(), "shop");
    let pods: Vec<objects::Pod> = cluster.list("/api/v1/pods").await.expect("pods");
    assert_eq!(pods.iter().map(objects::Pod::name).collect::<Vec<_>>(), ["one", "two"]);
    let none: Option<objects::Meta> = cluster.find("/api/v1/namespaces/none").await.expect("not found is no error");
    assert!(none.is_none());
}

#[tokio::test]
async fn every_refusal_says_what_where_why_and_what_next() {
    let scratch = Scratch::new("cluster-refusals");
    let forbidden =
        r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "shop""#;
    for (code, reason, message, exit, parts) in [
        (
            403,
            "Forbidden",
            forbidden,
            Exit::Error,
            ["you may not list pods in namespace \"shop\"", "kubectl auth can-i list pods -n shop"],
        ),
        (401, "Unauthorized", "Unauthorized", Exit::Error, ["context dev", "kubectl auth whoami"]),
        (500, "InternalError", "etcd \u{1b}[31mis gone", Exit::Error, ["answered 500: etcd [31mis gone", "/readyz"]),
    ] {
        let path = "/api/v1/namespaces/shop/pods";
        let fake = Fake::start([(format!("GET {path}"), code, status(code, reason, message))]);
        let cluster = connect(&fake.flags(&scratch)).await.expect("a cluster");
        let refused = cluster.list::<objects::Pod>(path).await.map(|_| ()).expect_err("refused");
        let failure = Failure::from(refused);
        assert_eq!(failure.exit(), exit, "{failure}");
        assert!(parts.iter().all(|part| failure.to_string().contains(part)), "{failure}");
    }
}

#[tokio::test]
async fn a_cluster_that_cannot_be_asked_is_an_error_that_helps() {
    let scratch = Scratch::new("cluster-none");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let flags = Flags { kubeconfig: Some(kubeconfig(&scratch, nobody)), ..Flags::default() };
    let cluster = connect(&flags).await.expect("nothing is asked yet");
    let refused = Failure::from(cluster.server().await.expect_err("nobody listens")).to_string();
    assert!(
        refused.contains(&format!("nobody listens at context dev (http://{nobody}): connection refused")),
        "{refused}"
    );
    assert!(refused.contains("kubectl config get-contexts"), "{refused}");

    let with = |context: Option<&str>, file: Option<PathBuf>| Flags {
        context: context.map(str::to_owned),
        kubeconfig: file,
        ..Flags::default()
    };
    let broken = scratch.join("broken");
    std::fs::write(&broken, "{{").expect("write");
    let empty = scratch.join("empty");
    std::fs::write(&empty, "").expect("write");
    for (flags, parts) in [
        (with(Some("prod"), flags.kubeconfig.clone()), ["no context \"prod\"", "there are: dev, other"]),
        (with(None, Some(scratch.join("absent"))), ["there is no kubeconfig at ", "--kubeconfig FILE"]),
        (with(None, Some(broken)), ["cannot be used", "kubectl config view"]),
        (with(None, Some(empty)), ["names no current context", "no context in it"]),
    ] {
        let failure = connect(&flags).await.map(|_| ()).expect_err("no cluster");
        assert_eq!(failure.exit(), Exit::Error);
        assert!(parts.iter().all(|part| failure.to_string().contains(part)), "{failure}");
    }
    let group = Flags { as_group: vec!["admins".to_owned()], ..flags };
    assert_eq!(connect(&group).await.map(|_| ()).expect_err("no user").exit(), Exit::Usage);
}

#[tokio::test]
async fn the_servers_version_and_clock() {
    let scratch = Scratch::new("cluster-version");
    let fake = Fake::start([("GET /version", 200, json!({ "gitVersion": "v1.34.1", "major": "1" }))]);
    let cluster = connect(&fake.flags(&scratch)).await.expect("a cluster");
    let server = cluster.server().await.expect("a version");
    let date = Some("Sun, 22 Nov 2026 12:00:00 GMT".to_owned());
    assert_eq!(server, Server { version: "v1.34.1".to_owned(), date });
}

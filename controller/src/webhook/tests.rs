//! The port as the API server meets it: real TLS on loopback, one question after the other on one connection.

use std::{net::SocketAddr, sync::Mutex};

use hyper::client::conn::http1::{SendRequest, handshake};
use lacewing_identity::{Authority, ClientAuth, SpiffeId, TrustBundle, TrustDomain, tls};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::{clock, inject::settings::ProxySettings, source::Change, source::manifest};

/// Far beyond what anything here takes; only a test that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(20);
const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {lacewing.dev/inject: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
";

/// What was reported, about what.
type Reports = Arc<Mutex<Vec<(ObjectRef, String)>>>;

struct Running {
    address: SocketAddr,
    bundle: TrustBundle,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    reports: Reports,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

async fn start(yaml: &str) -> Running {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let publisher = Arc::new(Publisher::new(trust_domain.clone()));
    publisher.apply(objects(yaml));
    let authority = Authority::generate(&trust_domain, clock::unix_now()).unwrap();
    let leaf = authority.issue_own(&own_id(), clock::unix_now(), 3_600).unwrap();
    let config = tls::server_config(&leaf, authority.bundle(), ClientAuth::Optional, &[b"http/1.1"]);
    let (listener, metrics, reports) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(Metrics::default()), Reports::default());
    let (address, (stop, stopping)) = (listener.local_addr().unwrap(), watch::channel(false));
    let webhook = Webhook {
        publisher,
        tls: {
            let config = config.unwrap();
            Box::new(move || Some(config.clone()))
        },
        mesh: Box::new(|| {
            Some(Mesh {
                settings: ProxySettings::default(),
                bundle: "ROOTS".to_owned(),
                trust_domain: "cluster.local".to_owned(),
                namespace: "lacewing".to_owned(),
            })
        }),
        report: {
            let reports = reports.clone();
            Box::new(move |about, why| reports.lock().unwrap().push((about, why)))
        },
        metrics: metrics.clone(),
        stopping,
    };
    let publisher = webhook.publisher.clone();
    let server = tokio::spawn(webhook.serve(listener));
    Running { address, bundle: authority.bundle().clone(), publisher, metrics, reports, stop, server }
}

fn objects(yaml: &str) -> Vec<Change> {
    manifest::parse(yaml).unwrap().into_iter().map(|parsed| Change::Apply(parsed.object)).collect()
}

fn own_id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/lacewing/sa/lacewing-controller").unwrap()
}

impl Running {
    /// Opens one connection.
    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let config = tls::client_config(None, &self.bundle, &own_id(), &[b"http/1.1"]).unwrap();
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = TlsConnector::from(config).connect(name, socket).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn count(&self, result: &str) -> bool {
        let line = format!("lacewing_controller_injections_total{{result=\"{result}\"}} 1");
        self.metrics.render(&crate::metrics::Levels::default()).lines().any(|found| found == line)
    }
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, path: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
    let request = Request::post(path).header("host", "webhook").body(Full::new(body.into())).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time").unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn review(namespace: &str, pod: &Value) -> String {
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let request = json!({"uid": "u-1", "kind": kind, "operation": "CREATE", "namespace": namespace, "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

fn pod() -> Value {
    json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

fn response((status, body): (StatusCode, String)) -> Value {
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["response"].take()
}

#[tokio::test]
async fn pods_are_injected_left_alone_or_refused() {
    let running = start(NAMESPACES).await;
    let mut sender = running.connect().await;
    let injected = response(ask(&mut sender, PATH, review("shop", &pod())).await);
    assert_eq!((&injected["allowed"], &injected["patchType"]), (&json!(true), &json!("JSONPatch")));
    let plain = response(ask(&mut sender, PATH, review("plain", &pod())).await);
    assert_eq!(plain, json!({"uid": "u-1", "allowed": true}));
    let mut bad = pod();
    bad["metadata"]["annotations"] = json!({"config.lacewing.dev/proxy-workers": "many"});
    let refused = response(ask(&mut sender, PATH, review("shop", &bad)).await);
    assert_eq!(refused["allowed"], false);
    let why = refused["status"]["message"].as_str().unwrap();
    assert!(why.contains("config.lacewing.dev/proxy-workers") && why.contains("\"many\""), "{why}");
    assert!(running.count("injected") && running.count("not_wanted") && running.count("refused"));
    assert!(running.reports.lock().unwrap().is_empty(), "nobody need be told");
}

#[tokio::test]
async fn who_asked_for_a_proxy_and_gets_none_is_told_but_not_of_a_trial() {
    let running = start(NAMESPACES).await;
    let mut sender = running.connect().await;
    let mut agent = pod();
    agent["spec"]["hostNetwork"] = json!(true);
    agent["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "7", "controller": true}]);
    let trial = review("shop", &agent).replacen("\"operation\"", "\"dryRun\":true,\"operation\"", 1);
    assert_eq!(response(ask(&mut sender, PATH, trial).await)["allowed"], true);
    assert!(running.reports.lock().unwrap().is_empty());
    assert_eq!(response(ask(&mut sender, PATH, review("shop", &agent)).await)["allowed"], true);
    let reports = running.reports.lock().unwrap();
    let [(about, why)] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((about.namespace.as_str(), about.kind.as_str(), about.name.as_str()), ("shop", "DaemonSet", "agent"));
    assert_eq!((about.api_version.as_str(), about.uid.as_str()), ("apps/v1", "7"));
    assert!(why.contains("host network"), "{why}");
}

#[tokio::test]
async fn a_namespace_that_was_just_made_is_waited_for_and_an_unknown_one_leaves_it_to_the_failure_policy() {
    let running = start(NAMESPACES).await;
    let (mut early, mut never) = (running.connect().await, running.connect().await);
    let new = "apiVersion: v1\nkind: Namespace\nmetadata: {name: new, annotations: {lacewing.dev/inject: enabled}}\n";
    let question = review("new", &pod());
    let asked = ask(&mut early, PATH, question);
    let told = async { running.publisher.apply(objects(new)) };
    let (answer, ()) = tokio::join!(asked, told);
    assert_eq!(response(answer)["patchType"], "JSONPatch");
    let (status, why) = ask(&mut never, PATH, review("nowhere", &pod())).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("\"nowhere\" is not known"), "{why}");
}

#[tokio::test]
async fn what_is_no_question_about_a_pod_is_refused() {
    let running = start(NAMESPACES).await;
    for (path, body, status) in [
        ("/", String::new(), StatusCode::NOT_FOUND),
        (PATH, "{}".to_owned(), StatusCode::BAD_REQUEST),
        (PATH, " ".repeat(BODY_MAX + 1), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let mut sender = running.connect().await;
        assert_eq!(ask(&mut sender, path, body).await.0, status);
    }
}

#[tokio::test]
async fn it_stops_when_told_with_an_idle_connection_open() {
    let running = start(NAMESPACES).await;
    let mut sender = running.connect().await;
    response(ask(&mut sender, PATH, review("plain", &pod())).await);
    running.stop.send(true).unwrap();
    timeout(PATIENCE, running.server).await.expect("it stops").unwrap();
}

//! A whole controller in this process, spoken to over real TLS on loopback as a proxy would: certify, watch, change,
//! apply; and everything that it must refuse.

use std::{fs, path::Path, task};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lacewing_identity::{Authority, KeyAndCsr, Leaf, SpiffeId, TrustBundle, TrustDomain, tls};
use lacewing_proto::control as wire;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming, codegen::Service as TowerService};
use wire::{
    control_client::ControlClient, key::Key as WireKey, target::Found, watch_request::Action, watch_response::Answer,
};

use super::*;
use crate::{
    grpc::REQUEST_BYTES_MAX,
    identity::{OWN_NAMESPACE, OWN_SERVICE_ACCOUNT},
    listen::DRAIN_TIMEOUT,
    source::{Change, directory::tests::TempDir, manifest},
    tokens::{AUDIENCE, Caller, jwt},
};

/// Far beyond what anything here takes; only a test that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(20);

const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: voting, namespace: emojivoto}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080, appProtocol: grpc}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: voting-1
  namespace: emojivoto
  annotations: {lacewing.dev/proxy-version: v1, lacewing.dev/proxy-address: '127.1.0.2:4143', config.lacewing.dev/inbound: strict}
spec: {serviceAccountName: voting, containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 127.1.0.2, podIPs: [{ip: 127.1.0.2}, {ip: 127.1.0.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: emojivoto}
spec: {serviceAccountName: web}
---
";

fn slice(addresses: &[&str]) -> String {
    let one = |ip: &&str| format!("{{addresses: [{ip}], targetRef: {{kind: Pod, name: voting-1}}}}");
    let list: Vec<String> = addresses.iter().map(one).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: voting-x, namespace: emojivoto, labels: \
         {{kubernetes.io/service-name: voting}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{}]\n---\n",
        list.join(", ")
    )
}

/// A running controller.
struct Controller {
    temp: TempDir,
    grpc: SocketAddr,
    admin: SocketAddr,
    publisher: Arc<Publisher>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<()>>,
}

fn config(temp: &Path) -> Config {
    Config {
        manifests: temp.join("manifests"),
        state_dir: temp.join("state"),
        token_dir: Some(temp.join("tokens")),
        grpc_addr: "127.0.0.1:0".parse().unwrap(),
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        leaf_lifetime: Duration::from_secs(3_600),
        exit_with_parent: false,
    }
}

impl Controller {
    /// Starts one, with these manifests if any.
    async fn start(manifests: Option<&str>) -> Self {
        let temp = TempDir::new();
        if let Some(manifests) = manifests {
            fs::create_dir(temp.0.join("manifests")).unwrap();
            fs::write(temp.0.join("manifests/cluster.yaml"), manifests).unwrap();
        }
        let app = App::start(config(&temp.0)).await.unwrap();
        let (grpc, admin, publisher) =
            (app.grpc_addr().unwrap(), app.admin_addr().unwrap(), app.admin.publisher.clone());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(app.serve(async { stopped.await.or(Ok(())) }));
        Self { temp, grpc, admin, publisher, stop: Some(stop), serving }
    }

    /// Starts one and waits until it has read its manifests and minted its tokens.
    async fn ready(manifests: &str) -> Self {
        let controller = Self::start(Some(manifests)).await;
        let ready = async { while !controller.admin("/ready").await.starts_with("HTTP/1.1 200") {} };
        timeout(PATIENCE, ready).await.expect("ready in time");
        controller
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&fs::read_to_string(self.temp.0.join("state/root.pem")).unwrap()).unwrap()
    }

    fn token(&self, pod: &str) -> String {
        fs::read_to_string(self.temp.0.join(format!("tokens/emojivoto_{pod}.token"))).unwrap()
    }

    async fn client(&self, leaf: Option<&Leaf>) -> ControlClient<Channel> {
        self.try_client(leaf, &self.bundle()).await.unwrap()
    }

    async fn try_client(&self, leaf: Option<&Leaf>, bundle: &TrustBundle) -> std::io::Result<ControlClient<Channel>> {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let server = SpiffeId::new(&domain, OWN_NAMESPACE, OWN_SERVICE_ACCOUNT).unwrap();
        let config = tls::client_config(leaf, bundle, &server, &[b"h2"]).unwrap();
        let socket = TcpStream::connect(self.grpc).await?;
        let stream = TlsConnector::from(config).connect("controller".try_into().unwrap(), socket).await?;
        // A small window: what the reader has not asked for stays with the controller.
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(ControlClient::with_origin(Channel(sender), "https://controller".parse().unwrap()))
    }

    async fn certify(&self, token: String) -> Result<Leaf, Status> {
        let (key, csr) = KeyAndCsr::generate().unwrap();
        let response = self.client(None).await.certify(wire::CertifyRequest { token, csr }).await?.into_inner();
        assert_eq!(response.trust_bundle, self.bundle().certificates().iter().map(|c| c.to_vec()).collect::<Vec<_>>());
        let (from, until) = (response.not_before.cast_unsigned(), response.not_after.cast_unsigned());
        Ok(key.with_chain(response.chain, from, until).unwrap())
    }

    /// A watch stream of the pod.
    async fn watch(&self, pod: &str) -> Watch {
        let leaf = self.certify(self.token(pod)).await.unwrap();
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = self.client(Some(&leaf)).await;
        let answers = client.watch(UnboundedReceiverStream::new(receiver)).await.unwrap().into_inner();
        Watch { requests, answers }
    }

    async fn admin(&self, path: &str) -> String {
        self.get(path, "l6g-admin: 1\r\n").await
    }

    async fn get(&self, path: &str, headers: &str) -> String {
        let mut socket = TcpStream::connect(self.admin).await.unwrap();
        socket
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    /// Changes the world as the source would, without waiting for its next look.
    fn apply(&self, yaml: &str) {
        let objects = manifest::parse(yaml).unwrap().into_iter();
        self.publisher.apply(objects.map(|parsed| Change::Apply(parsed.object)).collect());
    }
}

/// tonic wants a `tower::Service`; hyper's sender is one in all but name.
struct Channel(http2::SendRequest<tonic::body::Body>);

impl TowerService<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> task::Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

struct Watch {
    requests: mpsc::UnboundedSender<wire::WatchRequest>,
    answers: Streaming<wire::WatchResponse>,
}

impl Watch {
    fn send(&self, action: Action) {
        self.requests.send(wire::WatchRequest { action: Some(action) }).unwrap();
    }

    fn subscribe(&self, key: WireKey) {
        self.send(Action::Subscribe(wire::Key { key: Some(key) }));
    }

    async fn next(&mut self) -> wire::WatchResponse {
        timeout(PATIENCE, self.answers.message()).await.expect("an answer in time").unwrap().expect("an open stream")
    }

    async fn ask(&mut self, key: WireKey) -> Answer {
        self.subscribe(key);
        self.next().await.answer.unwrap()
    }
}

fn endpoints_key() -> WireKey {
    WireKey::Endpoints(wire::Backend { namespace: "emojivoto".into(), service: "voting".into(), port: 80 })
}

#[tokio::test]
async fn a_proxy_certifies_watches_and_follows_changes() {
    let controller = Controller::ready(&(CLUSTER.to_owned() + &slice(&["127.1.0.2"]))).await;
    let mut watch = controller.watch("web-1").await;

    let answer = watch.ask(WireKey::Target("voting:80".into())).await;
    let Answer::Target(wire::Target { found: Some(Found::Service(service)) }) = answer else { panic!("{answer:?}") };
    assert_eq!(
        (service.backend.as_ref().unwrap().service.as_str(), service.protocol()),
        ("voting", wire::Protocol::Http2)
    );

    watch.subscribe(endpoints_key());
    let first = watch.next().await;
    let Some(Answer::Snapshot(snapshot)) = &first.answer else { panic!("{first:?}") };
    let [endpoint] = &snapshot.endpoints[..] else { panic!("{snapshot:?}") };
    assert_eq!(endpoint.address, "127.1.0.2:8080");
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/emojivoto/sa/voting");
    assert_eq!(endpoint.direct.as_ref().unwrap().sni, "p8080.voting.emojivoto.lacewing");
    assert!(matches!(watch.ask(WireKey::Trust(wire::Trust {})).await, Answer::Trust(trust) if trust.roots.len() == 1));

    // A manifest changes on disk; only the difference comes.
    let draft = controller.temp.0.join("manifests/.draft");
    fs::write(&draft, CLUSTER.to_owned() + &slice(&["127.1.0.2", "127.1.0.9"])).unwrap();
    fs::rename(draft, controller.temp.0.join("manifests/cluster.yaml")).unwrap();
    let second = watch.next().await;
    let Some(Answer::Delta(delta)) = &second.answer else { panic!("{second:?}") };
    assert_eq!(
        (delta.upserted.len(), delta.upserted[0].address.as_str(), delta.removed.len()),
        (1, "127.1.0.9:8080", 0)
    );
    assert!(second.version.unwrap().counter > first.version.unwrap().counter);
    assert_eq!(second.version.unwrap().epoch, first.version.unwrap().epoch);

    // An answer to what was asked after `applied` proves that it arrived.
    watch.send(Action::Applied(wire::Applied { key: second.key.clone(), version: second.version }));
    watch.ask(WireKey::Target("nothing:80".into())).await;
    let streams = controller.admin("/streams").await;
    let counter = second.version.unwrap().counter;
    let expected = format!("{{\"key\":\"endpoints voting.emojivoto:80\",\"sent\":{counter},\"applied\":{counter}}}");
    assert!(streams.contains(&expected) && streams.contains("/sa/web\""), "{streams}");
    let metrics = controller.admin("/metrics").await;
    for line in [
        "lacewing_controller_streams 1",
        "lacewing_controller_subscriptions 4",
        "lacewing_controller_connections 1",
        "certify_total{result=\"issued\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_workload_can_only_ask_as_itself() {
    let controller = Controller::ready(CLUSTER).await;
    let mut voting = controller.watch("voting-1").await;
    let answer = voting.ask(WireKey::Inbound("voting-1".into())).await;
    let Answer::Inbound(inbound) = answer else { panic!("{answer:?}") };
    assert!(inbound.strict && inbound.ports[0].port == 8080 && inbound.ports.len() == 1);

    let mut web = controller.watch("web-1").await;
    let answer = web.ask(WireKey::Inbound("voting-1".into())).await;
    assert!(
        matches!(&answer, Answer::Refused(why) if why.contains("does not run as the service account web")),
        "{answer:?}"
    );
    // The stream goes on after a refusal.
    assert!(matches!(web.ask(WireKey::Inbound("web-1".into())).await, Answer::Inbound(_)));
}

#[tokio::test]
async fn tokens_that_prove_nothing_get_no_certificate() {
    let controller = Controller::ready(CLUSTER).await;
    let stranger = jwt::Key::new(&[1; jwt::KEY_BYTES]);
    let own = mint::load_key(&controller.temp.0.join("state")).unwrap();
    let caller = |pod: &str| Caller { namespace: "emojivoto".into(), service_account: "web".into(), pod: pod.into() };
    let now = clock::unix_now();
    for (token, why) in [
        (String::new(), "no compact JWT"),
        (jwt::mint(&stranger, &caller("web-1"), AUDIENCE, now, 60), "signature"),
        (jwt::mint(&own, &caller("web-1"), "other", now, 60), "audience"),
        (jwt::mint(&own, &caller("web-1"), AUDIENCE, now - 100, 60), "expired"),
        (jwt::mint(&own, &caller("web-9"), AUDIENCE, now, 60), "no Pod emojivoto/web-9"),
        (jwt::mint(&own, &caller("voting-1"), AUDIENCE, now, 60), "does not run as web"),
    ] {
        let status = controller.certify(token).await.unwrap_err();
        assert!(status.code() == Code::Unauthenticated && status.message().contains(why), "{why}: {status}");
    }
    let mut client = controller.client(None).await;
    let token = controller.token("web-1");
    let status = client.certify(wire::CertifyRequest { token, csr: vec![0; 100] }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let status =
        client.certify(wire::CertifyRequest { token: "x".repeat(REQUEST_BYTES_MAX), csr: vec![] }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let metrics = controller.admin("/metrics").await;
    assert!(metrics.contains("certify_total{result=\"bad_token\"} 6"), "{metrics}");
    assert!(metrics.contains("certify_total{result=\"bad_request\"} 1"), "{metrics}");
}

#[tokio::test]
async fn an_identity_that_asks_too_often_is_told_to_wait() {
    let controller = Controller::ready(CLUSTER).await;
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(
            controller.certify(controller.token("web-1")).await.map_or_else(|status| status.code(), |_| Code::Ok),
        );
    }
    assert_eq!(codes[..5], [Code::Ok; 5]);
    assert!(codes[5..].contains(&Code::ResourceExhausted), "{codes:?}");
    assert!(controller.certify(controller.token("voting-1")).await.is_ok(), "others are not affected");
}

#[tokio::test]
async fn watching_needs_a_certificate_of_this_mesh() {
    let controller = Controller::ready(CLUSTER).await;
    let status = controller.client(None).await.watch(tokio_stream::empty()).await.unwrap_err();
    assert!(status.code() == Code::Unauthenticated && status.message().contains("Certify"), "{status}");

    let domain = TrustDomain::parse("cluster.local").unwrap();
    let foreign = Authority::generate(&domain, clock::unix_now()).unwrap();
    let id = SpiffeId::new(&domain, "emojivoto", "web").unwrap();
    let forged = foreign.issue_own(&id, clock::unix_now(), 600).unwrap();
    // TLS 1.3 tells a client only after its own side is done, so either step may fail.
    if let Ok(mut client) = controller.try_client(Some(&forged), &controller.bundle()).await {
        client.watch(tokio_stream::empty()).await.unwrap_err();
    }
    let metrics = controller.admin("/metrics").await;
    assert!(metrics.contains("lacewing_controller_connections_refused_total 1"), "{metrics}");
    assert!(
        controller.try_client(None, foreign.bundle()).await.is_err(),
        "a proxy refuses a controller of another root"
    );
}

/// Changes of 400 endpoints each, some 4 MB in all, while nobody reads.
const CHANGES: usize = 100;

#[tokio::test]
async fn a_reader_that_stops_gets_the_latest_value_next() {
    let controller = Controller::ready(CLUSTER).await;
    let mut watch = controller.watch("web-1").await;
    let many = |zone: usize| {
        let one = |n: usize| format!("{{addresses: [10.0.{}.{}], zone: zone-{zone}}}", n / 250, n % 250);
        let list: Vec<String> = (0..400).map(one).collect();
        slice(&[]).replace("endpoints: []", &format!("endpoints: [{}]", list.join(", ")))
    };
    controller.apply(&many(0));
    watch.subscribe(endpoints_key());
    let first = watch.next().await;
    assert!(matches!(first.answer, Some(Answer::Snapshot(_))), "{first:?}");
    for zone in 1..=CHANGES {
        controller.apply(&many(zone));
        tokio::task::yield_now().await;
    }
    let last = format!("zone-{CHANGES}");
    let mut read = 0;
    loop {
        let message = watch.next().await;
        read += 1;
        let Some(Answer::Delta(delta)) = message.answer else { panic!("{message:?}") };
        assert_eq!(delta.upserted.len(), 400);
        if delta.upserted[0].zone == last {
            break;
        }
    }
    assert!(read < CHANGES / 10, "{read} of {CHANGES} values were queued");
}

#[tokio::test]
async fn a_malformed_manifest_is_shown_and_changes_nothing() {
    let controller =
        Controller::ready(&(CLUSTER.to_owned() + "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspce: {}\n"))
            .await;
    let errors = controller.admin("/errors").await;
    assert!(
        errors.contains("cluster.yaml") && errors.contains("did you mean spec?") && errors.contains("\"line\":"),
        "{errors}"
    );
    assert!(controller.admin("/metrics").await.contains("lacewing_controller_manifest_errors 1"));
    assert!(controller.admin("/ready").await.starts_with("HTTP/1.1 200"), "one bad file must not stop the others");
    assert!(controller.admin("/live").await.starts_with("HTTP/1.1 200"));
    assert!(controller.admin("/etc/passwd").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn nothing_is_ready_before_the_manifests_were_read() {
    let controller = Controller::start(None).await;
    let ready = controller.admin("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("manifests have not been read"), "{ready}");
}

#[tokio::test]
async fn stopping_ends_streams_and_takes_no_longer_than_the_drain() {
    let mut controller = Controller::ready(CLUSTER).await;
    let mut watch = controller.watch("web-1").await;
    watch.ask(WireKey::Trust(wire::Trust {})).await;
    // A connection that will never say anything must not hold us up.
    let _silent = TcpStream::connect(controller.grpc).await.unwrap();
    controller.stop.take().unwrap().send(()).unwrap();
    let end = timeout(PATIENCE, watch.answers.message()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    timeout(DRAIN_TIMEOUT * 2, &mut controller.serving).await.expect("drained in time").unwrap().unwrap();
    assert!(TcpStream::connect(controller.grpc).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_setting() {
    let temp = TempDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&temp.0);
    config.grpc_addr = taken.local_addr().unwrap();
    let error = App::start(config).await.err().unwrap().to_string();
    for part in [taken.local_addr().unwrap().to_string().as_str(), config::GRPC_ADDR, "another process listens there"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!temp.0.join("state").exists(), "nothing is left behind");
}

#[tokio::test]
async fn lists_of_the_admin_port_need_the_header() {
    let controller = Controller::ready(CLUSTER).await;
    for (path, open) in [("/streams", false), ("/errors", false), ("/ready", true), ("/live", true), ("/metrics", true)]
    {
        let without = controller.get(path, "").await;
        let status = if open { "HTTP/1.1 200" } else { "HTTP/1.1 403" };
        assert!(without.starts_with(status) && (open || without.contains("l6g-admin: 1")), "{path}: {without}");
        assert!(controller.admin(path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
}

#[tokio::test]
async fn a_wish_to_stop_that_cannot_be_heard_is_an_error() {
    let temp = TempDir::new();
    let app = App::start(config(&temp.0)).await.unwrap();
    let outcome = timeout(PATIENCE, app.serve(async { Err(anyhow!("no pipe")) })).await.unwrap();
    assert_eq!(outcome.unwrap_err().to_string(), "no pipe");
}

#[tokio::test]
async fn a_part_that_ends_or_panics_ends_the_controller() {
    let temp = TempDir::new();
    let app = App::start(config(&temp.0)).await.unwrap();
    // The gRPC port ends by itself when it is told to stop, which here nobody asked for.
    app.stop.send(true).unwrap();
    let outcome = timeout(PATIENCE, app.serve(pending())).await.expect("not served on without the port");
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("the gRPC port ended by itself"), "{error}");

    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    tasks.spawn(async { panic!("on purpose") });
    let error = ended_early(tasks.join_next().await.unwrap()).to_string();
    assert!(error.contains("on purpose"), "{error}");
}

#[tokio::test]
async fn work_beside_the_runtime_leaves_it_free_and_passes_its_panic_on() {
    let (go, wait) = std::sync::mpsc::channel();
    // The work waits for what this thread does meanwhile.
    let (work, ()) = tokio::join!(beside(wait, |wait| wait.recv().unwrap()), async move { go.send(7).unwrap() });
    assert_eq!(work.1, 7);
    let mut tasks = JoinSet::new();
    tasks.spawn(async { beside((), |()| panic!("on purpose")).await.1 });
    assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
}

#[test]
fn failed_minting_is_tried_again_less_and_less_often() {
    let temp = TempDir::new();
    let key = Arc::new(jwt::Key::new(&[1; jwt::KEY_BYTES]));
    let mut minting = Minting::new(Minter::new(temp.0.join("tokens"), key).unwrap());
    let pods = Pods::from([(lacewing_crds::Name::new("a", "one"), "web".to_owned())]);
    fs::remove_dir(temp.0.join("tokens")).unwrap();
    let start = Instant::now();
    assert!(minting.is_due(false, start));
    let mut now = start;
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        let outcome = minting.minter.sync(&pods, 1_000);
        assert!(outcome.is_err());
        minting.note(outcome, now);
        let pause = Duration::from_secs(seconds);
        assert!(!minting.is_due(true, now + pause - Duration::from_millis(1)) && minting.is_due(false, now + pause));
        assert!(minting.error.is_some());
        now += pause;
    }
    minting.note(Ok(()), now);
    assert!(minting.error.is_none() && minting.is_due(true, now) && !minting.is_due(false, now));
}

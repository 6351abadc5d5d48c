//! A whole controller in this process, spoken to over real TLS on loopback as a proxy would. Here is what starts and
//! speaks to one; `serving` is what proxies get from it, and `life` how it starts, goes on and ends.

mod cluster;
mod life;
mod serving;

use std::{fs, future::pending, path::Path, task, time::Duration};

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
    identity: Arc<Identity>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<()>>,
}

fn config(temp: &Path) -> Config {
    Config {
        source: config::Source::Directory(config::Directory {
            manifests: temp.join("manifests"),
            state_dir: temp.join("state"),
            token_dir: Some(temp.join("tokens")),
        }),
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
        let config = config(&temp.0);
        Self::of(temp, config).await
    }

    async fn of(temp: TempDir, config: Config) -> Self {
        let app = App::start(config).await.unwrap();
        let (grpc, admin) = (app.grpc_addr().unwrap(), app.admin_addr().unwrap());
        let (publisher, identity) = (app.admin.publisher.clone(), app.admin.identity.clone());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(app.serve(async { stopped.await.or(Ok(())) }));
        Self { temp, grpc, admin, publisher, identity, stop: Some(stop), serving }
    }

    /// Starts one and waits until it has read its manifests and minted its tokens.
    async fn ready(manifests: &str) -> Self {
        let controller = Self::start(Some(manifests)).await;
        let ready = async { while !controller.admin("/ready").await.starts_with("HTTP/1.1 200") {} };
        timeout(PATIENCE, ready).await.expect("ready in time");
        controller
    }

    fn bundle(&self) -> TrustBundle {
        self.identity.bundle().expect("a trust root")
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

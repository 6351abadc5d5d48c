//! A pod of the test's own in a running demo: its manifests, a recording HTTP/1 app in this process, and a real proxy
//! before it. For what the demo's own apps do not offer: large bodies, and seeing exactly what reaches an app.

use std::{
    convert::Infallible,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    demo::{Demo, get, mesh},
    wait::until,
};

/// Where the app listens.
pub const APP_PORT: u16 = 8080;
/// Where the proxy has its private admin port: not where proxies usually have it, so that only it knows.
pub const PRIVATE_ADMIN_PORT: u16 = 5192;
/// Length of the answer to `/large`.
pub const LARGE: usize = 5 * 1024 * 1024;
/// From the manifest to a ready proxy.
const START: Duration = Duration::from_secs(20);

/// Body of the answer to `/large`: no two of its stretches are alike.
pub fn large() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.by_ref().take(LARGE / 8).flatten().collect()
}

/// A pod, its service of the same name, its app and its proxy; all of it ends on drop.
pub struct Pod {
    pub name: String,
    pub ip: IpAddr,
    pub app: App,
    /// None: the pod is not in the mesh.
    proxy: Option<Child>,
}

impl Pod {
    /// Adds pod and service `name` in the demo's namespace, at host `host` of its subnet. Its container declares
    /// [`APP_PORT`] and `also`. Waits until its proxy is ready.
    pub fn start(demo: &Demo, name: &str, host: u8, also: &[u16]) -> Self {
        let mut pod = Self::without_proxy(demo, name, host);
        let meshed = format!(
            "  annotations:\n    lacewing.dev/proxy-version: it\n    lacewing.dev/proxy-address: {}\n",
            pod.inbound()
        );
        write_atomically(&manifest(demo, name), &manifests(name, pod.ip, &meshed, also));
        let token = demo.dir.join(format!("tokens/emojivoto_{name}.token"));
        until("the controller minted a token", START, || token.exists().then_some(()));
        pod.proxy = Some(spawn_proxy(demo, name, pod.ip, &token));
        let admin = SocketAddr::new(pod.ip, 4191);
        let listening = || std::net::TcpStream::connect(admin).is_ok();
        until("the pod's proxy is ready", START, || {
            (listening() && get(admin, "/ready", &[]).status == 200).then_some(())
        });
        pod
    }

    /// The same, but not in the mesh: no annotations and no proxy.
    pub fn without_proxy(demo: &Demo, name: &str, host: u8) -> Self {
        let IpAddr::V4(subnet) = demo.controller_admin().ip() else { panic!("the demo is on 127.0.0.0/8") };
        let [a, b, c, _] = subnet.octets();
        let ip = IpAddr::from([a, b, c, host]);
        let app = App::start(SocketAddr::new(ip, APP_PORT));
        write_atomically(&manifest(demo, name), &manifests(name, ip, "", &[]));
        Self { name: name.to_owned(), ip, app, proxy: None }
    }

    /// `name.namespace:port`, as clients say it.
    pub fn authority(&self) -> String {
        format!("{}.emojivoto:{APP_PORT}", self.name)
    }

    /// A metric's samples: lines that start with `name` and contain all `labels`, summed.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = get(SocketAddr::new(self.ip, 4191), "/metrics", &[]).body;
        let lines =
            text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// The app itself, without the mesh.
    pub fn app_address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, APP_PORT)
    }

    /// Where the proxy takes mesh traffic.
    pub fn inbound(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 4143)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(proxy) = &mut self.proxy {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }
}

/// Writes a file so that a reader sees the old or the new text, never a part.
pub fn write_atomically(path: &Path, text: &str) {
    let temporary = path.with_extension("it.tmp");
    fs::write(&temporary, text).expect("the demo's directory is ours");
    fs::rename(&temporary, path).expect("the same directory");
}

fn spawn_proxy(demo: &Demo, name: &str, ip: IpAddr, token: &Path) -> Child {
    let at = |port: u16| SocketAddr::new(ip, port).to_string();
    let bundle = fs::read_to_string(demo.dir.join("controller/root.pem")).expect("the demo's trust bundle");
    let controller = SocketAddr::new(demo.controller_admin().ip(), 8080).to_string();
    let log = fs::File::create(demo.dir.join(format!("logs/{name}-proxy.log"))).expect("a log file");
    Command::new(mesh())
        .args(["run", "proxy"])
        .env_clear()
        .envs([
            ("LACEWING_POD_NAME", name.to_owned()),
            ("LACEWING_POD_NAMESPACE", "emojivoto".to_owned()),
            ("LACEWING_POD_IPS", ip.to_string()),
            ("LACEWING_TRUST_BUNDLE", bundle),
            ("LACEWING_TOKEN_FILE", token.display().to_string()),
            ("LACEWING_CONTROLLER_ADDR", controller),
            ("LACEWING_OUTBOUND_ADDR", at(4140)),
            ("LACEWING_INBOUND_ADDR", at(4143)),
            ("LACEWING_ADMIN_ADDR", at(4191)),
            ("LACEWING_PRIVATE_ADMIN_ADDR", at(PRIVATE_ADMIN_PORT)),
            ("LACEWING_EXIT_WITH_PARENT", "1".to_owned()),
        ])
        .stdin(Stdio::piped()) // held open by `Child`; it ends with this process
        .stdout(log.try_clone().expect("the same log file"))
        .stderr(log)
        .spawn()
        .expect("the proxy starts")
}

fn manifest(demo: &Demo, name: &str) -> PathBuf {
    demo.dir.join(format!("manifests/{name}.yaml"))
}

fn manifests(name: &str, ip: IpAddr, annotations: &str, also: &[u16]) -> String {
    let ports: Vec<String> = also.iter().map(|port| format!("        - containerPort: {port}\n")).collect();
    let ports = ports.concat();
    format!(
        "\
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: emojivoto
spec:
  selector:
    app: {name}
  ports:
    - name: http
      port: {APP_PORT}
      targetPort: http
      appProtocol: http
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: emojivoto
  labels:
    app: {name}
{annotations}spec:
  serviceAccountName: {name}
  containers:
    - name: {name}
      image: lacewing.dev/it/{name}
      ports:
        - name: http
          containerPort: {APP_PORT}
{ports}status:
  phase: Running
  podIP: {ip}
  podIPs:
    - ip: {ip}
  conditions:
    - type: Ready
      status: \"True\"
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-it
  namespace: emojivoto
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
  - name: http
    port: {APP_PORT}
    protocol: TCP
    appProtocol: http
endpoints:
  - addresses:
      - {ip}
    conditions:
      ready: true
      serving: true
      terminating: false
    targetRef:
      kind: Pod
      name: {name}
      namespace: emojivoto
"
    )
}

/// A plain HTTP/1 app on a thread of its own. `/head` says the request's head as it arrived, `/large` has a large
/// answer, `/echo` says the body, `/reserved` answers with fields that only the mesh may set; all else is 404.
pub struct App {
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl App {
    fn start(listen: SocketAddr) -> Self {
        Self::on(std::net::TcpListener::bind(listen).expect("the app's address is free"))
    }

    /// The same on a listening socket.
    pub fn on(socket: std::net::TcpListener) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (connections.clone(), requests.clone());
        socket.set_nonblocking(true).expect("a socket");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(socket).expect("a listener");
                tokio::select! {
                    () = serve(listener, counts.0, counts.1) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { connections, requests, stop: Some(stop), thread: Some(thread) }
    }

    /// Connections that reached the app.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Requests that reached the app.
    pub fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, connections: Arc<AtomicUsize>, requests: Arc<AtomicUsize>) {
    while let Ok((socket, _)) = listener.accept().await {
        connections.fetch_add(1, SeqCst);
        let requests = requests.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                requests.fetch_add(1, SeqCst);
                answer(request)
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Incoming>>, Infallible> {
    let full = |text: Vec<u8>| Response::new(Either::Left(Full::from(Bytes::from(text))));
    if request.uri().path() != "/echo" {
        // An app that answers before it has read the request may close its socket on the rest, and so cut its own answer.
        while let Some(Ok(_)) = request.body_mut().frame().await {}
    }
    Ok(match request.uri().path() {
        "/head" => full(head(&request).into_bytes()),
        "/large" => full(large()),
        "/echo" => Response::new(Either::Right(request.into_body())),
        "/reserved" => {
            let mut response = full(b"the app's own words\n".to_vec());
            for (name, value) in [("l6g-error", "broken"), ("l6g-refused", "1"), ("l6g-other", "x"), ("x-own", "kept")]
            {
                response.headers_mut().append(name, http::HeaderValue::from_static(value));
            }
            response
        }
        _ => {
            let mut response = full(b"nothing is here\n".to_vec());
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            response
        }
    })
}

/// One line for the request, one for each field, in the order of arrival.
fn head(request: &Request<Incoming>) -> String {
    let fields = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    format!("{} {} {:?}\n{}", request.method(), request.uri(), request.version(), fields.collect::<String>())
}

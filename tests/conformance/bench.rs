//! One client's proxy, one server's proxy and an app of the test's own; and the two doors by which a stranger comes in: the
//! client's outbound port, and the server's inbound port over mesh TLS (a malicious peer with a good certificate).

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use lacewing_identity::{Authority, SpiffeId, TrustDomain, tls};
use lacewing_tests::{demo::get, solo::Solo, wait::until};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::app::App;

/// The app's ports: HTTP/1 with its bytes written down, and HTTP/2.
pub const HTTP1_PORT: u16 = 8080;
pub const HTTP2_PORT: u16 = 8082;
/// What clients ask for.
pub const HOST: &str = "server.it:8080";
/// The server's pod.
pub const SERVER: &str = "server-1";
/// A connection that neither says anything nor closes for so long is left open.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a stranger comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The client's proxy; its requests go on to the server's proxy and the app.
    Outbound,
    /// The server's proxy, mesh TLS with `lacewing/h1`.
    Inbound,
}

pub const DOORS: [Door; 2] = [Door::Outbound, Door::Inbound];

/// The mesh, running.
pub struct Bench {
    pub solo: Solo,
    pub app: App,
    issuer: Authority,
    now: u64,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// The other side closed.
    pub closed: bool,
}

/// A connection through a door.
pub enum Stranger {
    Plain(TcpStream),
    Mesh(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Bench {
    pub fn start() -> Self {
        let (mut solo, app) = place();
        solo.write_manifest("server.yaml", &manifests(&solo));
        solo.write_manifest("endpoints.yaml", &endpoints(&solo));
        solo.start_controller();
        solo.start_proxies();
        solo.start_proxy(SERVER);
        solo.until_ready(SERVER, solo.admin(SERVER));
        let trust_domain = TrustDomain::parse("cluster.local").expect("a trust domain");
        let pem = std::fs::read_to_string(solo.dir.join("controller/authority.pem")).expect("the authority");
        let issuer = Authority::from_pem(&trust_domain, &pem).expect("a good authority");
        let now = solo.private("client", "/identity")["now"].as_u64().expect("the time");
        let bench = Self { solo, app, issuer, now };
        until("requests are served", Duration::from_secs(10), || {
            (get(bench.solo.outbound(), "/", &[("host", HOST)]).status == 200).then_some(())
        });
        bench.app.take();
        bench
    }

    /// A mesh client of the server's proxy, with the client's own name.
    pub fn mesh_client(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let id = |account: &str| SpiffeId::new(self.issuer.trust_domain(), "it", account).expect("a name");
        let leaf = self.issuer.issue_own(&id("client"), self.now, 3_600).expect("a certificate");
        tls::client_config(Some(&leaf), self.issuer.bundle(), &id("server"), &[alpn]).expect("a configuration")
    }

    pub fn connect(&self, door: Door) -> Stranger {
        match door {
            Door::Outbound => Stranger::Plain(socket(self.solo.outbound())),
            Door::Inbound => self.connect_mesh(b"lacewing/h1"),
        }
    }

    /// To the server's proxy, for the app's HTTP/1 port.
    pub fn connect_mesh(&self, alpn: &[u8]) -> Stranger {
        let tls = ClientConnection::new(self.mesh_client(alpn), sni(HTTP1_PORT)).expect("a client");
        Stranger::Mesh(Box::new(StreamOwned::new(tls, socket(self.solo.inbound(SERVER)))))
    }

    /// Says `bytes` and hears everything up to the end, or to a silence.
    pub fn exchange(&self, door: Door, bytes: &[u8]) -> Heard {
        let mut stranger = self.connect(door);
        let _ = stranger.write_all(bytes).and_then(|()| stranger.flush()); // the proxy may close on what it does not like
        stranger.hear(PATIENCE)
    }

    /// What the app saw of everything so far: a request behind all others has been served.
    pub fn seen(&self, door: Door) -> Vec<crate::app::Seen> {
        let fence = format!("GET /fence HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let heard = self.exchange(door, fence.as_bytes());
        let text = String::from_utf8_lossy(&heard.bytes).into_owned();
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("/fence"), "the fence through {door:?}:\n{text}");
        let mut seen = self.app.take();
        seen.retain(|one| one.line() != "GET /fence HTTP/1.1");
        seen
    }
}

/// Addresses, and the app on them. Apps of a test process that has given its own addresses back may still be there.
fn place() -> (Solo, App) {
    let mut taken = Vec::new();
    until("addresses that nobody uses", Duration::from_secs(10), || {
        let solo = Solo::new(0);
        let app = App::start(SocketAddr::new(solo.ip(SERVER), HTTP1_PORT));
        if let Ok(app) = app {
            return Some((solo, app));
        }
        taken.push(solo); // keeps its claim, so that the next one is another
        None
    })
}

/// The name that the server's proxy knows its app's port by.
pub fn sni(port: u16) -> ServerName<'static> {
    ServerName::try_from(format!("p{port}.server.it.lacewing")).expect("a server name")
}

fn socket(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    socket.set_nodelay(true).expect("a socket");
    socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

impl Stranger {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Mesh(stream) => &stream.sock,
        }
    }

    /// Everything that comes until the other side closes, or says nothing for `patience`.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        self.hear_until(patience, |_| false)
    }

    /// The same, or until `enough`.
    pub fn hear_until(&mut self, patience: Duration, enough: impl Fn(&[u8]) -> bool) -> Heard {
        self.socket().set_read_timeout(Some(patience)).expect("a timeout");
        let (mut heard, started) = (Heard::default(), Instant::now());
        let mut chunk = vec![0; 64 * 1024];
        while !enough(&heard.bytes) {
            assert!(started.elapsed() < 12 * PATIENCE, "talks without end");
            match self.read(&mut chunk) {
                Ok(read @ 1..) => heard.bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                // An end, or a reset: closed either way.
                Ok(0) | Err(_) => {
                    heard.closed = true;
                    break;
                }
            }
        }
        heard
    }
}

impl Read for Stranger {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Mesh(stream) => stream.read(into),
        }
    }
}

impl Write for Stranger {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Mesh(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Mesh(stream) => stream.flush(),
        }
    }
}

/// The Service has the client's own address and, for HTTP/2, the outbound port: a client that names what it connects to, as
/// h2spec does, so names the Service.
fn manifests(solo: &Solo) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: it\n  annotations: {{config.lacewing.dev/inbound: strict}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: server, namespace: it}}\nspec:\n  clusterIP: {}\n  \
         selector: {{app: server}}\n  ports:\n  - {{name: http, port: {HTTP1_PORT}, targetPort: {HTTP1_PORT}}}\n  \
         - {{name: http2, port: {}, targetPort: {HTTP2_PORT}}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {SERVER}\n  namespace: it\n  labels: {{app: server}}\n  annotations:\n    \
         lacewing.dev/proxy-version: test\n    lacewing.dev/proxy-address: {}\nspec:\n  serviceAccountName: server\n  \
         containers:\n  - name: app\n    image: test\n    ports: [{{containerPort: {HTTP1_PORT}}}, {{containerPort: {HTTP2_PORT}}}]\n\
         status:\n  phase: Running\n  podIP: {ip}\n  podIPs: [{{ip: {ip}}}]\n  conditions: [{{type: Ready, status: \"True\"}}]\n",
        solo.ip("client"),
        solo.outbound().port(),
        solo.inbound(SERVER),
        ip = solo.ip(SERVER),
    )
}

fn endpoints(solo: &Solo) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: server-1\n  namespace: it\n  \
         labels: {{kubernetes.io/service-name: server}}\naddressType: IPv4\nports:\n- {{name: http, port: {HTTP1_PORT}}}\n\
         - {{name: http2, port: {HTTP2_PORT}}}\nendpoints:\n- addresses: [{}]\n  conditions: {{ready: true}}\n  \
         targetRef: {{kind: Pod, name: {SERVER}, namespace: it}}\n",
        solo.ip(SERVER)
    )
}

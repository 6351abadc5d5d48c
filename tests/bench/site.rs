//! Where it is measured: one cluster with a client's pod and a server's pod, both with the redirection that ships, and a
//! server and a client without. Every peer stands where our proxy stands: same user, same ports, same rules, same
//! addresses, so that the kernel's path is the same for all; only one of them runs at a time.

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use lacewing_tests::{
    net::{
        Cluster, Host, Pod, PodSpec, Process, User,
        ring::{self, APP_UID, PROXY_UID, ROOT},
    },
    wait::until,
};

use super::{
    certs, cpu,
    peers::{Protocol, Shape},
};

/// What starts in this time starts; a peer's certificates live a day.
pub const START: Duration = Duration::from_secs(20);
/// Bytes of the small and of the large answer.
const SMALL: usize = 1024;
const LARGE: usize = 64 * 1024;
/// Path of the large one.
pub const LARGE_PATH: &str = "/large";
/// Programs that others built, readable by every user.
const TOOLS: &str = "tools";
pub struct Site {
    pub cluster: Cluster,
    /// Meshed: here are the load and the outer proxies.
    pub client: Arc<Pod>,
    /// Meshed: here are a backend and the inner proxies.
    pub web: Arc<Pod>,
    /// Not meshed: a backend only.
    pub plain: Arc<Pod>,
    /// Not meshed: a client without a proxy.
    pub bare: Arc<Pod>,
    /// The load generators and floors.
    pub parts: PathBuf,
    /// `ca.pem`, `leaf.pem`, `leaf.key`, `both.pem`.
    pub certs: PathBuf,
    _backends: Vec<Process>,
}

impl Site {
    pub fn set_up() -> Self {
        ring::ring();
        let certs = certs::for_peers(Path::new(ROOT).join("bench-certs"));
        let cluster = Cluster::new();
        let serve = |spec: PodSpec, service: &str| {
            let [h1, h2, tcp] = [Protocol::H1, Protocol::H2, Protocol::Tcp].map(Protocol::port);
            let spec = spec.service(service).port("http", h1, "http").port("h2c", h2, "kubernetes.io/h2c");
            spec.port("tcp", tcp, "")
        };
        let web = cpu::on(&[cpu::PROXY], || cluster.pod(serve(PodSpec::new("web-1"), "web")));
        let client = cpu::on(&[cpu::PROXY], || cluster.pod(PodSpec::new("client")));
        let plain = cluster.pod(serve(PodSpec::new("plain-1").unmeshed(), "plain"));
        let bare = cluster.pod(PodSpec::new("bare").unmeshed());
        cluster.published();
        let parts = tool("bench-parts", &parts());
        let backends = [&web, &plain].into_iter().flat_map(|pod| backends(&pod.host, &parts)).collect();
        for pod in [&web, &client] {
            pod.proxy().kill();
        }
        Self { cluster, client, web, plain, bare, parts, certs, _backends: backends }
    }

    /// The mesh's own, for playing the client's proxy.
    pub fn mesh_certs(&self) -> PathBuf {
        let identity = format!("spiffe://cluster.local/ns/{}/sa/client", self.cluster.namespace);
        certs::of_the_mesh(self.cluster.dir.join("bench-leaf"), &self.cluster.dir.join("controller"), &identity)
    }

    /// What a client dials.
    pub fn target(&self, shape: Shape, protocol: Protocol) -> SocketAddr {
        match shape {
            Shape::Pair => self.cluster.address("web", protocol.port()),
            Shape::Single => self.cluster.address("plain", protocol.port()),
            Shape::Direct => self.plain.at(protocol.port()),
        }
    }

    /// Where clients are.
    pub fn from(&self, shape: Shape) -> &Host {
        if shape == Shape::Direct { &self.bare.host } else { &self.client.host }
    }
}

/// Puts a program where every user may read it. Nothing is copied: it stays mapped from where it lies.
pub fn tool(name: &str, program: &Path) -> PathBuf {
    let here = Path::new(ROOT).join(TOOLS).join(name);
    if !here.exists() {
        fs::create_dir_all(here.parent().expect("a folder")).expect("/run is ours");
        fs::write(&here, "").expect("/run is ours");
        let (from, to) = (program.display().to_string(), here.display().to_string());
        ring::run("mount", &["--bind", &from, &to], "");
    }
    here
}

/// A program of Debian's, as it is installed, or as it was unpacked into the folder that `LACEWING_BENCH_PEERS` names.
pub fn debian(host: &Host, user: User, program: &str) -> Command {
    let Some(unpacked) = env::var_os("LACEWING_BENCH_PEERS").filter(|folder| !folder.is_empty()) else {
        return host.command_as(user, program);
    };
    let here = Path::new(ROOT).join("debian");
    if !here.exists() {
        fs::create_dir_all(&here).expect("/run is ours");
        ring::run("mount", &["--bind", &unpacked.to_string_lossy(), &here.to_string_lossy()], "");
    }
    let mut command = host.command_as(user, here.join("usr/sbin").join(program));
    let libraries = ["x86_64", "aarch64"].map(|arch| format!("{}/usr/lib/{arch}-linux-gnu", here.display()));
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    command
}

/// Where the unpacked folder is, if there is one: for programs that have parts.
pub fn debian_root() -> PathBuf {
    let unpacked = Path::new(ROOT).join("debian");
    if unpacked.exists() { unpacked } else { PathBuf::from("/") }
}

/// A folder that the proxies' user may write to.
pub fn folder(host: &Host, name: &str) -> PathBuf {
    let folder = host.dir.join(name);
    fs::create_dir_all(&folder).expect("the host's folder is ours");
    own(&folder, PROXY_UID);
    folder
}

fn own(path: &Path, uid: u32) {
    if ring::ring().users {
        chown(path, Some(uid), Some(uid)).expect("the ring's root may");
    }
}

/// `LACEWING_BENCH_PARTS`, or what was built beside this program.
fn parts() -> PathBuf {
    if let Some(path) = env::var_os("LACEWING_BENCH_PARTS") {
        return path.into();
    }
    let me = env::current_exe().expect("the bench knows its own path");
    let built = me.parent().and_then(Path::parent).expect("it lies in target/…/deps").join("examples/bench-parts");
    assert!(built.exists(), "{} is missing: tests/run bench builds it", built.display());
    built
}

/// nginx with one worker, and a sink.
fn backends(host: &Host, parts: &Path) -> Vec<Process> {
    let dir = host.dir.join("backend");
    fs::create_dir_all(&dir).expect("the host's folder is ours");
    fs::write(dir.join("large"), "x".repeat(LARGE)).expect("the host's folder is ours");
    let [h1, h2, tcp] = [Protocol::H1, Protocol::H2, Protocol::Tcp].map(Protocol::port);
    let (at, small) = (dir.display(), "x".repeat(SMALL));
    let config = format!(
        "{}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  default_type text/plain;
  {}
  server {{
    listen 0.0.0.0:{h1} backlog=4096;
    listen 0.0.0.0:{h2} http2 backlog=4096;
    root {at};
    open_file_cache max=8;
    sendfile on;
    location = {LARGE_PATH} {{ }}
    location / {{ return 200 '{small}'; }}
  }}
}}
",
        super::peers::nginx::head(&dir),
        super::peers::nginx::temporary(&dir),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).expect("the host's folder is ours");
    own(&dir, APP_UID);
    let mut nginx = debian(host, User::App, "nginx");
    nginx.arg("-p").arg(&dir).arg("-e").arg("stderr").arg("-c").arg(&file);
    let mut sink = host.command(parts);
    sink.args(["sink", &format!("0.0.0.0:{tcp}")]);
    let all = vec![host.start("backend", nginx), host.start("sink", sink)];
    for port in [h1, h2, tcp] {
        until("a backend listens", START, || host.connect(([127, 0, 0, 1], port).into()).ok());
    }
    all
}

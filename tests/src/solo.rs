//! A mesh by hand: one controller, one client's proxy and some servers' proxies, each started, killed and started again
//! as a test wants, on addresses of its own. The servers' apps live in the test and write down what they see.
//! Smaller than a demo, and nobody restarts anything here but the test.

#![allow(clippy::print_stderr, reason = "last words of processes whose test failed")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    demo::{Answer, get, mesh, signal},
    subnet::claim,
    wait::until,
};

/// From start to ready, on a loaded machine.
const START: Duration = Duration::from_secs(20);
/// An app waits that long for the rest of a request.
const APP_PATIENCE: Duration = Duration::from_secs(5);
/// What the client's proxy is asked for.
pub const HOST: &str = "server.it:8080";
/// Where the client's proxy takes raw TCP for the same service.
pub const MAPPED_PORT: u16 = 7001;

/// Controller, proxies, apps and their directory; all gone on drop.
pub struct Solo {
    pub dir: PathBuf,
    /// The first three bytes of all addresses: `127.2.N`.
    pub subnet: String,
    /// `LACEWING_LEAF_LIFETIME`.
    pub leaf_lifetime: &'static str,
    pub apps: Vec<App>,
    processes: BTreeMap<String, Child>,
    _claim: TcpListener,
}

/// What an app has seen: the first line of each request.
pub struct App {
    pub name: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl App {
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no app panics").clone()
    }
}

impl Solo {
    /// Manifests for `servers` servers, and their apps. No process runs yet.
    pub fn new(servers: u8) -> Self {
        let (number, claim) = claim("127.2");
        let dir = std::env::temp_dir().join(format!("lacewing-solo-{}-{number}", std::process::id()));
        for part in ["manifests", "logs"] {
            fs::create_dir_all(dir.join(part)).expect("a directory");
        }
        let subnet = format!("127.2.{number}");
        let mut solo =
            Self { dir, subnet, leaf_lifetime: "24h", apps: Vec::new(), processes: BTreeMap::new(), _claim: claim };
        let servers: Vec<String> = (1..=servers).map(|n| format!("server-{n}")).collect();
        solo.apps = servers.iter().map(|name| serve(name, SocketAddr::new(solo.ip(name), 8080))).collect();
        solo.write_manifest("server.yaml", &solo.service());
        solo.write_manifest("client.yaml", &solo.pod("client", "client"));
        solo.write_slice(&[]);
        solo
    }

    /// The same with everything running and ready.
    pub fn running(servers: u8) -> Self {
        let mut solo = Self::new(servers);
        solo.start_controller();
        solo.start_proxies();
        solo
    }

    pub fn start_controller(&mut self) {
        let env = self.controller_env();
        self.start("controller", &env);
        self.until_ready("the controller", self.controller_admin());
    }

    /// Starts every proxy and waits until all are ready.
    pub fn start_proxies(&mut self) {
        let names: Vec<String> = self.pods();
        for name in &names {
            self.start_proxy(name);
        }
        for name in &names {
            self.until_ready(name, self.admin(name));
        }
    }

    /// Starts one proxy; it need not be ready.
    pub fn start_proxy(&mut self, pod: &str) {
        self.start_proxy_with(pod, &[]);
    }

    /// The same with other settings, which win.
    pub fn start_proxy_with(&mut self, pod: &str, other: &[(&'static str, String)]) {
        let mut env = self.proxy_env(pod);
        env.extend_from_slice(other);
        self.start(pod, &env);
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.processes.remove(name).expect("it was started");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// SIGTERM; it must end well within `patience`.
    #[track_caller]
    pub fn terminate(&mut self, name: &str, patience: Duration) {
        let mut child = self.processes.remove(name).expect("it was started");
        signal(child.id(), "TERM");
        let started = Instant::now();
        while child.try_wait().expect("a state").is_none() {
            if started.elapsed() > patience {
                let _ = child.kill();
                panic!("{name} did not end within {patience:?} after SIGTERM:\n{}", self.log(name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = child.wait().expect("a status");
        assert!(status.success(), "{name} ended with {status}:\n{}", self.log(name));
    }

    /// The process is still the one that was started.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        let dir = self.dir.clone();
        for (name, child) in &mut self.processes {
            let state = child.try_wait().expect("a state");
            assert!(state.is_none(), "{name} ended: {state:?}\n{}", log(&dir, name));
        }
    }

    pub fn pid(&self, name: &str) -> u32 {
        self.processes[name].id()
    }

    pub fn pods(&self) -> Vec<String> {
        self.apps.iter().map(|app| app.name.clone()).chain(["client".to_owned()]).collect()
    }

    pub fn ip(&self, pod: &str) -> IpAddr {
        let host = pod.strip_prefix("server-").map_or(10, |n| 20 + n.parse::<u8>().expect("a number"));
        format!("{}.{host}", self.subnet).parse().expect("an address")
    }

    /// Where the client sends.
    pub fn outbound(&self) -> SocketAddr {
        SocketAddr::new(self.ip("client"), 4140)
    }

    pub fn inbound(&self, pod: &str) -> SocketAddr {
        SocketAddr::new(self.ip(pod), 4143)
    }

    pub fn admin(&self, pod: &str) -> SocketAddr {
        SocketAddr::new(self.ip(pod), 4191)
    }

    pub fn private_admin(&self, pod: &str) -> SocketAddr {
        SocketAddr::new(self.ip(pod), 4192)
    }

    pub fn controller_grpc(&self) -> SocketAddr {
        format!("{}.1:8080", self.subnet).parse().expect("an address")
    }

    pub fn controller_admin(&self) -> SocketAddr {
        format!("{}.1:9990", self.subnet).parse().expect("an address")
    }

    /// One request through the client's proxy.
    pub fn get(&self, path: &str) -> Answer {
        get(self.outbound(), path, &[("host", HOST)])
    }

    /// JSON from a pod's private admin port.
    pub fn private(&self, pod: &str, path: &str) -> Value {
        let answer = get(self.private_admin(pod), path, &[("l6g-admin", "1")]);
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path} of {pod}: {error}\n{}", answer.body))
    }

    /// The servers that the client's proxy balances over.
    pub fn endpoints(&self) -> Vec<String> {
        let shown = self.private("client", "/destinations");
        let backends = shown["backends"].as_array().expect("backends").iter();
        let endpoints = backends.flat_map(|backend| backend["endpoints"].as_array().expect("endpoints"));
        endpoints.map(|endpoint| endpoint["pod"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub fn log(&self, process: &str) -> String {
        log(&self.dir, process)
    }

    /// Writes a manifest as a careful person does: beside, then renamed.
    pub fn write_manifest(&self, file: &str, text: &str) {
        let path = self.dir.join("manifests").join(file);
        let beside = path.with_extension("new");
        fs::write(&beside, text).and_then(|()| fs::rename(&beside, &path)).expect("the manifest can be written");
    }

    /// The endpoints, with those in `unready` not ready.
    pub fn write_slice(&self, unready: &[&str]) {
        let mut text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: server-1\n  namespace: it\n  \
                        labels: {kubernetes.io/service-name: server}\naddressType: IPv4\nports:\n- {name: http, port: 8080}\nendpoints:\n"
            .to_owned();
        for App { name, .. } in &self.apps {
            let (ip, ready) = (self.ip(name), !unready.contains(&name.as_str()));
            write!(text, "- addresses: [{ip}]\n  conditions: {{ready: {ready}}}\n  targetRef: {{kind: Pod, name: {name}, namespace: it}}\n")
                .expect("a String takes it");
        }
        self.write_manifest("endpoints.yaml", &text);
    }

    fn service(&self) -> String {
        let mut text = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: it\n  annotations: {config.lacewing.dev/inbound: strict}\n\
                        ---\napiVersion: v1\nkind: Service\nmetadata: {name: server, namespace: it}\nspec:\n  clusterIP: 10.96.9.1\n  \
                        selector: {app: server}\n  ports:\n  - {name: http, port: 8080, targetPort: 8080}\n"
            .to_owned();
        for app in &self.apps {
            text.push_str(&self.pod(&app.name, "server"));
        }
        text
    }

    fn pod(&self, name: &str, account: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: it\n  labels: {{app: {account}}}\n  annotations:\n    \
             lacewing.dev/proxy-version: test\n    lacewing.dev/proxy-address: {inbound}\nspec:\n  serviceAccountName: {account}\n  \
             containers:\n  - name: app\n    image: test\n    ports: [{{containerPort: 8080}}]\nstatus:\n  phase: Running\n  podIP: {ip}\n  \
             podIPs: [{{ip: {ip}}}]\n  conditions: [{{type: Ready, status: \"True\"}}]\n",
            inbound = self.inbound(name),
            ip = self.ip(name),
        )
    }

    pub fn controller_env(&self) -> Vec<(&'static str, String)> {
        let dir = |part: &str| self.dir.join(part).display().to_string();
        vec![
            ("LACEWING_MANIFESTS", dir("manifests")),
            ("LACEWING_STATE_DIR", dir("controller")),
            ("LACEWING_TOKEN_DIR", dir("tokens")),
            ("LACEWING_GRPC_ADDR", self.controller_grpc().to_string()),
            ("LACEWING_ADMIN_ADDR", self.controller_admin().to_string()),
            ("LACEWING_LEAF_LIFETIME", self.leaf_lifetime.to_owned()),
        ]
    }

    pub fn proxy_env(&self, pod: &str) -> Vec<(&'static str, String)> {
        let ip = self.ip(pod);
        let bundle = fs::read_to_string(self.dir.join("controller/root.pem")).expect("a controller has run before");
        let mut env = vec![
            ("LACEWING_POD_NAME", pod.to_owned()),
            ("LACEWING_POD_NAMESPACE", "it".to_owned()),
            ("LACEWING_POD_IPS", ip.to_string()),
            ("LACEWING_TRUST_BUNDLE", bundle),
            ("LACEWING_TOKEN_FILE", self.dir.join(format!("tokens/it_{pod}.token")).display().to_string()),
            ("LACEWING_CONTROLLER_ADDR", self.controller_grpc().to_string()),
            ("LACEWING_OUTBOUND_ADDR", format!("{ip}:4140")),
            ("LACEWING_INBOUND_ADDR", format!("{ip}:4143")),
            ("LACEWING_ADMIN_ADDR", format!("{ip}:4191")),
            ("LACEWING_PRIVATE_ADMIN_ADDR", format!("{ip}:4192")),
        ];
        if pod == "client" {
            env.push(("LACEWING_OUTBOUND_MAP", format!("{ip}:{MAPPED_PORT}={HOST}")));
        }
        env
    }

    /// `name` is `controller` or a pod's.
    fn start(&mut self, name: &str, env: &[(&'static str, String)]) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("logs/{name}.log")))
            .expect("a log");
        let child = daemon(role(name))
            .envs(env.iter().map(|(name, value)| (name, value)))
            // Ends with this test, however the test ends.
            .env("LACEWING_EXIT_WITH_PARENT", "1")
            .env("LACEWING_LOG", std::env::var("LACEWING_LOG").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("the same log"))
            .stderr(log)
            .spawn()
            .expect("mesh starts");
        assert!(self.processes.insert(name.to_owned(), child).is_none(), "{name} runs already");
    }

    pub fn until_ready(&self, what: &str, admin: SocketAddr) {
        until(&format!("{what} is ready"), START, || {
            let up = TcpStream::connect(admin).is_ok();
            (up && get(admin, "/ready", &[]).status == 200).then_some(())
        });
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.processes.keys() {
                let log = self.log(name);
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                eprintln!("--- {name}, last words, latest first\n{}", tail.join("\n"));
            }
        }
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn role(name: &str) -> &'static str {
    if name == "controller" { "controller" } else { "proxy" }
}

fn log(dir: &Path, process: &str) -> String {
    fs::read_to_string(dir.join(format!("logs/{process}.log"))).unwrap_or_default()
}

/// `mesh run ROLE`; or, for proxies, the program that LACEWING_TEST_PROXY names: the one that ships, say.
fn daemon(role: &str) -> Command {
    let mut command = if let Some(program) = std::env::var_os("LACEWING_TEST_PROXY").filter(|_| role == "proxy") {
        Command::new(program)
    } else {
        let mut command = Command::new(mesh());
        command.args(["run", role]);
        command
    };
    command.env_clear();
    command
}

/// Runs a daemon that is expected to end by itself (`controller` or `proxy`), with nothing but `env`.
pub fn run(role: &str, env: &[(&'static str, String)]) -> Output {
    let mut child = daemon(role)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mesh starts");
    let mut waited = 0;
    while child.try_wait().expect("a state").is_none() {
        waited += 1;
        if waited > 500 {
            let _ = child.kill();
            panic!("{role} did not end by itself: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output")
}

/// A small HTTP/1.1 server that answers everything with its name.
fn serve(name: &str, on: SocketAddr) -> App {
    let listener = TcpListener::bind(on).unwrap_or_else(|error| panic!("{name} on {on}: {error}"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let app = App { name: name.to_owned(), seen: seen.clone() };
    let name = name.to_owned();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (name, seen) = (name.clone(), seen.clone());
            // A client that breaks off ends its own connection.
            std::thread::spawn(move || converse(socket, &name, &seen).unwrap_or_default());
        }
    });
    app
}

fn converse(socket: TcpStream, name: &str, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut answers = socket.try_clone()?;
    socket.set_nodelay(true)?;
    let mut requests = BufReader::new(socket);
    loop {
        let mut first = String::new();
        requests.get_ref().set_read_timeout(None)?;
        if requests.read_line(&mut first)? == 0 {
            return Ok(());
        }
        if !first.ends_with(" HTTP/1.1\r\n") {
            return Err(std::io::Error::other("no request line"));
        }
        requests.get_ref().set_read_timeout(Some(APP_PATIENCE))?;
        seen.lock().expect("no app panics").push(first.trim_end().to_owned());
        let (mut length, mut chunked, mut line) = (0, false, String::new());
        while line != "\r\n" {
            line.clear();
            if requests.read_line(&mut line)? == 0 {
                return Err(std::io::Error::other("half a head"));
            }
            let field = line.trim_end().to_ascii_lowercase();
            length =
                field.strip_prefix("content-length: ").map_or(Ok(length), str::parse).map_err(std::io::Error::other)?;
            chunked |= field.starts_with("transfer-encoding:");
        }
        if chunked {
            read_chunks(&mut requests)?;
        } else {
            requests.read_exact(&mut vec![0; length])?;
        }
        write!(answers, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}\n", name.len() + 1)?;
    }
}

fn read_chunks(requests: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    loop {
        let mut size = String::new();
        requests.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim_end(), 16).map_err(std::io::Error::other)?;
        requests.read_exact(&mut vec![0; size + 2])?;
        if size == 0 {
            return Ok(());
        }
    }
}

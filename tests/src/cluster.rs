//! A Kubernetes cluster that is there already: kubectl and `mesh` with deadlines, and a [`Space`] (namespace) for each test,
//! which is gone afterwards. Which cluster, `LACEWING_TEST_CONTEXT` says (a context of kubectl's), or else `KUBECONFIG`; the
//! ring brings one up. A cluster that does not answer fails the test: nothing skips. When a test fails, its space tells
//! what the cluster knows of it: pods, events, logs, and the controller's words.
#![allow(clippy::print_stderr, reason = "last words of a cluster whose test failed")]

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{demo::mesh, wait::until};

/// A command that only asks.
const ASK: Duration = Duration::from_secs(60);
/// Pods start, or go, within this.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between looks: each is a process.
const LOOK: Duration = Duration::from_millis(300);
/// Lines of each log that a failed test shows.
const LAST_WORDS: &str = "--tail=40";
/// The mesh's own namespace.
pub const MESH: &str = "lacewing";

/// Arguments that choose the cluster, for kubectl and `mesh` alike.
fn context() -> &'static [String] {
    static CONTEXT: OnceLock<Vec<String>> = OnceLock::new();
    CONTEXT.get_or_init(|| match std::env::var("LACEWING_TEST_CONTEXT") {
        Ok(context) if !context.is_empty() => vec!["--context".into(), context],
        _ => vec![],
    })
}

/// What a command said.
#[derive(Debug)]
pub struct Answer {
    /// None if it was killed, for lack of time as a rule.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Answer {
    /// What it wrote to stdout.
    ///
    /// # Panics
    /// It did not end well.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.code == Some(0), "ended with {:?}:\n{}{}", self.code, self.out, self.err);
        self.out
    }
}

/// Runs `program` with `input`, for at most `patience`.
pub fn run(program: &str, arguments: &[&str], input: &str, patience: Duration) -> Answer {
    let seconds = patience.as_secs().to_string();
    let mut child = Command::new("timeout")
        .args(["--kill-after", "5", &seconds, program])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout (coreutils) can be run");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    // One that does not read its input must not hold the test up.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().expect("timeout ends");
    let _unread = writer.join().expect("the writer does not panic");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Answer { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// `kubectl` on the whole cluster.
pub fn kubectl(arguments: &[&str]) -> Answer {
    kubectl_with(arguments, "", ASK)
}

fn kubectl_with(arguments: &[&str], input: &str, patience: Duration) -> Answer {
    let context = context().iter().map(String::as_str);
    run("kubectl", &context.chain(arguments.iter().copied()).collect::<Vec<_>>(), input, patience)
}

/// The same with something to read; deleting and waiting may take its time.
pub fn kubectl_input(arguments: &[&str], input: &str) -> Answer {
    kubectl_with(arguments, input, PATIENCE)
}

/// Creates or changes what `manifests` say.
pub fn apply(manifests: &str) {
    kubectl_with(&["apply", "-f", "-"], manifests, ASK).good();
}

/// What the server makes of an object that is asked about and not kept, e.g. a TokenReview.
pub fn create(manifest: &str) -> Value {
    let text = kubectl_with(&["create", "-o", "json", "-f", "-"], manifest, ASK).good();
    serde_json::from_str(&text).expect("kubectl writes JSON")
}

/// The `mesh` that was built beside this test, on this cluster.
pub fn run_mesh(arguments: &[&str], input: &str) -> Answer {
    let mesh = mesh();
    let context = context().iter().map(String::as_str);
    let arguments = arguments.iter().copied().chain(context).collect::<Vec<_>>();
    run(mesh.to_str().expect("a path in UTF-8"), &arguments, input, PATIENCE)
}

/// What `kubectl get … -o json` says.
pub fn get(arguments: &[&str]) -> Value {
    let text = kubectl(&[&["get", "-o", "json"], arguments].concat()).good();
    serde_json::from_str(&text).expect("kubectl writes JSON")
}

/// Looks until `look` finds something; each look may cost a process.
#[track_caller]
pub fn await_some<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let mut last = None::<Instant>;
    until(what, patience, || {
        if last.is_some_and(|last| last.elapsed() < LOOK) {
            return None;
        }
        let found = look();
        last = Some(Instant::now());
        found
    })
}

/// A namespace of a test's own.
pub struct Space {
    name: String,
    /// A later test needs it.
    stays: bool,
}

impl Space {
    /// One whose pods are not meshed. `name` is unique among the tests.
    pub fn plain(name: &str) -> Self {
        Self::with(name, "{}")
    }

    /// One whose pods are meshed.
    pub fn meshed(name: &str) -> Self {
        Self::with(name, r#"{"lacewing.dev/inject": "enabled"}"#)
    }

    /// One with these annotations, a JSON object. What an earlier run left is removed first.
    pub fn with(name: &str, annotations: &str) -> Self {
        let name = format!("test-{name}");
        kubectl_with(&["delete", "namespace", "--ignore-not-found", "--wait", &name], "", PATIENCE).good();
        let metadata = format!(r#"{{"name": "{name}", "annotations": {annotations}}}"#);
        apply(&format!(r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {metadata}}}"#));
        let space = Self { name, stays: false };
        await_some("an account in the namespace", PATIENCE, || {
            (space.attempt(&["get", "serviceaccount", "default"]).code == Some(0)).then_some(())
        });
        space
    }

    /// One that an earlier test has kept; it goes with this.
    pub fn found(name: &str) -> Self {
        Self { name: format!("test-{name}"), stays: false }
    }

    /// One that an earlier test has kept, for a later one.
    pub fn lent(name: &str) -> Self {
        let mut space = Self::found(name);
        space.stays = true;
        space
    }

    /// For a later test.
    pub fn keep(mut self) {
        self.stays = true;
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kubectl -n SPACE …`, which may fail.
    pub fn attempt(&self, arguments: &[&str]) -> Answer {
        kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// `kubectl -n SPACE …`, which must end well; what it wrote.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.attempt(arguments).good()
    }

    /// Creates or changes what `manifests` say; it need not go well.
    pub fn try_apply(&self, manifests: &str) -> Answer {
        kubectl_with(&["--namespace", &self.name, "apply", "-f", "-"], manifests, ASK)
    }

    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        self.try_apply(manifests).good();
    }

    #[track_caller]
    pub fn get(&self, arguments: &[&str]) -> Value {
        get(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Waits until `what`, e.g. `deployment/web`, has been rolled out.
    #[track_caller]
    pub fn ready(&self, what: &str) {
        let arguments = ["--namespace", &self.name, "rollout", "status", what];
        kubectl_with(&arguments, "", PATIENCE).good();
    }

    /// Waits for a condition, e.g. `complete` of `job/once`.
    #[track_caller]
    pub fn wait_for(&self, condition: &str, what: &str) {
        let condition = format!("--for=condition={condition}");
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let arguments = ["--namespace", &self.name, "wait", &condition, &timeout, what];
        kubectl_with(&arguments, "", PATIENCE + ASK).good();
    }

    /// Runs a command in a container of `what`, e.g. `deployment/client`.
    pub fn exec(&self, what: &str, container: &str, command: &[&str]) -> Answer {
        self.attempt(&[&["exec", what, "-c", container, "--"], command].concat())
    }

    pub fn logs(&self, what: &str, container: &str) -> String {
        self.kubectl(&["logs", what, "-c", container])
    }

    /// The pods that `selector` (`app=web`) finds and that are not on their way out.
    pub fn pods(&self, selector: &str) -> Vec<Value> {
        let mut pods = self.get(&["pods", "-l", selector]);
        let Value::Array(pods) = pods["items"].take() else { panic!("kubectl answers with a list") };
        pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    /// Everything that helps to understand why a test failed.
    fn tell(&self) -> String {
        let mut told = format!("\n---- namespace {} ----\n", self.name);
        let mut tell = |arguments: &[&str]| {
            let Answer { out, err, .. } = kubectl(arguments);
            let _always = write!(told, "$ kubectl {}\n{out}{err}", arguments.join(" "));
        };
        tell(&["-n", &self.name, "get", "pods,jobs", "-o", "wide"]);
        tell(&["-n", &self.name, "get", "events", "--sort-by=.lastTimestamp"]);
        let names = self.attempt(&["get", "pods", "-o", "name"]).out;
        for pod in names.lines() {
            tell(&["-n", &self.name, "logs", pod, "--all-containers", "--prefix", LAST_WORDS]);
        }
        tell(&["-n", MESH, "get", "pods", "-o", "wide"]);
        tell(&["-n", MESH, "logs", "deployment/lacewing-controller", "--all-containers", "--prefix", LAST_WORDS]);
        told
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tell());
        }
        if !self.stays {
            kubectl(&["delete", "namespace", "--wait=false", &self.name]);
        }
    }
}

/// A kubectl that runs until it is dropped.
struct Running {
    child: Child,
    /// It writes a line for each connection, and would end if nobody could read that.
    _words: ChildStdout,
}

impl Running {
    /// Starts it, and waits for its first line.
    fn start(arguments: &[&str]) -> (Self, String) {
        let mut child = Command::new("kubectl")
            .args(context())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl can be run");
        let mut out = child.stdout.take().expect("a pipe");
        let mut line = Vec::new();
        while !line.contains(&b'\n') {
            let mut some = [0; 256];
            let read = out.read(&mut some).expect("kubectl says where it listens");
            assert!(read > 0, "kubectl ended without a word where it listens");
            line.extend_from_slice(&some[..read]);
        }
        (Self { child, _words: out }, String::from_utf8_lossy(&line).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The API server over plain HTTP with the user's rights, open until it is dropped.
pub struct Gateway {
    _kubectl: Running,
    pub address: SocketAddr,
}

impl Gateway {
    pub fn open() -> Self {
        // `Starting to serve on 127.0.0.1:40123`
        let (kubectl, line) = Running::start(&["proxy", "--port=0"]);
        let address = line.split_whitespace().last().and_then(|address| address.parse().ok());
        Self { _kubectl: kubectl, address: address.unwrap_or_else(|| panic!("no address in {line:?}")) }
    }
}

/// A way from here to a pod's port, open until it is dropped.
pub struct Forward {
    _kubectl: Running,
    /// On 127.0.0.1.
    pub port: u16,
}

impl Forward {
    /// To `port` of `what`, e.g. `service/web`.
    pub fn open(space: &Space, what: &str, port: u16) -> Self {
        // `Forwarding from 127.0.0.1:40123 -> 8080`
        let (kubectl, line) = Running::start(&["--namespace", &space.name, "port-forward", what, &format!(":{port}")]);
        let from = line.split_whitespace().nth(2).and_then(|from| from.rsplit_once(':'));
        let port = from.and_then(|(_, port)| port.parse().ok()).unwrap_or_else(|| panic!("no port in {line:?}"));
        Self { _kubectl: kubectl, port }
    }
}

//! A `mesh demo` of one's own: a real one, in its own directory and on its own addresses, stopped on drop.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{subnet::claim, wait::until};

/// From start to the first banner; a loaded machine may be slow.
const START: Duration = Duration::from_secs(30);
/// A request of a test.
const REQUEST: Duration = Duration::from_secs(20);

/// The `mesh` program built beside this test.
pub fn mesh() -> PathBuf {
    let me = std::env::current_exe().expect("the test knows its own path");
    let folder = me.parent().and_then(Path::parent).expect("tests lie in target/…/deps");
    let mesh = folder.join("mesh");
    assert!(mesh.exists(), "{} is missing: run `cargo build -p mesh-cli` (tests/run does)", mesh.display());
    mesh
}

/// A running demo.
pub struct Demo {
    child: Child,
    pub dir: PathBuf,
    subnet: String,
    /// From start to ready.
    pub took: Duration,
    _claim: TcpListener,
}

/// One answer over plain HTTP/1.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Demo {
    /// Starts one with `rps` requests a second and waits until it says that it is up.
    pub fn start(rps: u32) -> Self {
        let (number, claim) = claim("127.1");
        let subnet = format!("127.1.{number}");
        let dir = std::env::temp_dir().join(format!("lacewing-it-{}-{number}", std::process::id()));
        let started = Instant::now();
        let log = std::fs::File::create(dir.with_extension("log")).expect("a log file");
        let child = Command::new(mesh())
            .args(["demo", "--subnet", &subnet, "--rps", &rps.to_string(), "--dir"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the same log file"))
            .stderr(log)
            .spawn()
            .expect("mesh starts");
        let mut demo = Self { child, dir, subnet, took: Duration::ZERO, _claim: claim };
        until("the demo is up", START, || {
            let ended = demo.child.try_wait().expect("the demo's state");
            assert!(ended.is_none(), "the demo ended: {ended:?}\n{}", demo.output());
            demo.output().contains("The mesh is up").then_some(())
        });
        demo.took = started.elapsed();
        demo
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// Process id of `mesh demo`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command of `mesh` on this demo.
    pub fn mesh(&self, args: &[&str]) -> Output {
        Command::new(mesh()).arg("--dir").arg(&self.dir).args(args).output().expect("mesh runs")
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.mesh(args);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "mesh {args:?}: {}\n{stdout}{stderr}", out.status);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("mesh {args:?} printed no JSON: {error}\n{stdout}"))
    }

    /// The row of `mesh stat` for `kind` and `name` over the last `window`, such as `10s`; `None`: no such row.
    pub fn row(&self, kind: &str, name: &str, window: &str) -> Option<Value> {
        let all = self.json(&["stat", kind, "-t", window, "-o", "json"]);
        let rows = all["rows"].as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["name"] == name)
    }

    /// What `demo.json` says about a pod.
    pub fn pod(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.dir.join("demo.json")).expect("demo.json");
        let all: Value = serde_json::from_str(&text).expect("demo.json is JSON");
        let pods = all["pods"].as_array().expect("pods");
        pods.iter().find(|pod| pod["name"] == name).unwrap_or_else(|| panic!("no pod {name} in {text}")).clone()
    }

    /// A pod's address.
    pub fn ip(&self, pod: &str) -> IpAddr {
        self.pod(pod)["ip"].as_str().and_then(|ip| ip.parse().ok()).expect("a pod has an address")
    }

    /// Where a pod's proxy takes its app's traffic.
    pub fn outbound(&self, pod: &str) -> SocketAddr {
        SocketAddr::new(self.ip(pod), 4140)
    }

    /// Where a pod's proxy takes mesh traffic.
    pub fn inbound(&self, pod: &str) -> SocketAddr {
        SocketAddr::new(self.ip(pod), 4143)
    }

    /// The controller's admin port.
    pub fn controller_admin(&self) -> SocketAddr {
        format!("{}.1:9990", self.subnet).parse().expect("an address")
    }

    /// Process ids of this demo's children whose command line contains all `words` (`run`, `proxy`, …).
    pub fn children(&self, words: &[&str]) -> Vec<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let listed = std::fs::read_to_string(children).unwrap_or_default();
        let pids = listed.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
        pids.filter(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
            let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default();
            words.iter().all(|word| line.contains(word) || environment.contains(word))
        })
        .collect()
    }

    /// A metric's samples from a pod's public port: lines that start with `name` and contain all `labels`, summed.
    pub fn metric(&self, pod: &str, name: &str, labels: &[&str]) -> f64 {
        let text = get(SocketAddr::new(self.ip(pod), 4191), "/metrics", &[]).body;
        let lines =
            text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// JSON from a pod's private admin port.
    pub fn private(&self, pod: &str, path: &str) -> Value {
        let answer = get(SocketAddr::new(self.ip(pod), 4192), path, &[("l6g-admin", "1")]);
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path} of {pod}: {error}\n{}", answer.body))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        signal(self.pid(), "TERM");
        let stopped = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if stopped.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = std::fs::remove_file(self.dir.with_extension("log"));
    }
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, name: &str) {
    // The shell's own `kill`: no package needed.
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
}

/// `GET path` over a connection of its own, HTTP/1.1, with further header fields.
pub fn get(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n");
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str("host: test\r\n");
    }
    for (name, value) in fields {
        request.extend([name, ": ", value, "\r\n"]);
    }
    raw(to, format!("{request}\r\n").as_bytes())
}

/// Sends `bytes` and reads to the end of what comes back; empty if the other side just closes.
pub fn raw(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    socket.set_read_timeout(Some(REQUEST)).expect("a timeout");
    let _ = socket.write_all(bytes); // it may be refused before all is written
    let mut all = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while let Ok(n) = socket.read(&mut chunk) {
        if n == 0 {
            break;
        }
        all.extend_from_slice(&chunk[..n]);
    }
    let text = String::from_utf8_lossy(&all).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

//! The controller under test: a process of its own, that ends with this one, and what the kernel says of it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lacewing_identity::TrustBundle;
use lacewing_tests::wait::until;
use serde_json::json;

use super::api::Api;

/// From start to ready: everything was listed, and it has a certificate.
const START: Duration = Duration::from_secs(60);

pub struct Controller {
    child: Child,
    dir: PathBuf,
    pub grpc: SocketAddr,
}

impl Controller {
    /// Starts `LACEWING_TEST_CONTROLLER` on this API server and waits until it is ready.
    pub fn start(api: &Api) -> Self {
        let program = std::env::var("LACEWING_TEST_CONTROLLER").expect("LACEWING_TEST_CONTROLLER: which controller");
        let dir = std::env::temp_dir().join(format!("lacewing-scale-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        let server = format!("http://{}", api.serve());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "scale",
            "clusters": [{"name": "scale", "cluster": {"server": server}}], "users": [{"name": "scale", "user": {}}],
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": "scale"}}],
        });
        fs::write(dir.join("kubeconfig"), config.to_string()).expect("a file");
        let (grpc, admin, webhook) = (free(), free(), free());
        let log = fs::File::create(dir.join("log")).expect("a file");
        let child = Command::new(program)
            .env_clear()
            .env("KUBECONFIG", dir.join("kubeconfig"))
            .env("LACEWING_STATE_DIR", dir.join("state"))
            .env("LACEWING_POD_NAME", "lacewing-controller-0")
            .env("LACEWING_GRPC_ADDR", grpc.to_string())
            .env("LACEWING_ADMIN_ADDR", admin.to_string())
            .env("LACEWING_WEBHOOK_ADDR", webhook.to_string())
            .env("LACEWING_EXIT_WITH_PARENT", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("the controller starts");
        let controller = Self { child, dir, grpc };
        until("the controller is ready", START, || get(admin, "/ready").starts_with("HTTP/1.1 200").then_some(()));
        controller
    }

    /// The roots that it made: in its directory, or where the API server keeps its Secrets.
    pub fn bundle(&self, api: &Api) -> TrustBundle {
        let text = fs::read_to_string(self.dir.join("state/root.pem")).unwrap_or_else(|_| {
            let secret = api.kept("/api/v1/namespaces/lacewing/secrets/lacewing-root").expect("a trust root");
            let data = secret["stringData"]["ca.crt"].as_str().map(str::to_owned);
            data.or_else(|| {
                let decoded = STANDARD.decode(secret["data"]["ca.crt"].as_str()?).ok()?;
                String::from_utf8(decoded).ok()
            })
            .expect("ca.crt")
        });
        TrustBundle::from_pem(&text).expect("roots")
    }

    pub fn rss_mb(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running controller");
        let kb =
            text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kb.expect("VmRSS") / 1_024.0
    }

    /// Processor time so far, of all threads.
    pub fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a running controller");
        let used = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.flatten().filter_map(used).sum())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A port that nobody has right now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

fn get(address: SocketAddr, path: &str) -> String {
    let ask = || {
        let mut socket = TcpStream::connect(address)?;
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().unwrap_or_default()
}

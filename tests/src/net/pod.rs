//! A pod of a [`super::Cluster`]: a host, and in a meshed one a proxy and redirection, set up by the programs that ship.
//! Its app is whatever the test runs on [`Pod::host`]. Its manifests, and whether it is ready for traffic, are
//! `cluster`'s business.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde_json::Value;

use super::{
    Host, PodSpec, Process, User,
    ring::{self, MARK, PROXY_UID},
};
use crate::{
    demo::{Answer, get},
    wait::until,
};

/// From start to ready, on a loaded machine.
const START: Duration = Duration::from_secs(20);
/// Public admin port.
const ADMIN: u16 = 4191;
/// Private admin port.
const PRIVATE_ADMIN: u16 = 4192;

/// A pod. Its host and everything that runs there ends with the last reference to it.
pub struct Pod {
    pub name: String,
    pub spec: PodSpec,
    pub namespace: String,
    /// Tells pods of the same name apart.
    pub(super) uid: u32,
    pub(super) proxy: Option<Process>,
    pub host: Host,
    /// The controller's copy, which the proxy's user may not read.
    token: PathBuf,
}

impl Pod {
    /// Redirection, then the proxy; neither in one that is not meshed. `control` is the controller's gRPC address.
    pub(super) fn start(
        spec: &PodSpec,
        namespace: &str,
        uid: u32,
        host: Host,
        token: &Path,
        bundle: &str,
        control: SocketAddr,
    ) -> Self {
        let mut pod = Self {
            name: spec.name.clone(),
            spec: spec.clone(),
            namespace: namespace.to_owned(),
            uid,
            proxy: None,
            host,
            token: token.to_owned(),
        };
        if spec.meshed {
            pod.copy_token();
            if spec.redirected {
                pod.redirect();
            }
            let mut command = pod.host.command_as(User::Proxy, ring::program("lacewing-proxy"));
            command.env_clear().envs(pod.proxy_env(bundle, control));
            pod.proxy = Some(pod.host.start(&format!("proxy-of-{}", pod.name), command));
        }
        pod
    }

    pub fn v4(&self) -> IpAddr {
        self.host.v4
    }

    pub fn v6(&self) -> IpAddr {
        self.host.v6
    }

    /// Where somebody who dials the pod itself finds this port.
    pub fn at(&self, port: u16) -> SocketAddr {
        self.host.at(port)
    }

    /// # Panics
    /// The pod is not meshed.
    #[track_caller]
    pub fn proxy(&self) -> &Process {
        self.proxy.as_ref().unwrap_or_else(|| panic!("{} has no proxy", self.name))
    }

    /// Starts the proxy after it has ended, and waits until it is ready.
    #[track_caller]
    pub fn start_proxy(&self) {
        self.copy_token();
        self.proxy().start_again();
        self.until_ready();
    }

    /// The proxy as another process, with another program before it: `["valgrind", "--tool=…"]`. The usual one must not run.
    #[must_use]
    pub fn proxy_under(&self, words: &[&str]) -> Process {
        self.copy_token();
        let mut command = self.host.command_as(User::Proxy, words[0]);
        command.args(&words[1..]).arg(ring::program("lacewing-proxy")).env_clear().envs(self.proxy().envs());
        self.host.start(&format!("proxy-of-{}-under-{}", self.name, words[0]), command)
    }

    /// SIGTERM, then start and ready.
    #[track_caller]
    pub fn restart_proxy(&self, patience: Duration) {
        self.proxy().terminate(patience);
        self.start_proxy();
    }

    pub fn is_ready(&self) -> bool {
        self.host.enter(|| {
            let admin = loopback(ADMIN);
            TcpStream::connect(admin).is_ok() && get(admin, "/ready", &[]).status == 200
        })
    }

    #[track_caller]
    pub fn until_ready(&self) {
        until(&format!("the proxy of {} is ready", self.name), START, || {
            assert!(self.proxy().is_running(), "the proxy of {} ended:\n{}", self.name, self.proxy().log());
            self.is_ready().then_some(())
        });
    }

    /// `lacewing-proxy init` with arguments such as `--check`, in this pod and with its settings.
    pub fn init(&self, args: &[&str]) -> Output {
        let mut command = self.host.command_as(User::Root, ring::program("lacewing-proxy"));
        command.env_clear().arg("init").args(args).envs(self.spec.init_env.iter().map(|(name, value)| (*name, value)));
        if !ring::ring().users {
            command.env("LACEWING_SOCKET_MARK", MARK);
        }
        command.output().expect("it runs")
    }

    /// From the proxy's public admin port; it does not pass the pod's network.
    pub fn admin(&self, path: &str) -> Answer {
        self.host.get(loopback(ADMIN), path, &[])
    }

    /// JSON from the proxy's private admin port.
    #[track_caller]
    pub fn private(&self, path: &str) -> Value {
        let answer = self.host.get(loopback(PRIVATE_ADMIN), path, &[("l6g-admin", "1")]);
        serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{path} of {}: {error}\n{}", self.name, answer.body))
    }

    /// A metric's samples: lines that start with `name` and contain all `labels`, summed.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("/metrics").body;
        let lines =
            text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    fn redirect(&self) {
        let output = self.init(&[]);
        assert!(
            output.status.success(),
            "lacewing-proxy init in {}: {}\n{}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// As a kubelet projects it: readable by its user.
    fn copy_token(&self) {
        let token = fs::read(&self.token).expect("the controller minted a token");
        let copy = self.token_copy();
        fs::write(&copy, token).expect("the pod's directory is ours");
        if ring::ring().users {
            chown(&copy, Some(PROXY_UID), Some(PROXY_UID)).expect("the ring's root may");
        }
    }

    fn token_copy(&self) -> PathBuf {
        self.host.dir.join("token")
    }

    fn proxy_env(&self, bundle: &str, control: SocketAddr) -> BTreeMap<&'static str, String> {
        let mut env = BTreeMap::from([
            ("LACEWING_POD_NAME", self.name.clone()),
            ("LACEWING_POD_NAMESPACE", self.namespace.clone()),
            ("LACEWING_POD_IPS", format!("{},{}", self.host.v4, self.host.v6)),
            ("LACEWING_TRUST_BUNDLE", bundle.to_owned()),
            ("LACEWING_TOKEN_FILE", self.token_copy().display().to_string()),
            ("LACEWING_CONTROLLER_ADDR", control.to_string()),
            // Ends with this test, however the test ends.
            ("LACEWING_EXIT_WITH_PARENT", "1".to_owned()),
            ("LACEWING_LOG", std::env::var("LACEWING_LOG").unwrap_or_default()),
        ]);
        if !ring::ring().users {
            env.insert("LACEWING_SOCKET_MARK", MARK.to_owned());
        }
        env.extend(self.spec.proxy_env.iter().cloned());
        env
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

//! A cluster: a controller on a host of its own, which reads a directory, and pods, whose manifests are kept as an API
//! server and a kubelet would. Nobody restarts anything here but the test. Node duties for pods without redirection
//! (cluster addresses, names) are done with nft and `/etc/hosts`.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Host, Net, Pod, PodSpec, Process, User,
    manifests::{self, Endpoint, Readiness, Service, node_rules},
    ring::{self, ROOT},
};
use crate::{demo::get, pod::write_atomically, wait::until};

/// From start to ready, on a loaded machine.
const START: Duration = Duration::from_secs(20);
/// The controller's gRPC and admin ports.
const GRPC: u16 = 8080;
const ADMIN: u16 = 9990;

/// A controller and pods; all of it ends on drop.
///
/// ```no_run
/// use lacewing_tests::net::{Behaviour, Cluster, PodSpec, TcpApp, http_app};
///
/// let cluster = Cluster::new();
/// // Meshed, two ports of service `web`; its app runs in the test, on the pod's host.
/// let web = cluster.pod(PodSpec::new("web-1").service("web").port("http", 8080, "http").port("tcp", 9000, ""));
/// let app = http_app(&web.host, 8080);
/// let _greeter = TcpApp::start(&web.host, 9000, Behaviour::Greet(b"220 hello\r\n".to_vec()));
/// let client = cluster.pod(PodSpec::new("client"));
/// let plain = cluster.pod(PodSpec::new("plain").unmeshed());
/// cluster.published();
///
/// let name = cluster.name("web"); // web.shop-1: each cluster has a namespace of its own
/// let answer = client.host.get(cluster.address("web", 8080), "/head", &[("host", &name)]);
/// assert_eq!((answer.status, app.requests()), (200, 1));
/// let url = format!("http://{name}:8080/head"); // any program finds it by name
/// assert!(plain.host.command("curl").args(["-sf", &url]).status().unwrap().success());
///
/// web.host.vanish(); // faults: vanish, drop_syn, reset, lose, cut, divert to a Relay
/// web.host.heal();
/// web.proxy().kill(); // proxies: kill, freeze, thaw, terminate; memory and files
/// web.start_proxy();
/// cluster.remove(&web, std::time::Duration::from_secs(30), || drop(app)); // as Kubernetes does it
/// ```
pub struct Cluster {
    pub net: Net,
    /// The namespace of everything in it: another one in each cluster, since names are the ring's.
    pub namespace: String,
    pub dir: PathBuf,
    state: Mutex<State>,
    pub controller: Process,
    pub controller_host: Host,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Member>,
    services: BTreeMap<String, Service>,
    /// Lines in `/etc/hosts`, by service.
    names: BTreeMap<String, Vec<String>>,
    last_uid: u32,
    last_service: u8,
    last_mark: u32,
}

struct Member {
    pod: Arc<Pod>,
    readiness: Readiness,
}

impl Cluster {
    /// A controller, ready, on a net of its own.
    #[expect(clippy::new_without_default, reason = "it starts a process")]
    pub fn new() -> Self {
        Self::with_controller_env(&[])
    }

    /// The same with further settings of the controller.
    pub fn with_controller_env(env: &[(&str, &str)]) -> Self {
        let net = Net::new();
        let namespace = format!("shop-{}", net.bridge().serial);
        let dir = Path::new(ROOT).join("clusters").join(&namespace);
        fs::create_dir_all(dir.join("manifests")).expect("/run is ours");
        write_atomically(&dir.join("manifests/namespace.yaml"), &manifests::namespace(&namespace));
        let controller_host = net.host("controller");
        let path = |part: &str| dir.join(part).display().to_string();
        let mut command = controller_host.command_as(User::Root, ring::program("mesh"));
        command
            .args(["run", "controller"])
            .env_clear()
            .env("LACEWING_MANIFESTS", path("manifests"))
            .env("LACEWING_STATE_DIR", path("controller"))
            .env("LACEWING_TOKEN_DIR", path("tokens"))
            .env("LACEWING_EXIT_WITH_PARENT", "1")
            .env("LACEWING_LOG", std::env::var("LACEWING_LOG").unwrap_or_default())
            .envs(env.iter().copied());
        let controller = controller_host.start("controller", command);
        let cluster = Self { net, namespace, dir, state: Mutex::default(), controller, controller_host };
        cluster.until_controller_ready();
        cluster
    }

    #[track_caller]
    pub fn until_controller_ready(&self) {
        until("the controller is ready", START, || {
            assert!(self.controller.is_running(), "the controller ended:\n{}", self.controller.log());
            let admin: SocketAddr = ([127, 0, 0, 1], ADMIN).into();
            let up = || TcpStream::connect(admin).is_ok() && get(admin, "/ready", &[]).status == 200;
            self.controller_host.enter(up).then_some(())
        });
    }

    /// Adds a pod; a meshed one has its redirection, and its proxy is ready. Unless the spec says otherwise it is then
    /// ready for traffic: an app that is to miss nothing wants `held` and [`Self::set_ready`].
    #[track_caller]
    pub fn pod(&self, spec: PodSpec) -> Arc<Pod> {
        let pod = self.pod_unready(spec);
        if pod.proxy.is_some() {
            pod.until_ready();
        }
        if !pod.spec.held {
            self.set_ready(&pod, true);
        }
        pod
    }

    /// The same, but does not wait for the proxy, and the pod is not ready for traffic: for starts that are disturbed.
    #[track_caller]
    pub fn pod_unready(&self, spec: PodSpec) -> Arc<Pod> {
        let uid = {
            let mut state = self.state();
            assert!(!state.pods.contains_key(&spec.name), "there is a pod {} already", spec.name);
            self.add_services(&mut state, &spec);
            state.last_uid += 1;
            state.last_uid
        };
        let host = self.net.host(&format!("{}-{uid}", spec.name));
        self.write_pod(&spec, uid, [host.v4, host.v6], Readiness::NotReady);
        let token = self.dir.join(format!("tokens/{}_{}.token", self.namespace, spec.name));
        let mut bundle = String::new();
        if spec.meshed {
            until("the controller minted a token", START, || token.exists().then_some(()));
            bundle = fs::read_to_string(self.dir.join("controller/root.pem")).expect("the controller has run");
        }
        let pod = Pod::start(&spec, &self.namespace, uid, host, &token, &bundle, self.control());
        let pod = Arc::new(pod);
        let mut state = self.state();
        state.pods.insert(spec.name, Member { pod: pod.clone(), readiness: Readiness::NotReady });
        self.show(&mut state, &pod);
        pod
    }

    /// Whether its endpoints are ready, as a readiness probe finds.
    pub fn set_ready(&self, pod: &Pod, ready: bool) {
        self.set_readiness(pod, if ready { Readiness::Ready } else { Readiness::NotReady });
    }

    /// The wish to delete a pod: `deletionTimestamp`, and its endpoints say terminating, at once.
    pub fn mark_terminating(&self, pod: &Pod) {
        self.set_readiness(pod, Readiness::Terminating);
    }

    /// Takes the pod's objects away. Its host and processes go with the last reference to the pod.
    #[track_caller]
    pub fn forget(&self, pod: &Pod) {
        let mut state = self.state();
        let gone = state.pods.remove(&pod.name).expect("a pod of this cluster");
        self.show(&mut state, &gone.pod);
        fs::remove_file(self.manifest(&format!("pod-{}", pod.name))).expect("the pod's manifest");
    }

    /// Removes a pod as Kubernetes does: marked, the app told to stop (`stop_app`, which waits for its end), then SIGTERM
    /// to the proxy, which must end within `patience`, then the objects go.
    #[track_caller]
    pub fn remove(&self, pod: &Pod, patience: Duration, stop_app: impl FnOnce()) {
        self.mark_terminating(pod);
        stop_app();
        if let Some(proxy) = &pod.proxy {
            proxy.terminate(patience);
        }
        self.forget(pod);
    }

    /// Waits until the controller has read everything that was written so far; proxies hear of it a moment later.
    #[track_caller]
    pub fn published(&self) {
        let mark = {
            let mut state = self.state();
            state.last_mark += 1;
            format!("mark-{}", state.last_mark)
        };
        // A token shows that a manifest was read, and with it all that lay there before.
        let spec = PodSpec::new(&mark).unmeshed();
        let nowhere = [IpAddr::from([192, 0, 2, 1]), IpAddr::from(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1))];
        let file = self.manifest(&mark);
        write_atomically(&file, &manifests::pod(&spec, &self.namespace, 0, nowhere, Readiness::NotReady));
        let token = self.dir.join(format!("tokens/{}_{mark}.token", self.namespace));
        until("the controller read the manifests", START, || token.exists().then_some(()));
        fs::remove_file(&file).expect("it is ours");
    }

    /// `service.namespace`: what clients call it, for all programs of the ring.
    pub fn name(&self, service: &str) -> String {
        format!("{service}.{}", self.namespace)
    }

    /// The service's IPv4 cluster address with a port.
    #[track_caller]
    pub fn address(&self, service: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.cluster_ips(service).0.into(), port)
    }

    #[track_caller]
    pub fn address_v6(&self, service: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.cluster_ips(service).1.into(), port)
    }

    /// The controller's gRPC address.
    pub fn control(&self) -> SocketAddr {
        self.controller_host.at(GRPC)
    }

    /// A manifest of one's own; it replaces the one of the same name.
    pub fn write_manifest(&self, name: &str, text: &str) {
        write_atomically(&self.manifest(name), text);
    }

    #[track_caller]
    fn cluster_ips(&self, service: &str) -> (Ipv4Addr, Ipv6Addr) {
        let state = self.state();
        let service = state.services.get(service).unwrap_or_else(|| panic!("no service {service}"));
        service.addresses.expect("a headless service has no address")
    }

    fn set_readiness(&self, pod: &Pod, readiness: Readiness) {
        let mut state = self.state();
        state.pods.get_mut(&pod.name).expect("a pod of this cluster").readiness = readiness;
        self.show(&mut state, pod);
        self.write_pod(&pod.spec, pod.uid, [pod.host.v4, pod.host.v6], readiness);
    }

    fn add_services(&self, state: &mut State, spec: &PodSpec) {
        for name in spec.services.iter().filter(|_| !spec.ports.is_empty()) {
            if state.services.contains_key(name) {
                continue;
            }
            state.last_service += 1;
            let (net, own) = (self.net.number(), state.last_service);
            let v6 = Ipv6Addr::new(0xfd96, net.into(), 0, 0, 0, 0, 0, own.into());
            let addresses = (!spec.headless).then_some((Ipv4Addr::new(10, 96, net, own), v6));
            state.services.insert(name.clone(), Service { addresses, ports: spec.ports.clone() });
        }
    }

    /// Makes everything that says something about this pod's endpoints say what is so.
    fn show(&self, state: &mut State, pod: &Pod) {
        for name in &pod.spec.services {
            let Some(service) = state.services.get(name).cloned() else { continue };
            let members = state.pods.values().filter(|member| member.pod.spec.services.contains(name));
            let endpoints: Vec<Endpoint<'_>> = members
                .map(|Member { pod, readiness }| Endpoint {
                    pod: &pod.name,
                    uid: pod.uid,
                    v4: pod.host.v4,
                    v6: pod.host.v6,
                    readiness: *readiness,
                })
                .collect();
            self.write_manifest(
                &format!("service-{name}"),
                &manifests::service(name, &self.namespace, &service, &endpoints),
            );
            let ready = ready(state, name);
            self.show_name(state, name, &service, &ready);
        }
        let all = state.services.iter().map(|(name, service)| (service, ready(state, name)));
        let rules = node_rules(all);
        for member in state.pods.values() {
            member.pod.host.nft(&rules);
        }
    }

    fn show_name(&self, state: &mut State, name: &str, service: &Service, ready: &[(IpAddr, IpAddr)]) {
        let ips: Vec<IpAddr> = match service.addresses {
            Some((v4, v6)) => vec![v4.into(), v6.into()],
            None => ready.iter().flat_map(|(v4, v6)| [*v4, *v6]).collect(),
        };
        let name_in = self.name(name);
        let wanted: Vec<String> =
            ips.iter().map(|ip| format!("{ip} {name_in} {name_in}.svc {name_in}.svc.cluster.local")).collect();
        let known = state.names.entry(name.to_owned()).or_default();
        known.iter().filter(|line| !wanted.contains(line)).for_each(|line| ring::forget_name(line));
        wanted.iter().filter(|line| !known.contains(line)).for_each(|line| ring::add_name(line));
        *known = wanted;
    }

    fn write_pod(&self, spec: &PodSpec, uid: u32, ips: [IpAddr; 2], readiness: Readiness) {
        let text = manifests::pod(spec, &self.namespace, uid, ips, readiness);
        self.write_manifest(&format!("pod-{}", spec.name), &text);
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.dir.join(format!("manifests/{name}.yaml"))
    }

    /// A panic in one of a test's threads must not hide what the others say.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let state = std::mem::take(&mut *self.state());
        state.names.values().flatten().for_each(|line| ring::forget_name(line));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Both addresses of a service's ready pods.
fn ready(state: &State, service: &str) -> Vec<(IpAddr, IpAddr)> {
    let members = state.pods.values().filter(|member| member.readiness == Readiness::Ready);
    let members = members.filter(|member| member.pod.spec.services.iter().any(|name| name == service));
    members.map(|member| (member.pod.host.v4, member.pod.host.v6)).collect()
}

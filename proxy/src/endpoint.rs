//! A backend and its endpoints as the request path holds them: what discovery said, together with what this proxy
//! learnt (load, health), keeps (connections) and counts (metrics). Everything is resolved here once, so that a request
//! only follows pointers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use lacewing_identity::SpiffeId;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    balance::{Balancer, Load, Loaded},
    cidr::Cidr,
    config::NO_ENDPOINT_TIMEOUT,
    discovery::{BackendKey, Pod},
    error::Error,
    first::Speaks,
    http::client::Client,
    live::{Direction, Key},
    metrics::{Class, Metrics, Peer},
    retry::Budget,
    route::DEFAULT_ROUTE,
    socket::Dialer,
    tls::{Identity, Transport},
};

/// What discovery says about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The app's address; unique within a backend.
    pub addr: SocketAddr,
    pub namespace: String,
    pub pod: String,
    /// `deployment/web`.
    pub workload: String,
    pub service_account: String,
    pub zone: String,
    /// `Some`: meshed, never to be spoken to in plain text.
    pub identity: Option<SpiffeId>,
    /// Connect here and say by SNI where to, because nothing redirects.
    pub direct: Option<Direct>,
}

/// How to reach a pod whose traffic is not redirected into its proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    pub proxy: SocketAddr,
    pub sni: ServerName<'static>,
}

/// An endpoint in use.
pub struct Endpoint {
    pub info: Info,
    load: Load,
    pub client: Arc<Client>,
    pub metrics: Arc<Peer>,
}

impl Loaded for Endpoint {
    fn load(&self) -> &Load {
        &self.load
    }
}

impl Endpoint {
    fn new(info: Info, service: Option<&str>, context: &Context) -> Arc<Self> {
        let (addr, sni) = match &info.direct {
            Some(direct) => (direct.proxy, Some(direct.sni.clone())),
            None => (info.addr, None),
        };
        // What goes to the pod itself stays on its loopback: nothing redirects it, and no proxy would answer.
        let loops_back = info.direct.is_none() && context.pod_ips.contains(&info.addr.ip());
        let peer = info.identity.clone().filter(|_| !loops_back);
        let mut labels = labels(&info, service);
        labels.push(("tls", if peer.is_some() { "true" } else { "no_identity" }.to_owned()));
        if loops_back {
            labels.push(("no_tls_reason", "loopback".to_owned()));
        }
        let transport = Transport::new(addr, peer, sni, context.identity.clone(), context.dialer);
        let key = Key {
            direction: Direction::Outbound,
            peer_namespace: info.namespace.clone(),
            peer: info.workload.clone(),
            service: service.map(str::to_owned),
            route: DEFAULT_ROUTE.to_owned(),
        };
        let metrics = context.metrics.peer(&key, labels);
        Arc::new(Self { info, load: Load::default(), client: Client::new(transport, Some(metrics.clone())), metrics })
    }

    /// Whether its own proxy answers there.
    pub fn is_meshed(&self) -> bool {
        self.client.transport.peer.is_some()
    }
}

/// The model's labels for an outbound peer.
fn labels(info: &Info, service: Option<&str>) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        ("dst_namespace", info.namespace.clone()),
        ("dst_pod", info.pod.clone()),
        ("dst_serviceaccount", info.service_account.clone()),
    ];
    if let Some(service) = service {
        labels.push(("dst_service", service_name(service).to_owned()));
    }
    if let Some((kind, name)) = info.workload.split_once('/') {
        let kind = match kind {
            "deployment" => "dst_deployment",
            "statefulset" => "dst_statefulset",
            "daemonset" => "dst_daemonset",
            "replicaset" => "dst_replicaset",
            "job" => "dst_k8s_job",
            _ => "dst_workload",
        };
        labels.push((kind, name.to_owned()));
    }
    if let Some(id) = &info.identity {
        labels.push(("server_id", id.to_string()));
    }
    if !info.zone.is_empty() {
        labels.push(("dst_zone", info.zone.clone()));
    }
    labels
}

/// The Service's name in `namespace/name:port`.
fn service_name(backend: &str) -> &str {
    let service = backend.split_once('/').map_or(backend, |(_, name)| name);
    service.rsplit_once(':').map_or(service, |(name, _)| name)
}

/// What endpoints are made with.
pub struct Context {
    pub identity: Arc<Identity>,
    pub metrics: Arc<Metrics>,
    pub dialer: Dialer,
    /// The pod's own addresses.
    pub pod_ips: Vec<IpAddr>,
    /// The ports at which the proxy takes what it passes on.
    pub spine_ports: Vec<u16>,
    pub cluster_networks: Vec<Cidr>,
}

impl Context {
    /// Whether what is sent there would come back to this proxy.
    fn is_own(&self, addr: SocketAddr) -> bool {
        (addr.ip().is_loopback() || self.pod_ips.contains(&addr.ip())) && self.spine_ports.contains(&addr.port())
    }
}

/// A backend: the endpoints of one port of one Service; or one pod that is dialled by its address, which then has the
/// policy of the only Service that leads there.
pub struct Backend {
    /// `namespace/service:port`; of a pod without such a Service `namespace/pod:port`.
    pub name: String,
    /// `namespace/service:port`, where a Service applies.
    service: Option<String>,
    /// Why no Service applies; empty where one does.
    pub why_no_service: String,
    /// Who has spoken first so far.
    pub speaks: Speaks,
    pub balancer: Balancer<Endpoint>,
    pub budget: Budget,
    /// The endpoints' first answer has come.
    known: AtomicBool,
    changed: watch::Sender<()>,
    /// Since when nothing is ready.
    empty_since: Mutex<Option<Instant>>,
    /// Numbers about requests that found no endpoint.
    nobody: OnceLock<Arc<Peer>>,
    context: Arc<Context>,
}

impl Backend {
    pub fn of_service(key: &BackendKey, context: Arc<Context>) -> Arc<Self> {
        Self::new(key.to_string(), Some(key.to_string()), String::new(), context)
    }

    pub fn of_pod(pod: &Pod, context: Arc<Context>) -> Arc<Self> {
        let Pod { info, service, why_no_service, .. } = pod;
        let service = service.as_ref().map(BackendKey::to_string);
        let name = service.clone().unwrap_or_else(|| format!("{}/{}:{}", info.namespace, info.pod, info.addr.port()));
        Self::new(name, service, why_no_service.clone(), context)
    }

    fn new(name: String, service: Option<String>, why_no_service: String, context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            name,
            service,
            why_no_service,
            speaks: Speaks::default(),
            balancer: Balancer::default(),
            budget: Budget::default(),
            known: AtomicBool::new(false),
            changed: watch::Sender::new(()),
            empty_since: Mutex::new(Some(Instant::now())),
            nobody: OnceLock::new(),
            context,
        })
    }

    /// Whether it stands for the same thing.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.name, &self.service, &self.why_no_service) == (&other.name, &other.service, &other.why_no_service)
    }

    /// Replaces the endpoints. One that did not change keeps its connections and its history; one that is this proxy itself
    /// is none: a request to it would come back here until nothing is left.
    pub fn set(&self, mut infos: Vec<Info>) {
        infos.retain(|info| info.direct.is_some() || !self.context.is_own(info.addr));
        let old = self.balancer.endpoints();
        let by_addr: std::collections::HashMap<SocketAddr, &Arc<Endpoint>> =
            old.iter().map(|endpoint| (endpoint.info.addr, endpoint)).collect();
        let endpoints: Vec<Arc<Endpoint>> = infos
            .into_iter()
            .map(|info| match by_addr.get(&info.addr) {
                Some(same) if same.info == info => (*same).clone(),
                _ => Endpoint::new(info, self.service.as_deref(), &self.context),
            })
            .collect();
        let mut empty_since = self.empty_since.lock();
        *empty_since = if endpoints.is_empty() { empty_since.or_else(|| Some(Instant::now())) } else { None };
        drop(empty_since);
        self.balancer.set(endpoints);
        self.known.store(true, Relaxed);
        self.changed.send_replace(());
    }

    /// The endpoint for the next attempt, none of `tried`. Waits up to [`NO_ENDPOINT_TIMEOUT`] where none is ready.
    ///
    /// # Errors
    /// [`Error::NoEndpoint`], with the reason.
    pub async fn pick(&self, tried: &[Arc<Endpoint>], now: Instant) -> Result<Arc<Endpoint>, Error> {
        if let Some(endpoint) = self.balancer.pick(tried, now) {
            return Ok(endpoint);
        }
        // With all endpoints tried, a second round beats an error: the connect error may have been a passing one.
        if !tried.is_empty() {
            return self.balancer.pick(&[], now).ok_or_else(|| self.none());
        }
        Box::pin(self.wait_for_one(now + NO_ENDPOINT_TIMEOUT)).await
    }

    async fn wait_for_one(&self, deadline: Instant) -> Result<Arc<Endpoint>, Error> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(endpoint) = self.balancer.pick(&[], Instant::now()) {
                return Ok(endpoint);
            }
            if timeout_at(deadline, changed.changed()).await.is_err() {
                return Err(self.none());
            }
        }
    }

    /// An attempt at `endpoint` failed: the balancer learns of it, unless it was not the endpoint's doing.
    pub fn failed(&self, endpoint: &Endpoint, error: &Error) {
        match error {
            Error::ClientBody(_) | Error::NoCertificate(_) => {}
            // It answered, if that is the word: its latency is what it is.
            Error::Reset(_) | Error::BadAnswer(_) => self.balancer.outcome(endpoint, false, Instant::now()),
            _ => self.balancer.failed(endpoint, Instant::now()),
        }
    }

    /// A request found no endpoint: it counts as a failure of the service.
    pub fn not_served(&self, after: Duration) {
        let nobody = self.nobody.get_or_init(|| {
            let key = Key {
                direction: Direction::Outbound,
                peer_namespace: String::new(),
                peer: "none".to_owned(),
                service: self.service.clone(),
                route: DEFAULT_ROUTE.to_owned(),
            };
            let service = service_name(self.service.as_deref().unwrap_or(&self.name)).to_owned();
            self.context.metrics.peer(&key, vec![("dst_service", service)])
        });
        nobody.response(http::StatusCode::SERVICE_UNAVAILABLE, None, Class::Failure, after);
    }

    fn none(&self) -> Error {
        let known = self.known.load(Relaxed);
        let why = if known { "the Service selects no ready pod" } else { "the controller did not list them yet" };
        let since = self.empty_since.lock().map_or(Duration::ZERO, |since| since.elapsed());
        Error::NoEndpoint { service: self.name.clone(), why, since }
    }
}

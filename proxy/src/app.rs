//! Builds each part once, by hand, top to bottom; the only file that knows them all, and the only one that starts
//! long-lived tasks.

use std::{
    io,
    net::{self, SocketAddr},
    process::ExitCode,
    sync::{Arc, Weak},
    time::Duration,
};

use lacewing_ops::{
    admin as http_admin, log,
    settings::{Asked, EXIT_BAD_SETTINGS},
    signal,
};
use parking_lot::Mutex;
use rustls_pki_types::UnixTime;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::{
    admin::Admin,
    certify, clock,
    config::{Config, LAST_WORDS, TRIM_INTERVAL},
    discovery::{self, Discovery},
    endpoint::Context,
    first::Meshed,
    inbound::{self, Inbound},
    kept,
    listen::{self, Drain, Draining, Leaver},
    metrics::Metrics,
    outbound::{self, Listener, Outbound},
    sys, tcp,
    tls::Identity,
};

/// Runs the proxy until it is told to stop. Settings come from `env` (name → value).
pub fn run(env: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    let config = Config::read(env).map_err(|error| error.to_string());
    let config = config.and_then(|config| log::init(&config.log).map(|()| config));
    if config.is_err() {
        // The log is not there yet, or cannot be as wished.
        let _ = log::init("warn");
    }
    warn_of_settings_in_vain(env);
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("lacewing-proxy: {error}");
            return ExitCode::from(EXIT_BAD_SETTINGS);
        }
    };
    match runtime().and_then(|runtime| runtime.block_on(serve(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("lacewing-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Proxy and init step may share an environment: what is a setting of either is not set in vain.
pub fn warn_of_settings_in_vain(env: &dyn Fn(&str) -> Option<String>) {
    let asked = Asked::new(env);
    // Each says for itself what is wrong.
    let _ = Config::read(&|name| asked.get(name));
    #[cfg(target_os = "linux")]
    let _ = crate::init::settings::Redirection::read(&|name| asked.get(name));
    asked.warn_of_others();
}

/// Of one thread: no wake-ups across threads for a connection and its requests.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn serve(mut config: Config) -> io::Result<()> {
    if let Some(bundle) = config.state_dir.as_deref().and_then(kept::read) {
        config.control.bundle = bundle;
    }
    let doors = doors(&config)?;
    let admin_ports = http_admin::bind_all(&config.admin, "LACEWING_ADMIN_ADDR")?;
    let private_port = http_admin::bind(config.private_admin, "LACEWING_PRIVATE_ADMIN_ADDR")?;

    let started = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()));
    let (metrics, registry) = Metrics::new(started);
    let identity = Arc::new(Identity::default());
    let context = Arc::new(Context {
        identity: identity.clone(),
        metrics: metrics.clone(),
        dialer: config.dialer,
        pod_ips: config.pod_ips.clone(),
        spine_ports: config.outbound.iter().chain(&config.inbound).map(SocketAddr::port).collect(),
        cluster_networks: config.cluster_networks.clone(),
    });
    let discovery = Discovery::new(context);
    // The app may still call others while it finishes what came in: outbound drains last.
    let (inbound_drain, outbound_drain) = (Drain::default(), Drain::default());

    if let Some(dir) = config.state_dir.clone() {
        tokio::spawn(kept::run(dir, identity.clone()));
    }
    tokio::spawn(certify::run(identity.clone(), config.control.clone(), metrics.clone()));
    tokio::spawn(discovery::client::run(discovery.clone(), config.control.clone(), config.pod.clone()));

    // A flood from outside must not keep the app from calling others: each direction has its half.
    let most = (sys::connections_max(sys::raise_open_files()) / 2).max(1);
    let parts = Parts { config: &config, discovery: &discovery, identity: &identity, metrics: &metrics };
    let spine = Spine {
        outbound: parts.outbound(&outbound_drain),
        outbound_slots: Arc::new(Semaphore::new(most)),
        outbound_drain: outbound_drain.handle(),
        inbound: parts.inbound(&inbound_drain),
        inbound_slots: Arc::new(Semaphore::new(most)),
        inbound_drain: inbound_drain.handle(),
    };
    for _ in 1..config.workers {
        work_beside(&doors, spine.clone())?;
    }
    spine.accept(doors)?;
    tokio::spawn(leave_with_the_pod(discovery.clone(), inbound_drain.leaver()));

    tracing::info!(
        pod = config.pod,
        namespace = config.namespace,
        version = env!("CARGO_PKG_VERSION"),
        "lacewing-proxy is up"
    );
    tokio::spawn(housekeeping(discovery.clone(), Arc::downgrade(&spine.inbound), metrics.clone()));
    let (exit_with_parent, patience) = (config.exit_with_parent, config.drain);
    let admin = Arc::new(Admin { config, discovery, identity, metrics, registry });
    for port in admin_ports {
        let public = admin.clone();
        let answer = move |request| {
            let public = public.clone();
            async move { public.public(request).await }
        };
        tokio::spawn(http_admin::serve_async(port, answer));
    }
    tokio::spawn(http_admin::serve(private_port, move |request| admin.private(request)));

    let why = signal::stop_requested(exit_with_parent).await?;
    tracing::info!(reason = why, "draining");
    // What is held here would be waited for, too; what counts is connections.
    drop(spine);
    let deadline = Instant::now() + patience;
    let served = inbound_drain.drain(patience).await;
    // Whatever the time is: the app's own connections hear that it is over.
    let rest = deadline.saturating_duration_since(Instant::now()).max(LAST_WORDS);
    let all_gone = outbound_drain.drain(rest).await && served;
    if !all_gone {
        tracing::warn!("connections were still open after {}s; ending them", patience.as_secs());
    }
    Ok(())
}

/// A port that is listened on, and for whom.
struct Door {
    port: net::TcpListener,
    opens: Opens,
}

#[derive(Clone)]
enum Opens {
    Outbound(Listener),
    Inbound,
}

fn doors(config: &Config) -> io::Result<Vec<Door>> {
    let mut doors = Vec::new();
    let mut add = |port: TcpListener, opens| port.into_std().map(|port| doors.push(Door { port, opens }));
    for port in http_admin::bind_all(&config.outbound, "LACEWING_OUTBOUND_ADDR")? {
        add(port, Opens::Outbound(Listener::Outbound))?;
    }
    for port in http_admin::bind_all(&config.inbound, "LACEWING_INBOUND_ADDR")? {
        add(port, Opens::Inbound)?;
    }
    for mapped in &config.outbound_map {
        let port = http_admin::bind(mapped.listen, "LACEWING_OUTBOUND_MAP")?;
        add(port, Opens::Outbound(Listener::Mapped(mapped.target.as_str().into())))?;
    }
    Ok(doors)
}

/// What serves connections, on whichever thread.
#[derive(Clone)]
struct Spine {
    outbound: Arc<Outbound>,
    outbound_slots: Arc<Semaphore>,
    outbound_drain: Draining,
    inbound: Arc<Inbound>,
    inbound_slots: Arc<Semaphore>,
    inbound_drain: Draining,
}

impl Spine {
    /// Accepts on this thread.
    fn accept(&self, doors: Vec<Door>) -> io::Result<()> {
        for Door { port, opens } in doors {
            let port = TcpListener::from_std(port)?;
            match opens {
                Opens::Outbound(listener) => {
                    let out = self.outbound.clone();
                    let connection = move |arrived| outbound::connection(out.clone(), arrived, listener.clone());
                    let (slots, draining) = (self.outbound_slots.clone(), self.outbound_drain.clone());
                    tokio::spawn(listen::accept(port, slots, draining, connection));
                }
                Opens::Inbound => {
                    let into = self.inbound.clone();
                    let connection = move |arrived| inbound::connection(into.clone(), arrived);
                    let (slots, draining) = (self.inbound_slots.clone(), self.inbound_drain.clone());
                    tokio::spawn(listen::accept(port, slots, draining, connection));
                }
            }
        }
        Ok(())
    }
}

/// One more thread that accepts from the same sockets: whoever has time takes the next connection, and serves it to its
/// end. The thread ends with the process, which waits for the connections.
fn work_beside(doors: &[Door], spine: Spine) -> io::Result<()> {
    let doors = doors.iter().map(|Door { port, opens }| Ok(Door { port: port.try_clone()?, opens: opens.clone() }));
    let doors: Vec<Door> = doors.collect::<io::Result<_>>()?;
    let runtime = runtime()?;
    let work = async move {
        if let Err(error) = spine.accept(doors) {
            tracing::error!(%error, "a worker cannot accept connections");
        }
        // What is held here would be waited for.
        drop(spine);
        loop {
            sleep(TRIM_INTERVAL).await;
            tcp::buffer::forget_spare();
        }
    };
    std::thread::Builder::new().name("worker".to_owned()).spawn(move || runtime.block_on(work)).map(drop)
}

fn own_ports(config: &Config) -> Vec<u16> {
    let Config { outbound, inbound, admin, private_admin, .. } = config;
    [outbound, inbound, admin].into_iter().flatten().chain([private_admin]).map(SocketAddr::port).collect()
}

/// What both spines are made of.
struct Parts<'a> {
    config: &'a Config,
    discovery: &'a Arc<Discovery>,
    identity: &'a Arc<Identity>,
    metrics: &'a Arc<Metrics>,
}

impl Parts<'_> {
    fn outbound(&self, drain: &Drain) -> Arc<Outbound> {
        Arc::new(Outbound {
            discovery: self.discovery.clone(),
            metrics: self.metrics.clone(),
            draining: drain.handle(),
            dialer: self.config.dialer,
            allow_connect: self.config.allow_connect,
            own_ports: own_ports(self.config),
            as_is: Default::default(),
        })
    }

    fn inbound(&self, drain: &Drain) -> Arc<Inbound> {
        Arc::new(Inbound {
            discovery: self.discovery.clone(),
            identity: self.identity.clone(),
            metrics: self.metrics.clone(),
            draining: drain.handle(),
            dialer: self.config.dialer,
            pod_ips: self.config.pod_ips.clone(),
            own_ports: own_ports(self.config),
            allow_connect: self.config.allow_connect,
            apps: Mutex::default(),
            peers: Mutex::default(),
            meshed: Meshed::default(),
            probes: self.config.probes.clone(),
        })
    }
}

/// While the pod is being deleted, its clients are asked to go elsewhere: long before the proxy itself is told to stop,
/// since that comes after the app has ended. Followed, not latched: the first answer may be about a namesake that is gone.
async fn leave_with_the_pod(discovery: Arc<Discovery>, leaver: Leaver) {
    let mut inbound = discovery.inbound().subscribe();
    let mut left = false;
    loop {
        let terminating = inbound.borrow_and_update().as_ref().is_some_and(|inbound| inbound.terminating);
        if terminating && !left {
            tracing::info!("the pod is being deleted: its clients are asked to go elsewhere");
        }
        left = terminating;
        leaver.leave(terminating);
        if inbound.changed().await.is_err() {
            return;
        }
    }
}

/// Gives back what is no longer used: idle targets and connections, and free memory.
async fn housekeeping(discovery: Arc<Discovery>, inbound: Weak<Inbound>, metrics: Arc<Metrics>) {
    let mut tick = tokio::time::interval(TRIM_INTERVAL);
    loop {
        tick.tick().await;
        discovery.sweep();
        // Weakly held: what drains must not wait for this task.
        if let Some(inbound) = inbound.upgrade() {
            inbound.sweep();
        }
        metrics.live.tidy();
        tcp::buffer::forget_spare();
        sys::trim_memory();
    }
}

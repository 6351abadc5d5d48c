//! Owns the controller's life: builds each part once, by hand, top to bottom; starts what runs for as long as the
//! process; stops it. The only file that spawns long-lived tasks, and the only one that knows all parts.

use std::{
    future::{Future, pending},
    net::SocketAddr,
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use lacewing_ops::admin::{bind, serve};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{JoinError, JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    admin::{Admin, SourceStatus},
    clock,
    config::{self, Config},
    grpc::{self, Parts, streams::Streams},
    identity::Identity,
    listen::{CONNECTIONS_MAX, Server},
    metrics::Metrics,
    publish::Publisher,
    source::{
        SourceError,
        directory::{Directory, POLL_INTERVAL},
    },
    tokens::{
        DirectoryTokens,
        mint::{self, MintError, Minter, Pods},
    },
};

/// How often token files are checked when no pod changed.
const MINT_INTERVAL: Duration = Duration::from_secs(10);
/// Pause after token files could not be kept up; doubled each time, up to the longest.
const MINT_RETRY: Duration = Duration::from_secs(1);
const MINT_RETRY_MAX: Duration = Duration::from_secs(30);
/// Longest time between two looks at certificates: a suspended machine's clock jumps.
const RENEW_INTERVAL_MAX: Duration = Duration::from_secs(600);
/// Pause after a renewal that failed, and the shortest between two.
const RENEW_RETRY: Duration = Duration::from_secs(10);

/// A controller that listens but does not serve yet.
pub struct App {
    grpc: TcpListener,
    admin_listener: TcpListener,
    server: Server<DirectoryTokens>,
    admin: Admin,
    source: Source,
    stop: watch::Sender<bool>,
}

impl App {
    /// Builds every part and takes both ports. Works only within a runtime.
    ///
    /// # Errors
    /// A port, a file or a directory cannot be used: which, and what to do.
    pub fn start(config: Config) -> Result<Self> {
        let grpc = listen(config.grpc_addr, config::GRPC_ADDR)?;
        let admin_listener = listen(config.admin_addr, config::ADMIN_ADDR)?;
        let lifetime = config.leaf_lifetime.as_secs();
        let identity = Identity::open(&config.state_dir, &config.trust_domain, lifetime, clock::unix_now())?;
        let identity = Arc::new(identity);
        if let Err(error) = identity.renew_if_due(clock::unix_now(), jitter()?) {
            // With a certificate of our own we can serve; the issuer has half of its life left to be renewed.
            if identity.tls().is_none() {
                return Err(error.into());
            }
            tracing::error!("{error:#}; trying again");
        }
        let publisher = Arc::new(Publisher::new(config.trust_domain.clone()));
        publisher.trust(&identity.bundle());
        let key = Arc::new(mint::load_key(&config.state_dir)?);
        let minter = config.token_dir.map(|dir| Minter::new(dir, key.clone())).transpose()?;
        let (metrics, streams) = (Arc::new(Metrics::default()), Arc::new(Streams::new(random()?)));
        let (stop, stopping) = watch::channel(false);
        let service = grpc::server(Parts {
            publisher: publisher.clone(),
            identity: identity.clone(),
            reviewer: DirectoryTokens::new(key, publisher.clone()),
            metrics: metrics.clone(),
            streams: streams.clone(),
            stopping: stopping.clone(),
            now: clock::unix_now,
        });
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let status = Arc::new(Mutex::new(SourceStatus::default()));
        let directory = Directory::new(config.manifests);
        Ok(Self {
            grpc,
            admin_listener,
            server: Server {
                identity: identity.clone(),
                service,
                metrics: metrics.clone(),
                slots: slots.clone(),
                stopping,
            },
            source: Source {
                directory,
                publisher: publisher.clone(),
                minting: minter.map(Minting::new),
                status: status.clone(),
            },
            admin: Admin { publisher, identity, streams, metrics, source: status, slots, now: clock::unix_now },
            stop,
        })
    }

    /// Where gRPC is served.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn grpc_addr(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Where the admin port is.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// Serves until `stop` resolves, then drains.
    ///
    /// # Errors
    /// That of `stop`; or a part ended by itself: without it the controller would seem well and serve what is old.
    pub async fn serve(self, stop: impl Future<Output = Result<()>>) -> Result<()> {
        let mut background = JoinSet::new();
        background.spawn(named("the look at the manifests", self.source.follow()));
        let renewal = renew(self.server.identity.clone(), self.admin.publisher.clone());
        background.spawn(named("the renewal of certificates", renewal));
        let admin = self.admin;
        let admin = serve(self.admin_listener, move |request| admin.answer(request));
        background.spawn(named("the admin port", admin));
        let mut serving = JoinSet::new();
        serving.spawn(named("the gRPC port", self.server.serve(self.grpc)));
        let outcome = tokio::select! {
            outcome = stop => outcome,
            Some(ended) = background.join_next() => Err(ended_early(ended)),
            Some(ended) = serving.join_next() => Err(ended_early(ended)),
        };
        tracing::info!("stopping");
        // Fails only if nobody listens any more, and then there is nothing to stop.
        let _ = self.stop.send(true);
        while serving.join_next().await.is_some() {}
        outcome
    }
}

/// Runs a part of the controller, and says which it was when it has ended.
async fn named<T>(name: &'static str, part: impl Future<Output = T>) -> &'static str {
    part.await;
    name
}

fn ended_early(ended: Result<&'static str, JoinError>) -> Error {
    match ended {
        Ok(name) => anyhow!("{name} ended by itself; start the controller anew, and report its log"),
        Err(error) => anyhow!("a part of the controller failed: {error}; start it anew, and report its log"),
    }
}

fn listen(address: SocketAddr, setting: &str) -> Result<TcpListener> {
    let listener = bind(address, setting)?;
    let address = listener.local_addr().context("a listener without an address")?;
    tracing::info!(%address, setting, "listening");
    Ok(listener)
}

/// The directory, and who is told of it. Files are read and written beside the runtime's thread, which proxies wait for.
struct Source {
    directory: Directory,
    publisher: Arc<Publisher>,
    minting: Option<Minting>,
    status: Arc<Mutex<SourceStatus>>,
}

impl Source {
    async fn follow(self) {
        let Self { mut directory, publisher, mut minting, status } = self;
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let changes;
            (directory, changes) = beside(directory, Directory::poll).await;
            let changed = changes.is_some();
            if let Some(changes) = changes {
                publisher.apply(changes);
            }
            let mut errors = directory.errors();
            if let Some(mut due) = minting.take() {
                if directory.loaded() && due.is_due(changed, Instant::now()) {
                    let pods = pods(&publisher);
                    let now = clock::unix_now();
                    let outcome;
                    (due.minter, outcome) = beside(due.minter, move |minter| minter.sync(&pods, now)).await;
                    due.note(outcome, Instant::now());
                }
                errors.extend(due.error.clone());
                minting = Some(due);
            }
            *status.lock() = SourceStatus { loaded: directory.loaded(), errors };
        }
    }
}

/// Does work that may block on a thread for that. A panic in it goes on here, and so ends who asked.
async fn beside<T, R>(mut value: T, work: impl FnOnce(&mut T) -> R + Send + 'static) -> (T, R)
where
    T: Send + 'static,
    R: Send + 'static,
{
    let done = spawn_blocking(move || {
        let result = work(&mut value);
        (value, result)
    });
    match done.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only a runtime that ends cancels it, and then nobody waits here any more.
            Err(_) => pending().await,
        },
    }
}

/// Who needs a token, copied: the world must not be held while files are written.
fn pods(publisher: &Publisher) -> Pods {
    publisher
        .with_world(|world| world.pods().map(|(name, pod)| (name.clone(), pod.service_account().to_owned())).collect())
}

/// Keeps token files up when pods may have changed, and now and then.
struct Minting {
    minter: Minter,
    /// When to look at them next; nothing before the first time.
    due: Option<Instant>,
    /// After a failure: how long it is waited for.
    retry: Duration,
    /// Why the last time failed.
    error: Option<SourceError>,
}

impl Minting {
    fn new(minter: Minter) -> Self {
        Self { minter, due: None, retry: MINT_RETRY, error: None }
    }

    /// After a failure even a change waits its turn: a full disk is not written to five times a second.
    fn is_due(&self, changed: bool, now: Instant) -> bool {
        (changed && self.error.is_none()) || self.due.is_none_or(|due| due <= now)
    }

    /// Sets the next time, and reports a failure that is new.
    fn note(&mut self, outcome: Result<(), MintError>, now: Instant) {
        let error = outcome.err().map(|error| minting_failed(&error));
        if let Some(error) = error.as_ref().filter(|error| self.error.as_ref() != Some(*error)) {
            tracing::error!("{error}");
        }
        let pause = if error.is_some() { self.retry } else { MINT_INTERVAL };
        self.retry = if error.is_some() { (self.retry * 2).min(MINT_RETRY_MAX) } else { MINT_RETRY };
        self.due = Some(now + pause);
        self.error = error;
    }
}

fn minting_failed(error: &MintError) -> SourceError {
    SourceError {
        file: error.path().display().to_string(),
        line: None,
        column: None,
        cause: error.to_string(),
        in_force: "proxies of pods without a token get no certificate".to_owned(),
    }
}

/// Keeps issuer and own certificate fresh.
async fn renew(identity: Arc<Identity>, publisher: Arc<Publisher>) {
    loop {
        let now = clock::unix_now();
        let outcome = jitter().and_then(|jitter| Ok(identity.renew_if_due(now, jitter)?));
        let pause = match outcome {
            Ok(next) => Duration::from_secs(next.saturating_sub(now)).clamp(RENEW_RETRY, RENEW_INTERVAL_MAX),
            Err(error) => {
                tracing::error!("cannot renew: {error:#}; what is there stays in use, trying again");
                RENEW_RETRY
            }
        };
        publisher.trust(&identity.bundle());
        sleep(pause).await;
    }
}

/// From 0 to 1, at random.
fn jitter() -> Result<f64> {
    Ok(random()? as f64 / u64::MAX as f64)
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no random bytes")?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests;

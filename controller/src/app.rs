//! Owns the controller's life: builds each part once, by hand, top to bottom; starts what runs for as long as the
//! process; stops it. The only file that spawns long-lived tasks, and the only one that knows all parts.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use lacewing_ops::admin::{bind, serve};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
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
        mint::{self, MintError, Minter},
    },
};

/// How often token files are checked when no pod changed.
const MINT_INTERVAL: Duration = Duration::from_secs(10);
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
    /// Builds every part and takes both ports.
    ///
    /// # Errors
    /// A port, a file or a directory cannot be used: which, and what to do.
    pub async fn start(config: Config) -> Result<Self> {
        let grpc = listen(config.grpc_addr, config::GRPC_ADDR).await?;
        let admin_listener = listen(config.admin_addr, config::ADMIN_ADDR).await?;
        let lifetime = config.leaf_lifetime.as_secs();
        let identity = Identity::open(&config.state_dir, &config.trust_domain, lifetime, clock::unix_now())?;
        let identity = Arc::new(identity);
        identity.renew_if_due(clock::unix_now(), jitter()?)?;
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
            source: Source { directory, publisher: publisher.clone(), minter, minted_at: None, status: status.clone() },
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
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let mut background = JoinSet::new();
        background.spawn(self.source.follow());
        background.spawn(renew(self.server.identity.clone(), self.admin.publisher.clone()));
        let admin = self.admin;
        background.spawn(serve(self.admin_listener, move |request| admin.answer(request)));
        let mut serving = JoinSet::new();
        serving.spawn(self.server.serve(self.grpc));
        stop.await;
        tracing::info!("stopping");
        // Fails only if nobody listens any more, and then there is nothing to stop.
        let _ = self.stop.send(true);
        while serving.join_next().await.is_some() {}
    }
}

async fn listen(address: SocketAddr, setting: &str) -> Result<TcpListener> {
    let listener = bind(address, setting).await?;
    let address = listener.local_addr().context("a listener without an address")?;
    tracing::info!(%address, setting, "listening");
    Ok(listener)
}

/// The directory, and who is told of it.
struct Source {
    directory: Directory,
    publisher: Arc<Publisher>,
    minter: Option<Minter>,
    minted_at: Option<Instant>,
    status: Arc<Mutex<SourceStatus>>,
}

impl Source {
    async fn follow(mut self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        let changes = self.directory.poll();
        let changed = changes.is_some();
        if let Some(changes) = changes {
            self.publisher.apply(changes);
        }
        let mut errors = self.directory.errors();
        if self.directory.loaded() {
            errors.extend(self.mint(changed));
        }
        *self.status.lock() = SourceStatus { loaded: self.directory.loaded(), errors };
    }

    /// Keeps token files up when pods may have changed, and now and then. What fails is tried again at the next look,
    /// and reported once.
    fn mint(&mut self, changed: bool) -> Option<SourceError> {
        let minter = self.minter.as_mut()?;
        if !changed && self.minted_at.is_some_and(|at| at.elapsed() < MINT_INTERVAL) {
            return None;
        }
        let outcome = self.publisher.with_world(|world| minter.sync(world, clock::unix_now()));
        self.minted_at = outcome.is_ok().then(Instant::now);
        let error = minting_failed(&outcome.err()?);
        if !self.status.lock().errors.contains(&error) {
            tracing::error!("{error}");
        }
        Some(error)
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

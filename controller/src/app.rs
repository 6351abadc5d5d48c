//! Owns the controller's life: builds each part once, by hand, top to bottom; starts what runs for as long as the
//! process; stops it. The only file that spawns long-lived tasks, and the only one that knows all parts.

mod directory;

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use anyhow::{Context, Error, Result, anyhow};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use lacewing_ops::admin::{bind_both, serve};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{JoinError, JoinSet},
};

use crate::{
    admin::{Admin, SourceStatus},
    clock,
    cluster::Cluster,
    config::{self, Config},
    events::{self, Events},
    grpc::{self, Parts, streams::Streams},
    identity::{
        Identity, OWN_SERVICE_ACCOUNT,
        keeper::{self, Keeper},
        secrets::Secrets,
        store::{self, Store},
    },
    inject::{Mesh, settings::ProxySettings},
    lease,
    listen::{CONNECTIONS_MAX, Server},
    metrics::Metrics,
    publish::Publisher,
    source::{directory::Directory, kubernetes},
    tokens::{
        DirectoryTokens, ReviewedTokens, Tokens,
        mint::{self, Minter},
    },
    webhook::Webhook,
};
use directory::{Follower, Minting};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
/// A part that runs for as long as the process, and its name.
type Part = (&'static str, Work);

/// What depends on where cluster state comes from.
struct Source {
    parts: Vec<Part>,
    /// What is done when all else has ended.
    last: Option<Work>,
    reviewer: Tokens,
    /// Whether this replica is the one that may write.
    leading: watch::Receiver<bool>,
    /// Where the trust root is kept.
    store: Store,
    /// Where the webhook is registered, and the DNS name that its certificate is for.
    webhook: Option<(Cluster, String)>,
    injection: Option<Injection>,
}

/// What the webhook's port is made of.
struct Injection {
    port: TcpListener,
    settings: ProxySettings,
    namespace: String,
    events: Events,
}

/// A controller that listens but does not serve yet.
pub struct App {
    grpc: TcpListener,
    admin_listener: TcpListener,
    server: Server<Tokens>,
    admin: Admin,
    webhook: Option<(TcpListener, Webhook)>,
    parts: Vec<Part>,
    last: Option<Work>,
    stop: watch::Sender<bool>,
}

impl App {
    /// Builds every part and takes both ports. Works only within a runtime.
    ///
    /// # Errors
    /// A port, a file or a directory cannot be used: which, and what to do.
    pub async fn start(config: Config) -> Result<Self> {
        let grpc = listen(config.grpc_addr, config::GRPC_ADDR)?;
        let admin_listener = listen(config.admin_addr, config::ADMIN_ADDR)?;
        let publisher = Arc::new(Publisher::new(config.trust_domain.clone()));
        let (metrics, streams) = (Arc::new(Metrics::default()), Arc::new(Streams::new(random()?)));
        let status = Arc::new(Mutex::new(SourceStatus::default()));
        let mut source = match config.source {
            config::Source::Directory(config) => from_directory(config, &publisher, &status)?,
            config::Source::Kubernetes(config) => from_cluster(&config, &publisher, &status).await?,
        };
        let (injector, webhook_name) = source.webhook.unzip();
        let (lifetime, place) = (config.leaf_lifetime.as_secs(), source.store.place());
        let identity = Arc::new(Identity::new(&config.trust_domain, lifetime, place, webhook_name)?);
        let mut keeper = Keeper {
            identity: identity.clone(),
            store: source.store,
            publisher: publisher.clone(),
            streams: streams.clone(),
            leading: source.leading.clone(),
            injector,
            now: clock::unix_now,
            jitter,
            done: keeper::Done::default(),
        };
        keeper.start().await?;
        source.parts.push(("the care for trust", Box::pin(keeper.run())));
        let (stop, stopping) = watch::channel(false);
        let shared = (&publisher, &identity, &metrics);
        let webhook = source.injection.map(|injection| injection.webhook(shared, stopping.clone()));
        let service = grpc::server(Parts {
            publisher: publisher.clone(),
            identity: identity.clone(),
            reviewer: source.reviewer,
            metrics: metrics.clone(),
            streams: streams.clone(),
            stopping: stopping.clone(),
            now: clock::unix_now,
        });
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
            webhook,
            parts: source.parts,
            last: source.last,
            admin: Admin {
                publisher,
                identity,
                streams,
                metrics,
                source: status,
                leading: source.leading,
                slots,
                now: clock::unix_now,
            },
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

    /// Serves until `stop` resolves, then drains, ends every part, and gives the Lease back.
    ///
    /// # Errors
    /// That of `stop`; or a part ended by itself: without it the controller would seem well and serve what is old.
    pub async fn serve(self, stop: impl Future<Output = Result<()>>) -> Result<()> {
        let mut background = JoinSet::new();
        for (name, part) in self.parts {
            background.spawn(named(name, part));
        }
        let admin = self.admin;
        let admin = serve(self.admin_listener, move |request| admin.answer(request));
        background.spawn(named("the admin port", admin));
        let mut serving = JoinSet::new();
        serving.spawn(named("the gRPC port", self.server.serve(self.grpc)));
        if let Some((port, webhook)) = self.webhook {
            serving.spawn(named("the webhook's port", webhook.serve(port)));
        }
        let outcome = tokio::select! {
            outcome = stop => outcome,
            Some(ended) = background.join_next() => Err(ended_early(ended)),
            Some(ended) = serving.join_next() => Err(ended_early(ended)),
        };
        tracing::info!("stopping");
        // Fails only if nobody listens any more, and then there is nothing to stop.
        let _ = self.stop.send(true);
        while serving.join_next().await.is_some() {}
        // Nobody may write any more when another replica is let in.
        background.shutdown().await;
        if let Some(last) = self.last {
            last.await;
        }
        outcome
    }
}

/// Manifests, and tokens that we mint ourselves.
fn from_directory(
    config: config::Directory,
    publisher: &Arc<Publisher>,
    status: &Arc<Mutex<SourceStatus>>,
) -> Result<Source> {
    let store = Store::Directory(store::Directory::open(&config.state_dir)?);
    let key = Arc::new(mint::load_key(&config.state_dir)?);
    let minter = config.token_dir.map(|dir| Minter::new(dir, key.clone())).transpose()?;
    let follower = Follower {
        directory: Directory::new(config.manifests),
        publisher: publisher.clone(),
        minting: minter.map(Minting::new),
        status: status.clone(),
    };
    Ok(Source {
        parts: vec![("the look at the manifests", Box::pin(follower.follow()))],
        last: None,
        reviewer: Tokens::Directory(DirectoryTokens::new(key, publisher.clone())),
        // There is nobody else.
        leading: watch::channel(true).1,
        store,
        webhook: None,
        injection: None,
    })
}

/// A Kubernetes API server, which also knows its tokens.
async fn from_cluster(
    config: &config::Kubernetes,
    publisher: &Arc<Publisher>,
    status: &Arc<Mutex<SourceStatus>>,
) -> Result<Source> {
    let cluster = Cluster::open(config.kubeconfig.as_deref()).await?;
    let (lead, leading) = watch::channel(false);
    let following = kubernetes::follow(cluster.clone(), publisher.clone(), status.clone());
    let (namespace, own) = (config.namespace.clone(), config.pod_name.clone());
    let release = lease::release(cluster.clone(), namespace.clone(), own.clone(), leading.clone(), clock::unix_now);
    let election = lease::follow(cluster.clone(), namespace, own, lead, clock::unix_now);
    let (events, queue) = events::queue();
    let telling = events::follow(cluster.clone(), queue, config.pod_name.clone(), clock::unix_now);
    let port = listen(config.webhook_addr, config::WEBHOOK_ADDR)?;
    let (settings, namespace) = (config.proxy.clone(), config.namespace.clone());
    publisher.set_default_inbound(settings.inbound());
    Ok(Source {
        parts: vec![
            ("the look at the cluster", Box::pin(following)),
            ("the election", Box::pin(election)),
            ("the writing of Events", Box::pin(telling)),
        ],
        last: Some(Box::pin(release)),
        injection: Some(Injection { port, settings, namespace, events }),
        reviewer: Tokens::Kubernetes(ReviewedTokens::new(cluster.clone())),
        leading,
        store: Store::Secrets(Secrets::new(cluster.clone(), config.namespace.clone())),
        webhook: Some((cluster, format!("{OWN_SERVICE_ACCOUNT}.{}.svc", config.namespace))),
    })
}

impl Injection {
    fn webhook(
        self,
        (publisher, identity, metrics): (&Arc<Publisher>, &Arc<Identity>, &Arc<Metrics>),
        stopping: watch::Receiver<bool>,
    ) -> (TcpListener, Webhook) {
        let Self { port, settings, namespace, events } = self;
        let (for_tls, for_pods) = (identity.clone(), identity.clone());
        let trust_domain = publisher.trust_domain().to_string();
        let mesh = move || {
            let (settings, namespace, trust_domain) = (settings.clone(), namespace.clone(), trust_domain.clone());
            Some(Mesh { settings, bundle: for_pods.bundle()?.to_pem(), trust_domain, namespace })
        };
        let webhook = Webhook {
            publisher: publisher.clone(),
            tls: Box::new(move || for_tls.webhook_tls()),
            mesh: Box::new(mesh),
            report: Box::new(move |about, message| events.note(about, "InjectionSkipped", message)),
            metrics: metrics.clone(),
            stopping,
        };
        (port, webhook)
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
    let listener = bind_both(address, setting)?;
    let address = listener.local_addr().context("a listener without an address")?;
    tracing::info!(%address, setting, "listening");
    Ok(listener)
}

/// From 0 to 1, at random; the middle if the system gives nothing random.
fn jitter() -> f64 {
    random().map_or(0.5, |random| random as f64 / u64::MAX as f64)
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no random bytes")?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests;

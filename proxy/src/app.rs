//! Builds each part once, by hand, top to bottom; the only file that knows them all, and the only one that starts
//! long-lived tasks.

use std::{
    io,
    process::ExitCode,
    sync::{Arc, Weak},
    time::Duration,
};

use lacewing_ops::{admin as http_admin, log, settings::EXIT_BAD_SETTINGS, signal};
use rustls_pki_types::UnixTime;
use tokio::time::Instant;

use crate::{
    admin::Admin,
    certify, clock,
    config::{Config, TRIM_INTERVAL},
    discovery::{self, Discovery},
    endpoint::Context,
    inbound::{self, Inbound},
    listen::{self, Drain},
    metrics::Metrics,
    outbound::{self, Destination, Outbound},
    sys,
    tls::Identity,
};

/// Runs the proxy until it is told to stop. Settings come from `env` (name → value).
pub fn run(env: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    let config = match Config::read(env).map_err(|error| error.to_string()).and_then(|config| {
        log::init(&config.log)?;
        Ok(config)
    }) {
        Ok(config) => config,
        Err(error) => {
            // The log is not there yet, or cannot be.
            let _ = log::init("error");
            tracing::error!("lacewing-proxy: {error}");
            return ExitCode::from(EXIT_BAD_SETTINGS);
        }
    };
    // One thread: one malloc arena, no wake-ups across threads. A sidecar rarely gets more than one core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("lacewing-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> io::Result<()> {
    let outbound_port = http_admin::bind(config.outbound, "LACEWING_OUTBOUND_ADDR").await?;
    let inbound_port = http_admin::bind(config.inbound, "LACEWING_INBOUND_ADDR").await?;
    let admin_port = http_admin::bind(config.admin, "LACEWING_ADMIN_ADDR").await?;
    let private_port = http_admin::bind(config.private_admin, "LACEWING_PRIVATE_ADMIN_ADDR").await?;
    let mut mapped_ports = Vec::new();
    for mapped in &config.outbound_map {
        mapped_ports.push((http_admin::bind(mapped.listen, "LACEWING_OUTBOUND_MAP").await?, mapped.target.clone()));
    }

    let started = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now()));
    let (metrics, registry) = Metrics::new(started);
    let identity = Arc::new(Identity::default());
    let context = Arc::new(Context { identity: identity.clone(), metrics: metrics.clone() });
    let discovery = Discovery::new(context);
    // The app may still call others while it finishes what came in: outbound drains last.
    let (inbound_drain, outbound_drain) = (Drain::default(), Drain::default());

    tokio::spawn(certify::run(identity.clone(), config.control.clone(), metrics.clone()));
    tokio::spawn(discovery::client::run(discovery.clone(), config.control.clone(), config.pod.clone()));

    let out = Arc::new(Outbound {
        discovery: discovery.clone(),
        metrics: metrics.clone(),
        draining: outbound_drain.handle(),
    });
    let mut listeners = vec![(outbound_port, Destination::Authority)];
    listeners.extend(mapped_ports.into_iter().map(|(port, target)| (port, Destination::Mapped(target.into()))));
    for (port, destination) in listeners {
        let out = out.clone();
        let connection = move |socket, from| outbound::connection(out.clone(), socket, from, destination.clone());
        tokio::spawn(listen::accept(port, outbound_drain.handle(), connection));
    }
    let own_ports =
        [config.outbound, config.inbound, config.admin, config.private_admin].map(|addr| addr.port()).to_vec();
    let into = Arc::new(Inbound::new(
        discovery.clone(),
        identity.clone(),
        metrics.clone(),
        inbound_drain.handle(),
        config.pod_ip,
        own_ports,
    ));
    tokio::spawn(listen::accept(inbound_port, inbound_drain.handle(), {
        let into = into.clone();
        move |socket, from| inbound::connection(into.clone(), socket, from)
    }));

    tracing::info!(
        pod = config.pod,
        namespace = config.namespace,
        version = env!("CARGO_PKG_VERSION"),
        "lacewing-proxy is up"
    );
    tokio::spawn(housekeeping(discovery.clone(), Arc::downgrade(&into), metrics.clone()));
    let (exit_with_parent, patience) = (config.exit_with_parent, config.drain);
    let admin = Arc::new(Admin { config, discovery, identity, metrics, registry });
    let public = admin.clone();
    tokio::spawn(http_admin::serve(admin_port, move |request| public.public(request)));
    tokio::spawn(http_admin::serve(private_port, move |request| admin.private(request)));

    let why = signal::stop_requested(exit_with_parent).await?;
    tracing::info!(reason = why, "draining");
    // What is held here would be waited for, too; what counts is connections.
    drop((out, into));
    let deadline = Instant::now() + patience;
    let all_gone = inbound_drain.drain(patience).await
        && outbound_drain.drain(deadline.saturating_duration_since(Instant::now())).await;
    if !all_gone {
        tracing::warn!("connections were still open after {}s; ending them", patience.as_secs());
    }
    Ok(())
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
        sys::trim_memory();
    }
}

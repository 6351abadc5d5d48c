//! The controller: cluster state in; endpoints, policy and identities out, to every proxy that asks.
//!
//! Reading order, along the way of a change: [`source`] reads a cluster or its manifests, [`world`] is the cluster in
//! memory, [`topics`] says what a change touches, [`publish`] recomputes that by asking [`destination`], [`endpoints`] and
//! [`policy`] (all pure, as are [`pods`], [`selection`] and [`locality`], which they share), [`grpc`] sends it. Beside it: [`tokens`] and [`identity`] say who
//! somebody is and sign it; [`listen`], [`admin`] and [`metrics`] are the two ports; [`app`] starts everything. Never on
//! a request's path.

pub mod admin;
pub mod app;
pub mod clock;
pub mod cluster;
pub mod conditions;
pub mod config;
pub mod destination;
pub mod endpoints;
pub mod events;
mod files;
pub mod grpc;
pub mod identity;
pub mod inject;
pub mod lease;
pub mod listen;
pub mod locality;
pub mod metrics;
pub mod pods;
pub mod policy;
pub mod publish;
pub mod selection;
pub mod source;
pub mod tokens;
pub mod topics;
pub mod webhook;
pub mod world;

use std::process::ExitCode;

use anyhow::Context;
use lacewing_ops::{
    log,
    settings::{Asked, EXIT_BAD_SETTINGS},
    signal,
};

use crate::{app::App, config::Config};

/// Runs a controller until it is asked to stop, on a runtime of its own. `env` maps the name of a setting to its value.
pub fn run(env: impl Fn(&str) -> Option<String>) -> ExitCode {
    let asked = Asked::new(&env);
    let config = Config::read(&|name| asked.get(name));
    if config.is_err() {
        // The wish for another log may be what is wrong.
        let _ = log::init("info");
    }
    asked.warn_of_others();
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(EXIT_BAD_SETTINGS);
        }
    };
    match block_on(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(config: Config) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(Box::pin(async {
        let with_parent = config.exit_with_parent;
        let app = App::start(config).await?;
        let stop = async {
            let why = signal::stop_requested(with_parent).await.context(
                "cannot listen for the wish to stop; LACEWING_EXIT_WITH_PARENT needs a pipe as standard input",
            )?;
            tracing::info!(why, "asked to stop");
            Ok(())
        };
        app.serve(stop).await
    }));
    // A look at a directory that hangs (a network file system) must not keep us.
    runtime.shutdown_background();
    outcome
}

//! What the demo's pods run: small, ordinary services that know nothing of the mesh except their proxy's address.
//!
//! Each is one process on one thread (`mesh run app …`), shows the fault that its switch file asks for, and ends when
//! its standard input does: the demo holds the other end.

mod accept;
mod client;
mod echo;
mod emoji;
mod traffic;
mod voting;
mod web;

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode};

use lacewing_ops::{log, signal};

use crate::demo::{
    cast::{App, NAMESPACE},
    faults::Switch,
};

/// What an app is told.
pub struct Settings {
    /// Where it listens; the load generator does not.
    pub listen: Option<SocketAddr>,
    /// Its proxy's outbound port.
    pub proxy: SocketAddr,
    /// Where its proxy forwards to the echo service.
    pub echo: Option<SocketAddr>,
    /// Its fault switch.
    pub fault: PathBuf,
    /// Requests a second, for the load generator.
    pub rps: u32,
}

/// Runs one app until it is told to stop.
pub fn run(app: App, settings: Settings) -> ExitCode {
    // The filter is a constant that parses.
    let _ = log::init("info");
    let ended = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                stop = signal::stop_requested(true) => stop.map(|_| ()),
                failed = serve(app, settings) => failed,
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{} ends: {error}", app.name());
            ExitCode::FAILURE
        }
    }
}

async fn serve(app: App, settings: Settings) -> io::Result<()> {
    let switch = Switch::default();
    tokio::spawn(switch.clone().follow(settings.fault.clone()));
    let listener = match settings.listen {
        Some(address) => Some(lacewing_ops::admin::bind(address, "--listen")?),
        None => None,
    };
    match (app, listener) {
        (App::Web, Some(listener)) => web::serve(listener, settings.proxy, switch).await,
        (App::Emoji, Some(listener)) => emoji::serve(listener, switch).await,
        (App::Voting, Some(listener)) => voting::serve(listener, switch).await,
        (App::Echo, Some(listener)) => echo::serve(listener, switch).await,
        (App::Traffic, None) => traffic::run(&settings).await,
        (App::Traffic, Some(_)) => return Err(io::Error::other("traffic listens nowhere: leave --listen out")),
        (_, None) => return Err(io::Error::other("--listen is missing")),
    }
    Ok(())
}

/// The authority of a service of the demo, as an app names it.
fn authority(service: App, port: u16) -> String {
    format!("{}.{NAMESPACE}:{port}", service.name())
}

#[cfg(test)]
mod tests;

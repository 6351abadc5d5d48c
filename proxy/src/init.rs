//! `lacewing-proxy init`: makes the kernel redirect the TCP connections of this network namespace to the proxy, and
//! takes that back or checks it. It speaks netlink itself: no shell, no nft, no iptables, one atomic change for IPv4 and
//! IPv6, the same result however often it runs.
//!
//! [`settings`] says what to redirect, [`rules`] turns that into one [`netlink`] batch of [`expression`]s, [`check`]
//! opens a connection to see where it ends, and [`error`] names the kernel module that is missing.

use std::{fmt::Display, process::ExitCode, time::Instant};

use lacewing_ops::{log, settings::EXIT_BAD_SETTINGS};

use self::{
    rules::TABLE,
    settings::{Exempt, Redirection},
};
use crate::app::warn_of_settings_in_vain;

pub mod check;
pub mod error;
pub mod expression;
pub mod netlink;
pub mod rules;
pub mod settings;

/// `lacewing-proxy init`. Settings come from `env` (name → value).
pub fn install(env: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    with_settings(env, |redirection| {
        let started = Instant::now();
        if let Err(error) = netlink::apply(rules::installation(redirection)) {
            return failed(error);
        }
        let Redirection { outbound, inbound, .. } = redirection;
        let exempt = match redirection.exempt {
            Exempt::Uid(uid) => format!("uid {uid}"),
            Exempt::Mark(mark) => format!("mark {mark:#x}"),
        };
        let ms = started.elapsed().as_secs_f64() * 1_000.0;
        tracing::info!(
            "TCP of IPv4 and IPv6 is redirected: what this pod opens to port {outbound} (but for the proxy's own, {exempt}), \
             what it gets to port {inbound}; table inet {TABLE}, {ms:.1} ms"
        );
        ExitCode::SUCCESS
    })
}

/// `lacewing-proxy init --check`. Settings as for [`install`].
pub fn check(env: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    with_settings(env, |redirection| {
        let report = check::run(redirection);
        if report.works() {
            let how_far =
                if report.is_complete() { "redirection works" } else { "redirection works as far as was seen" };
            tracing::info!("{how_far}: {report}");
            ExitCode::SUCCESS
        } else {
            tracing::error!("lacewing-proxy init --check failed: {report}");
            ExitCode::FAILURE
        }
    })
}

/// `lacewing-proxy init --remove`: it is fine if there is nothing to remove.
pub fn remove(env: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    with_settings(env, |_| match netlink::apply(rules::removal()) {
        Ok(()) => {
            tracing::info!("TCP is not redirected any more: there is no table inet {TABLE}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(error),
    })
}

fn with_settings(env: &dyn Fn(&str) -> Option<String>, act: impl FnOnce(&Redirection) -> ExitCode) -> ExitCode {
    let redirection = Redirection::read(env).map_err(|error| error.to_string());
    let redirection = redirection.and_then(|redirection| log::init(&redirection.log).map(|()| redirection));
    if redirection.is_err() {
        // The log is not there yet, or cannot be as wished.
        let _ = log::init("warn");
    }
    warn_of_settings_in_vain(env);
    match redirection {
        Ok(redirection) => act(&redirection),
        Err(error) => {
            tracing::error!("lacewing-proxy init: {error}");
            ExitCode::from(EXIT_BAD_SETTINGS)
        }
    }
}

fn failed(error: impl Display) -> ExitCode {
    tracing::error!("lacewing-proxy init: {error}");
    ExitCode::FAILURE
}

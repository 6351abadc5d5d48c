//! The thin binary around [`lacewing_proxy::run`] and `init`, the step that runs before it in a pod. There are so few
//! arguments that no library reads them; settings come from the environment.

use std::process::ExitCode;

use lacewing_ops::{log, settings::EXIT_BAD_SETTINGS};

const USAGE: &str = "usage:
  lacewing-proxy                 the proxy
  lacewing-proxy init            redirect this network namespace's TCP to the proxy (needs capability NET_ADMIN)
  lacewing-proxy init --check    verify that the redirection works
  lacewing-proxy init --remove   take the redirection away
settings are environment variables LACEWING_*";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let env = |name: &str| std::env::var(name).ok();
    match arguments[..] {
        [] => lacewing_proxy::run(&env),
        ["init"] => init::install(&env),
        ["init", "--check"] => init::check(&env),
        ["init", "--remove"] => init::remove(&env),
        _ => {
            // There is no log yet, and this is all that it will say.
            let _ = log::init("error");
            tracing::error!("lacewing-proxy: unknown arguments {arguments:?}; {USAGE}");
            ExitCode::from(EXIT_BAD_SETTINGS)
        }
    }
}

#[cfg(target_os = "linux")]
use lacewing_proxy::init;

/// The same where there is no nf_tables.
#[cfg(not(target_os = "linux"))]
mod init {
    use super::ExitCode;

    pub fn install(_: &dyn Fn(&str) -> Option<String>) -> ExitCode {
        let _ = super::log::init("error");
        tracing::error!("lacewing-proxy init: redirection needs Linux");
        ExitCode::FAILURE
    }

    pub use {install as check, install as remove};
}

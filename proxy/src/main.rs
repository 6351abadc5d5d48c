//! The thin binary around [`lacewing_proxy::run`] and `init`, the step that runs before it in a pod. There are so few
//! arguments that no library reads them; settings come from the environment.

use std::process::ExitCode;

use lacewing_ops::usage;

const NAME: &str = "lacewing-proxy";
const HELP: &str = "The proxy of the service mesh Lacewing: beside each app, mutual TLS and balancing for its traffic.

  lacewing-proxy                 the proxy
  lacewing-proxy init            redirect this network namespace's TCP to the proxy (needs capability NET_ADMIN)
  lacewing-proxy init --check    verify that the redirection works
  lacewing-proxy init --remove   take the redirection away
  lacewing-proxy --version       its version

Settings are environment variables LACEWING_*; docs/settings.md lists them.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let env = |name: &str| std::env::var(name).ok();
    match arguments[..] {
        [] => lacewing_proxy::run(&env),
        ["init"] => init::install(&env),
        ["init", "--check"] => init::check(&env),
        ["init", "--remove"] => init::remove(&env),
        _ => usage::answered(&arguments, NAME, HELP).unwrap_or_else(|| usage::refused(&arguments, NAME, HELP)),
    }
}

#[cfg(target_os = "linux")]
use lacewing_proxy::init;

/// The same where there is no nf_tables.
#[cfg(not(target_os = "linux"))]
mod init {
    use super::ExitCode;

    pub fn install(_: &dyn Fn(&str) -> Option<String>) -> ExitCode {
        let _ = lacewing_ops::log::init("error");
        tracing::error!("lacewing-proxy init: redirection needs Linux");
        ExitCode::FAILURE
    }

    pub use {install as check, install as remove};
}

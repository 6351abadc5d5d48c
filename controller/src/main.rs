//! The controller's program: settings from the environment, everything else in the library.

use std::process::ExitCode;

use lacewing_ops::usage;

const NAME: &str = "lacewing-controller";
const HELP: &str = "The controller of the service mesh Lacewing: tells proxies what is where, issues their identities, injects them.

  lacewing-controller             the controller, of the cluster whose pod this is, or of a directory (LACEWING_MANIFESTS)
  lacewing-controller --version   its version

Settings are environment variables LACEWING_*, which the chart sets; docs/settings.md lists them.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.is_empty() {
        return lacewing_controller::run(|name| std::env::var(name).ok());
    }
    usage::answered(&words, NAME, HELP).unwrap_or_else(|| usage::refused(&words, NAME, HELP))
}

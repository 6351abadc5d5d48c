//! The controller's program: settings from the environment, everything else in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lacewing_controller::run(|name| std::env::var(name).ok())
}

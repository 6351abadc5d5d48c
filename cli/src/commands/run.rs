//! `mesh run` (hidden): this process becomes one process of the demo, set by its environment and arguments.
//!
//! Proxy and controller are the libraries that ship as daemons, called as their own `main` calls them.

use std::process::ExitCode;

use crate::{
    cli::Process,
    demo::apps::{self, Settings},
};

pub fn run(process: Process) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    match process {
        Process::Proxy => lacewing_proxy::run(&env),
        Process::Controller => lacewing_controller::run(env),
        Process::App(run) => {
            let settings =
                Settings { listen: run.listen, proxy: run.proxy, echo: run.echo, fault: run.fault, rps: run.rps };
            apps::run(run.app, settings)
        }
    }
}

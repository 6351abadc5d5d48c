//! One file for each command; here only which is which.
//!
//! A command prints through the Printer and gives its exit code, or a `Failure` that says what, where and what next.

mod check;
mod demo;
mod diagnostics;
mod fault;
mod identity;
mod inject;
mod install;
mod run;
mod stat;
mod status;
mod top;
mod uninstall;
mod upgrade;
mod version;

use std::process::ExitCode;

use crate::{
    cli::{self, Cli, Command, DemoCommand},
    cluster::Flags,
    demo::state::Layout,
    failure::{Exit, Failure},
    output::{Printer, typed::Typed},
};

/// Where the controller's Deployment is.
pub const CONTROLLER: &str = "/apis/apps/v1/namespaces/lacewing/deployments/lacewing-controller";

/// What every command may need.
pub struct Context<'a> {
    pub layout: Layout,
    /// `--dir` was given.
    pub dir_asked: bool,
    /// Which cluster, where one is meant.
    pub flags: Flags,
    /// Seconds since the Unix epoch.
    pub now: u64,
    pub printer: &'a mut Printer,
}

/// Runs the command that was asked for.
pub fn dispatch(cli: Cli, printer: &mut Printer) -> Result<ExitCode, Failure> {
    let dir_asked = cli.dir.is_some();
    printer.repeat(match &cli.dir {
        Some(dir) => Typed::dir(&dir.to_string_lossy()),
        None => Typed::cluster(&cli.cluster.typed()),
    });
    let layout = Layout::new(cli.dir, |name| std::env::var(name).ok());
    let mut context = Context { layout, dir_asked, flags: cli.cluster, now: crate::clock::unix_seconds(), printer };
    if dir_asked && cli.command.is_about_a_cluster() {
        return Err(
            Failure::new(Exit::Usage, "--dir is about a demo, and this command about a cluster").hint("leave it out")
        );
    }
    if matches!(cli.command, Command::Demo(_)) && context.flags.choose_cluster() {
        return Err(Failure::new(
            Exit::Usage,
            "the cluster options are about a cluster, and this command about a demo",
        )
        .hint("leave them out"));
    }
    let exit = match cli.command {
        Command::Run(run) => return Ok(run::run(run.process)),
        Command::Demo(demo) => match demo.command {
            None => demo::run(&mut context, demo.rps, demo.subnet)?,
            Some(DemoCommand::Fault(fault)) => fault::set(&mut context, fault)?,
            Some(DemoCommand::Heal { pod }) => fault::heal(&mut context, pod.as_deref())?,
            Some(DemoCommand::Status { output }) => status::run(&mut context, output)?,
        },
        Command::Install(options) => install::run(&mut context, &options.values)?,
        Command::Upgrade(options) => upgrade::run(&mut context, &options.values)?,
        Command::Uninstall(options) => uninstall::run(&mut context, &options)?,
        Command::Inject(options) => inject::inject(&mut context, &options)?,
        Command::Uninject(options) => inject::uninject(&mut context, &options)?,
        Command::Stat(options) => stat::run(&mut context, &options)?,
        Command::Top(options) => top::run(&mut context, &options)?,
        Command::Identity(options) => identity::run(&mut context, &options)?,
        Command::Check(options) => check::run(&mut context, &options)?,
        Command::Diagnostics(options) => diagnostics::run(&mut context, &options.command)?,
        Command::Version(options) => version::run(&mut context, &options)?,
        Command::Completion { shell } => completion(&mut context, shell)?,
    };
    Ok(exit.into())
}

/// Prints the script by which `shell` completes what is typed.
fn completion(context: &mut Context, shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "mesh", &mut script);
    context.printer.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// Runs `work` on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("cannot start: {error}")))?
        .block_on(work)
}

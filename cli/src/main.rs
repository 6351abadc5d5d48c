//! The `mesh` command: arguments in, text out, an exit code that scripts can rely on.
//!
//! Read on in `cli.rs` (what can be typed), `commands/` (one file each) and `output/` (the only place that prints).
//! The demo re-executes this binary as `mesh run …` for every process that it starts.

mod chart;
mod check;
mod cli;
mod clock;
mod cluster;
mod commands;
mod demo;
mod failure;
mod golden;
mod installed;
mod live;
mod manifest;
mod mesh;
mod output;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::FromArgMatches;

use crate::{failure::Exit, output::Printer};

fn main() -> ExitCode {
    run(std::env::args_os(), &mut Printer::standard())
}

/// Parses `args`, runs the command and turns what went wrong into words and an exit code.
fn run(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> ExitCode {
    let cli = match parse(args.into_iter().collect()) {
        Ok(cli) => cli,
        Err(usage) => return printer.usage(&usage).into(),
    };
    match commands::dispatch(cli, printer) {
        Ok(code) => code,
        Err(failure) if failure.is_broken_pipe() => Exit::Ok.into(),
        Err(failure) => {
            printer.failure(&failure);
            failure.exit().into()
        }
    }
}

/// Under the name `kubectl-mesh` it is kubectl's plugin, and calls itself so.
fn parse(args: Vec<OsString>) -> Result<cli::Cli, clap::Error> {
    let named = args.first().map(Path::new).and_then(Path::file_name);
    let command = cli::command();
    let command = if named.is_some_and(|name| name == "kubectl-mesh") {
        command.name("kubectl mesh").bin_name("kubectl mesh")
    } else {
        command
    };
    cli::Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

#[cfg(test)]
mod tests;

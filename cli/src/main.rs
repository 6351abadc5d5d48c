//! The `mesh` command: arguments in, text out, an exit code that scripts can rely on.
//!
//! Read on in `cli.rs` (what can be typed), `commands/` (one file each) and `output/` (the only place that prints).
//! The demo re-executes this binary as `mesh run …` for every process that it starts.

mod chart;
mod cli;
mod clock;
#[allow(dead_code)] // `install` and `inject` use the rest
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

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use crate::{failure::Exit, output::Printer};

fn main() -> ExitCode {
    run(std::env::args_os(), &mut Printer::standard())
}

/// Parses `args`, runs the command and turns what went wrong into words and an exit code.
fn run(args: impl IntoIterator<Item = OsString>, printer: &mut Printer) -> ExitCode {
    let cli = match cli::Cli::try_parse_from(args) {
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

#[cfg(test)]
mod tests;

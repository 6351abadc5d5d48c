//! Owns the gates: what the hot path costs in instructions and allocations, counted by callgrind and held against a
//! baseline. Without arguments it runs itself under valgrind once for each gate and judges (`judge.rs`); with
//! `measure GATE` it does that gate's work (`operations.rs`, `spines.rs`), of which counts what happens in [`measured`].
//! It refuses to judge time: counts are the same on a busy machine. It is an example of the proxy's, so that it is built
//! with the features that ship (and tokio's test clock: a few instructions each time that the clock is read).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod judge;
mod operations;
mod spines;

use std::process::ExitCode;

/// One thing whose cost is watched.
pub struct Gate {
    pub name: &'static str,
    /// The function to look at when it grows.
    pub function: &'static str,
    /// Does it `times` times, within [`measured`].
    pub run: fn(times: u32),
    pub times: u32,
}

/// callgrind counts while this runs, and only then.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut()) {
    work();
    // Keeps the call from becoming a jump, which callgrind would take for the end.
    std::hint::black_box(());
}

fn gates() -> impl Iterator<Item = &'static Gate> {
    operations::GATES.iter().chain(spines::GATES)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => judge::all(),
        ["measure", name] => {
            let gate = gates().find(|gate| gate.name == name).expect("no gate of that name");
            fastrand::seed(1);
            (gate.run)(gate.times);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("gates [measure GATE]");
            ExitCode::from(2)
        }
    }
}

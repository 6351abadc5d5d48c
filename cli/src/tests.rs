//! Golden output of the whole command where no demo runs: standard output, standard error and exit code.
//!
//! The command runs in this process with a Printer that remembers; commands that need a demo are tested beside their
//! code with readings made by hand.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::run;
use crate::{
    demo::state::tests::Scratch,
    failure::Exit,
    output::{Printer, tests::Captured},
};

struct BrokenPipe;

impl Write for BrokenPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// Runs `line` with `DIR` replaced by `dir`: output, errors (with the directory as `DIR` again) and exit code.
fn mesh(line: &str, dir: &str) -> (String, String, ExitCode) {
    let (out, err) = (Captured::default(), Captured::default());
    let mut printer = Printer::to(Box::new(out.clone()), Box::new(err.clone()));
    let args = line.replace("DIR", dir);
    let code = run(args.split_whitespace().map(Into::into), &mut printer);
    (out.text(), err.text().replace(dir, "DIR"), code)
}

#[test]
fn without_a_demo_every_command_says_so() {
    let scratch = Scratch::new("golden-none");
    let dir = scratch.join("none").display().to_string();
    let golden =
        "error: no demo is running (looked in DIR)\nhint: start one with `mesh --dir DIR demo` in another terminal\n";
    for line in [
        "mesh --dir DIR stat",
        "mesh --dir DIR stat svc/web -o json",
        "mesh --dir DIR stat deploy web",
        "mesh --dir DIR stat web",
        "mesh --dir DIR identity pod/web-1",
        "mesh --dir DIR top --once",
        "mesh --dir DIR top",
        "mesh --dir DIR identity web-1",
        "mesh --dir DIR demo status",
        "mesh --dir DIR demo heal",
        "mesh --dir DIR demo fault slow voting-2",
    ] {
        let (out, err, code) = mesh(line, &dir);
        assert_eq!((out.as_str(), err.as_str(), code), ("", golden, Exit::NotInstalled.into()), "{line}");
    }
    assert!(!scratch.join("none").exists(), "looking leaves nothing behind");
}

#[test]
fn without_a_cluster_every_command_that_needs_one_says_so() {
    let scratch = Scratch::new("golden-cluster");
    let dir = scratch.join("none").display().to_string();
    for line in [
        "mesh stat --kubeconfig DIR",
        "mesh top --once --kubeconfig DIR",
        "mesh --kubeconfig DIR identity web-1 -n shop",
        "mesh --kubeconfig DIR check",
        "kubectl-mesh --kubeconfig DIR check --pre -o json",
        "mesh --kubeconfig DIR --context x diagnostics endpoints web:80",
        "mesh --kubeconfig DIR diagnostics applied",
        "mesh --kubeconfig DIR --as bob diagnostics destination web-1",
    ] {
        let (out, err, code) = mesh(line, &dir);
        let what = "error: there is no kubeconfig at DIR\nhint: name another one with `--kubeconfig FILE`";
        assert!(err.starts_with(what), "{line}: {err}");
        assert!(err.ends_with("see this mesh without a cluster: `mesh demo`\n"), "{line}: {err}");
        assert_eq!((out.as_str(), code), ("", Exit::Error.into()), "{line}");
    }
    let (out, err, code) = mesh("mesh --kubeconfig DIR version", &dir);
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(out.contains("Server version: unavailable (there is no kubeconfig at"), "{out}");
    assert_eq!((err.as_str(), code), ("", Exit::Ok.into()), "asking for the version never fails");
}

#[test]
fn usage_errors_say_what_to_write() {
    for (line, part) in [
        (
            "mesh stat nodes web",
            "\"nodes\" is no kind that is measured; use deploy, sts, ds, job, pod or svc, as in deploy/web",
        ),
        ("mesh stat deploy/", "a name is missing after the slash"),
        ("mesh stat -t 5s", "use 10s to 10m"),
        ("mesh stat deploy/web voting", "deploy/web has its name already"),
        ("mesh stat -t 30s1m", "write the larger unit first"),
        ("mesh stat -t 60", "a duration needs a unit"),
        ("mesh demo --subnet 10.0.0", "the demo stays on loopback; use 127.X.Y, such as 127.1.5"),
        ("mesh stat --kubeconfig x --dir y", "--dir is about a demo, the cluster options are about a cluster"),
        ("mesh stat --as-group admins", "--as-group needs --as"),
        ("mesh check --pre --proxy", "cannot be used with"),
        ("mesh check --dir x", "--dir is about a demo, and this command about a cluster"),
        ("mesh diagnostics endpoints web --dir x", "--dir is about a demo, and this command about a cluster"),
        ("mesh demo --context x", "the cluster options are about a cluster, and this command about a demo"),
        ("mesh install -n shop", "the mesh is always in the namespace lacewing"),
        ("mesh upgrade -n shop", "the mesh is always in the namespace lacewing"),
        ("mesh uninstall -n shop", "the mesh is always in the namespace lacewing"),
        ("mesh diagnostics endpoints web:http", "\"http\" is no port"),
        ("mesh stats", "a similar subcommand exists: 'stat'"),
        ("mesh demo fault slow voting-2 --by 61s", "use at most 60s"),
        ("mesh", "Usage: mesh"),
    ] {
        let (out, err, code) = mesh(line, "/x");
        assert!(err.contains(part), "{line}: {err}");
        assert_eq!((out.as_str(), code), ("", Exit::Usage.into()), "{line}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (line, part) in [
        ("mesh --help", "Exit codes: 0 done"),
        ("mesh demo --help", "mesh demo fault slow voting-2 --by 1s"),
        ("mesh stat -h", "KIND[/NAME]"),
        ("mesh stat --help", "are those of raw TCP"),
        ("mesh help", "Exit codes: 0 done"),
        ("mesh help stat", "KIND[/NAME]"),
        ("mesh demo help fault", "slow"),
        ("mesh help demo", "mesh demo heal"),
        ("/usr/bin/kubectl-mesh --help", "Usage: kubectl mesh [OPTIONS] <COMMAND>"),
        ("kubectl-mesh help stat", "Usage: kubectl mesh stat"),
        ("mesh help check", "mesh check --pre"),
        ("mesh completion bash", "complete -F _mesh"),
        ("mesh version --client", concat!("Client version: ", env!("CARGO_PKG_VERSION"), "\n")),
        ("mesh --version", concat!("mesh ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let (out, err, code) = mesh(line, "/x");
        assert!(out.contains(part), "{line}: {out}");
        assert_eq!((err.as_str(), code), ("", Exit::Ok.into()), "{line}");
    }
    let (help, _, _) = mesh("mesh --help", "/x");
    assert!(help.contains("--dir <DIR>") && help.contains("--context <NAME>"), "{help}");
    assert!(!help.contains("\n  run "), "what the demo uses itself is not shown: {help}");
}

#[test]
fn help_shows_the_options_that_a_command_takes() {
    const ALL: [&str; 6] = ["--dir <", "--kubeconfig <", "--context <", "--namespace <", "--as <", "--as-group <"];
    for (command, taken) in [
        ("stat", &ALL[..]),
        ("diagnostics destination", &ALL),
        ("check", &ALL[1..]),
        ("diagnostics endpoints", &ALL[1..]),
        ("diagnostics applied", &[ALL[0], ALL[1], ALL[2], ALL[4], ALL[5]]),
        ("version", &[ALL[1], ALL[2], ALL[4], ALL[5]]),
        ("inject", &[ALL[1], ALL[2], ALL[4], ALL[5]]),
        ("demo", &ALL[..1]),
        ("demo fault", &ALL[..1]),
        ("demo fault slow", &ALL[..1]),
        ("install", &[]),
        ("uninject", &[]),
        ("completion", &[]),
    ] {
        for line in [format!("mesh {command} --help"), format!("mesh help {command}")] {
            let (help, _, code) = mesh(&line, "/x");
            let shown: Vec<_> = ALL.into_iter().filter(|option| help.contains(option)).collect();
            assert_eq!((shown.as_slice(), code), (taken, Exit::Ok.into()), "{line}: {help}");
        }
    }
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    for line in ["mesh version", "mesh --help"] {
        let err = Captured::default();
        let mut printer = Printer::to(Box::new(BrokenPipe), Box::new(err.clone()));
        let code = run(line.split_whitespace().map(Into::into), &mut printer);
        assert_eq!((err.text().as_str(), code), ("", Exit::Ok.into()), "{line}");
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let scratch = Scratch::new("golden-foreign");
    let file = scratch.join("file");
    std::fs::write(&file, "mine").expect("write");
    let (out, err, code) = mesh("mesh demo --dir DIR", &file.display().to_string());
    let golden = "error: DIR is there already, and it is not a directory of yours\n\
                  hint: choose another place with `--dir DIR`\n";
    assert_eq!((out.as_str(), err.as_str(), code), ("", golden, Exit::Error.into()));
}

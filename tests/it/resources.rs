//! What a mesh costs while it does little: memory of the whole demo, memory of one idle proxy, time to the first row of
//! `mesh stat`. Generous multiples here; the README has the figures, measured with `--profile dist`.

#![allow(clippy::print_stdout, reason = "measured figures, shown with --nocapture")]

use std::{
    fs,
    time::{Duration, Instant},
};

use lacewing_tests::{demo::Demo, solo::Solo, wait::until};

/// A value of `/proc/PID/FILE`, in KiB.
fn kib(pid: u32, file: &str, field: &str) -> u64 {
    let text =
        fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|error| panic!("{file} of {pid}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_else(|| panic!("no {field} in {text}"));
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn the_whole_demo_is_small_and_shows_numbers_soon() {
    let (memory, soon) = if cfg!(debug_assertions) { (250, 6.0) } else { (100, 2.0) };
    let demo = Demo::start(50);
    let ready = Instant::now();
    until("the first row", Duration::from_secs(20), || {
        demo.row("deploy", "web", "10s").filter(|row| row["rps"].as_f64() > Some(0.0))
    });
    let first_row = (demo.took + ready.elapsed()).as_secs_f64();
    println!("up after {:.2?}, first row of `mesh stat` after {first_row:.2} s", demo.took);

    // After some traffic, as it is when somebody looks.
    std::thread::sleep(Duration::from_secs(5));
    let pids: Vec<u32> = demo.children(&[]).into_iter().chain([demo.pid()]).collect();
    assert!(pids.len() >= 20, "{pids:?}");
    let pss: u64 = pids.iter().map(|pid| kib(*pid, "smaps_rollup", "Pss:")).sum();
    println!("the demo's {} processes have a PSS of {:.1} MB in all", pids.len(), pss as f64 / 1024.0);
    assert!(pss / 1024 <= memory, "{} MB, at most {memory}", pss / 1024);
    assert!(first_row <= soon, "the first row came after {first_row:.2} s, at most {soon}");
}

#[test]
fn an_idle_proxy_is_small() {
    let solo = Solo::running(1);
    let pid = solo.pid("client");
    let (rss, private) = (kib(pid, "status", "VmRSS:"), kib(pid, "smaps_rollup", "Private_Dirty:"));
    println!("an idle proxy has an RSS of {:.1} MB, {:.1} of it its own", rss as f64 / 1024.0, private as f64 / 1024.0);
    assert!(private / 1024 <= 20, "{private} KiB");
}

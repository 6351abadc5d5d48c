//! Who runs on which processor, what a process used of it, and what memory it holds, as the kernel accounts for it.
//! Figures are cumulative: measures take the difference.

use std::{fs, str::FromStr};

use lacewing_tests::net::ring;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Load generators, backends and the controller.
pub const LOAD: usize = 0;
/// The proxy, or both of a pair.
pub const PROXY: usize = 1;

/// Runs `work` on these processors; processes that it starts stay there.
pub fn on<T>(processors: &[usize], work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("this thread's processors");
    pin(processors);
    let outcome = work();
    sched_setaffinity(None, &before).expect("they were allowed before");
    outcome
}

/// Puts this thread, and what it starts from now on, on these processors.
pub fn pin(processors: &[usize]) {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    sched_setaffinity(None, &set)
        .unwrap_or_else(|error| panic!("no processors {processors:?}: the bench needs two: {error}"));
}

/// Puts this process and what it starts from now on before all usual ones, all with the same priority.
///
/// # Panics
/// It is not allowed.
pub fn real_time() {
    ring::run("chrt", &["-a", "-r", "-p", "10", &std::process::id().to_string()], "");
}

/// Nanoseconds on a processor, all threads of the process, the kernel's work for it included.
pub fn used(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    tasks.flatten().filter_map(|task| first::<u64>(&fs::read_to_string(task.path().join("schedstat")).ok()?)).sum()
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub rss: f64,
    /// What it shares counted in proportion.
    pub pss: f64,
    pub anonymous: f64,
}

pub fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(first::<f64>).unwrap_or_else(|| panic!("process {pid}: no {name}")) * 1024.0
    };
    Memory { rss: field("Rss:"), pss: field("Pss:"), anonymous: field("Anonymous:") }
}

fn first<T: FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

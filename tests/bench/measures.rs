//! What is measured of a peer that runs: figures by name, from a load, the processor time and memory of its processes, and
//! what `strace` counts. Units are in the names: `_us` microseconds (CPU: per request), `_ms`, `_mb` (10^6 bytes), `_kb`.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use super::{
    cpu,
    load::{self, Done},
    peers::{Peer, Protocol, Running, Shape},
    site::{LARGE_PATH, Site},
};

/// Before a load counts.
const WARM: Duration = Duration::from_secs(1);
/// Idle connections held, less and more.
const HELD: [u64; 2] = [500, 2_000];
/// Before memory is looked at, so that what just happened has settled.
const SETTLE: Duration = Duration::from_secs(1);
/// Idle, before a connection counts as such.
const REST: Duration = Duration::from_secs(5);
/// After a burst.
const CALM: Duration = Duration::from_secs(60);
/// Requests per second and seconds while system calls are counted: sparse, as a sidecar has it.
const COUNTED_RATE: u64 = 300;
const COUNTED_SECONDS: u64 = 3;

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// From start to the first answer through the whole path.
    Start,
    /// As many requests as go.
    Saturation,
    /// The same with 64 KB bodies.
    Large,
    /// Requests per second on a schedule.
    Rate(u64),
    /// One TCP stream.
    Stream,
    /// Idle, with idle connections, a minute after they are gone, at saturation.
    Memory,
    /// Handshakes per second with the inner proxy.
    Handshakes,
    /// System calls per request.
    Calls,
    /// User instructions per request; it starts the proxies itself.
    Instructions,
}

impl Measure {
    pub fn name(self) -> String {
        match self {
            Self::Rate(per_second) => format!("rate-{per_second}"),
            Self::Large => "64k".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// Some repeat so well, or take so long, or matter so little there, that a few rounds will do.
    pub fn rounds(self, shape: Shape) -> usize {
        match self {
            Self::Memory | Self::Calls | Self::Instructions => 1,
            Self::Handshakes | Self::Large | Self::Rate(200 | 2_000) => 3,
            Self::Rate(_) if shape == Shape::Single => 3,
            _ => usize::MAX,
        }
    }

    /// How long it takes, about, with loads of so many seconds.
    pub fn lasts(self, seconds: u64) -> Duration {
        let load = Duration::from_secs(seconds);
        match self {
            Self::Start => Duration::ZERO,
            Self::Saturation | Self::Large | Self::Rate(_) => WARM + load,
            Self::Stream => load,
            Self::Memory => CALM + SETTLE * 7 + load,
            Self::Handshakes => load * 2,
            Self::Calls => (SETTLE + Duration::from_secs(COUNTED_SECONDS + 1)) * 2,
            Self::Instructions => Duration::from_secs(40),
        }
    }

    /// Slow ones are for us and what we are held against.
    pub fn fits(self, peer: Peer) -> bool {
        self != Self::Instructions || matches!(peer, Peer::Lacewing | Peer::Hyper)
    }
}

/// Figures of one measurement, and the command of its load.
pub struct Figures {
    pub command: String,
    pub values: BTreeMap<String, f64>,
}

/// Measures a running peer; `seconds` is how long a load lasts.
///
/// # Errors
/// The run had errors, or a proxy of it did nothing: then there is no figure.
pub fn take(
    site: &Site,
    peer: Peer,
    at: (Shape, Protocol),
    running: &Running<'_>,
    measure: Measure,
    seconds: u64,
) -> Result<Figures, String> {
    let (shape, protocol) = at;
    match measure {
        Measure::Start => {
            let values = BTreeMap::from([("start_ms".to_owned(), running.start_ms)]);
            Ok(Figures { command: "start, then one request each 2 ms until 200".to_owned(), values })
        }
        Measure::Saturation => full_speed(site, shape, protocol, running, "/", seconds),
        Measure::Large => full_speed(site, shape, protocol, running, LARGE_PATH, seconds),
        Measure::Rate(per_second) => {
            let warm = WARM.as_secs();
            // Its warm-up is work, too: time is counted over both, and so are requests.
            let counted = per_second * (warm + seconds);
            measured(
                running,
                |done| done.count * counted as f64 / (per_second * seconds) as f64,
                || load::rate(site, shape, per_second, warm, seconds),
            )
        }
        Measure::Stream => {
            let figures = measured(running, |done| done.count, || load::stream(site, shape, seconds))?;
            let per_byte = |(name, value): (String, f64)| match name.strip_suffix("_us") {
                Some(name) => (format!("{name}_s_per_gb"), value * 1e3),
                None => (name, value),
            };
            Ok(Figures { values: figures.values.into_iter().map(per_byte).collect(), ..figures })
        }
        Measure::Memory => memory(site, shape, protocol, running, seconds),
        Measure::Handshakes => handshakes(site, peer, running, seconds),
        Measure::Calls => calls(site, shape, running),
        Measure::Instructions => unreachable!("it stands alone in its place"),
    }
}

fn full_speed(
    site: &Site,
    shape: Shape,
    protocol: Protocol,
    running: &Running<'_>,
    path: &str,
    seconds: u64,
) -> Result<Figures, String> {
    let run = |seconds| match protocol {
        Protocol::H2 => load::h2load(site, shape, path, seconds),
        _ => load::wrk(site, shape, path, seconds),
    };
    run(WARM.as_secs())?;
    let mut figures = measured(running, |done| done.count, || run(seconds))?;
    for (role, pid) in &running.roles {
        figures.values.insert(format!("rss_{role}_mb"), cpu::memory(*pid).rss / 1e6);
    }
    Ok(figures)
}

/// Runs a load; what the proxies used meanwhile, per unit of it, goes to its figures: in microseconds.
pub fn measured(
    running: &Running<'_>,
    units: impl Fn(&Done) -> f64,
    load: impl FnOnce() -> Result<Done, String>,
) -> Result<Figures, String> {
    let before: Vec<u64> = running.roles.iter().map(|(_, pid)| cpu::used(*pid)).collect();
    let done = load()?;
    let (mut values, mut sum) = (BTreeMap::new(), 0.0);
    for ((role, pid), before) in running.roles.iter().zip(before) {
        let used = (cpu::used(*pid) - before) as f64 / 1e3 / units(&done);
        if used <= 0.0 {
            return Err(format!("{}: the proxy {role} did nothing, so nothing went through it", done.command));
        }
        values.insert(format!("cpu_{role}_us"), used);
        sum += used;
    }
    values.insert("cpu_us".to_owned(), sum);
    values.extend(done.figures.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Ok(Figures { command: done.command, values })
}

fn memory(
    site: &Site,
    shape: Shape,
    protocol: Protocol,
    running: &Running<'_>,
    seconds: u64,
) -> Result<Figures, String> {
    let mut values = BTreeMap::new();
    let mut look = |when: &str| {
        sleep(SETTLE);
        let (mut most, mut most_pss) = (0.0_f64, 0.0_f64);
        for (role, pid) in &running.roles {
            let memory = cpu::memory(*pid);
            values.insert(format!("{when}_{role}_rss_mb"), memory.rss / 1e6);
            values.insert(format!("{when}_{role}_pss_mb"), memory.pss / 1e6);
            values.insert(format!("{when}_{role}_anonymous_mb"), memory.anonymous / 1e6);
            (most, most_pss) = (most.max(memory.rss), most_pss.max(memory.pss));
        }
        values.insert(format!("{when}_rss_mb"), most / 1e6);
        values.insert(format!("{when}_pss_mb"), most_pss / 1e6);
        most
    };
    let idle = look("idle");
    let mut per_connection = Vec::new();
    for connections in HELD {
        let held = load::hold(site, shape, connections)?;
        sleep(REST);
        per_connection.push((connections, (look(&format!("held_{connections}")) - idle) / connections as f64 / 1e3));
        drop(held);
        sleep(SETTLE);
    }
    sleep(CALM);
    let after = look("after_burst");
    full_speed(site, shape, protocol, running, "/", seconds)?;
    look("saturation");
    values.insert("after_burst_more_mb".to_owned(), (after - idle) / 1e6);
    values.extend(per_connection.into_iter().map(|(held, kb)| (format!("per_connection_{held}_kb"), kb)));
    Ok(Figures { command: "bench-parts hold SERVICE 500, 2000; 60 s; wrk -t1 -c64".to_owned(), values })
}

fn handshakes(site: &Site, peer: Peer, running: &Running<'_>, seconds: u64) -> Result<Figures, String> {
    let (certs, alpn) = match peer {
        Peer::Lacewing => (site.mesh_certs(), "lacewing/h1h2"),
        Peer::Hyper | Peer::Envoy => (site.certs.clone(), "h2"),
        _ => (site.certs.clone(), "http/1.1"),
    };
    let inner = running.roles.iter().find(|(role, _)| *role == "in").ok_or("only a pair shakes hands")?.1;
    let mut figures = Figures { command: String::new(), values: BTreeMap::new() };
    for (kind, name) in [("full", "cpu_in_us"), ("resumed", "resumed_cpu_in_us")] {
        let before = cpu::used(inner);
        let Some(done) = load::shake(site, &certs, alpn, kind, seconds)? else { continue };
        let used = (cpu::used(inner) - before) as f64 / 1e3 / done.count;
        figures.values.extend(done.figures.into_iter().map(|(name, value)| (name.to_owned(), value)));
        figures.values.insert(name.to_owned(), used);
        figures.command = done.command;
    }
    Ok(figures)
}

fn calls(site: &Site, shape: Shape, running: &Running<'_>) -> Result<Figures, String> {
    let requests = COUNTED_RATE * (COUNTED_SECONDS + 1);
    let mut values = BTreeMap::new();
    for (role, pid) in &running.roles {
        let list = site.client.host.dir.join(format!("strace-{role}"));
        let mut strace = Command::new("strace");
        strace.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(&list).stderr(Stdio::null());
        let mut strace = strace.spawn().map_err(|error| format!("strace: {error}: install strace"))?;
        sleep(SETTLE / 2);
        let load = load::rate(site, shape, COUNTED_RATE, 1, COUNTED_SECONDS);
        let id = i32::try_from(strace.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
        let _ = strace.wait();
        load?;
        let text = fs::read_to_string(&list).map_err(|error| format!("strace left no list: {error}"))?;
        for (call, count) in counted(&text) {
            values.insert(format!("{call}_{role}"), count / requests as f64);
        }
    }
    Ok(Figures {
        command: format!("strace -c -f -p PID, bench-parts rate SERVICE {COUNTED_RATE} 1 {COUNTED_SECONDS} 16"),
        values,
    })
}

/// Calls by name from a summary of strace; `calls` is the sum.
pub fn counted(text: &str) -> Vec<(String, f64)> {
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let count = words.get(3)?.parse::<f64>().ok()?;
        Some((words.last()?.replace("total", "calls"), count))
    });
    rows.collect()
}

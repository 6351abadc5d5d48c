//! `mesh demo`: brings the whole mesh up, shows what it does, and takes it down again when asked to.
//!
//! The order of starting is `demo/startup.rs`, the processes are `demo/crew.rs`; here are the loop that keeps them
//! going, the words on the screen and the end.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::{Context, block_on, stat};
use crate::{
    demo::{
        cast::{Pod, Subnet},
        crew::Crew,
        faults,
        startup::{self, Options},
        state::{Held, Layout},
    },
    failure::{Exit, Failure},
    mesh::Roll,
    output::{Printer, typed::word},
};

/// When the first numbers are shown, after traffic has begun.
const FIRST_NUMBERS_AFTER: Duration = Duration::from_secs(2);
/// How far back the first numbers look.
const FIRST_WINDOW: Duration = Duration::from_secs(10);

pub fn run(context: &mut Context, rps: u32, subnet: Subnet) -> Result<Exit, Failure> {
    block_on(async {
        // Before the first file is made: from here on a signal ends the demo, not only this process.
        let signals = Signals::watch()?;
        let mut held = Held::take(context.layout.clone(), context.now)?;
        // The crew ends in here, by being dropped: before the directory goes.
        let life = live(&held, Options { subnet, rps }, context.now, context.printer);
        let ended = until_stopped(signals, life).await;
        if matches!(&ended, Err(failure) if failure.exit() == Exit::Timeout) {
            held.keep_logs();
        }
        ended
    })?;
    context.printer.note("stopped: no process and no file is left");
    Ok(Exit::Ok)
}

/// What ends the demo: Ctrl-C, SIGTERM, or the end of its terminal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> Result<Self, Failure> {
        let watch = |kind| signal(kind).map_err(|e| Failure::error(format!("cannot watch for signals: {e}")));
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    async fn any(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Does `work` until a signal comes; one that the runtime knows of already keeps it from beginning.
async fn until_stopped(signals: Signals, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        biased;
        () = signals.any() => Ok(()),
        ended = work => ended,
    }
}

async fn live(held: &Held, options: Options, started: u64, printer: &mut Printer) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut crew = startup::start(held, options, started, printer).await?;
    let pods = options.subnet.pods();
    let mesh = invocation(held.layout());
    printer.data(&banner(&pods, begun.elapsed(), options.rps, &mesh))?;
    let traffic_since = Instant::now();
    let mut numbers_shown = false;
    let mut every = interval(faults::POLL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        for line in crew.tick(Instant::now()) {
            printer.note(&line);
        }
        welcome_back(&mut crew, printer).await;
        if !numbers_shown && traffic_since.elapsed() >= FIRST_NUMBERS_AFTER {
            numbers_shown = true;
            let numbers = stat::overview(&Roll::of_demo(&pods), FIRST_WINDOW).await;
            printer.data(&format!("$ {mesh} stat\n{numbers}"))?;
        }
    }
}

async fn welcome_back(crew: &mut Crew, printer: &mut Printer) {
    for pod in crew.returning() {
        if startup::ready(&pod).await.is_ok()
            && let Some(news) = crew.returned(&pod.name)
        {
            printer.note(&news);
        }
    }
}

/// How this command is typed: `mesh` where the shell would find this file by that name, else its path.
fn invocation(layout: &Layout) -> String {
    let exe = std::env::current_exe().unwrap_or_else(|_| "mesh".into());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("mesh")).find(|candidate| candidate.is_file());
    let in_path = found.and_then(|found| found.canonicalize().ok()) == exe.canonicalize().ok();
    let mut text = if in_path { "mesh".to_owned() } else { from_here(&exe).display().to_string() };
    let usual = Layout::new(None, |name| std::env::var(name).ok());
    if usual.root() != layout.root() {
        let _ = write!(text, " --dir {}", word(&layout.root().to_string_lossy()));
    }
    text
}

fn from_here(exe: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    exe.strip_prefix(here).map_or_else(|_| exe.to_owned(), |relative| Path::new(".").join(relative))
}

fn banner(pods: &[Pod], took: Duration, rps: u32, mesh: &str) -> String {
    let mut replicas: Vec<(&str, usize)> = Vec::new();
    for pod in pods {
        match replicas.last_mut() {
            Some((workload, n)) if *workload == pod.workload => *n += 1,
            _ => replicas.push((&pod.workload, 1)),
        }
    }
    let running = replicas.iter().map(|(workload, n)| format!("{workload} ×{n}")).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "\
The mesh is up after {:.1}s: a controller and {} pods, each an app behind its own proxy.
{running}; {rps} requests a second from traffic to web; mutual TLS between all proxies.

",
        took.as_secs_f64(),
        pods.len(),
    );
    let entry = pods.last().map_or_else(String::new, |pod| pod.outbound().to_string());
    let lines = [
        (format!("{mesh} stat"), "success rate, request rate and latency"),
        (format!("{mesh} top"), "who calls whom, every second"),
        (format!("{mesh} identity"), "the certificates"),
        (format!("{mesh} demo fault slow voting-2"), "break something (also fail, kill), then look at `stat pod`"),
        (format!("{mesh} demo fault kill controller"), "the mesh runs on without it"),
        (format!("{mesh} demo heal"), "and mend it"),
        (format!("curl -x http://{entry} http://web.emojivoto:8080/"), "a request of your own, through a proxy"),
    ];
    let width = lines.iter().map(|(command, _)| command.chars().count()).max().unwrap_or_default();
    for (command, what) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {command:<width$}  {what}");
    }
    text.push_str("\nOne service fails a part of its requests: which, and which path? Ctrl-C ends the demo.\n");
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn every_signal_that_ends_a_demo_is_heard_before_work_begins() {
        for name in ["HUP", "INT", "TERM"] {
            let (signals, other) = (Signals::watch().expect("handlers"), Signals::watch().expect("handlers"));
            let sent = Command::new("sh").args(["-c", &format!("kill -{name} $PPID")]).status().expect("a shell");
            assert!(sent.success());
            assert!(tokio::time::timeout(Duration::from_secs(5), other.any()).await.is_ok(), "{name}");
            let work = async { Err(Failure::error("work began")) };
            assert!(until_stopped(signals, work).await.is_ok(), "{name}");
        }
        let signals = Signals::watch().expect("handlers");
        let failed = async { Err(Failure::error("work ended")) };
        assert!(until_stopped(signals, failed).await.is_err(), "without a signal the work decides");
    }

    #[test]
    fn the_banner_names_what_runs_and_what_to_type() {
        let pods = "127.1.5".parse::<Subnet>().expect("a subnet").pods();
        let text = banner(&pods, Duration::from_millis(640), 50, "mesh");
        for part in [
            "after 0.6s",
            "web ×2, emoji ×2, voting ×3, echo ×1, traffic ×1; 50 requests",
            "curl -x http://127.1.5.18:4140 http://web.emojivoto:8080/",
            "mesh demo fault slow voting-2",
            "mesh demo fault kill controller",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}

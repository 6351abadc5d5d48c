//! The `scale` ring: one controller process, as it ships, on its Kubernetes source, with a cluster of thousands of
//! endpoints that changes a hundred times a second, and thousands of simulated proxies on real streams over mutual TLS.
//! What it holds in memory, what it uses of a processor and how long a change takes to reach who follows it, for more
//! and more proxies. It fails if a stream ends, if a proxy does not end at the truth, or if a limit is missed.
//! Arguments: `--proxies N,N…`, `--services N`, `--seconds N`, `--changes N` (a second), `--json FILE`, `--svg FILE`, `--limits`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot run must end, loudly")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table is its output")]

mod api;
mod cluster;
mod controller;
#[path = "../bench/plot.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod plot;
mod proxies;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::{
    api::{Api, KINDS},
    cluster::{Cluster, Size, State},
    controller::Controller,
    plot::{Line, Point},
    proxies::{Clock, Control, Proxy},
};

/// Idle and loaded memory in MB, and the 99th percentile of propagation in ms with as many proxies.
const IDLE_MB: f64 = 25.0;
const LOADED_MB: f64 = 100.0;
const PROPAGATION_MS: f64 = 1_000.0;
const LIMITS_AT: usize = 1_000;
/// Proxies that start at the same time: the controller certifies so many at once.
const STARTING: usize = 12;
/// How long everybody has to get its first answers, and the last change.
const PATIENCE: Duration = Duration::from_secs(120);

struct Plan {
    proxies: Vec<usize>,
    size: Size,
    seconds: u64,
    changes: u64,
    json: Option<PathBuf>,
    svg: Option<PathBuf>,
    limits: bool,
}

/// What was measured with so many proxies.
struct Row {
    proxies: usize,
    rss_mb: f64,
    /// Percent of one processor.
    cpu: f64,
    p50_ms: f64,
    p99_ms: f64,
    worst_ms: f64,
    /// Answers that arrived, and those that newer ones overtook.
    delivered: usize,
    overtaken: usize,
    /// Until all of them had all their first answers.
    ready_s: f64,
}

fn main() -> ExitCode {
    let plan = match Plan::from_args(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("scale: {why}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (idle_mb, loaded_mb, rows) = runtime.block_on(run(&plan));
    print!("{}", table(&plan, idle_mb, loaded_mb, &rows));
    let missed = missed(idle_mb, &rows);
    if let Some(file) = &plan.json {
        std::fs::write(file, json(&plan, idle_mb, loaded_mb, &rows)).expect("the JSON file");
    }
    if let Some(file) = &plan.svg {
        std::fs::write(file, picture(&rows)).expect("the SVG file");
    }
    for why in &missed {
        println!("{}: {why}", if plan.limits { "FAILED" } else { "missed" });
    }
    let failed = if plan.limits { missed.len() } else { 0 };
    println!("test result: {} passed; {failed} failed", rows.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Plan {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self {
            proxies: vec![100, 300, 1_000, 3_000, 5_000],
            size: Size { services: 200, endpoints: 50 },
            seconds: 20,
            changes: 100,
            json: None,
            svg: None,
            limits: false,
        };
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
            let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text:?} is not a number"));
            match name.as_str() {
                "--proxies" => {
                    plan.proxies = value()?.split(',').map(|one| number(one.to_owned())).collect::<Result<_, _>>()?;
                }
                "--services" => plan.size.services = number(value()?)?,
                "--seconds" => plan.seconds = number(value()?)? as u64,
                "--changes" => plan.changes = number(value()?)? as u64,
                "--json" => plan.json = Some(value()?.into()),
                "--svg" => plan.svg = Some(value()?.into()),
                "--limits" => plan.limits = true,
                "--bench" => {}
                other => {
                    return Err(format!(
                        "{other}: there are --proxies --services --seconds --changes --json --svg --limits"
                    ));
                }
            }
        }
        Ok(plan)
    }
}

async fn run(plan: &Plan) -> (f64, f64, Vec<Row>) {
    let idle_mb = {
        let api = Api::default();
        fill(&api, &Cluster::new(Size { services: 5, endpoints: 2 }));
        let controller = Controller::start(&api);
        sleep(Duration::from_secs(2)).await;
        controller.rss_mb()
    };
    eprintln!("idle, 10 endpoints: {idle_mb:.1} MB");
    let api = Api::default();
    let mut cluster = Cluster::new(plan.size);
    fill(&api, &cluster);
    let controller = Controller::start(&api);
    sleep(Duration::from_secs(2)).await;
    let loaded_mb = controller.rss_mb();
    eprintln!("{} endpoints, no proxies: {loaded_mb:.1} MB", plan.size.services * plan.size.endpoints);
    let control = Control { address: controller.grpc, bundle: controller.bundle(&api) };
    let (mut proxies, clock) = (Vec::new(), Arc::new(Mutex::new(Clock::default())));
    let mut rows = Vec::new();
    for count in &plan.proxies {
        let began = Instant::now();
        while proxies.len() < *count {
            let last = (proxies.len() + STARTING).min(*count);
            let starting = (proxies.len()..last).map(|number| Proxy::start(number, plan.size, &control, &clock));
            proxies.extend(together(starting).await);
        }
        until("first answers", || proxies.iter().all(|proxy| proxy.held.lock().expect("held").is_complete())).await;
        let ready_s = began.elapsed().as_secs_f64();
        let row = measure(plan, &controller, &api, &mut cluster, &proxies, &clock, ready_s).await;
        eprintln!("{}", line(&row));
        rows.push(row);
    }
    (idle_mb, loaded_mb, rows)
}

/// Runs all of these at once.
async fn together<T: Send + 'static>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|context| {
        for (one, outcome) in &mut waiting {
            if outcome.is_none()
                && let std::task::Poll::Ready(value) = one.as_mut().poll(context)
            {
                *outcome = Some(value);
            }
        }
        if waiting.iter().all(|(_, outcome)| outcome.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, outcome)| outcome).collect()
}

fn fill(api: &Api, cluster: &Cluster) {
    let [namespaces, pods, services, slices] = KINDS.map(|(path, ..)| path);
    for namespace in cluster::namespaces() {
        api.write(namespaces, namespace);
    }
    for service in 0..cluster.size.services {
        api.write(services, cluster::service(service));
        (0..cluster.size.endpoints).for_each(|at| api.write(pods, cluster::pod(service, at)));
        api.write(slices, cluster.slice(service));
    }
}

/// Lets the cluster change for a while; looks at the controller meanwhile and at every proxy afterwards.
async fn measure(
    plan: &Plan,
    controller: &Controller,
    api: &Api,
    cluster: &mut Cluster,
    proxies: &[Proxy],
    clock: &Arc<Mutex<Clock>>,
    ready_s: f64,
) -> Row {
    let followers = followers(proxies, plan.size.services);
    clock.lock().expect("the clock").took.clear();
    let (used, began) = (controller.cpu(), Instant::now());
    let mut ticks = interval(Duration::from_secs(1) / plan.changes as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut expected = 0;
    for _ in 0..plan.seconds * plan.changes {
        ticks.tick().await;
        let step = cluster.step();
        let slice = cluster.slice(step.service);
        {
            let mut clock = clock.lock().expect("the clock");
            let away = !matches!(step.state, State::Ready(_));
            clock.made.resize(step.number as usize, (Instant::now(), false));
            clock.made.push((Instant::now(), away));
            if away {
                clock.gone.insert((step.service, step.at), step.number);
            }
        }
        expected += followers[step.service];
        api.write(KINDS[3].0, slice);
    }
    let (cpu, elapsed, rss_mb) = (controller.cpu().saturating_sub(used), began.elapsed(), controller.rss_mb());
    assert!(!proxies.iter().any(Proxy::ended), "a stream ended");
    until("the truth", || proxies.iter().all(|proxy| is_true(proxy, cluster))).await;
    let mut took: Vec<u32> = clock.lock().expect("the clock").took.values().flatten().copied().collect();
    took.sort_unstable();
    let at = |share: f64| f64::from(took[((took.len() - 1) as f64 * share) as usize]) / 1_000.0;
    Row {
        proxies: proxies.len(),
        rss_mb,
        cpu: cpu.as_secs_f64() / elapsed.as_secs_f64() * 100.0,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        worst_ms: at(1.0),
        delivered: took.len(),
        overtaken: expected.saturating_sub(took.len()),
        ready_s,
    }
}

/// How many proxies follow each Service.
fn followers(proxies: &[Proxy], services: usize) -> Vec<usize> {
    let mut followers = vec![0; services];
    for proxy in proxies {
        proxy.held.lock().expect("held").services.keys().for_each(|service| followers[*service] += 1);
    }
    followers
}

fn is_true(proxy: &Proxy, cluster: &Cluster) -> bool {
    let held = proxy.held.lock().expect("held");
    held.services.iter().all(|(service, known)| *known == cluster.truth(*service))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(20)).await;
    }
}

fn missed(idle_mb: f64, rows: &[Row]) -> Vec<String> {
    let mut missed = Vec::new();
    let mut check = |what: String, is: f64, limit: f64| {
        if is > limit {
            missed.push(format!("{what}: {is:.1}, of at most {limit}"));
        }
    };
    check("idle MB".to_owned(), idle_mb, IDLE_MB);
    for row in rows.iter().filter(|row| row.proxies == LIMITS_AT) {
        check(format!("MB with {} proxies", row.proxies), row.rss_mb, LOADED_MB);
        check(format!("p99 ms with {} proxies", row.proxies), row.p99_ms, PROPAGATION_MS);
    }
    missed
}

fn line(row: &Row) -> String {
    let Row { proxies, rss_mb, cpu, p50_ms, p99_ms, worst_ms, delivered, overtaken, ready_s } = row;
    format!(
        "| {proxies} | {rss_mb:.1} | {cpu:.1} % | {p50_ms:.2} | {p99_ms:.2} | {worst_ms:.1} | {delivered} | {overtaken} | {ready_s:.1} |"
    )
}

fn table(plan: &Plan, idle_mb: f64, loaded_mb: f64, rows: &[Row]) -> String {
    let lines: Vec<String> = rows.iter().map(line).collect();
    format!(
        "idle: {idle_mb:.1} MB; {} endpoints, no proxies: {loaded_mb:.1} MB; {} changes a second for {} s\n\n\
         | proxies | RSS MB | CPU of one | p50 ms | p99 ms | worst ms | answers | overtaken | all ready after s |\n\
         |---|---|---|---|---|---|---|---|---|\n{}\n",
        plan.size.services * plan.size.endpoints,
        plan.changes,
        plan.seconds,
        lines.join("\n")
    )
}

fn json(plan: &Plan, idle_mb: f64, loaded_mb: f64, rows: &[Row]) -> String {
    let row = |row: &Row| {
        json!({
            "proxies": row.proxies, "rss_mb": row.rss_mb, "cpu_percent": row.cpu, "p50_ms": row.p50_ms, "p99_ms": row.p99_ms,
            "worst_ms": row.worst_ms, "answers": row.delivered, "overtaken": row.overtaken, "ready_s": row.ready_s,
        })
    };
    let all = json!({
        "services": plan.size.services, "endpoints": plan.size.services * plan.size.endpoints, "changes_per_second": plan.changes,
        "seconds": plan.seconds, "idle_mb": idle_mb, "loaded_mb": loaded_mb, "rows": rows.iter().map(row).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}

fn picture(rows: &[Row]) -> String {
    let line = |name, value: fn(&Row) -> f64| Line {
        name,
        points: rows.iter().map(|row| Point { x: row.proxies as f64, y: value(row).max(0.1) }).collect(),
    };
    let lines = [
        line("memory, MB", |row| row.rss_mb),
        line("processor, % of one", |row| row.cpu),
        line("propagation p99, ms", |row| row.p99_ms),
    ];
    plot::svg("One controller: 10,000 endpoints, 100 changes a second", "proxies", "MB, %, ms", &lines)
}

//! Figures of all rounds: medians with the least and the most, as tables for people and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command};

use serde_json::{Value, json};

use super::{measures::Figures, peers::Peer, plan::Plan, plot::short, targets::Ratio};

/// Figures that tables show, in this order; JSON has all.
const SHOWN: [&str; 34] = [
    "rps",
    "gbit_s",
    "full_per_s",
    "resumed_per_s",
    "p50_us",
    "added_p50_us",
    "p99_us",
    "added_p99_us",
    "cpu_us",
    "cpu_out_us",
    "cpu_in_us",
    "resumed_cpu_in_us",
    "cpu_s_per_gb",
    "rss_out_mb",
    "rss_in_mb",
    "rss_single_mb",
    "start_ms",
    "calls_out",
    "calls_in",
    "instructions_out_k",
    "instructions_in_k",
    "idle_rss_mb",
    "idle_pss_mb",
    "held_500_rss_mb",
    "held_500_pss_mb",
    "held_2000_rss_mb",
    "held_2000_pss_mb",
    "per_connection_2000_kb",
    "after_burst_rss_mb",
    "after_burst_pss_mb",
    "after_burst_more_mb",
    "saturation_rss_mb",
    "saturation_pss_mb",
    "size_mb",
];

/// What the table of all peers shows: words, measurement, figure.
const BESIDE: [(&str, &str, &str); 34] = [
    ("pair HTTP/1.1, saturation, requests/s", "pair-h1-saturation", "rps"),
    ("… CPU µs/request", "pair-h1-saturation", "cpu_us"),
    ("… 64 KB bodies, CPU µs/request", "pair-h1-64k", "cpu_us"),
    ("pair, 200 rps, added p50 µs", "pair-h1-rate-200", "added_p50_us"),
    ("… added p99 µs", "pair-h1-rate-200", "added_p99_us"),
    ("pair, 1,000 rps, added p50 µs", "pair-h1-rate-1000", "added_p50_us"),
    ("… added p99 µs", "pair-h1-rate-1000", "added_p99_us"),
    ("… CPU µs/request", "pair-h1-rate-1000", "cpu_us"),
    ("pair, 2,000 rps, added p50 µs", "pair-h1-rate-2000", "added_p50_us"),
    ("… added p99 µs", "pair-h1-rate-2000", "added_p99_us"),
    ("pair HTTP/2 2×32, requests/s", "pair-h2-saturation", "rps"),
    ("… CPU µs/request", "pair-h2-saturation", "cpu_us"),
    ("… 64 KB bodies, CPU µs/request", "pair-h2-64k", "cpu_us"),
    ("single HTTP/1.1, saturation, requests/s", "single-h1-saturation", "rps"),
    ("… CPU µs/request", "single-h1-saturation", "cpu_us"),
    ("single HTTP/2 2×32, CPU µs/request", "single-h2-saturation", "cpu_us"),
    ("TCP one stream, pair, Gbit/s", "pair-tcp-stream", "gbit_s"),
    ("… CPU s/GB", "pair-tcp-stream", "cpu_s_per_gb"),
    ("TCP one stream, single, Gbit/s", "single-tcp-stream", "gbit_s"),
    ("… CPU s/GB", "single-tcp-stream", "cpu_s_per_gb"),
    ("start to the first answer, pair, ms", "pair-h1-start", "start_ms"),
    ("handshakes/s, full", "pair-h1-handshakes", "full_per_s"),
    ("… resumed", "pair-h1-handshakes", "resumed_per_s"),
    ("system calls/request at 300 rps, out", "pair-h1-calls", "calls_out"),
    ("… in", "pair-h1-calls", "calls_in"),
    ("user instructions/request, out, thousands", "pair-h1-instructions", "instructions_out_k"),
    ("… in", "pair-h1-instructions", "instructions_in_k"),
    ("RSS idle, MB", "pair-h1-memory", "idle_rss_mb"),
    ("PSS idle, MB", "pair-h1-memory", "idle_pss_mb"),
    ("RSS at saturation, MB", "pair-h1-memory", "saturation_rss_mb"),
    ("RSS with 500 idle connections, MB", "pair-h1-memory", "held_500_rss_mb"),
    ("RSS with 2,000 idle connections, MB", "pair-h1-memory", "held_2000_rss_mb"),
    ("RSS 60 s after them, MB", "pair-h1-memory", "after_burst_rss_mb"),
    ("binary, MB", "binary", "size_mb"),
];

/// Values of a figure, one per round.
type Values = Vec<f64>;
/// By measurement, figure and peer.
type Table = BTreeMap<String, BTreeMap<String, BTreeMap<String, Values>>>;

#[derive(Default)]
pub struct Results {
    table: Table,
    commands: BTreeMap<String, String>,
    pub failures: Vec<String>,
}

impl Results {
    pub fn add(&mut self, measurement: &str, peer: &str, figures: Figures) {
        self.commands.insert(measurement.to_owned(), figures.command);
        for (figure, value) in figures.values {
            self.push(measurement, &figure, peer, value);
        }
    }

    fn push(&mut self, measurement: &str, figure: &str, peer: &str, value: f64) {
        let figures = self.table.entry(measurement.to_owned()).or_default();
        figures.entry(figure.to_owned()).or_default().entry(peer.to_owned()).or_default().push(value);
    }

    /// Latencies that the proxies add: over the median without them.
    pub fn derive(&mut self) {
        let mut added = Vec::new();
        for (measurement, figures) in &self.table {
            let Some((_, rate)) = measurement.split_once("-rate-") else { continue };
            for (figure, name) in [("p50_us", "added_p50_us"), ("p99_us", "added_p99_us")] {
                let Some(direct) = self.median(&format!("direct-h1-rate-{rate}"), figure, "direct") else { continue };
                for (peer, values) in figures.get(figure).into_iter().flatten().filter(|(peer, _)| *peer != "direct") {
                    added.extend(values.iter().map(|value| (measurement.clone(), name, peer.clone(), value - direct)));
                }
            }
        }
        for (measurement, figure, peer, value) in added {
            self.push(&measurement, figure, &peer, value);
        }
    }

    /// How many measurements there are.
    pub fn measured(&self) -> usize {
        self.table.len()
    }

    /// `None`: it was not measured.
    pub fn median(&self, measurement: &str, figure: &str, peer: &str) -> Option<f64> {
        self.table.get(measurement)?.get(figure)?.get(peer).map(|values| median(values))
    }

    /// One table for each measurement, with its command.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (measurement, figures) in &self.table {
            let shown: Vec<&str> = SHOWN.into_iter().filter(|figure| figures.contains_key(*figure)).collect();
            let mut peers: Vec<&String> = figures.values().flat_map(BTreeMap::keys).collect();
            peers.sort_unstable();
            peers.dedup();
            let command = self.commands.get(measurement).map_or("", String::as_str);
            let _ = writeln!(text, "\n{measurement}: {command}");
            let _ = writeln!(text, "| peer | {} |\n|---|{}", shown.join(" | "), "---|".repeat(shown.len()));
            for peer in peers {
                let cells = shown
                    .iter()
                    .map(|figure| figures[*figure].get(peer).map_or("–".to_owned(), |values| spread(values)));
                let _ = writeln!(text, "| {peer} | {} |", cells.collect::<Vec<_>>().join(" | "));
            }
        }
        text
    }

    /// All peers in one table: medians, a column each.
    pub fn beside(&self) -> String {
        let measured = |peer: &&str| BESIDE.iter().any(|(_, at, figure)| self.median(at, figure, peer).is_some());
        let peers: Vec<&str> = Peer::ALL.iter().map(|peer| peer.name()).filter(measured).collect();
        let mut text = format!("| median | {} |\n|---|{}\n", peers.join(" | "), "---|".repeat(peers.len()));
        for (what, measurement, figure) in BESIDE {
            let cells: Vec<Option<f64>> = peers.iter().map(|peer| self.median(measurement, figure, peer)).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|cell| cell.map_or("–".to_owned(), short));
                let _ = writeln!(text, "| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
            }
        }
        text
    }

    pub fn json(&self, plan: &Plan, ratios: &[Ratio]) -> String {
        let measurements = self.table.iter().map(|(name, figures)| {
            let figures: BTreeMap<_, BTreeMap<_, _>> = figures
                .iter()
                .map(|(figure, peers)| (figure, peers.iter().map(|(peer, values)| (peer, summary(values))).collect()))
                .collect();
            (name, json!({ "command": self.commands.get(name), "figures": figures }))
        });
        let ratios: Vec<Value> = ratios.iter().map(Ratio::json).collect();
        let all = json!({
            "machine": machine(),
            "arguments": plan.arguments,
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "measurements": measurements.collect::<BTreeMap<_, _>>(),
            "ratios": ratios,
            "failures": self.failures,
        });
        format!("{all:#}\n")
    }
}

fn summary(values: &[f64]) -> Value {
    let (least, most) = ends(values);
    json!({ "median": median(values), "min": least, "max": most, "values": values })
}

pub fn spread(values: &[f64]) -> String {
    let (least, most) = ends(values);
    match values {
        [one] => short(*one),
        _ => format!("{} [{}..{}]", short(median(values)), short(least), short(most)),
    }
}

fn ends(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)))
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

/// What it ran on, and with which versions.
fn machine() -> Value {
    let first = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches([':', '\t', ' ']).to_owned()))
    };
    let says = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().find(|line| !line.trim().is_empty()).map(str::to_owned)
    };
    json!({
        "processor": first("/proc/cpuinfo", "model name"),
        "processors": fs::read_to_string("/proc/cpuinfo").unwrap_or_default().matches("processor\t").count(),
        "kernel": first("/proc/sys/kernel/osrelease", ""),
        "memory": first("/proc/meminfo", "MemTotal"),
        "versions": {
            "haproxy": says("haproxy", "-v"), "nginx": says("nginx", "-v"), "wrk": says("wrk", "-v"),
            "h2load": says("h2load", "--version"), "envoy": std::env::var("LACEWING_BENCH_ENVOY_VERSION").ok(),
        },
    })
}

//! What is wanted of our figures: ratios to others in the same run, and sizes. `must` has to hold; `aim` is what we would
//! like. A row whose figures were not measured in this run is left out.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{plot::short, report::Results};

const OURS: &str = "lacewing";
/// Times the hyper floor's CPU per request: no noise explains more.
const FAR: f64 = 2.0;

/// A bound on our figure, as a multiple of a peer's; without a peer, as it is.
#[derive(Clone, Copy)]
struct Bound {
    peer: Option<&'static str>,
    factor: f64,
}

/// A figure that is bounded; from above where less is better.
struct Target {
    what: &'static str,
    measurement: &'static str,
    figure: &'static str,
    less: bool,
    musts: &'static [Bound],
    aims: &'static [Bound],
}

const fn times(factor: f64, peer: &'static str) -> Bound {
    Bound { peer: Some(peer), factor }
}

const fn plain(factor: f64) -> Bound {
    Bound { peer: None, factor }
}

const fn less(
    what: &'static str,
    measurement: &'static str,
    figure: &'static str,
    musts: &'static [Bound],
    aims: &'static [Bound],
) -> Target {
    Target { what, measurement, figure, less: true, musts, aims }
}

const fn more(
    what: &'static str,
    measurement: &'static str,
    figure: &'static str,
    musts: &'static [Bound],
    aims: &'static [Bound],
) -> Target {
    Target { what, measurement, figure, less: false, musts, aims }
}

const TARGETS: [Target; 15] = [
    less(
        "pair HTTP/1.1, saturation, CPU µs/request",
        "pair-h1-saturation",
        "cpu_us",
        &[times(1.25, "hyper-floor"), times(1.0, "haproxy")],
        &[times(1.10, "hyper-floor")],
    ),
    more(
        "pair HTTP/1.1, saturation, requests/s",
        "pair-h1-saturation",
        "rps",
        &[times(1.0, "haproxy"), times(1.6, "envoy")],
        &[times(0.9, "hyper-floor")],
    ),
    less(
        "pair, 1,000 rps, CPU µs/request",
        "pair-h1-rate-1000",
        "cpu_us",
        &[times(1.15, "hyper-floor")],
        &[times(1.0, "nginx")],
    ),
    less(
        "pair, 1,000 rps, added p50 µs",
        "pair-h1-rate-1000",
        "added_p50_us",
        &[times(1.15, "hyper-floor")],
        &[times(1.0, "hyper-floor")],
    ),
    less(
        "pair HTTP/2 2×32, CPU µs/request",
        "pair-h2-saturation",
        "cpu_us",
        &[times(0.75, "envoy"), times(1.2, "hyper-floor")],
        &[times(0.875, "hyper-floor")],
    ),
    less(
        "single HTTP/1.1, CPU µs/request",
        "single-h1-saturation",
        "cpu_us",
        &[times(0.55, "envoy")],
        &[times(1.1, "hyper-floor")],
    ),
    more(
        "TCP one stream, single, Gbit/s",
        "single-tcp-stream",
        "gbit_s",
        &[times(1.0, "envoy")],
        &[times(1.0, "splice-floor")],
    ),
    more(
        "TCP one stream, pair, Gbit/s",
        "pair-tcp-stream",
        "gbit_s",
        &[times(1.0, "copy-floor")],
        &[times(1.0, "envoy")],
    ),
    less("RSS idle, MB", "pair-h1-memory", "idle_rss_mb", &[plain(7.0)], &[plain(5.0)]),
    less("RSS at saturation, MB", "pair-h1-memory", "saturation_rss_mb", &[plain(12.0)], &[plain(8.0)]),
    less(
        "memory per idle connection (2,000), KB",
        "pair-h1-memory",
        "per_connection_2000_kb",
        &[plain(8.0)],
        &[plain(2.0)],
    ),
    less(
        "RSS 60 s after a burst, over idle, MB",
        "pair-h1-memory",
        "after_burst_more_mb",
        &[plain(3.0)],
        &[plain(1.0)],
    ),
    less(
        "user instructions per request, pair, out, thousands",
        "pair-h1-instructions",
        "instructions_out_k",
        &[plain(75.0)],
        &[plain(60.0)],
    ),
    less(
        "user instructions per request, pair, in, thousands",
        "pair-h1-instructions",
        "instructions_in_k",
        &[plain(85.0)],
        &[plain(72.0)],
    ),
    less("binary, stripped, MB", "binary", "size_mb", &[plain(8.0)], &[plain(5.0)]),
];

/// Our figure beside one bound.
pub struct Ratio {
    what: &'static str,
    ours: f64,
    peer: Option<&'static str>,
    /// Ours over theirs; without a peer, ours.
    value: f64,
    bound: f64,
    less: bool,
    must: bool,
    /// An aim never fails.
    pub holds: bool,
}

impl Ratio {
    pub fn json(&self) -> Value {
        json!({
            "what": self.what, "ours": self.ours, "peer": self.peer, "ratio": self.value, "bound": self.bound,
            "less_is_better": self.less, "must": self.must, "holds": self.reached(),
        })
    }

    /// `≤ 1.25 × hyper-floor (1.18)`, or for a size `≤ 7`.
    fn words(&self) -> String {
        let sign = if self.less { '≤' } else { '≥' };
        let words = match self.peer {
            Some(peer) => format!("{sign} {} × {peer} ({:.2})", self.bound, self.value),
            None => format!("{sign} {}", self.bound),
        };
        if self.reached() { words } else { format!("**{words}**") }
    }

    fn reached(&self) -> bool {
        if self.less { self.value <= self.bound } else { self.value >= self.bound }
    }
}

pub fn ratios(results: &Results) -> Vec<Ratio> {
    let mut all = Vec::new();
    for target in &TARGETS {
        let Some(ours) = results.median(target.measurement, target.figure, OURS) else { continue };
        let bounds =
            target.musts.iter().map(|bound| (bound, true)).chain(target.aims.iter().map(|bound| (bound, false)));
        for (bound, must) in bounds {
            let value = match bound.peer {
                None => ours,
                Some(peer) => match results.median(target.measurement, target.figure, peer) {
                    Some(theirs) => ours / theirs,
                    None => continue,
                },
            };
            let mut ratio = Ratio {
                what: target.what,
                ours,
                peer: bound.peer,
                value,
                bound: bound.factor,
                less: target.less,
                must,
                holds: true,
            };
            ratio.holds = !must || ratio.reached();
            all.push(ratio);
        }
    }
    all
}

/// One row for each measure: what it must be and what we would like, each with what it is; what is missed stands in bold.
pub fn table(ratios: &[Ratio]) -> String {
    let mut text = "| measure | ours | must | aim |\n|---|---|---|---|\n".to_owned();
    for of_one in ratios.chunk_by(|one, next| one.what == next.what) {
        let bounds = |must: bool| {
            let of_kind = of_one.iter().filter(|ratio| ratio.must == must).map(Ratio::words);
            of_kind.collect::<Vec<_>>().join("; ")
        };
        let _ =
            writeln!(text, "| {} | {} | {} | {} |", of_one[0].what, short(of_one[0].ours), bounds(true), bounds(false));
    }
    text
}

/// What even a noisy run must show: pairs of ours cost less than [`FAR`] times the floor's.
pub fn far_off(results: &Results) -> Vec<String> {
    let mut off = Vec::new();
    for measurement in ["pair-h1-saturation", "pair-h2-saturation"] {
        let cpu = |peer| results.median(measurement, "cpu_us", peer);
        if let (Some(ours), Some(floor)) = (cpu(OURS), cpu("hyper-floor"))
            && ours > FAR * floor
        {
            off.push(format!(
                "{measurement}: {ours:.0} µs of CPU per request, and hyper's floor {floor:.0}: over {FAR} times"
            ));
        }
    }
    off
}

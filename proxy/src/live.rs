//! Owns the last ten minutes: per (direction, peer, service, route) a ring of small latency sketches that `mesh stat`
//! and `mesh top` read straight from the proxy and merge exactly.
//!
//! All of it is bounded: [`SERIES_MAX`] series, [`BUCKETS_MAX`] sketch buckets in the whole process (≈ 8 bytes
//! each); when the buckets are used up, new values fall into the nearest bucket there is. It refuses anything that a client chose
//! as part of a key. Prometheus metrics are `metrics.rs`; this is what people look at while they wait.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::{LIVE_BUCKETS_MAX as BUCKETS_MAX, LIVE_SERIES_MAX as SERIES_MAX};

/// Version of [`Report`] as JSON.
pub const SCHEMA_VERSION: u32 = 1;
/// The ring's fine part: this many slots of one second.
const FINE_SLOTS: u64 = 60;
/// The ring's coarse part: this many slots of [`COARSE_S`] seconds, behind the fine part.
const COARSE_SLOTS: u64 = 54;
const COARSE_S: u64 = 10;
/// The longest window that can be asked for, in seconds.
pub const WINDOW_MAX_S: u64 = FINE_SLOTS + COARSE_SLOTS * COARSE_S;

/// Which side of the app a connection or request is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What a series is about. Every part comes from discovery or a verified certificate, never from a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    pub direction: Direction,
    /// Namespace of the peer; empty: not known.
    pub peer_namespace: String,
    /// Outbound: the endpoint's workload (`deployment/web`). Inbound: the client's service account (`sa/web`), or
    /// `unmeshed`.
    pub peer: String,
    /// Outbound: the service that the app asked for, `namespace/name:port`.
    pub service: Option<String>,
    /// The route that matched.
    pub route: String,
}

/// One proxy's answer to `GET /stats`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub schema_version: u32,
    pub pod: String,
    pub namespace: String,
    /// How many seconds the sums are about, up to now: what rates are made with. Less than the window in a young proxy.
    pub covered_s: f64,
    pub rows: Vec<Row>,
}

/// What one series saw in the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub key: Key,
    /// Requests that ended well, and that did not. Both zero for raw TCP.
    pub success: u64,
    pub failure: u64,
    /// Request head received to first response byte.
    pub sketch: Sketch,
    /// TCP connections that are open now.
    pub open: i64,
    /// Bytes read from and written to the peer over raw TCP, in the window.
    pub read_bytes: u64,
    pub write_bytes: u64,
}

/// Counts of durations in buckets of at most 3.2 % width, so that any quantile is known within 1.6 % from 10 µs up.
/// Sketches merge by addition; only buckets in use are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sketch {
    /// (bucket, count), sorted by bucket.
    counts: Vec<(u16, u32)>,
}

/// Durations are counted in units of 256 ns: fine enough for 2 % at 10 µs.
const UNIT_SHIFT: u32 = 8;
/// log2 of the buckets in each power of two.
const SUB_BITS: u32 = 5;
/// Longest duration that is told apart: about 5 hours.
const UNITS_MAX: u64 = 1 << 36;

fn bucket_of(duration: Duration) -> u16 {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let units = (nanos >> UNIT_SHIFT).min(UNITS_MAX);
    if units < 2 << SUB_BITS {
        return units as u16; // exact
    }
    let shift = units.ilog2() - SUB_BITS;
    (u64::from(shift << SUB_BITS) + (units >> shift)) as u16
}

/// The middle of a bucket, in nanoseconds.
fn middle_of(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < 2 << SUB_BITS {
        return (bucket << UNIT_SHIFT) + (1 << (UNIT_SHIFT - 1));
    }
    let shift = ((bucket >> SUB_BITS) - 1).min(40);
    let low = (bucket - (shift << SUB_BITS)) << shift;
    (low << UNIT_SHIFT) + (1 << (shift + u64::from(UNIT_SHIFT) - 1))
}

impl Sketch {
    /// Counts one duration. `room` says whether a new bucket may be used; without room the nearest one counts it.
    /// Returns whether a bucket was added.
    fn add(&mut self, duration: Duration, room: bool) -> bool {
        let bucket = bucket_of(duration);
        match self.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(1),
            Err(at) if room || self.counts.is_empty() => {
                self.counts.insert(at, (bucket, 1));
                return true;
            }
            Err(at) => {
                let nearest = at.min(self.counts.len() - 1);
                self.counts[nearest].1 = self.counts[nearest].1.saturating_add(1);
            }
        }
        false
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for &(bucket, count) in &other.counts {
            match self.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
                Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(count),
                Err(at) => self.counts.insert(at, (bucket, count)),
            }
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// The duration under which the fraction `q` (0 to 1) of all lies, in microseconds; `None` when empty.
    pub fn quantile_us(&self, q: f64) -> Option<f64> {
        let rank = ((self.count() as f64 * q.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts.iter().find_map(|&(bucket, count)| {
            seen += u64::from(count);
            (seen >= rank).then(|| middle_of(bucket) as f64 / 1_000.0)
        })
    }
}

#[derive(Default)]
struct Slot {
    success: u32,
    failure: u32,
    read_bytes: u64,
    write_bytes: u64,
    sketch: Sketch,
}

impl Slot {
    fn merge(&mut self, other: &Self) {
        self.success = self.success.saturating_add(other.success);
        self.failure = self.failure.saturating_add(other.failure);
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.sketch.merge(&other.sketch);
    }
}

/// Slots by tick, oldest first; at most as many as the ring is long. Idle seconds take no memory.
#[derive(Default)]
struct Ring {
    fine: std::collections::VecDeque<(u64, Slot)>,
    coarse: std::collections::VecDeque<(u64, Slot)>,
}

impl Ring {
    /// The slot of this second, after old ones have moved on.
    fn at(&mut self, second: u64) -> &mut Slot {
        self.age(second);
        if self.fine.back().is_none_or(|(tick, _)| *tick < second) {
            self.fine.push_back((second, Slot::default()));
        }
        // Just made sure that there is a last one; a clock that stood still lands there too.
        let last = self.fine.len() - 1;
        &mut self.fine[last].1
    }

    fn age(&mut self, second: u64) {
        while let Some((tick, slot)) = self.fine.pop_front_if(|(tick, _)| *tick + FINE_SLOTS <= second) {
            let coarse = tick / COARSE_S;
            match self.coarse.back_mut() {
                Some((last, into)) if *last == coarse => into.merge(&slot),
                _ => self.coarse.push_back((coarse, slot)),
            }
        }
        while self.coarse.pop_front_if(|(tick, _)| (*tick + 1) * COARSE_S + WINDOW_MAX_S <= second).is_some() {}
    }

    fn buckets(&self) -> usize {
        self.fine.iter().chain(&self.coarse).map(|(_, slot)| slot.sketch.counts.len()).sum()
    }

    fn sum(&self, from: u64) -> Slot {
        let mut sum = Slot::default();
        let coarse = self.coarse.iter().filter(|(tick, _)| tick * COARSE_S >= from);
        for (_, slot) in self.fine.iter().filter(|(tick, _)| *tick >= from).chain(coarse) {
            sum.merge(slot);
        }
        sum
    }
}

/// One key's ring. Endpoints and connections hold it, so that recording needs no lookup.
pub struct Series {
    key: Key,
    ring: Mutex<Ring>,
    open: AtomicI64,
    live: Arc<Shared>,
}

struct Shared {
    started: Instant,
    /// Sketch buckets in use, over all series; brought up to date when a ring is aged for a report.
    buckets: AtomicUsize,
}

impl Shared {
    fn second(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

impl Series {
    /// Records the end of a request.
    pub fn request(&self, latency: Duration, success: bool) {
        let room = self.live.buckets.load(Relaxed) < BUCKETS_MAX;
        let mut ring = self.ring.lock();
        let slot = ring.at(self.live.second());
        if success {
            slot.success = slot.success.saturating_add(1);
        } else {
            slot.failure = slot.failure.saturating_add(1);
        }
        if slot.sketch.add(latency, room) {
            self.live.buckets.fetch_add(1, Relaxed);
        }
    }

    /// Records bytes of raw TCP.
    pub fn bytes(&self, read: u64, written: u64) {
        let mut ring = self.ring.lock();
        let slot = ring.at(self.live.second());
        slot.read_bytes += read;
        slot.write_bytes += written;
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> OpenGuard {
        self.open.fetch_add(1, Relaxed);
        OpenGuard(self.clone())
    }
}

/// An open connection, for as long as it lives.
pub struct OpenGuard(Arc<Series>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// All series of this process.
pub struct Live {
    series: Mutex<HashMap<Key, Arc<Series>>>,
    shared: Arc<Shared>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            series: Mutex::default(),
            shared: Arc::new(Shared { started: Instant::now(), buckets: AtomicUsize::new(0) }),
        }
    }
}

impl Live {
    /// The series of `key`. When there are [`SERIES_MAX`] already, its direction's `other` series.
    pub fn series(&self, key: &Key) -> Arc<Series> {
        let mut all = self.series.lock();
        if let Some(series) = all.get(key) {
            return series.clone();
        }
        let key = if all.len() < SERIES_MAX { key.clone() } else { overflow(key.direction) };
        let make =
            || Series { key: key.clone(), ring: Mutex::default(), open: AtomicI64::new(0), live: self.shared.clone() };
        all.entry(key.clone()).or_insert_with(|| Arc::new(make())).clone()
    }

    /// Lets old slots go and counts the buckets anew. Called now and then.
    pub fn tidy(&self) {
        self.report("", "", 1);
    }

    /// What all series saw in the last `window` seconds (at most [`WINDOW_MAX_S`]).
    pub fn report(&self, pod: &str, namespace: &str, window: u64) -> Report {
        let window = window.clamp(1, WINDOW_MAX_S);
        let second = self.shared.second();
        // The first second that is summed; beyond the fine part, sums begin with a whole coarse slot.
        let from = (second + 1).saturating_sub(window);
        let from = if window > FINE_SLOTS { from.next_multiple_of(COARSE_S) } else { from };
        let mut buckets = 0;
        let mut rows = Vec::new();
        let mut all = self.series.lock();
        all.retain(|_, series| {
            let mut ring = series.ring.lock();
            ring.age(second);
            buckets += ring.buckets();
            let sum = ring.sum(from);
            let open = series.open.load(Relaxed);
            if sum.success + sum.failure > 0 || sum.read_bytes + sum.write_bytes > 0 || open > 0 {
                rows.push(row(&series.key, sum, open));
            }
            // Nobody holds it and it says nothing any more: room for another.
            Arc::strong_count(series) > 1 || !(ring.fine.is_empty() && ring.coarse.is_empty())
        });
        self.shared.buckets.store(buckets, Relaxed);
        let covered_s = self.shared.started.elapsed().as_secs_f64() - from as f64;
        Report { schema_version: SCHEMA_VERSION, pod: pod.to_owned(), namespace: namespace.to_owned(), covered_s, rows }
    }
}

fn row(key: &Key, sum: Slot, open: i64) -> Row {
    Row {
        key: key.clone(),
        success: u64::from(sum.success),
        failure: u64::from(sum.failure),
        sketch: sum.sketch,
        open,
        read_bytes: sum.read_bytes,
        write_bytes: sum.write_bytes,
    }
}

fn overflow(direction: Direction) -> Key {
    Key { direction, peer_namespace: String::new(), peer: "other".to_owned(), service: None, route: "other".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(peer: &str) -> Key {
        Key {
            direction: Direction::Inbound,
            peer_namespace: "shop".to_owned(),
            peer: peer.to_owned(),
            service: None,
            route: "default".to_owned(),
        }
    }

    #[test]
    fn quantiles_are_within_two_percent_from_10_us_up() {
        let mut us = 10.0_f64;
        while us < 100_000_000.0 {
            let mut sketch = Sketch::default();
            sketch.add(Duration::from_nanos((us * 1_000.0) as u64), true);
            let read = sketch.quantile_us(0.5).unwrap();
            assert!((read - us).abs() / us <= 0.02, "{us} read as {read}");
            us *= 1.007;
        }
    }

    #[test]
    fn buckets_never_go_backwards() {
        let mut last = 0;
        for step in 0..200_000_u64 {
            let bucket = bucket_of(Duration::from_nanos(step * step));
            assert!(bucket >= last && bucket - last <= 300, "{step}: {last} -> {bucket}");
            last = bucket;
        }
        assert!(bucket_of(Duration::MAX) >= last);
        let _ = middle_of(u16::MAX); // a report from elsewhere may hold any bucket
    }

    #[test]
    fn merging_equals_counting_together() {
        let (mut a, mut b, mut both) = (Sketch::default(), Sketch::default(), Sketch::default());
        for n in 0..1_000_u64 {
            let duration = Duration::from_micros(n * 37 % 9_000);
            both.add(duration, true);
            if n % 3 == 0 {
                a.add(duration, true)
            } else {
                b.add(duration, true)
            };
        }
        a.merge(&b);
        assert_eq!(a, both);
        assert_eq!(a.count(), 1_000);
    }

    #[test]
    fn empty_has_no_quantile() {
        assert_eq!(Sketch::default().quantile_us(0.99), None);
    }

    #[tokio::test(start_paused = true)]
    async fn windows_see_only_their_seconds() {
        let live = Live::default();
        let series = live.series(&key("sa/web"));
        for second in 0..700_u64 {
            series.request(Duration::from_millis(1), second % 10 != 0);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let sum = |window| live.report("web-1", "shop", window).rows.first().map_or(0, |row| row.success + row.failure);
        assert_eq!(sum(10), 9, "the present second has nothing yet");
        assert_eq!(sum(60), 59);
        let covered = live.report("web-1", "shop", 60).covered_s;
        assert!((covered - 59.0).abs() < 0.01, "{covered}");
        let all = sum(WINDOW_MAX_S);
        assert!((590..=600).contains(&all), "{all}");
        let long = &live.report("web-1", "shop", WINDOW_MAX_S).rows[0];
        assert!(long.failure >= 58 && long.failure <= 60, "{}", long.failure);
        assert_eq!(long.sketch.count(), long.success + long.failure);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_empties_the_ring_and_frees_the_series() {
        let live = Live::default();
        live.series(&key("sa/web")).request(Duration::from_millis(1), true);
        assert_eq!(live.report("p", "n", 60).rows.len(), 1);
        tokio::time::advance(Duration::from_secs(WINDOW_MAX_S + 20)).await;
        assert!(live.report("p", "n", WINDOW_MAX_S).rows.is_empty());
        assert!(live.series.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn series_are_capped() {
        let live = Live::default();
        let held: Vec<_> = (0..SERIES_MAX * 2).map(|n| live.series(&key(&format!("sa/{n}")))).collect();
        for series in &held {
            series.request(Duration::from_millis(1), true);
        }
        let report = live.report("p", "n", 60);
        assert_eq!(report.rows.len(), SERIES_MAX + 1);
        let other = report.rows.iter().find(|row| row.key.peer == "other").unwrap();
        assert_eq!(other.success, SERIES_MAX as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_process_gets_coarser_not_bigger() {
        let live = Live::default();
        let series = live.series(&key("sa/web"));
        live.shared.buckets.store(BUCKETS_MAX, Relaxed);
        series.request(Duration::from_millis(1), true);
        series.request(Duration::from_millis(50), true);
        assert_eq!(series.ring.lock().buckets(), 1);
        assert_eq!(live.report("p", "n", 60).rows[0].success, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn open_connections_are_a_guard() {
        let live = Live::default();
        let series = live.series(&key("sa/web"));
        let guard = series.open();
        assert_eq!(live.report("p", "n", 60).rows[0].open, 1);
        drop(guard);
        assert!(live.report("p", "n", 60).rows.is_empty());
    }
}

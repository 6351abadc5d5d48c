//! Owns the golden metrics: success rate, request rate and latency, merged exactly from what many proxies counted.
//!
//! Counts and sketches add up; rates add up per proxy, each over the time that it really covers, so that a pod that
//! was restarted a moment ago does not look idle.

use lacewing_proxy::live::{Row, Sketch};
use serde::{Serialize, Serializer};

/// A proxy younger than this counts as if it were that old: a rate over an instant means nothing.
const COVERED_MIN_S: f64 = 1.0;
/// JSON has millionths: finer than anything that is measured, and readable.
const JSON_PARTS: f64 = 1e6;

/// Sums over any number of rows of any number of proxies.
#[derive(Default)]
pub struct Golden {
    success: u64,
    failure: u64,
    rps: f64,
    sketch: Sketch,
    open: Option<i64>,
    /// Read and written, once any proxy counted a byte.
    byte_rates: Option<[f64; 2]>,
    covered_s: Option<f64>,
}

/// The golden metrics as JSON has them. `null`: nothing to tell it from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// 0 to 1.
    #[serde(serialize_with = "share")]
    pub success_rate: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub rps: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub latency_ms_p50: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub latency_ms_p95: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub latency_ms_p99: Option<f64>,
    pub tcp_open_connections: Option<u64>,
    /// Bytes a second of raw TCP; those of HTTP are not counted.
    #[serde(serialize_with = "rounded")]
    pub tcp_read_bytes_rate: Option<f64>,
    #[serde(serialize_with = "rounded")]
    pub tcp_write_bytes_rate: Option<f64>,
    /// Seconds that the numbers are about: as far back as each of the proxies behind them reaches.
    #[serde(serialize_with = "rounded")]
    pub covered_s: Option<f64>,
}

impl Numbers {
    /// Whether there were neither requests nor connections.
    pub fn is_empty(&self) -> bool {
        Self { covered_s: None, ..self.clone() } == Self::default()
    }
}

// The reference is what serde's `serialize_with` hands over.
#[allow(clippy::ref_option)]
fn rounded<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    value.map(|value| (value * JSON_PARTS).round() / JSON_PARTS).serialize(to)
}

/// Like [`rounded`], never up to 1: one failure in ten million must not look like none.
#[allow(clippy::ref_option)]
fn share<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    let most = |value: f64| if value < 1.0 { value.min(1.0 - 1.0 / JSON_PARTS) } else { value };
    rounded(&value.map(most), to)
}

impl Golden {
    /// Adds one row of a report that covers `covered_s` seconds.
    pub fn add(&mut self, row: &Row, covered_s: f64) {
        self.cover(covered_s);
        let seconds = covered_s.max(COVERED_MIN_S);
        self.success += row.success;
        self.failure += row.failure;
        self.rps += (row.success + row.failure) as f64 / seconds;
        self.sketch.merge(&row.sketch);
        self.open = Some(self.open.unwrap_or_default() + row.open);
        if row.read_bytes + row.write_bytes > 0 {
            let [read, write] = self.byte_rates.unwrap_or_default();
            self.byte_rates = Some([read + row.read_bytes as f64 / seconds, write + row.write_bytes as f64 / seconds]);
        }
    }

    /// Says that a proxy of this age is behind the numbers, whether it counted anything or not.
    pub fn cover(&mut self, covered_s: f64) {
        self.covered_s = Some(self.covered_s.map_or(covered_s, |least| least.min(covered_s)));
    }

    pub fn numbers(&self) -> Numbers {
        let requests = self.success + self.failure;
        let any = requests > 0;
        let latency = |q| self.sketch.quantile_us(q).map(|us| us / 1_000.0);
        Numbers {
            success_rate: any.then(|| self.success as f64 / requests as f64),
            rps: any.then_some(self.rps),
            latency_ms_p50: latency(0.5),
            latency_ms_p95: latency(0.95),
            latency_ms_p99: latency(0.99),
            tcp_open_connections: self.open.map(|open| u64::try_from(open).unwrap_or_default()),
            tcp_read_bytes_rate: self.byte_rates.map(|[read, _]| read),
            tcp_write_bytes_rate: self.byte_rates.map(|[_, write]| write),
            covered_s: self.covered_s,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// A row as a proxy would report it; `sketch` is a list of (bucket, count).
    pub fn row(direction: &str, service: Option<&str>, counts: [u64; 2], sketch: &[(u16, u32)]) -> Row {
        serde_json::from_value(json!({
            "direction": direction, "peer_namespace": "emojivoto", "peer": "deployment/voting", "service": service,
            "route": "default", "success": counts[0], "failure": counts[1], "sketch": sketch, "open": 2,
            "read_bytes": 10, "write_bytes": 20,
        }))
        .expect("a row of the proxy's schema")
    }

    #[test]
    fn nothing_is_not_zero() {
        assert_eq!(Golden::default().numbers(), Numbers::default());
    }

    #[test]
    fn counts_and_sketches_add_up_rates_per_proxy() {
        let mut golden = Golden::default();
        // 60 requests in 60 s, and 20 in the 10 s that a younger proxy has seen: 1 + 2 a second.
        golden.add(&row("inbound", None, [60, 0], &[(100, 60)]), 60.0);
        golden.add(&row("inbound", None, [10, 10], &[(300, 20)]), 10.0);
        let numbers = golden.numbers();
        assert_eq!(numbers.success_rate, Some(0.875));
        assert_eq!(numbers.rps, Some(3.0));
        assert_eq!(numbers.tcp_open_connections, Some(4));
        let (p50, p95) = (numbers.latency_ms_p50.expect("p50"), numbers.latency_ms_p95.expect("p95"));
        assert!(p50 < p95 / 10.0, "{p50} {p95}");
        assert_eq!(numbers.latency_ms_p99, Some(p95));
    }

    #[test]
    fn an_instant_does_not_make_a_rate() {
        let mut golden = Golden::default();
        golden.add(&row("inbound", None, [3, 0], &[(1, 3)]), 0.001);
        assert_eq!(golden.numbers().rps, Some(3.0));
    }

    #[test]
    fn connections_without_requests_have_no_success_rate() {
        let mut golden = Golden::default();
        golden.add(&row("inbound", None, [0, 0], &[]), 60.0);
        let numbers = golden.numbers();
        assert_eq!((numbers.success_rate, numbers.rps, numbers.latency_ms_p50), (None, None, None));
        assert_eq!(numbers.tcp_open_connections, Some(2));
        assert_eq!(numbers.tcp_write_bytes_rate, Some(1.0 / 3.0));
    }

    #[test]
    fn without_raw_tcp_there_is_no_byte_rate() {
        let mut http = row("inbound", None, [60, 0], &[(100, 60)]);
        (http.read_bytes, http.write_bytes) = (0, 0);
        let mut golden = Golden::default();
        golden.add(&http, 60.0);
        let numbers = golden.numbers();
        assert_eq!((numbers.tcp_read_bytes_rate, numbers.tcp_write_bytes_rate), (None, None));
        http.write_bytes = 30;
        golden.add(&http, 60.0);
        let numbers = golden.numbers();
        assert_eq!((numbers.tcp_read_bytes_rate, numbers.tcp_write_bytes_rate), (Some(0.0), Some(0.5)));
    }

    #[test]
    fn the_youngest_proxy_says_how_far_back_the_numbers_reach() {
        let mut golden = Golden::default();
        golden.add(&row("inbound", None, [60, 0], &[(100, 60)]), 60.0);
        assert_eq!(golden.numbers().covered_s, Some(60.0));
        golden.cover(4.0);
        assert_eq!(golden.numbers().covered_s, Some(4.0));
        let mut idle = Golden::default();
        idle.cover(60.0);
        assert!(idle.numbers().is_empty() && !golden.numbers().is_empty());
    }

    #[test]
    fn json_has_six_decimals_and_no_failure_is_lost_in_them() {
        let json = |success_rate, rps| {
            let numbers = Numbers { success_rate: Some(success_rate), rps: Some(rps), ..Numbers::default() };
            let value = serde_json::to_value(numbers).expect("JSON");
            (value["success_rate"].as_f64().expect("a share"), value["rps"].to_string())
        };
        assert_eq!(json(2.0 / 3.0, 1.0 / 3.0), (0.666_667, "0.333333".to_owned()));
        assert_eq!(json(0.999_999_99, 50.000_000_04), (0.999_999, "50.0".to_owned()));
        assert_eq!(json(1.0, 0.0), (1.0, "0.0".to_owned()));
    }
}

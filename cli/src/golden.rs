//! Owns the golden metrics: success rate, request rate and latency, merged exactly from what many proxies counted.
//!
//! Counts and sketches add up; rates add up per proxy, each over the time that it really covers, so that a pod that
//! was restarted a moment ago does not look idle.

use lacewing_proxy::live::{Row, Sketch};
use serde::Serialize;

/// A proxy younger than this counts as if it were that old: a rate over an instant means nothing.
const COVERED_MIN_S: f64 = 1.0;

/// Sums over any number of rows of any number of proxies.
#[derive(Default)]
pub struct Golden {
    success: u64,
    failure: u64,
    rps: f64,
    sketch: Sketch,
    open: Option<i64>,
    read_rate: f64,
    write_rate: f64,
}

/// The golden metrics as JSON has them. `null`: nothing to tell it from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// 0 to 1.
    pub success_rate: Option<f64>,
    pub rps: Option<f64>,
    pub latency_ms_p50: Option<f64>,
    pub latency_ms_p95: Option<f64>,
    pub latency_ms_p99: Option<f64>,
    pub tcp_open_connections: Option<u64>,
    /// Bytes a second of raw TCP.
    pub tcp_read_bytes_rate: Option<f64>,
    pub tcp_write_bytes_rate: Option<f64>,
}

impl Golden {
    /// Adds one row of a report that covers `covered_s` seconds.
    pub fn add(&mut self, row: &Row, covered_s: f64) {
        let seconds = covered_s.max(COVERED_MIN_S);
        self.success += row.success;
        self.failure += row.failure;
        self.rps += (row.success + row.failure) as f64 / seconds;
        self.sketch.merge(&row.sketch);
        self.open = Some(self.open.unwrap_or_default() + row.open);
        self.read_rate += row.read_bytes as f64 / seconds;
        self.write_rate += row.write_bytes as f64 / seconds;
    }

    pub fn numbers(&self) -> Numbers {
        let requests = self.success + self.failure;
        let any = requests > 0;
        let latency = |q| self.sketch.quantile_us(q).map(|us| us / 1_000.0);
        let seen = self.open.is_some();
        Numbers {
            success_rate: any.then(|| self.success as f64 / requests as f64),
            rps: any.then_some(self.rps),
            latency_ms_p50: latency(0.5),
            latency_ms_p95: latency(0.95),
            latency_ms_p99: latency(0.99),
            tcp_open_connections: self.open.map(|open| u64::try_from(open).unwrap_or_default()),
            tcp_read_bytes_rate: seen.then_some(self.read_rate),
            tcp_write_bytes_rate: seen.then_some(self.write_rate),
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
}

//! Owns how numbers look in tables: `100.00%`, `2.0rps`, `123ms`, `2.0B/s`, `-` for what is not known.
//!
//! JSON has the bare numbers in base units; `table.rs` puts either where it belongs.

use std::time::Duration;

/// What a cell shows where there is nothing to show.
pub const MISSING: &str = "-";
/// Below this many milliseconds a latency shows a decimal: whole numbers would all look alike.
const DECIMAL_BELOW_MS: f64 = 10.0;
/// Below this many milliseconds one decimal would read `0.0ms`, which is wrong: show two.
const TWO_DECIMALS_BELOW_MS: f64 = 0.1;

fn shown<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| MISSING.to_owned(), format)
}

/// A share from 0 to 1. Never rounded up to 100 %: one failure in a million must not look like none.
pub fn percent(share: Option<f64>) -> String {
    shown(share, |share| {
        let percent = share * 100.0;
        format!("{:.2}%", if share < 1.0 { percent.min(99.99) } else { percent })
    })
}

/// Requests a second.
pub fn rate(rps: Option<f64>) -> String {
    shown(rps, |rps| format!("{rps:.1}rps"))
}

/// A latency in milliseconds.
pub fn latency(ms: Option<f64>) -> String {
    shown(ms, |ms| {
        if ms < TWO_DECIMALS_BELOW_MS {
            format!("{ms:.2}ms")
        } else if ms < DECIMAL_BELOW_MS - 0.05 {
            format!("{ms:.1}ms")
        } else {
            format!("{ms:.0}ms")
        }
    })
}

/// Bytes a second.
pub fn bytes_rate(bytes: Option<f64>) -> String {
    shown(bytes, |bytes| match bytes {
        b if b < 1_000.0 => format!("{b:.1}B/s"),
        b if b < 1_000_000.0 => format!("{:.1}kB/s", b / 1_000.0),
        b => format!("{:.1}MB/s", b / 1_000_000.0),
    })
}

/// A count.
pub fn count(count: Option<u64>) -> String {
    shown(count, |count| count.to_string())
}

/// A time span as its two largest units: `23h59m`, `4m10s`, `7s`.
pub fn span(span: Duration) -> String {
    let s = span.as_secs();
    match (s / 86_400, s / 3_600, s / 60) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, m) => format!("{m}m{}s", s % 60),
        (0, h, m) => format!("{h}h{}m", m % 60),
        (d, h, _) => format!("{d}d{}h", h % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_show_a_decimal_below_ten_milliseconds() {
        let table = [
            (0.04, "0.04ms"),
            (0.8, "0.8ms"),
            (1.0, "1.0ms"),
            (9.94, "9.9ms"),
            (9.96, "10ms"),
            (10.0, "10ms"),
            (122.6, "123ms"),
            (12_345.0, "12345ms"),
        ];
        for (ms, text) in table {
            assert_eq!(latency(Some(ms)), text);
        }
        assert_eq!(latency(None), "-");
    }

    #[test]
    fn one_failure_never_reads_as_none() {
        for (share, text) in [(1.0, "100.00%"), (0.0, "0.00%"), (0.5, "50.00%"), (0.999_999, "99.99%")] {
            assert_eq!(percent(Some(share)), text);
        }
        assert_eq!(percent(None), "-");
    }

    #[test]
    fn rates_carry_their_unit() {
        assert_eq!(rate(Some(2.0)), "2.0rps");
        assert_eq!(rate(None), "-");
        for (bytes, text) in [(2.0, "2.0B/s"), (1_500.0, "1.5kB/s"), (2_500_000.0, "2.5MB/s")] {
            assert_eq!(bytes_rate(Some(bytes)), text);
        }
        assert_eq!(count(Some(3)), "3");
    }

    #[test]
    fn spans_show_two_units() {
        for (s, text) in [(7, "7s"), (250, "4m10s"), (86_399, "23h59m"), (90_000, "1d1h"), (0, "0s")] {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
    }
}

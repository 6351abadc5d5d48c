//! Owns how numbers look in tables: `100.00%`, `2.0rps`, `123ms`, `2.0B/s`, `-` for what is not known.
//!
//! JSON has the bare numbers in base units; `table.rs` puts either where it belongs. A time span that is printed can be
//! typed: [`parse_span`] reads what [`span`] writes.

use std::time::Duration;

use lacewing_ops::settings;

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

/// A time span as its two largest units: `23h59m`, `4m10s`, `10m`, `7s`. Whole seconds; the rest is left out.
pub fn span(span: Duration) -> String {
    let s = span.as_secs();
    let (large, small) = match (s / 86_400, s / 3_600, s / 60) {
        (0, 0, 0) => return format!("{s}s"),
        (0, 0, m) => ((m, 'm'), (s % 60, 's')),
        (0, h, m) => ((h, 'h'), (m % 60, 'm')),
        (d, h, _) => ((d, 'd'), (h % 24, 'h')),
    };
    let rest = if small.0 == 0 { String::new() } else { format!("{}{}", small.0, small.1) };
    format!("{}{}{rest}", large.0, large.1)
}

/// A time span to the millisecond, as people write it: `250ms`, `1s`, `1.5s`.
pub fn exact(span: Duration) -> String {
    if span < Duration::from_secs(1) { format!("{}ms", span.as_millis()) } else { format!("{}s", span.as_secs_f64()) }
}

/// Reads a time span: numbers with their units, the largest first, as in `90s`, `1m30s` or `250ms`.
///
/// # Errors
/// A number without a unit, an unknown unit, or parts that do not get smaller.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut last_unit = Duration::MAX;
    for part in parts(text) {
        let unit_at = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (value, unit) = if let Some(days) = part.strip_suffix('d') {
            let days: u64 = days.parse().map_err(|_| "a duration is a whole number and a unit, such as 2d")?;
            (settings::duration(&format!("{}h", days.saturating_mul(24)))?, Duration::from_hours(24))
        } else {
            (settings::duration(part)?, settings::duration(&format!("1{}", &part[unit_at..]))?)
        };
        if unit >= last_unit {
            return Err("write the larger unit first, as in 1m30s".to_owned());
        }
        last_unit = unit;
        total = total.saturating_add(value);
    }
    Ok(total)
}

/// Cuts before every number; a text without one is its own only part.
fn parts(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let starts = (1..bytes.len()).filter(|&at| bytes[at].is_ascii_digit() && !bytes[at - 1].is_ascii_digit());
    let mut cuts: Vec<usize> = std::iter::once(0).chain(starts).collect();
    cuts.push(text.len());
    cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_echoed_as_people_write_them() {
        for (ms, text) in
            [(0, "0ms"), (200, "200ms"), (1_000, "1s"), (1_500, "1.5s"), (1_001, "1.001s"), (60_000, "60s")]
        {
            assert_eq!(exact(Duration::from_millis(ms)), text);
        }
    }

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
        for (s, text) in
            [(7, "7s"), (60, "1m"), (250, "4m10s"), (7_200, "2h"), (86_399, "23h59m"), (90_000, "1d1h"), (0, "0s")]
        {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
    }

    #[test]
    fn what_is_printed_can_be_typed() {
        for s in 0..3_600 {
            let exact = Duration::from_secs(s);
            assert_eq!(parse_span(&span(exact)), Ok(exact));
        }
        for s in (3_600..40 * 86_400).step_by(1_234) {
            let printed = span(Duration::from_secs(s));
            assert_eq!(parse_span(&printed).map(span), Ok(printed));
        }
    }

    #[test]
    fn spans_are_read_largest_unit_first() {
        for (text, ms) in [("250ms", 250), ("1s500ms", 1_500), ("1h0m5s", 3_605_000), ("2d", 172_800_000)] {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in
            ["", "60", "s", "d", "1m30", "30s1m", "1m1m", "1.5s", "-1s", "1m 30s", "1é2s", "1µs", "999999999999999999d"]
        {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }
}

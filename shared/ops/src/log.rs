//! Owns the process's log: plain lines on stderr, filtered by target (`info,lacewing_proxy=debug`).
//!
//! Values that come from the wire are logged with `?` (escaped) by whoever logs them, cut by [`clip`].

use std::str::FromStr;

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Longest piece of a value from the wire that reaches the log, in bytes.
pub const LOGGED_VALUE_MAX: usize = 256;

/// Starts logging. `filter` is a level, or `target=level` pairs separated by commas.
///
/// # Errors
/// A filter that does not parse, as words for the operator. A second call in one process is not an error.
pub fn init(filter: &str) -> Result<(), String> {
    let targets = parse(filter)?;
    // h2 warns of each odd frame: whoever sends them would write our log. Who wants to see that names it.
    let named = filter.split(',').any(|part| part.trim_start().starts_with("h2"));
    let targets = if named { targets } else { targets.with_target("h2", LevelFilter::ERROR) };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    // Only tests start two daemons in one process; the first one's log serves both.
    let _ = tracing_subscriber::registry().with(targets).with(lines).try_init();
    Ok(())
}

/// Whether [`init`] would take the filter.
///
/// # Errors
/// As there.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<Targets, String> {
    Targets::from_str(filter).map_err(|e| {
        format!("log filter {filter:?}: {e}; write a level (error, warn, info, debug, trace) or target=level,…")
    })
}

/// The start of `value`, at most [`LOGGED_VALUE_MAX`] bytes, cut at a character.
pub fn clip(value: &str) -> &str {
    let mut end = value.len().min(LOGGED_VALUE_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_says_what_to_write() {
        let error = init("lacewing=loud").unwrap_err();
        assert!(error.contains("loud") && error.contains("debug"), "{error}");
    }

    #[test]
    fn clips_at_a_character() {
        let long = "ä".repeat(LOGGED_VALUE_MAX);
        assert_eq!(clip(&long).len(), LOGGED_VALUE_MAX);
        assert_eq!(clip("short"), "short");
        let odd = format!("x{long}");
        assert_eq!(clip(&odd).len(), LOGGED_VALUE_MAX - 1);
    }
}

//! Owns reading settings: each is a name, a default and a parser, read from anything that maps a name to a value
//! (the environment, a test's table). All errors are collected and reported together, never one at a time.

use std::{cell::RefCell, collections::BTreeSet, fmt, str::FromStr, time::Duration};

use crate::{log::clip, nearest::nearest};

/// Exit code of a daemon whose settings are wrong (`EX_USAGE` of sysexits).
pub const EXIT_BAD_SETTINGS: u8 = 64;

/// Longest duration that a setting can ask for.
const CENTURY_MS: u64 = 100 * 366 * 24 * 3_600_000;

/// What variables that are settings begin with.
const PREFIX: &str = "LACEWING_";
/// Most variables that are named as set in vain.
const IN_VAIN_MAX: usize = 20;

/// Notes which settings are asked for, to find those that somebody has set in vain.
pub struct Asked<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    names: RefCell<BTreeSet<String>>,
}

impl<'a> Asked<'a> {
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { env, names: RefCell::default() }
    }

    pub fn get(&self, name: &str) -> Option<String> {
        self.names.borrow_mut().insert(name.to_owned());
        (self.env)(name)
    }

    /// Says in the log which variables of this process look like settings and were never asked for.
    pub fn warn_of_others(&self) {
        let given = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        self.in_vain(given).iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    fn in_vain(&self, given: impl Iterator<Item = String>) -> Vec<String> {
        let given: BTreeSet<String> = given.filter(|name| name.starts_with(PREFIX)).collect();
        let asked = self.names.borrow();
        // The kubelet says so where Services of the namespace are (docker's links): those of one called lacewing-… look like ours.
        let services: Vec<&str> = given.iter().filter_map(|name| name.strip_suffix("_SERVICE_HOST")).collect();
        let is_link = |name: &str| {
            let mut rests = services.iter().filter_map(|service| name.strip_prefix(service));
            rests.any(|rest| rest.starts_with("_SERVICE_") || rest.starts_with("_PORT"))
        };
        let in_vain = given.iter().filter(|name| !asked.contains(*name) && !is_link(name)).take(IN_VAIN_MAX);
        let known = || asked.iter().filter_map(|name| name.strip_prefix(PREFIX));
        let message = |name: &String| {
            let meant = nearest(&name[PREFIX.len()..], known());
            let meant = meant.map_or_else(String::new, |meant| format!("; did you mean {PREFIX}{meant}?"));
            format!("{:?} is set, and nothing here reads it{meant}", clip(name))
        };
        in_vain.map(message).collect()
    }
}

/// Reads settings by name and remembers what was wrong.
pub struct Settings<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<String>,
}

impl<'a> Settings<'a> {
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, errors: Vec::new() }
    }

    /// The setting, parsed; `default` where it is absent or empty, or wrong (which [`Self::finish`] then reports).
    pub fn get<T>(&mut self, name: &str, default: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let given = (self.lookup)(name).filter(|value| !value.is_empty());
        let value = given.as_deref().unwrap_or(default);
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                self.errors.push(format!("{name}={value:?}: {why}"));
                None
            }
        }
    }

    /// The setting, parsed; absent or empty is an error that says what it is for.
    pub fn required<T>(&mut self, name: &str, what: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if (self.lookup)(name).is_none_or(|value| value.is_empty()) {
            self.errors.push(format!("{name} is not set: {what}"));
            return None;
        }
        self.get(name, "", parse)
    }

    /// Adds an error that concerns more than one setting.
    pub fn error(&mut self, message: String) {
        self.errors.push(message);
    }

    /// `built` if nothing was wrong, else all that was. `built` is `None` only if a getter returned `None`.
    ///
    /// # Errors
    /// Every error so far.
    pub fn finish<T>(self, built: Option<T>) -> Result<T, SettingsError> {
        match built {
            Some(built) if self.errors.is_empty() => Ok(built),
            _ => Err(SettingsError(self.errors)),
        }
    }
}

/// Everything that is wrong with the settings.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError(Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bad setting{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for SettingsError {}

/// Parses by `FromStr`, with its own message.
///
/// # Errors
/// What `FromStr` says.
pub fn parsed<T: FromStr<Err: fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|e: T::Err| e.to_string())
}

/// A text as it is.
///
/// # Errors
/// Never.
pub fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

/// `1` or `true`, `0` or `false`.
///
/// # Errors
/// Anything else.
pub fn switch(value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("expected 1 or 0".to_owned()),
    }
}

/// A duration with its unit: `250ms`, `10s`, `5m`, `24h`.
///
/// # Errors
/// No unit, no number, or more than a century.
pub fn duration(value: &str) -> Result<Duration, String> {
    let split = value.find(|c: char| !c.is_ascii_digit()).ok_or("a duration needs a unit: ms, s, m or h")?;
    let (number, unit) = value.split_at(split);
    let number: u64 = number.parse().map_err(|_| "a duration is a whole number and a unit, such as 10s")?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    millis.filter(|ms| *ms <= CENTURY_MS).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        for (text, ms) in [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "9999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_errors_come_together() {
        let env = |name: &str| (name == "B").then(|| "x".to_owned());
        let mut settings = Settings::new(&env);
        let a = settings.required("A", "it names the pod", text);
        let b = settings.get("B", "1", parsed::<u16>);
        let c = settings.get("C", "7", parsed::<u16>);
        assert_eq!(c, Some(7));
        let built = (|| Some((a?, b?, c?)))();
        let error = settings.finish(built).unwrap_err().to_string();
        assert!(error.starts_with("2 bad settings:"), "{error}");
        assert!(error.contains("A is not set: it names the pod") && error.contains("B=\"x\""), "{error}");
    }

    #[test]
    fn what_is_set_in_vain_is_named_with_what_may_be_meant() {
        let none = |_: &str| None;
        let asked = Asked::new(&none);
        for name in ["LACEWING_LOG", "LACEWING_OUTBOUND_ADDR", "KUBECONFIG"] {
            asked.get(name);
        }
        let in_vain = |given: &[&str]| asked.in_vain(given.iter().map(|name| (*name).to_owned()));
        let links =
            ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR"];
        let links = links.map(|end| format!("LACEWING_CONTROLLER_{end}"));
        assert!(in_vain(&links.each_ref().map(String::as_str)).is_empty());
        assert!(in_vain(&["LACEWING_LOG", "LACEWING_OUTBOUND_ADDR", "PATH", "KUBECONFIG", "LOG"]).is_empty());
        assert_eq!(
            in_vain(&["LACEWING_OUTBUOND_ADDR", "LACEWING_COLOUR", "LACEWING_CONTROLLER_PORT"]),
            [
                "\"LACEWING_COLOUR\" is set, and nothing here reads it",
                "\"LACEWING_CONTROLLER_PORT\" is set, and nothing here reads it",
                "\"LACEWING_OUTBUOND_ADDR\" is set, and nothing here reads it; did you mean LACEWING_OUTBOUND_ADDR?",
            ]
        );
        let many: Vec<String> = (0..IN_VAIN_MAX + 9).map(|n| format!("LACEWING_{n}")).collect();
        assert_eq!(asked.in_vain(many.into_iter()).len(), IN_VAIN_MAX);
    }

    #[test]
    fn empty_counts_as_absent() {
        let env = |_: &str| Some(String::new());
        let mut settings = Settings::new(&env);
        assert_eq!(settings.get("A", "5s", duration), Some(Duration::from_secs(5)));
        assert!(settings.required("A", "why", text).is_none());
    }
}

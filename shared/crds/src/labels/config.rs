//! Owns the table of `config.lacewing.dev/…`: every setting of a proxy that an annotation on a Namespace or pod (pod wins)
//! may change, what may be written, and what becomes of it. Injection, controller, command line and documentation read
//! this table.
//!
//! It refuses what it does not know and values outside a setting's grammar; for suffixes that people know from another
//! mesh it says why they are not honoured, and what to do instead.

use std::{fmt, net::IpAddr};

use lacewing_ops::{
    log,
    ports::{Ports, SKIP_MAX, skip_list},
    settings,
};

use super::BadValue;

/// In front of every setting's suffix.
pub const PREFIX: &str = "config.lacewing.dev/";
/// Longest value, in bytes. Several hundred port ranges fit.
pub const VALUE_MAX: usize = 4_096;
/// Most threads that a proxy can be given.
pub const WORKERS_MAX: usize = 64;

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The annotation's whole name.
    pub key: &'static str,
    pub grammar: Grammar,
    pub becomes: Becomes,
    /// For people, in one line.
    pub meaning: &'static str,
}

/// What may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    Inbound,
    Ports,
    Networks,
    Cpu,
    Memory,
    Duration,
    Switch,
    Image,
    PullPolicy,
    Log,
    Workers,
}

/// Where the value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// The controller reads it and tells running proxies.
    Policy,
    /// An environment variable of the init step.
    Init(&'static str),
    /// An environment variable of the proxy.
    Proxy(&'static str),
    /// How long the proxy drains, at most.
    Drain,
    Image,
    PullPolicy,
    /// `resources.requests` of this resource.
    Request(&'static str),
    /// `resources.limits` of this resource.
    Limit(&'static str),
}

const fn setting(key: &'static str, grammar: Grammar, becomes: Becomes, meaning: &'static str) -> Setting {
    Setting { key, grammar, becomes, meaning }
}

/// Every setting.
pub const SETTINGS: [Setting; 15] = [
    setting(
        "config.lacewing.dev/inbound",
        Grammar::Inbound,
        Becomes::Policy,
        "whom the inbound side serves: everybody, or mesh TLS only; takes effect at once",
    ),
    setting(
        "config.lacewing.dev/skip-inbound-ports",
        Grammar::Ports,
        Becomes::Init("LACEWING_SKIP_INBOUND_PORTS"),
        "ports that clients reach without the proxy, in plain text",
    ),
    setting(
        "config.lacewing.dev/skip-outbound-ports",
        Grammar::Ports,
        Becomes::Init("LACEWING_SKIP_OUTBOUND_PORTS"),
        "destination ports that the app reaches without the proxy",
    ),
    setting(
        "config.lacewing.dev/skip-subnets",
        Grammar::Networks,
        Becomes::Init("LACEWING_SKIP_SUBNETS"),
        "destinations that the app reaches without the proxy",
    ),
    setting(
        "config.lacewing.dev/cluster-networks",
        Grammar::Networks,
        Becomes::Proxy("LACEWING_CLUSTER_NETWORKS"),
        "networks in which the mesh looks destinations up; all else passes as it is",
    ),
    setting(
        "config.lacewing.dev/allow-connect",
        Grammar::Switch,
        Becomes::Proxy("LACEWING_ALLOW_CONNECT"),
        "whether HTTP CONNECT is carried",
    ),
    setting(
        "config.lacewing.dev/shutdown-grace-period",
        Grammar::Duration,
        Becomes::Drain,
        "longest drain; never longer than the pod's grace less 2 s, or 120 s",
    ),
    setting(
        "config.lacewing.dev/proxy-workers",
        Grammar::Workers,
        Becomes::Proxy("LACEWING_WORKERS"),
        "threads that carry connections; at most the processors that the proxy may use",
    ),
    setting("config.lacewing.dev/proxy-log-level", Grammar::Log, Becomes::Proxy("LACEWING_LOG"), "what the proxy logs"),
    setting("config.lacewing.dev/proxy-image", Grammar::Image, Becomes::Image, "the proxy's image"),
    setting(
        "config.lacewing.dev/image-pull-policy",
        Grammar::PullPolicy,
        Becomes::PullPolicy,
        "when the proxy's image is pulled",
    ),
    setting(
        "config.lacewing.dev/proxy-cpu-request",
        Grammar::Cpu,
        Becomes::Request("cpu"),
        "processor time that the proxy is promised",
    ),
    setting(
        "config.lacewing.dev/proxy-cpu-limit",
        Grammar::Cpu,
        Becomes::Limit("cpu"),
        "processor time that the proxy can use at most",
    ),
    setting(
        "config.lacewing.dev/proxy-memory-request",
        Grammar::Memory,
        Becomes::Request("memory"),
        "memory that the proxy is promised",
    ),
    setting(
        "config.lacewing.dev/proxy-memory-limit",
        Grammar::Memory,
        Becomes::Limit("memory"),
        "memory beyond which the proxy is killed",
    ),
];

/// Suffixes that people know from another mesh and that are not honoured here: why, or what to do instead.
const NOT_HONOURED: [(&str, &str); 26] = [
    ("access-log", "the proxy writes no access log; `mesh top` shows requests"),
    ("admin-port", "the proxy's ports are fixed: 4140, 4143, 4191, 4192"),
    ("close-wait-timeout", "the proxy ends half-closed connections by itself"),
    ("control-port", "the proxy's ports are fixed: 4140, 4143, 4191, 4192"),
    ("debug-image", "use `kubectl debug`"),
    ("debug-image-pull-policy", "use `kubectl debug`"),
    ("debug-image-version", "use `kubectl debug`"),
    ("default-inbound-policy", "use config.lacewing.dev/inbound: permissive or strict"),
    ("enable-debug-sidecar", "use `kubectl debug`"),
    ("enable-external-profiles", "what is outside the cluster passes as it is"),
    ("enable-gateway", "there is no gateway mode"),
    ("inbound-port", "the proxy's ports are fixed: 4140, 4143, 4191, 4192"),
    (
        "opaque-ports",
        "write appProtocol: lacewing.dev/opaque at the port of the Service; server-first protocols need nothing",
    ),
    ("outbound-port", "the proxy's ports are fixed: 4140, 4143, 4191, 4192"),
    ("pod-inbound-ports", "declare the ports at the containers (containerPort)"),
    ("proxy-additional-env", "each setting has an annotation of its own"),
    ("proxy-admin-shutdown", "not needed: the proxy is a native sidecar and ends with the app"),
    ("proxy-await", "not needed: the app always starts after the proxy is ready"),
    ("proxy-cpu-ratio-limit", "use config.lacewing.dev/proxy-cpu-limit and config.lacewing.dev/proxy-workers"),
    ("proxy-enable-native-sidecar", "not needed: the proxy always is a native sidecar"),
    ("proxy-gid", "the proxy's user and group are fixed: 2102"),
    ("proxy-log-format", "the log is plain text"),
    ("proxy-require-identity-inbound-ports", "use config.lacewing.dev/inbound: strict"),
    ("proxy-uid", "the proxy's user and group are fixed: 2102"),
    ("proxy-version", "write the version as the tag of config.lacewing.dev/proxy-image"),
    ("proxy-wait-before-exit-seconds", "not needed: the proxy ends after the app"),
];

impl Setting {
    /// The part of the key behind [`PREFIX`].
    pub fn suffix(&self) -> &'static str {
        self.key.strip_prefix(PREFIX).unwrap_or(self.key)
    }

    /// # Errors
    /// The value is not what may be written.
    pub fn check(&self, value: &str) -> Result<(), Refused> {
        if value.len() <= VALUE_MAX && self.grammar.accepts(value) {
            return Ok(());
        }
        Err(Refused::Value(BadValue::new(self.key, value, self.grammar.expected())))
    }
}

/// The setting of that whole name, if its value is right.
///
/// # Errors
/// There is no such setting, or the value is not what may be written.
pub fn check(key: &str, value: &str) -> Result<&'static Setting, Refused> {
    let known = SETTINGS.iter().find(|setting| setting.key == key);
    let setting = known.ok_or_else(|| Refused::unknown(key))?;
    setting.check(value).map(|()| setting)
}

impl Grammar {
    /// What may be written, for people.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Inbound => "permissive or strict",
            Self::Ports => "a list of at most 128 ports and ranges, such as 25,8000-8100",
            Self::Networks => "a list of at most 128 networks, such as 10.1.0.0/16,fd01::/16",
            Self::Cpu => "an amount of processors, such as 100m or 0.5",
            Self::Memory => "an amount of memory, such as 32Mi or 1Gi",
            Self::Duration => "a duration with its unit (ms, s, m, h), such as 30s",
            Self::Switch => "true or false",
            Self::Image => "the name of an image, such as ghcr.io/lacewing/proxy:1.0",
            Self::PullPolicy => "Always, IfNotPresent or Never",
            Self::Log => "a level (error, warn, info, debug, trace), or target=level pairs separated by commas",
            Self::Workers => "a number from 1 to 64",
        }
    }

    fn accepts(self, value: &str) -> bool {
        match self {
            Self::Inbound => value.parse::<super::InboundMode>().is_ok(),
            Self::Ports => skip_list::<Ports>(value).is_ok(),
            Self::Networks => networks(value),
            Self::Cpu => quantity(value, &["", "m"]),
            Self::Memory => quantity(value, &["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]),
            Self::Duration => settings::duration(value).is_ok(),
            Self::Switch => settings::switch(value).is_ok(),
            Self::Image => image(value),
            Self::PullPolicy => matches!(value, "Always" | "IfNotPresent" | "Never"),
            Self::Log => filter(value),
            Self::Workers => number(value).is_some_and(|workers| (1..=WORKERS_MAX as u64).contains(&workers)),
        }
    }
}

/// None, or some; blanks around an entry do not count.
fn networks(value: &str) -> bool {
    value.is_empty() || (value.split(',').count() <= SKIP_MAX && value.split(',').map(str::trim).all(network))
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// An address and a prefix with nothing set behind it, as the proxy wants it.
fn network(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let (Ok(address), Some(prefix)) = (address.parse::<IpAddr>(), number(prefix)) else { return false };
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    prefix <= width && bits.checked_shl(prefix as u32).unwrap_or(0) == 0
}

/// A positive number, perhaps with a fraction, and one of the units.
fn quantity(text: &str, units: &[&str]) -> bool {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (amount, unit) = text.split_at(unit_at);
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, "0"));
    let digits = |text: &str| !text.is_empty() && text.len() <= 15 && number(text).is_some();
    digits(whole) && digits(fraction) && amount.bytes().any(|byte| matches!(byte, b'1'..=b'9')) && units.contains(&unit)
}

/// A word alone would be read as the name of a target of which everything is logged: here it must be a level.
fn filter(text: &str) -> bool {
    let level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
    text.split(',').all(|part| level(part.trim()) || part.contains('=')) && log::check(text).is_ok()
}

fn image(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && text.bytes().all(allowed)
}

/// Why an annotation is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// No setting of ours, and none of another mesh that we know.
    Unknown(String),
    NotHonoured {
        key: String,
        instead: &'static str,
    },
    Value(BadValue),
}

impl Refused {
    fn unknown(key: &str) -> Self {
        let suffix = key.strip_prefix(PREFIX).unwrap_or(key);
        let not_honoured = NOT_HONOURED.iter().find(|(known, _)| *known == suffix);
        match not_honoured {
            Some((_, instead)) => Self::NotHonoured { key: key.to_owned(), instead },
            None => Self::Unknown(key.to_owned()),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(key) => write!(f, "{:?} is no annotation of the mesh", log::clip(key)),
            Self::NotHonoured { key, instead } => write!(f, "{key} is not honoured: {instead}"),
            Self::Value(bad) => bad.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_none_is_both_honoured_and_not() {
        for (number, setting) in SETTINGS.iter().enumerate() {
            assert!(setting.key.starts_with(PREFIX), "{}", setting.key);
            assert!(SETTINGS[..number].iter().all(|other| other.key != setting.key), "{} is there twice", setting.key);
            assert!(NOT_HONOURED.iter().all(|(suffix, _)| *suffix != setting.suffix()), "{}", setting.key);
        }
        assert!(NOT_HONOURED.is_sorted(), "in the order of the alphabet, each once");
    }

    #[test]
    fn every_grammar_has_values_that_are_right_and_values_that_are_wrong() {
        for (grammar, right, wrong) in [
            (Grammar::Inbound, vec!["permissive", "strict"], vec!["", "Strict", "all"]),
            (
                Grammar::Ports,
                vec!["", "25", "25, 8000-8100", "1-65535"],
                vec!["0", "25,", "9-8", "http", "65536", "+1"],
            ),
            (
                Grammar::Networks,
                vec!["10.0.0.0/8", "10.1.0.0/16,fd00::/8", "0.0.0.0/0", "10.1.2.3/32", "::/0", ""],
                vec!["10.0.0.0", "10.0.0.0/8,", "10.1.2.3/8", "10.0.0.0/33", "fd00::1/8", "x/8", "10.0.0.0/+8"],
            ),
            (Grammar::Cpu, vec!["1", "100m", "0.5", "2.25"], vec!["", "0", "-1", "1Gi", "1 ", ".5", "1.", "m", "1e3"]),
            (Grammar::Memory, vec!["32Mi", "1Gi", "1.5Gi", "20M", "1048576"], vec!["", "128m", "1mi", "0Mi", "Mi"]),
            (Grammar::Duration, vec!["30s", "0s", "500ms", "2m"], vec!["", "30", "1d", "-1s"]),
            (Grammar::Switch, vec!["true", "false"], vec!["", "yes", "True"]),
            (
                Grammar::Image,
                vec!["proxy", "localhost/lacewing-proxy:test", "ghcr.io/lacewing/proxy@sha256:0a"],
                vec!["", "a b", "-x", "a\nb", "a\"b"],
            ),
            (Grammar::PullPolicy, vec!["Always", "IfNotPresent", "Never"], vec!["", "always"]),
            (Grammar::Log, vec!["info", "warn,lacewing_proxy=debug"], vec!["", "loud", "a=b=c"]),
            (Grammar::Workers, vec!["1", "64"], vec!["", "0", "65", "-1", "1.5"]),
        ] {
            for value in right {
                assert!(grammar.accepts(value), "{grammar:?} {value:?}");
            }
            for value in wrong {
                assert!(!grammar.accepts(value), "{grammar:?} {value:?}");
            }
        }
        let many = |count| vec!["7"; count].join(",");
        assert!(Grammar::Ports.accepts(&many(SKIP_MAX)) && !Grammar::Ports.accepts(&many(SKIP_MAX + 1)));
    }

    #[test]
    fn refusals_name_the_key_and_what_may_be_written() {
        for (key, value, parts) in [
            ("config.lacewing.dev/skip-inbound-ports", "http", ["skip-inbound-ports", "\"http\"", "25,8000-8100"]),
            ("config.lacewing.dev/opaque-ports", "25", ["opaque-ports", "not honoured", "appProtocol"]),
            ("config.lacewing.dev/proxy-uid", "1", ["proxy-uid", "not honoured", "2102"]),
            ("config.lacewing.dev/colour", "red", ["colour", "no annotation", "mesh"]),
        ] {
            let error = check(key, value).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        assert_eq!(check("config.lacewing.dev/proxy-workers", "2").unwrap().suffix(), "proxy-workers");
    }
}

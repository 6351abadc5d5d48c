//! Owns what can be typed to find out what is wrong with a mesh: `check` and `diagnostics`. `commands/` does the work.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::Format;
use crate::output::units;

/// Check that the mesh in a cluster is as it should be, and say what mends it
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh check --pre               before `mesh install`: may you, and can it work here
  mesh check --wait 2m           after it: watch until all is well
  mesh check --proxy -n shop     ask every proxy of a namespace, too
  mesh check --probe             and send a request through two of them
  mesh check -o short            only what is wrong

Exit codes: 0 all is well (warnings count with --fail-on=warning), 3 errors, 4 warnings,
5 not installed, 6 errors after --wait.")]
pub struct Check {
    /// Check what an installation needs, before it
    #[arg(long, conflicts_with = "proxy")]
    pub pre: bool,
    /// Check every proxy, too, by port-forward
    #[arg(long)]
    pub proxy: bool,
    /// Send a real request (HEAD /) through two proxies that are there, to the first Service that allows it
    #[arg(long, conflicts_with = "pre")]
    pub probe: bool,
    /// Look again until nothing is an error, for at most this long
    #[arg(long, value_name = "SPAN", value_parser = units::parse_span)]
    pub wait: Option<Duration>,
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = CheckFormat::Table)]
    pub output: CheckFormat,
    /// What makes the exit code other than 0
    #[arg(long, value_name = "RESULT", value_enum, default_value_t = FailOn::Error)]
    pub fail_on: FailOn,
}

/// How a checklist looks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    Table,
    Json,
    /// Only what is wrong
    Short,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    Error,
    Warning,
}

/// Look inside: where a proxy sends requests, which endpoints a Service has, who acts on which version
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh diagnostics endpoints web:8080           the addresses behind a Service, and which are meshed
  mesh diagnostics destination traffic-1        everything that this pod's proxy sends requests to
  mesh diagnostics destination traffic-1 web:8080
  mesh diagnostics applied                      does every proxy act on what its controller sent")]
pub struct Diagnostics {
    #[command(subcommand)]
    pub command: Diagnose,
}

#[derive(Subcommand)]
pub enum Diagnose {
    /// The endpoints of a Service in a cluster
    Endpoints {
        /// As in web, or web:8080
        #[arg(value_name = "SERVICE[:PORT]", value_parser = service_port)]
        service: (String, Option<u16>),
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// What the proxy of a pod does with a destination: its endpoints, and how the balancer sees each
    Destination {
        /// For example web-1
        pod: String,
        /// As the app names it, such as voting:8080 or voting.shop.svc.cluster.local:8080; all if left out
        #[arg(value_name = "HOST:PORT")]
        destination: Option<String>,
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Which version each proxy acts on, of what its controller sent
    Applied {
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
        output: Format,
    },
}

/// `NAME` or `NAME:PORT`.
fn service_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let name = name.strip_prefix("svc/").unwrap_or(name);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err("write the name of a Service, as in web or web:8080".to_owned());
    }
    let port = port.map(|port| port.parse().map_err(|_| format!("{port:?} is no port"))).transpose()?;
    Ok((name.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_may_have_a_port() {
        assert_eq!(service_port("web"), Ok(("web".to_owned(), None)));
        assert_eq!(service_port("svc/web:8080"), Ok(("web".to_owned(), Some(8080))));
        for bad in ["", ":80", "web:http", "web:99999", "a/b", "../x"] {
            assert!(service_port(bad).is_err(), "{bad}");
        }
    }
}

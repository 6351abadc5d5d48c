//! Owns what can be typed: commands, flags, their help. Definitions and parsing only; `commands/` does the work.
//!
//! Values are parsed into what they mean here (a window, a selector, a subnet), with the limits that they have, so that
//! no command sees one that it would have to refuse.

pub mod check;
pub mod inject;
pub mod install;

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

pub use self::check::{Check, CheckFormat, Diagnose, Diagnostics, FailOn};
use crate::{
    cluster::Flags,
    demo::cast::{App, Subnet},
    output::units,
};
use clap::{Arg, Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Shortest and longest `--time-window`: the proxies keep ten minutes, the last one by the second.
pub const WINDOW_MIN: Duration = Duration::from_secs(10);
pub const WINDOW_MAX: Duration = Duration::from_secs(600);
/// Longest delay of `fault slow`: beyond it every client has given up.
pub const SLOW_MAX: Duration = Duration::from_secs(60);

/// The Lacewing service mesh: automatic mutual TLS, latency-aware balancing, live metrics.
#[derive(Parser)]
#[command(name = "mesh", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// Directory of the demo, where it is not the usual one
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: Flags,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Start here:
  mesh demo                      run the whole mesh on this machine (Ctrl-C ends it)
  mesh stat                      success rate, request rate and latency of every workload
  mesh demo fault slow voting-2  break something and watch the mesh route around it
  mesh check --pre               can it be installed into the cluster of the current context?
  mesh install | kubectl apply -f -

Exit codes: 0 done, 1 error, 2 usage, 3 check found errors, 4 check found warnings,
5 no mesh found, 6 timeout, 7 no data.";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(mesh completion bash)
  mesh completion zsh > \"${fpath[1]}/_mesh\"
  mesh completion fish > ~/.config/fish/completions/mesh.fish";

#[derive(Subcommand)]
pub enum Command {
    Demo(Demo),
    Install(install::Install),
    Upgrade(install::Upgrade),
    Uninstall(install::Uninstall),
    Inject(inject::Inject),
    Uninject(inject::Uninject),
    Stat(Stat),
    Top(Top),
    Identity(Identity),
    Check(Check),
    Diagnostics(Diagnostics),
    Version(Version),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        shell: clap_complete::Shell,
    },
    /// One process of the demo; started by `mesh demo`
    #[command(hide = true)]
    Run(Run),
}

/// All that can be typed. The options that stand before or behind any command are hidden from the help of those to which
/// they are nothing.
pub fn command() -> clap::Command {
    let whole = Cli::command();
    let everywhere: Vec<Arg> = whole.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    let hide = |command: clap::Command| {
        let unused = unused(command.get_name());
        let hidden = everywhere.iter().filter(|arg| unused.contains(&arg.get_id().as_str()));
        // An argument that is there already is not handed down from above.
        hidden.fold(command, |command, arg| command.arg(arg.clone().hide(true)))
    };
    whole.mut_subcommands(|command| hide(command.mut_subcommands(hide)))
}

/// The options for every command that mean nothing to this one.
fn unused(command: &str) -> &'static [&'static str] {
    match command {
        "install" | "uninject" | "completion" => &["dir", "kubeconfig", "context", "namespace", "as_user", "as_group"],
        "demo" => &["kubeconfig", "context", "namespace", "as_user", "as_group"],
        "upgrade" | "uninstall" | "inject" | "version" => &["dir", "namespace"],
        "check" | "endpoints" => &["dir"],
        "applied" => &["namespace"],
        _ => &[],
    }
}

impl Command {
    /// A demo is nothing to it.
    pub fn is_about_a_cluster(&self) -> bool {
        matches!(
            self,
            Self::Install(_)
                | Self::Upgrade(_)
                | Self::Uninstall(_)
                | Self::Inject(_)
                | Self::Uninject(_)
                | Self::Check(_)
                | Self::Version(_)
                | Self::Diagnostics(Diagnostics { command: Diagnose::Endpoints { .. } })
        )
    }
}

/// Run the whole mesh on this machine, with small services and traffic
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  mesh demo                                run until Ctrl-C; nothing is left behind
  mesh demo --rps 200                      four times the traffic
  mesh demo fault slow voting-2 --by 1s    in another terminal: voting-2 answers a second late
  mesh demo fault kill controller          the mesh runs on without it
  mesh demo heal                           end all faults"
)]
pub struct Demo {
    #[command(subcommand)]
    pub command: Option<DemoCommand>,
    /// Requests a second that the load generator sends
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub rps: u32,
    /// First three bytes of the loopback addresses to use, so that a second demo can run beside the first
    #[arg(long, default_value = "127.1.0", value_name = "127.X.Y")]
    pub subnet: Subnet,
}

#[derive(Subcommand)]
pub enum DemoCommand {
    /// Break one pod: make it slow, make it fail, or kill it; or kill the controller
    #[command(subcommand)]
    Fault(FaultCommand),
    /// End the fault of one pod or of the controller, or all faults
    Heal {
        /// For example voting-2, or controller; all faults if left out
        pod: Option<String>,
    },
    /// List the pods and the controller, whether they are ready, and their faults
    Status {
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
        output: Format,
    },
}

#[derive(Subcommand)]
pub enum FaultCommand {
    /// The app answers later
    Slow {
        /// For example voting-2
        pod: String,
        /// How much later: 50ms, 2s; at most 60s
        #[arg(long, value_name = "SPAN", default_value = "200ms", value_parser = slow_by)]
        by: Duration,
    },
    /// The app answers every request with an error
    Fail {
        /// For example voting-2
        pod: String,
    },
    /// The app and its proxy, or the controller, are killed and stay away until healed
    Kill {
        /// For example voting-2, or controller
        pod: String,
    },
}

/// Show success rate, request rate and latency of workloads and services
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh stat                    all workloads and services of the namespace
  mesh stat -A                 those of all namespaces
  mesh stat deploy             workloads only
  mesh stat web                whatever is named web
  mesh stat svc/voting -t 10s  one service, the last ten seconds
  mesh stat pods -o json       every pod, for a script
  mesh stat -l app=web         the pods with this label, and their workloads
  mesh stat --to svc/voting    who calls it, and what they get
  mesh stat --from deploy/web  whom it calls, and what it gets

Deployments and pods show requests they received; services, requests sent to them,
measured at the clients, after retries. MESHED counts the pods that have a proxy.
Without options that name a cluster, a running demo is shown, or else the cluster
of the current context, by port-forward with your own rights. READ_BYTES and
WRITE_BYTES of -o wide are those of raw TCP connections; HTTP has none.")]
pub struct Stat {
    /// What to show: deploy, sts, ds, job, pod or svc, optionally with a name, as in deploy/web, or a name alone
    #[arg(value_name = "KIND[/NAME]")]
    pub resource: Option<Selector>,
    /// The name, where it is not behind a slash
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Show all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Only what is sent to this workload or Service, as the senders see it
    #[arg(long, value_name = "KIND[/NAME]", conflicts_with = "from")]
    pub to: Option<Selector>,
    /// The namespace of --to, where it is another one
    #[arg(long, value_name = "NAME", requires = "to")]
    pub to_namespace: Option<String>,
    /// Only what comes from this workload or pod, as it sees it
    #[arg(long, value_name = "KIND[/NAME]")]
    pub from: Option<Selector>,
    /// The namespace of --from, where it is another one
    #[arg(long, value_name = "NAME", requires = "from")]
    pub from_namespace: Option<String>,
    /// Only pods with these labels, as in app=web
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "from")]
    pub selector: Option<String>,
    /// How far back to look: 10s to 10m, as in 1m30s
    #[arg(short = 't', long, value_name = "SPAN", default_value = "60s", value_parser = window)]
    pub time_window: Duration,
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = WideFormat::Table)]
    pub output: WideFormat,
}

/// Watch who calls whom, refreshed every second
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh top                   until Ctrl-C
  mesh top --once -o json    one picture, for a script")]
pub struct Top {
    /// Show callers of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Print once and end
    #[arg(long)]
    pub once: bool,
    /// How far back each picture looks: 10s to 10m
    #[arg(short = 't', long, value_name = "SPAN", default_value = "10s", value_parser = window)]
    pub time_window: Duration,
    /// Without --once, json prints one document a line
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Print the version of this command and of the controller
#[derive(Args)]
pub struct Version {
    /// Ask no cluster
    #[arg(long, conflicts_with = "proxy")]
    pub client: bool,
    /// Count the versions of the proxies, too
    #[arg(long)]
    pub proxy: bool,
}

/// Show the certificates that the proxies present to each other
#[derive(Args)]
pub struct Identity {
    /// One pod, for example web-1 or pod/web-1; all if left out
    #[arg(value_parser = pod_name)]
    pub pod: Option<String>,
    /// Show the pods of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "pod"])]
    pub all_namespaces: bool,
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Args)]
#[command(disable_help_subcommand = true)]
pub struct Run {
    #[command(subcommand)]
    pub process: Process,
}

#[derive(Subcommand)]
pub enum Process {
    /// The proxy, set by `LACEWING_…` in the environment
    Proxy,
    /// The controller, set by `LACEWING_…` in the environment
    Controller,
    /// An app of the demo
    App(RunApp),
}

#[derive(Args)]
pub struct RunApp {
    pub app: App,
    /// Where the app listens
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// The outbound port of the app's proxy
    #[arg(long)]
    pub proxy: SocketAddr,
    /// Where the proxy forwards to the echo service
    #[arg(long)]
    pub echo: Option<SocketAddr>,
    /// The file that says which fault to show
    #[arg(long)]
    pub fault: PathBuf,
    /// Requests a second to send
    #[arg(long, default_value_t = 50)]
    pub rps: u32,
}

/// How results look.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// How results with more columns than fit look.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WideFormat {
    Table,
    Wide,
    Json,
}

/// A kind of resource, as kubectl names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    ReplicaSet,
    Pod,
    Service,
}

/// Every kind with its short name, as tables show it, and its full name, as JSON and sentences have it.
const KINDS: [(Kind, &str, &str); 7] = [
    (Kind::Deployment, "deploy", "deployment"),
    (Kind::StatefulSet, "sts", "statefulset"),
    (Kind::DaemonSet, "ds", "daemonset"),
    (Kind::Job, "job", "job"),
    (Kind::ReplicaSet, "rs", "replicaset"),
    (Kind::Pod, "pod", "pod"),
    (Kind::Service, "svc", "service"),
];

impl Kind {
    fn names(self) -> (&'static str, &'static str) {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or(("", ""), |(_, short, full)| (short, full))
    }

    /// The short name, as tables show it.
    pub fn short(self) -> &'static str {
        self.names().0
    }

    /// The full name, as JSON and sentences have it.
    pub fn name(self) -> &'static str {
        self.names().1
    }

    /// The short name of the kind with this full name; that name itself where it is none of ours.
    pub fn shorten(full: &str) -> &str {
        KINDS.iter().find(|(_, _, name)| *name == full).map_or(full, |(_, short, _)| short)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let alone = text.strip_suffix(".apps").or_else(|| text.strip_suffix(".batch")).unwrap_or(text);
        let alone = if alone == "po" { "pod" } else { alone };
        let found = KINDS
            .iter()
            .find(|(_, short, full)| alone == *short || alone == *full || alone.strip_suffix('s') == Some(full));
        found.map(|(kind, ..)| *kind).ok_or_else(|| {
            format!("{text:?} is no kind that is measured; use deploy, sts, ds, job, pod or svc, as in deploy/web")
        })
    }
}

/// `KIND`, `KIND/NAME` or `NAME`; without a kind, everything of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub kind: Option<Kind>,
    pub name: Option<String>,
}

impl Selector {
    /// What `KIND NAME` means, the first part being `self`.
    ///
    /// # Errors
    /// `self` has a name already, or is no kind.
    pub fn named(self, name: &str) -> Result<Self, String> {
        match (self.kind, self.name) {
            (Some(kind), None) => Ok(Self { kind: Some(kind), name: Some(name.to_owned()) }),
            (Some(kind), Some(first)) => {
                Err(format!("{}/{first} has its name already; show {name:?} on its own", kind.short()))
            }
            (None, first) => Err(first.unwrap_or_default().parse::<Kind>().err().unwrap_or_default()),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((_, "")) => Err("a name is missing after the slash, as in deploy/web".to_owned()),
            Some((kind, name)) => Ok(Self { kind: Some(kind.parse()?), name: Some(name.to_owned()) }),
            None => match text.parse() {
                Ok(kind) => Ok(Self { kind: Some(kind), name: None }),
                Err(why) if text.is_empty() => Err(why),
                Err(_) => Ok(Self { kind: None, name: Some(text.to_owned()) }),
            },
        }
    }
}

/// `NAME` or `pod/NAME`.
fn pod_name(text: &str) -> Result<String, String> {
    let selector: Selector = text.parse()?;
    match (selector.kind, selector.name) {
        (None | Some(Kind::Pod), Some(name)) => Ok(name),
        _ => Err("certificates belong to pods; give the name of one, such as web-1".to_owned()),
    }
}

fn window(text: &str) -> Result<Duration, String> {
    let window = units::parse_span(text)?;
    if (WINDOW_MIN..=WINDOW_MAX).contains(&window) { Ok(window) } else { Err("use 10s to 10m".to_owned()) }
}

fn slow_by(text: &str) -> Result<Duration, String> {
    let by = units::parse_span(text)?;
    if by <= SLOW_MAX { Ok(by) } else { Err("use at most 60s".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_definitions_hold_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn kinds_have_the_aliases_of_kubectl() {
        let table = [
            ("deploy", Some(Kind::Deployment), None),
            ("deployments/web", Some(Kind::Deployment), Some("web")),
            ("po/web-1", Some(Kind::Pod), Some("web-1")),
            ("statefulsets.apps/db", Some(Kind::StatefulSet), Some("db")),
            ("sts", Some(Kind::StatefulSet), None),
            ("ds", Some(Kind::DaemonSet), None),
            ("jobs/once", Some(Kind::Job), Some("once")),
            ("services", Some(Kind::Service), None),
            ("web", None, Some("web")),
        ];
        for (text, kind, name) in table {
            assert_eq!(text.parse(), Ok(Selector { kind, name: name.map(str::to_owned) }), "{text}");
        }
        for bad in ["node/x", "deploy/", "", "/web"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_may_stand_behind_its_kind() {
        let named = |text: &str| text.parse::<Selector>().expect("a selector").named("web");
        assert_eq!(named("deploy"), "deploy/web".parse());
        assert!(named("nodes").is_err_and(|why| why.contains("\"nodes\" is no kind")));
        assert!(named("svc/voting").is_err_and(|why| why.contains("svc/voting has its name already")));
    }

    #[test]
    fn identities_are_those_of_pods() {
        for good in ["mesh identity web-1", "mesh identity pod/web-1", "mesh identity po/web-1"] {
            let Ok(Command::Identity(identity)) = parse(good) else { panic!("{good}") };
            assert_eq!(identity.pod.as_deref(), Some("web-1"), "{good}");
        }
        for bad in ["mesh identity deploy/web", "mesh identity pods", "mesh identity pod/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn windows_and_delays_have_limits() {
        for good in [
            "mesh stat -t 10s",
            "mesh stat -t 10m",
            "mesh stat -t 1m30s",
            "mesh top -t 1m",
            "mesh demo fault slow web-1 --by 60s",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["mesh stat -t 9s", "mesh stat -t 601s", "mesh stat -t 60", "mesh demo fault slow web-1 --by 61s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in
            ["mesh stat -n a -A", "mesh demo --rps 10 status", "mesh demo --rps 0", "mesh demo --subnet 10.0.0", "mesh"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_directory_may_come_anywhere() {
        for line in ["mesh --dir /x stat", "mesh stat --dir /x", "mesh demo fault kill web-1 --dir /x"] {
            let cli = Cli::try_parse_from(line.split_whitespace()).expect(line);
            assert_eq!(cli.dir, Some(PathBuf::from("/x")), "{line}");
        }
    }
}

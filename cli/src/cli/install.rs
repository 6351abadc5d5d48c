//! Owns what can be typed to install, upgrade and uninstall the mesh. `commands/` does the work.

use std::path::PathBuf;

use clap::Args;

/// Print what installs the mesh into a cluster, for `kubectl apply -f -`
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh install | kubectl apply -f -         one controller
  mesh install --ha | kubectl apply -f -    three, on different nodes where there are some
  mesh install -f values.yaml --set injector.failurePolicy=Fail | kubectl apply -f -

Nothing is read from the cluster. The values are those of the Helm chart, and so is
the result: docs/install.md lists them.")]
pub struct Install {
    #[command(flatten)]
    pub values: Values,
}

/// Values for the chart.
#[derive(Args, Default)]
pub struct Values {
    /// Highly available: three controllers, on different nodes where there are some (--set controller.replicas=3)
    #[arg(long)]
    pub ha: bool,
    /// A YAML file of values; - reads standard input. Of two values for one key the later wins, and --set over files
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A value, as in proxy.imagePullPolicy=Always, or several with commas
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The same, and the value is a text whatever it looks like
    #[arg(long, value_name = "KEY=TEXT")]
    pub set_string: Vec<String>,
}

/// Print what brings an installed mesh to the version of this command, for `kubectl apply -f -`
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh upgrade | kubectl apply -f -         with the values that it was installed with
  mesh upgrade --ha | kubectl apply -f -    and three controllers from now on

The controllers are replaced one after the other; pods keep their proxies until they
are restarted, and one minor version between proxy and controller is fine.")]
pub struct Upgrade {
    #[command(flatten)]
    pub values: Values,
}

/// Print everything of the mesh that is in the cluster, for `kubectl delete -f -`
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh uninstall | kubectl delete -f -    refuses while pods still have a proxy

What the controller has made at run time is among it.")]
pub struct Uninstall {
    /// Also while pods still have a proxy
    #[arg(long)]
    pub force: bool,
}

//! Owns what can be typed to install, upgrade and uninstall the mesh. `commands/` does the work.

use std::path::PathBuf;

use clap::Args;

/// Print what installs the mesh into a cluster, for `kubectl apply -f -`
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh install | kubectl apply -f -         one controller
  mesh install --ha | kubectl apply -f -    three, each on a node of its own
  mesh install -f values.yaml --set injector.failurePolicy=Fail | kubectl apply -f -

Nothing is read from the cluster. The values are those of the Helm chart, and so is
the result: docs/install.md lists them.")]
pub struct Install {
    /// Highly available: three controllers, each on a node of its own (--set controller.replicas=3)
    #[arg(long)]
    pub ha: bool,
    #[command(flatten)]
    pub values: Values,
}

/// Values for the chart; of two for the same key the later one wins, and --set over files.
#[derive(Args, Default)]
pub struct Values {
    /// A YAML file of values; - reads standard input
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A value, as in proxy.imagePullPolicy=Always, or several with commas
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The same, and the value is a text whatever it looks like
    #[arg(long, value_name = "KEY=TEXT")]
    pub set_string: Vec<String>,
}

//! Owns what can be typed to put pods into the mesh and to take them out. `commands/inject.rs` does the work.

use std::path::PathBuf;

use clap::Args;

/// Print manifests whose pods get a proxy, for `kubectl apply -f -`
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh inject web.yaml | kubectl apply -f -
  kubectl get deploy -o yaml | mesh inject - | kubectl apply -f -
  mesh inject k8s/ --config skip-outbound-ports=25 | kubectl apply -f -

Pods are marked by an annotation, and get their proxy when they are made. Namespaces
are marked, too: all pods in them. What becomes of each object is told on standard error;
if any file is wrong nothing is printed. What is not changed stays as it was written,
comments and all.")]
pub struct Inject {
    /// Files or directories of YAML or JSON; - reads standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// A setting of the proxies, as in proxy-cpu-limit=500m: the annotation config.lacewing.dev/KEY
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub config: Vec<(String, String)>,
    /// Write the whole proxy into the manifests, for clusters without the webhook
    #[arg(long)]
    pub manual: bool,
    /// With --manual: the mesh's roots in PEM, rather than those of the cluster
    #[arg(long, value_name = "FILE", requires = "manual")]
    pub trust_bundle: Option<PathBuf>,
}

/// Print manifests without what `mesh inject` has put in
#[derive(Args)]
#[command(after_help = "\
Examples:
  mesh uninject web.yaml | kubectl apply -f -
  kubectl get deploy -o yaml | mesh uninject - | kubectl apply -f -

In a namespace that is marked, pods get a proxy nevertheless, unless they say
lacewing.dev/inject: disabled.")]
pub struct Uninject {
    /// Files or directories of YAML or JSON; - reads standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, as in proxy-cpu-limit=500m")?;
    Ok((key.to_owned(), value.to_owned()))
}

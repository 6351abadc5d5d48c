//! Owns the flags that kubectl has, with kubectl's meaning, and reading the kubeconfig that they choose.
//!
//! Where there is no kubeconfig but the command runs in a pod, the pod's own account is used, as kubectl does.

use std::{fmt, path::PathBuf};

use clap::Args;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::{ApiError, Cause};

/// Which cluster, as whom, and which namespace.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cluster options, as kubectl's")]
pub struct Flags {
    /// The kubeconfig to use [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use [default: its current one]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace [default: the context's; the demo's]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Act as this user
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// Act as a member of this group; may be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub as_group: Vec<String>,
}

/// The context's name, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextName {
    Named(String),
    /// No kubeconfig: the pod's own account.
    InCluster,
}

impl ContextName {
    /// What `--context` takes.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::InCluster => "in-cluster",
        }
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "context {name}"),
            Self::InCluster => f.write_str("this pod's cluster"),
        }
    }
}

impl Flags {
    /// Whether the flags say that a cluster is meant. `-n` does not: a demo has a namespace, too.
    pub fn choose_cluster(&self) -> bool {
        !self.typed().is_empty()
    }

    /// Those that choose a cluster, with their values.
    pub fn typed(&self) -> Vec<(&'static str, String)> {
        let kubeconfig = self.kubeconfig.as_ref().map(|path| ("--kubeconfig", path.display().to_string()));
        let context = self.context.clone().map(|name| ("--context", name));
        let user = self.as_user.clone().map(|name| ("--as", name));
        let groups = self.as_group.iter().map(|name| ("--as-group", name.clone()));
        [kubeconfig, context, user].into_iter().flatten().chain(groups).collect()
    }

    /// The context that would be used, if there is a kubeconfig that names one. Asks nobody.
    pub fn current(&self) -> Option<ContextName> {
        match self.read() {
            Ok(file) => {
                let name = self.context.clone().or(file.current_context).filter(|name| !name.is_empty());
                name.map(ContextName::Named)
            }
            Err(_) => in_pod().then_some(ContextName::InCluster),
        }
    }

    /// The client's configuration, and the name of the context.
    pub(super) async fn config(&self) -> Result<(Config, ContextName), ApiError> {
        if self.as_user.is_none() && !self.as_group.is_empty() {
            let what = "--as-group needs --as: groups belong to a user";
            return Err(ApiError::new(Cause::Usage, what).hint("add `--as USER`"));
        }
        let file = match self.read() {
            Ok(file) => file,
            Err(error) if self.kubeconfig.is_none() && is_missing(&error) && in_pod() => {
                let config = Config::incluster().map_err(|error| ApiError::new(Cause::Config, error.to_string()))?;
                return Ok((self.impersonate(config), ContextName::InCluster));
            }
            Err(error) => return Err(self.unreadable(&error)),
        };
        let contexts: Vec<String> = file.contexts.iter().map(|context| context.name.clone()).collect();
        let name = self.context.clone().or_else(|| file.current_context.clone()).filter(|name| !name.is_empty());
        let Some(name) = name else { return Err(no_context(&contexts)) };
        let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
        match Config::from_custom_kubeconfig(file, &options).await {
            Ok(config) => Ok((self.impersonate(config), ContextName::Named(name))),
            Err(KubeconfigError::LoadContext(_)) => Err(unknown_context(&name, &contexts)),
            Err(error) => {
                let what = format!("context {name} of the kubeconfig cannot be used: {error}");
                let choice = if self.context.is_some() { String::new() } else { format!("--context {name} ") };
                Err(ApiError::new(Cause::Config, what)
                    .hint(format!("look at it with `kubectl {choice}config view --minify`")))
            }
        }
    }

    fn read(&self) -> Result<Kubeconfig, KubeconfigError> {
        self.kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from)
    }

    fn impersonate(&self, mut config: Config) -> Config {
        if self.as_user.is_some() {
            config.auth_info.impersonate.clone_from(&self.as_user);
            config.auth_info.impersonate_groups = Some(self.as_group.clone());
        }
        config
    }

    fn unreadable(&self, error: &KubeconfigError) -> ApiError {
        let asked = "name another one with `--kubeconfig FILE`";
        match error {
            KubeconfigError::ReadConfig(cause, path) if cause.kind() == std::io::ErrorKind::NotFound => {
                ApiError::new(Cause::Config, format!("there is no kubeconfig at {}", path.display()))
                    .hint(format!("{asked}, or see this mesh without a cluster: `mesh demo`"))
            }
            KubeconfigError::ReadConfig(cause, path) => {
                ApiError::new(Cause::Config, format!("cannot read the kubeconfig {}: {cause}", path.display()))
                    .hint(asked)
            }
            other => {
                let place = self.kubeconfig.as_ref().map_or_else(String::new, |path| format!(" {}", path.display()));
                let what = format!("the kubeconfig{place} cannot be used: {other}");
                ApiError::new(Cause::Config, what).hint("look at it with `kubectl config view`")
            }
        }
    }
}

fn is_missing(error: &KubeconfigError) -> bool {
    matches!(error, KubeconfigError::ReadConfig(cause, _) if cause.kind() == std::io::ErrorKind::NotFound)
        || matches!(error, KubeconfigError::FindPath)
}

/// Whether this process runs in a pod that has an account.
fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

fn no_context(contexts: &[String]) -> ApiError {
    let error = ApiError::new(Cause::Config, "the kubeconfig names no current context");
    if contexts.is_empty() {
        return error.hint("there is no context in it at all; name another file with `--kubeconfig FILE`");
    }
    error.hint(format!("choose one with `--context NAME`; there are: {}", contexts.join(", ")))
}

fn unknown_context(name: &str, contexts: &[String]) -> ApiError {
    let there_are = if contexts.is_empty() { "none".to_owned() } else { contexts.join(", ") };
    ApiError::new(Cause::Config, format!("the kubeconfig has no context {name:?}"))
        .hint(format!("there are: {there_are}"))
}

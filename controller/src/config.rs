//! Owns every setting of the controller: its name, default, parser and meaning in one place. Settings come from
//! anything that maps a name to a value; everything that is wrong is reported at once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use lacewing_identity::{TrustDomain, authority::MAX_LEAF_LIFETIME};
use lacewing_ops::{
    log,
    settings::{Settings, SettingsError, duration, parsed, switch, text},
};

use crate::{identity::OWN_NAMESPACE, inject::settings::ProxySettings};

/// Shortest life of a certificate: renewal at half of it must not become the main occupation.
pub const LEAF_LIFETIME_MIN: Duration = Duration::from_secs(120);

/// The settings that name a listening address, for errors about it.
pub const GRPC_ADDR: &str = "LACEWING_GRPC_ADDR";
pub const ADMIN_ADDR: &str = "LACEWING_ADMIN_ADDR";
pub const WEBHOOK_ADDR: &str = "LACEWING_WEBHOOK_ADDR";

/// Every setting, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where cluster state comes from.
    pub source: Source,
    /// `LACEWING_GRPC_ADDR` (`[::]:8080`); `[::]` is IPv4 as well, here and below.
    pub grpc_addr: SocketAddr,
    /// `LACEWING_ADMIN_ADDR` (`[::]:9990`).
    pub admin_addr: SocketAddr,
    /// `LACEWING_TRUST_DOMAIN` (`cluster.local`).
    pub trust_domain: TrustDomain,
    /// `LACEWING_LEAF_LIFETIME` (`24h`).
    pub leaf_lifetime: Duration,
    /// `LACEWING_EXIT_WITH_PARENT` (off): stop when standard input ends.
    pub exit_with_parent: bool,
}

/// Where cluster state comes from: `LACEWING_MANIFESTS` decides.
#[derive(Debug, Clone)]
pub enum Source {
    /// It is set.
    Directory(Directory),
    /// It is not.
    Kubernetes(Kubernetes),
}

/// The settings that only the directory source has.
#[derive(Debug, Clone)]
pub struct Directory {
    /// `LACEWING_MANIFESTS`: the directory of YAML manifests.
    pub manifests: PathBuf,
    /// `LACEWING_STATE_DIR`: trust root and token key live there.
    pub state_dir: PathBuf,
    /// `LACEWING_TOKEN_DIR`: where token files for pods are written; none are if it is not set.
    pub token_dir: Option<PathBuf>,
}

/// The settings that only the Kubernetes source has.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// `KUBECONFIG`: one file that says how to reach the API server; without it, as any pod does.
    pub kubeconfig: Option<PathBuf>,
    /// `LACEWING_NAMESPACE` (`lacewing`): where the controller's own objects are.
    pub namespace: String,
    /// `LACEWING_POD_NAME`: who the controller is among its replicas.
    pub pod_name: String,
    /// `LACEWING_WEBHOOK_ADDR` (`[::]:8443`): where the API server asks about new pods.
    pub webhook_addr: SocketAddr,
    /// `LACEWING_PROXY`: what injected proxies get, as JSON.
    pub proxy: ProxySettings,
}

impl Config {
    /// Reads all settings and starts the log as `LACEWING_LOG` (`info`) says.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(env);
        let log = settings.get("LACEWING_LOG", "info", log::init);
        let source = source(&mut settings);
        let grpc_addr = settings.get(GRPC_ADDR, "[::]:8080", parsed);
        let admin_addr = settings.get(ADMIN_ADDR, "[::]:9990", parsed);
        let trust_domain = settings.get("LACEWING_TRUST_DOMAIN", "cluster.local", parsed);
        let leaf_lifetime = settings.get("LACEWING_LEAF_LIFETIME", "24h", leaf_lifetime);
        let exit_with_parent = settings.get("LACEWING_EXIT_WITH_PARENT", "0", switch);
        let config = (|| {
            log?;
            Some(Self {
                source: source?,
                grpc_addr: grpc_addr?,
                admin_addr: admin_addr?,
                trust_domain: trust_domain?,
                leaf_lifetime: leaf_lifetime?,
                exit_with_parent: exit_with_parent?,
            })
        })();
        settings.finish(config)
    }
}

fn source(settings: &mut Settings<'_>) -> Option<Source> {
    let manifests = settings.get("LACEWING_MANIFESTS", "", path)?;
    let Some(manifests) = manifests else {
        let kubeconfig = settings.get("KUBECONFIG", "", path);
        let namespace = settings.get("LACEWING_NAMESPACE", OWN_NAMESPACE, text);
        let what = "the controller's pod (fieldRef metadata.name); outside a cluster set LACEWING_MANIFESTS instead";
        let pod_name = settings.required("LACEWING_POD_NAME", what, text);
        let webhook_addr = settings.get(WEBHOOK_ADDR, "[::]:8443", parsed);
        let proxy = settings.get("LACEWING_PROXY", "", proxy);
        return Some(Source::Kubernetes(Kubernetes {
            kubeconfig: kubeconfig?,
            namespace: namespace?,
            pod_name: pod_name?,
            webhook_addr: webhook_addr?,
            proxy: proxy?,
        }));
    };
    let state_dir = settings.required("LACEWING_STATE_DIR", "a private directory for the trust root", parsed);
    let token_dir = settings.get("LACEWING_TOKEN_DIR", "", path);
    Some(Source::Directory(Directory { manifests, state_dir: state_dir?, token_dir: token_dir? }))
}

/// What the chart says about proxies; the defaults for the empty text.
fn proxy(json: &str) -> Result<ProxySettings, String> {
    if json.is_empty() { Ok(ProxySettings::default()) } else { json.parse() }
}

/// A path; none for the empty text.
#[allow(clippy::unnecessary_wraps, reason = "a reader of settings may fail")]
fn path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

/// The value of `LACEWING_LEAF_LIFETIME`.
///
/// # Errors
/// It is no duration from [`LEAF_LIFETIME_MIN`] to [`MAX_LEAF_LIFETIME`].
pub fn leaf_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if lifetime < LEAF_LIFETIME_MIN || lifetime.as_secs() > MAX_LEAF_LIFETIME {
        return Err(format!(
            "a certificate lives from {}m to {}h",
            LEAF_LIFETIME_MIN.as_secs() / 60,
            MAX_LEAF_LIFETIME / 3_600
        ));
    }
    Ok(lifetime)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: &[(&str, &str)]) -> Result<Config, String> {
        let lookup = |name: &str| table.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(&lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn two_settings_are_enough() {
        let config = read(&[("LACEWING_MANIFESTS", "/m"), ("LACEWING_STATE_DIR", "/s")]).unwrap();
        assert_eq!(config.grpc_addr.to_string(), "[::]:8080");
        assert_eq!(config.admin_addr.to_string(), "[::]:9990");
        assert_eq!(config.leaf_lifetime, Duration::from_secs(86_400));
        assert_eq!((config.trust_domain.as_str(), config.exit_with_parent), ("cluster.local", false));
        let Source::Directory(directory) = config.source else { panic!("{config:?}") };
        assert_eq!((directory.manifests, directory.token_dir), ("/m".into(), None));
    }

    #[test]
    fn without_manifests_there_is_kubernetes() {
        let config =
            read(&[("LACEWING_POD_NAME", "lacewing-controller-1"), ("LACEWING_TOKEN_DIR", "/unused")]).unwrap();
        let Source::Kubernetes(kubernetes) = config.source else { panic!("{config:?}") };
        assert_eq!((kubernetes.kubeconfig, kubernetes.namespace.as_str()), (None, "lacewing"));
        let error = read(&[]).unwrap_err();
        assert!(error.contains("LACEWING_POD_NAME") && error.contains("LACEWING_MANIFESTS"), "{error}");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let error = read(&[
            ("LACEWING_MANIFESTS", "/m"),
            ("LACEWING_GRPC_ADDR", "8080"),
            ("LACEWING_ADMIN_ADDR", "localhost:1"),
            ("LACEWING_TRUST_DOMAIN", "Cluster.Local"),
            ("LACEWING_LEAF_LIFETIME", "1s"),
            ("LACEWING_EXIT_WITH_PARENT", "perhaps"),
            ("LACEWING_LOG", "lacewing=loud"),
        ])
        .unwrap_err();
        assert!(error.starts_with("7 bad settings"), "{error}");
        for name in ["STATE_DIR", "GRPC_ADDR", "ADMIN_ADDR", "TRUST_DOMAIN", "LEAF_LIFETIME", "EXIT_WITH_PARENT", "LOG"]
        {
            assert!(error.contains(&format!("LACEWING_{name}")), "{name}: {error}");
        }
        for (lifetime, good) in [("119s", false), ("2m", true), ("720h", true), ("721h", false)] {
            assert_eq!(leaf_lifetime(lifetime).is_ok(), good, "{lifetime}");
        }
    }
}

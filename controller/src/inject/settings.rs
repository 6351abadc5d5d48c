//! Owns which settings a pod's proxy gets: the chart's (`LACEWING_PROXY`), overridden by the Namespace's annotations,
//! overridden by the pod's. All that is wrong with them is said at once, with the key, the value and whose it is.

use std::{collections::BTreeMap, str::FromStr};

use k8s_openapi::{
    api::core::v1::{Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use lacewing_crds::labels::{
    self, InboundMode,
    config::{self, Becomes, Grammar, Refused, SETTINGS, Setting},
};
use lacewing_ops::nearest::nearest;
use serde::Deserialize;
use serde_json::json;

use super::{Surroundings, edit::Edit};

/// What the chart's `proxy` values say: defaults for every pod.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxySettings {
    pub image: String,
    #[serde(default = "if_not_present")]
    pub image_pull_policy: String,
    /// By suffix of `config.lacewing.dev/`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub resources: ResourceRequirements,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            image: concat!("ghcr.io/lacewing/proxy:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: if_not_present(),
            annotations: BTreeMap::new(),
            resources: ResourceRequirements::default(),
        }
    }
}

fn if_not_present() -> String {
    "IfNotPresent".to_owned()
}

impl FromStr for ProxySettings {
    type Err = String;

    /// Reads the JSON object of `LACEWING_PROXY`.
    ///
    /// # Errors
    /// All that is wrong with it, for the operator.
    fn from_str(json: &str) -> Result<Self, String> {
        let settings: Self =
            serde_json::from_str(json).map_err(|error| format!("the chart's `proxy` values: {error}"))?;
        let mut wrong = Vec::new();
        for (key, value) in [("proxy-image", &settings.image), ("image-pull-policy", &settings.image_pull_policy)] {
            wrong.extend(check(&format!("{}{key}", config::PREFIX), value).err());
        }
        for (suffix, value) in &settings.annotations {
            wrong.extend(check(&format!("{}{suffix}", config::PREFIX), value).err());
        }
        if wrong.is_empty() { Ok(settings) } else { Err(wrong.join("; ")) }
    }
}

impl ProxySettings {
    /// Whom pods serve where nothing is annotated.
    pub fn inbound(&self) -> InboundMode {
        // Checked when it was read.
        let given = self.annotations.get("inbound").and_then(|mode| mode.parse().ok());
        given.unwrap_or_default()
    }
}

/// The settings of one pod's proxy.
#[derive(Debug, PartialEq)]
pub struct Effective<'a> {
    /// In the order of the table.
    values: Vec<(&'static Setting, &'a str)>,
    defaults: &'a ProxySettings,
    /// The ports that clients reach without the proxy are not written on the pod itself.
    inherited: bool,
}

/// Merges and checks.
///
/// # Errors
/// All annotations that cannot be honoured.
pub fn effective<'a>(
    pod: &'a Pod,
    namespace: Surroundings<'a>,
    defaults: &'a ProxySettings,
) -> Result<Effective<'a>, String> {
    let mut wrong = Vec::new();
    let own = pod.metadata.annotations.as_ref();
    for (whose, annotations) in [("the pod", own), ("its namespace", Some(namespace.annotations))] {
        for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| labels::is_own(key)) {
            if let Err(why) = annotation(key, value) {
                wrong.push(format!("on {whose}: {why}"));
            }
        }
    }
    let own = |key| own.and_then(|own| own.get(key));
    let values = SETTINGS.iter().filter_map(|setting| {
        let annotated = own(setting.key).or_else(|| namespace.annotations.get(setting.key));
        let value = annotated.or_else(|| defaults.annotations.get(setting.suffix()))?;
        Some((setting, value.as_str()))
    });
    let effective =
        Effective { values: values.collect(), defaults, inherited: own(labels::SKIP_INBOUND_PORTS).is_none() };
    wrong.extend(effective.too_many_workers());
    if wrong.is_empty() { Ok(effective) } else { Err(wrong.join("; ")) }
}

/// One of our annotations on a pod or Namespace whose pods are to be injected.
fn annotation(key: &str, value: &str) -> Result<(), String> {
    match key {
        labels::INJECT => Ok(()),
        labels::PROXY_ADDRESS => {
            Err(format!("{key} is for pods whose connections are not redirected: injection redirects"))
        }
        labels::PROXY_VERSION => Err(format!("{key} is written by injection: leave it out")),
        _ => check(key, value).map(drop),
    }
}

pub fn check(key: &str, value: &str) -> Result<&'static Setting, String> {
    config::check(key, value).map_err(|refused| match refused {
        Refused::Unknown(key) => unknown_annotation(&key),
        other => other.to_string(),
    })
}

/// Words for an annotation under our prefixes that means nothing, with the one that may be meant. The prefixes are long
/// and right: what differs is the rest, or which of them it is.
pub fn unknown_annotation(key: &str) -> String {
    let rest = |key: &'static str| key.rsplit_once('/').map_or(key, |(_, rest)| rest);
    let meant = nearest(key.rsplit_once('/').map_or(key, |(_, rest)| rest), labels::annotations().map(rest));
    let meant = meant.and_then(|meant| labels::annotations().find(|known| rest(known) == meant));
    let next = meant.map_or_else(
        || "; docs/injection.md lists those there are".to_owned(),
        |known| format!("; did you mean {known}?"),
    );
    format!("{}{next}", Refused::Unknown(key.to_owned()))
}

impl Effective<'_> {
    /// The value of the setting that becomes this.
    pub fn get(&self, becomes: Becomes) -> Option<&str> {
        self.values.iter().find(|(setting, _)| setting.becomes == becomes).map(|(_, value)| *value)
    }

    pub fn image(&self) -> &str {
        self.get(Becomes::Image).unwrap_or(&self.defaults.image)
    }

    pub fn pull_policy(&self) -> &str {
        self.get(Becomes::PullPolicy).unwrap_or(&self.defaults.image_pull_policy)
    }

    /// Environment of the init step.
    pub fn init(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.values.iter().filter_map(|(setting, value)| match setting.becomes {
            Becomes::Init(name) => Some((name, spelled(setting.grammar, value))),
            _ => None,
        })
    }

    /// Environment of the proxy.
    pub fn proxy(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.values.iter().filter_map(|(setting, value)| match setting.becomes {
            Becomes::Proxy(name) => Some((name, spelled(setting.grammar, value))),
            _ => None,
        })
    }

    /// The chart's resources, with what annotations say in their place.
    pub fn resources(&self) -> ResourceRequirements {
        let mut resources = self.defaults.resources.clone();
        for (setting, value) in &self.values {
            let (which, resource) = match setting.becomes {
                Becomes::Request(resource) => (&mut resources.requests, resource),
                Becomes::Limit(resource) => (&mut resources.limits, resource),
                _ => continue,
            };
            which.get_or_insert_default().insert(resource.to_owned(), Quantity((*value).to_owned()));
        }
        resources
    }

    /// Writes onto the pod what the controller reads there.
    ///
    /// # Errors
    /// The pod has not the shape in which it was read.
    pub fn note(&self, edit: &mut Edit) -> Result<(), String> {
        match self.values.iter().find(|(setting, _)| setting.key == labels::SKIP_INBOUND_PORTS) {
            Some((_, value)) if self.inherited => {
                edit.add_below(&["metadata", "annotations", labels::SKIP_INBOUND_PORTS], json!({}), value)
            }
            _ => Ok(()),
        }
    }

    /// The proxy refuses to start with more threads than it has processors.
    fn too_many_workers(&self) -> Option<String> {
        let workers: u64 = self.get(Becomes::Proxy("LACEWING_WORKERS"))?.parse().ok()?;
        let resources = self.resources();
        let limit = &resources.limits.as_ref()?.get("cpu")?.0;
        let processors = whole_processors(limit)?;
        (workers > processors).then(|| {
            format!(
                "{}proxy-workers: {workers} threads need as many processors, and the limit of the proxy is {limit:?}: raise \
                 {}proxy-cpu-limit",
                config::PREFIX,
                config::PREFIX
            )
        })
    }
}

/// As the proxy reads it.
fn spelled(grammar: Grammar, value: &str) -> String {
    match grammar {
        Grammar::Ports | Grammar::Networks => value.split(',').map(str::trim).collect::<Vec<_>>().join(","),
        _ => value.to_owned(),
    }
}

/// How many processors an amount is, at least one; none for a notation that we do not write.
fn whole_processors(amount: &str) -> Option<u64> {
    let processors: f64 = match amount.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()? / 1_000.0,
        None => amount.parse().ok()?,
    };
    Some(processors.ceil().max(1.0) as u64)
}

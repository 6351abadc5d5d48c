//! Owns the chart that this command carries: the same files that Helm installs, rendered here without Helm.
//!
//! Values (`values.rs`) are checked against the schema (`schema.rs`); templates are read (`template.rs`) and rendered
//! (`evaluate.rs`). Text in, text out: no file, no cluster, the same bytes every time.

mod evaluate;
mod schema;
mod template;
pub mod values;

use std::fmt;

use lacewing_controller::{config::leaf_lifetime, inject::settings::ProxySettings};
use lacewing_identity::TrustDomain;
use serde_json::{Value, json};

/// The release's name and namespace: proxies trust the controller by them, so nobody chooses.
pub const RELEASE: &str = "lacewing";

const CHART: &str = include_str!("../../charts/lacewing/Chart.yaml");
const VALUES: &str = include_str!("../../charts/lacewing/values.yaml");
const SCHEMA: &str = include_str!("../../charts/lacewing/values.schema.json");
const NOTES: (&str, &str) = ("templates/NOTES.txt", include_str!("../../charts/lacewing/templates/NOTES.txt"));

macro_rules! templates {
    ($($name:literal)*) => {
        &[$((concat!("templates/", $name), include_str!(concat!("../../charts/lacewing/templates/", $name)))),*]
    };
}

/// In the order in which they are to be applied.
const TEMPLATES: &[(&str, &str)] = templates!(
    "_helpers.tpl" "namespace.yaml" "rbac.yaml" "controller.yaml" "webhook.yaml" "pdb.yaml" "podmonitor.yaml"
);

/// What a chart makes of values.
#[derive(Debug)]
pub struct Rendered {
    /// YAML documents, for `kubectl apply -f -`.
    pub manifests: String,
    /// What to do next, for people.
    pub notes: String,
}

/// Why values cannot be used, or a template cannot be rendered.
#[derive(Debug, PartialEq)]
pub enum ChartError {
    /// What is wrong with the values, one a line.
    Values(Vec<String>),
    /// The chart itself is broken, or refuses.
    Template { file: String, line: usize, what: String },
}

impl ChartError {
    fn at(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self::Template { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for ChartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(what) => write!(f, "{}", what.join("\n  ")),
            Self::Template { file, line, what } => write!(f, "{file}:{line}: {what}"),
        }
    }
}

/// Renders the chart with the `given` values over its defaults.
///
/// # Errors
/// All values that the schema refuses, or the first error in a template.
pub fn render(given: Value) -> Result<Rendered, ChartError> {
    let schema =
        serde_json::from_str(SCHEMA).map_err(|e| ChartError::at("values.schema.json", e.line(), e.to_string()))?;
    let mut values = embedded("values.yaml", VALUES)?;
    values::over_defaults(&mut values, given);
    let mut wrong = schema::violations(&schema, &values);
    if wrong.is_empty() {
        wrong = refused_by_controller(&values);
    }
    if !wrong.is_empty() {
        return Err(ChartError::Values(wrong));
    }
    let chart = embedded("Chart.yaml", CHART)?;
    let dot = json!({
        "Values": values,
        "Release": { "Name": RELEASE, "Namespace": RELEASE },
        "Chart": { "Version": chart["version"], "AppVersion": chart["appVersion"] },
    });
    let mut defined = evaluate::Defined::default();
    let mut files = Vec::new();
    for (file, text) in TEMPLATES.iter().chain([&NOTES]) {
        files.push((file, defined.take(file, template::parse(file, text)?)));
    }
    let mut texts = Vec::new();
    for (file, nodes) in &files {
        texts.push(evaluate::render(file, nodes, &dot, &defined)?);
    }
    let notes = texts.pop().unwrap_or_default();
    let manifests = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    Ok(Rendered { manifests: manifests.fold(String::new(), |all, text| all + text + "\n"), notes })
}

/// What the schema cannot say: the controller reads these texts when it starts, and would refuse to.
fn refused_by_controller(values: &Value) -> Vec<String> {
    let text = |name: &str| values[name].as_str().unwrap_or_default().to_owned();
    let proxy = values["proxy"].to_string().parse::<ProxySettings>().err();
    let domain = TrustDomain::parse(&text("trustDomain")).err().map(|why| format!("trustDomain: {why}"));
    let lifetime = leaf_lifetime(&text("leafLifetime")).err().map(|why| format!("leafLifetime: {why}"));
    let proxy = proxy.map(|why| format!("proxy.annotations: {why}; docs/injection.md has all of them"));
    [proxy, domain, lifetime].into_iter().flatten().collect()
}

fn embedded(file: &str, text: &str) -> Result<Value, ChartError> {
    values::read(text).map_err(|why| ChartError::at(file, 0, why))
}

#[cfg(test)]
mod tests;

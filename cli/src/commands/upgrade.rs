//! `mesh upgrade`: as `mesh install`, with the values that the installed mesh was given and new ones over them. They are
//! read from the annotation of the controller's Deployment that `mesh install` writes.

use serde_json::Value;

use super::{Context, block_on, install};
use crate::{
    chart::{RELEASE, Rendered},
    cli::install::Values,
    cluster::Cluster,
    failure::{Exit, Failure},
    installed::{self, Found, Maker},
    output::plain,
};

/// Where the values are kept.
const ANNOTATION: &str = "lacewing.dev/values";
/// The label of the Deployment that says which version it is.
const VERSION: &str = "app.kubernetes.io/version";

pub fn run(context: &mut Context, options: &Values) -> Result<Exit, Failure> {
    install::home(context)?;
    let flags = context.flags.clone();
    let (place, found) = block_on(async {
        let cluster = Cluster::connect(&flags).await?;
        Ok((cluster.place().to_owned(), installed::look(&cluster).await?))
    })?;
    let (mut given, version) = current(&found, &place)?;
    install::add(&mut given, options)?;
    let rendered = install::render(given, options)?;
    context.printer.data(&rendered.manifests)?;
    context.printer.note(&format!(
        "from {} to {}, for `kubectl apply -f -`",
        plain(&version),
        env!("CARGO_PKG_VERSION")
    ));
    for note in obsolete(&found, &rendered) {
        context.printer.note(&note);
    }
    Ok(Exit::Ok)
}

/// The values that the installed mesh was given, and its version.
fn current(found: &[Found], place: &str) -> Result<(Value, String), Failure> {
    if let Some(release) = installed::helm_release(found) {
        return Err(Failure::error(format!("Helm has installed Lacewing in {place}, as {:?}", plain(release)))
            .hint(format!("run `helm upgrade {RELEASE} CHART -n {RELEASE} --reset-then-reuse-values`")));
    }
    let Some(deployment) = found.iter().find(|found| found.known.kind == "Deployment") else {
        return Err(Failure::new(Exit::NotInstalled, format!("Lacewing is not installed in {place}"))
            .hint("install it with `mesh install | kubectl apply -f -`"));
    };
    let metadata = &deployment.object.metadata;
    let kept = metadata.annotation(ANNOTATION).unwrap_or("{}");
    let given: Value = serde_json::from_str(kept).ok().filter(Value::is_object).ok_or_else(|| {
        Failure::error(format!(
            "the annotation {ANNOTATION} of deployment/lacewing-controller in {place} is no map of values"
        ))
        .hint("give all values anew: `mesh install -f values.yaml | kubectl apply -f -`")
    })?;
    Ok((given, metadata.label(VERSION).unwrap_or("an unknown version").to_owned()))
}

/// What the chart made before and makes no more: `kubectl apply` leaves it.
fn obsolete(found: &[Found], rendered: &Rendered) -> Vec<String> {
    let made = |found: &&Found| {
        let named = format!("\nkind: {}\nmetadata:\n  name: {}\n", found.known.kind, found.known.name);
        rendered.manifests.contains(&named)
    };
    let gone = found.iter().filter(|found| found.known.maker == Maker::Chart && !made(found));
    gone.map(|found| format!("note: no longer needed: `{}`", found.known.delete_command())).collect()
}

#[cfg(test)]
mod tests;

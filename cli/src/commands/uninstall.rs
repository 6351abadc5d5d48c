//! `mesh uninstall`: everything of ours that is in the cluster, as text for `kubectl delete -f -`. It refuses while pods
//! still have a proxy, since those would go on without anybody to renew their certificates; and it leaves to Helm what
//! Helm has installed.

use super::{Context, block_on, install};
use crate::{
    chart::RELEASE,
    cli::install::Uninstall,
    cluster::{ApiError, Cluster, objects::Pod},
    failure::{Exit, Failure},
    installed::{self, Found, Maker},
    output::plain,
};

/// Most meshed pods that a refusal names.
const NAMED_MAX: usize = 20;
/// Pods that have a proxy.
const MESHED: &str = "/api/v1/pods?labelSelector=lacewing.dev%2Fmeshed%3Dtrue";

pub fn run(context: &mut Context, options: &Uninstall) -> Result<Exit, Failure> {
    install::home(context)?;
    let flags = context.flags.clone();
    let (place, found, pods) = block_on(async { Ok(look(&Cluster::connect(&flags).await?).await?) })?;
    if found.is_empty() {
        return Err(Failure::new(Exit::NotInstalled, format!("nothing of Lacewing is in {place}"))
            .hint("if it is in another cluster, choose that with `--context NAME`"));
    }
    if let Some(release) = installed::helm_release(&found) {
        return Err(Failure::error(format!("Helm has installed Lacewing in {place}, as {:?}", plain(release))).hint(format!(
            "run `helm uninstall {RELEASE} -n {RELEASE}`, and then this command again for what the controller has made"
        )));
    }
    if !pods.is_empty() {
        let note = meshed(&pods);
        if !options.force {
            return Err(Failure::error(note).hint(
                "end injection (`kubectl annotate namespace NAME lacewing.dev/inject-`) and restart them \
                 (`kubectl rollout restart deployment -n NAME`), or go on with --force",
            ));
        }
        context.printer.note(&format!("warning: {note}"));
    }
    let (ours, notes) = choose(&found);
    context.printer.data(&ours.iter().map(|found| found.known.document()).collect::<String>())?;
    for note in notes {
        context.printer.note(&note);
    }
    Ok(Exit::Ok)
}

async fn look(cluster: &Cluster) -> Result<(String, Vec<Found>, Vec<String>), ApiError> {
    let found = installed::look(cluster).await?;
    let pods: Vec<Pod> = cluster.list(MESHED).await?;
    let staying = pods.iter().filter(|pod| pod.is_staying());
    let mut names: Vec<String> = staying.map(|pod| format!("{}/{}", pod.namespace(), pod.name())).collect();
    names.sort_unstable();
    Ok((cluster.place().to_owned(), found, names))
}

/// Which pods stand in the way, in one sentence.
fn meshed(pods: &[String]) -> String {
    let named = pods.iter().take(NAMED_MAX).map(|pod| plain(pod)).collect::<Vec<_>>().join(", ");
    let more = pods.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{} still {} a proxy, which would lose its certificate: {named}{more}", count(pods.len()), have(pods.len()))
}

fn count(pods: usize) -> String {
    if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") }
}

fn have(pods: usize) -> &'static str {
    if pods == 1 { "has" } else { "have" }
}

/// What is to be deleted, and what people should know about the rest.
fn choose(found: &[Found]) -> (Vec<&Found>, Vec<String>) {
    let mut ours: Vec<&Found> = found.iter().filter(|found| found.is_ours()).collect();
    let foreign_root = found.iter().any(|found| found.known.maker == Maker::ControllerIfLabelled && !found.is_ours());
    let mut notes = Vec::new();
    if foreign_root {
        notes.push("note: the Secret lacewing-root is yours and stays, and so does the namespace lacewing".to_owned());
        ours.retain(|found| found.known.kind != "Namespace");
    } else if found.iter().any(|found| found.known.kind == "Namespace" && !found.is_ours()) {
        notes.push("note: the namespace lacewing was not made by the install and stays".to_owned());
    }
    if ours.is_empty() {
        notes.push("note: nothing of it is ours to delete".to_owned());
    }
    (ours, notes)
}

#[cfg(test)]
mod tests;

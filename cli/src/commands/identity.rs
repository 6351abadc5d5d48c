//! `mesh identity`: who each proxy says it is, until when, and when it renews.
//!
//! The proxies are asked themselves; what the controller issued last may not be what they use.

use std::time::Duration;

use serde::Serialize;

use super::{Context, block_on};
use crate::{
    cli::{self, Format},
    failure::{Exit, Failure},
    live::{self, Pod},
    mesh::{self, Mesh},
    output::{
        table::{self, Column, Row, View},
        units,
    },
};

/// Most names that an error lists.
const NAMES_MAX: usize = 20;

#[derive(Serialize)]
struct IdentityRow {
    namespace: String,
    name: String,
    identity: String,
    /// Seconds since the Unix epoch.
    not_before: u64,
    not_after: u64,
    renew_from: u64,
    renew_until: u64,
    /// Roots that it trusts.
    roots: u64,
    #[serde(skip)]
    now: u64,
}

impl Row for IdentityRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE").only(|view| view.namespaces),
        Column::text("NAME"),
        Column::text("IDENTITY"),
        Column::text("EXPIRES"),
        Column::text("RENEWS"),
    ];

    fn cells(&self, _: View) -> Vec<String> {
        let from_now = |at: u64| match at.checked_sub(self.now) {
            Some(left) => format!("in {}", units::span(Duration::from_secs(left))),
            None => format!("{} ago", units::span(Duration::from_secs(self.now - at))),
        };
        let renews = if self.renew_from > self.now {
            // A random moment between the two: the proxies of a mesh must not all renew at once.
            let until = Duration::from_secs(self.renew_until.saturating_sub(self.now));
            format!("{} to {}", from_now(self.renew_from), units::span(until))
        } else {
            from_now(self.renew_until)
        };
        vec![self.namespace.clone(), self.name.clone(), self.identity.clone(), from_now(self.not_after), renews]
    }
}

pub fn run(context: &mut Context, options: &cli::Identity) -> Result<Exit, Failure> {
    block_on(show(context, options))
}

async fn show(context: &mut Context<'_>, options: &cli::Identity) -> Result<Exit, Failure> {
    let mesh = Mesh::choose(context).await?;
    let namespace = (!options.all_namespaces && matches!(mesh, Mesh::Cluster { .. })).then(|| mesh.namespace(context));
    let roll = mesh.roll(namespace.as_deref(), false).await?;
    let mut pods: Vec<Pod> = match &options.pod {
        Some(name) => vec![find(&roll.pods, name)?.clone()],
        None => roll.pods.clone(),
    };
    pods.retain(|pod| pod.proxy.is_some());
    if pods.is_empty() {
        return Err(nothing(&mesh, namespace.as_deref(), &roll.pods, options.pod.as_deref()).await);
    }
    let readings = live::identities(&pods).await;
    live::report_unreachable(&readings, mesh.next_when_silent(), context.printer)?;
    let now = context.now;
    let rows: Vec<IdentityRow> = readings.into_iter().filter_map(|r| Some(row(r.pod, r.answer.ok()?, now))).collect();
    let view = View { namespaces: options.all_namespaces, columns: context.printer.columns(), ..View::default() };
    context.printer.data(&match options.output {
        Format::Json => table::json(&rows, None),
        Format::Table => table::text(&rows, view),
    })?;
    Ok(Exit::Ok)
}

/// The pod of that name, or an error that lists those there are.
pub fn find<'a>(pods: &'a [Pod], name: &str) -> Result<&'a Pod, Failure> {
    pods.iter().find(|pod| pod.name == name).ok_or_else(|| {
        let mut names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).take(NAMES_MAX).collect();
        if pods.len() > NAMES_MAX {
            names.push("...");
        }
        Failure::error(format!("there is no pod {name:?} here")).hint(format!("there are: {}", names.join(", ")))
    })
}

async fn nothing(mesh: &Mesh, namespace: Option<&str>, pods: &[Pod], asked: Option<&str>) -> Failure {
    let why = match mesh {
        Mesh::Cluster { cluster, .. } => mesh::why_empty(cluster, namespace, pods).await,
        Mesh::Demo(_) => None,
    };
    let what =
        asked.map_or_else(|| "no proxy runs here yet".to_owned(), |name| format!("pod {name} has no proxy that runs"));
    why.unwrap_or_else(|| Failure::new(Exit::NoData, what).hint(mesh.next_when_silent()))
}

fn row(pod: Pod, identity: live::Identity, now: u64) -> IdentityRow {
    let live::Identity { id, not_before, not_after, renew_from, renew_until, roots } = identity;
    IdentityRow {
        namespace: pod.namespace,
        name: pod.name,
        identity: id,
        not_before,
        not_after,
        renew_from,
        renew_until,
        roots,
        now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        for (now, expected) in [
            (100, "  in 23h58m  in 11h58m to 16h46m"),
            (50_000, "  in 10h6m  in 2h54m"),
            (86_400, "  1s ago   7h12m ago"),
        ] {
            let row = IdentityRow {
                namespace: "emojivoto".into(),
                name: "web-1".into(),
                identity: "spiffe://cluster.local/ns/emojivoto/sa/web".into(),
                not_before: 0,
                not_after: 86_399,
                renew_from: 43_200,
                renew_until: 60_480,
                roots: 1,
                now,
            };
            let text = table::text(&[row], View::default());
            assert!(text.lines().nth(1).is_some_and(|line| line.ends_with(expected)), "{text}");
        }
    }
}

//! `mesh identity`: who each proxy says it is, until when, and when it renews.

use std::time::Duration;

use serde::Serialize;

use super::{Context, block_on, fault::find};
use crate::{
    cli::{self, Format},
    failure::{Exit, Failure},
    live,
    output::{
        table::{self, Column, Row, View},
        units,
    },
};

#[derive(Serialize)]
struct IdentityRow {
    namespace: String,
    name: String,
    identity: String,
    /// Seconds since the Unix epoch.
    not_before: u64,
    not_after: u64,
    renew_at: u64,
    /// Roots that it trusts.
    roots: u64,
    #[serde(skip)]
    now: u64,
}

impl Row for IdentityRow {
    const COLUMNS: &'static [Column] =
        &[Column::text("NAME"), Column::text("IDENTITY"), Column::text("EXPIRES"), Column::text("RENEWS")];

    fn cells(&self, _: View) -> Vec<String> {
        let from_now = |at: u64| match at.checked_sub(self.now) {
            Some(left) => format!("in {}", units::span(Duration::from_secs(left))),
            None => format!("{} ago", units::span(Duration::from_secs(self.now - at))),
        };
        vec![self.name.clone(), self.identity.clone(), from_now(self.not_after), from_now(self.renew_at)]
    }
}

pub fn run(context: &mut Context, options: &cli::Identity) -> Result<Exit, Failure> {
    let mut pods = context.layout.running()?.pods;
    if let Some(name) = &options.pod {
        pods = vec![find(&pods, name)?.clone()];
    }
    let readings = block_on(async { Ok(live::identities(&pods).await) })?;
    live::report_unreachable(&readings, context.printer)?;
    let now = context.now;
    let rows: Vec<IdentityRow> = readings.into_iter().filter_map(|r| Some(row(r.pod, r.answer.ok()?, now))).collect();
    context.printer.data(&match options.output {
        Format::Json => table::json(&rows, None),
        Format::Table => table::text(&rows, View::default()),
    })?;
    Ok(Exit::Ok)
}

fn row(pod: crate::demo::cast::Pod, identity: live::Identity, now: u64) -> IdentityRow {
    let live::Identity { id, not_before, not_after, renew_at, roots } = identity;
    IdentityRow { namespace: pod.namespace, name: pod.name, identity: id, not_before, not_after, renew_at, roots, now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let row = IdentityRow {
            namespace: "emojivoto".into(),
            name: "web-1".into(),
            identity: "spiffe://cluster.local/ns/emojivoto/sa/web".into(),
            not_before: 0,
            not_after: 86_399,
            renew_at: 40,
            roots: 1,
            now: 100,
        };
        let text = table::text(&[row], View::default());
        assert!(text.contains("   in 23h58m   1m0s ago"), "{text}");
    }
}

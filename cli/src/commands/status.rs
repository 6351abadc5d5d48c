//! `mesh demo status`: each pod, whether it is ready, its fault, its addresses.
//!
//! What the controller cannot honour in the manifests comes first, on standard error. Ready means here what it means to
//! the demo itself: the proxy says so and the app takes connections.

use std::{path::Path, time::Duration};

use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

use super::{Context, block_on};
use crate::{
    cli::Format,
    demo::{cast::Pod, faults, startup},
    failure::{Exit, Failure},
    live,
    output::{
        table::{self, Column, Row, View},
        units::{self, MISSING},
    },
};

/// A pod that does not answer within this is not ready.
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct PodRow {
    name: String,
    namespace: String,
    ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    fault: Option<String>,
    app: Option<String>,
    admin: String,
}

impl Row for PodRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAME"),
        Column::text("READY"),
        Column::text("FAULT"),
        Column::text("APP"),
        Column::text("ADMIN"),
        Column::text("REASON"),
    ];

    fn cells(&self, _: View) -> Vec<String> {
        let or_missing = |text: &Option<String>| text.clone().unwrap_or_else(|| MISSING.to_owned());
        let ready = if self.ready { "yes" } else { "no" };
        vec![
            self.name.clone(),
            ready.to_owned(),
            or_missing(&self.fault),
            or_missing(&self.app),
            self.admin.clone(),
            or_missing(&self.reason),
        ]
    }
}

pub fn run(context: &mut Context, output: Format) -> Result<Exit, Failure> {
    let demo = context.layout.running()?;
    let faults = context.layout.faults();
    let (rows, manifests) =
        block_on(async { Ok(tokio::join!(rows(&demo.pods, &faults), live::manifest_errors(demo.controller_admin))) })?;
    let manifests =
        manifests.map_or_else(|why| vec![format!("warning: no answer from the controller: {why}")], |m| m.lines());
    for line in &manifests {
        context.printer.note(line);
    }
    match output {
        Format::Json => context.printer.data(&table::json(&rows, None))?,
        Format::Table => {
            let up = Duration::from_secs(context.now.saturating_sub(demo.started));
            context.printer.note(&format!(
                "process {}, up {}, in {}",
                demo.pid,
                units::span(up),
                context.layout.root().display()
            ));
            context.printer.data(&table::text(&rows, View::default()))?;
        }
    }
    Ok(Exit::Ok)
}

async fn rows(pods: &[Pod], faults: &Path) -> Vec<PodRow> {
    let mut asked = JoinSet::new();
    for (at, pod) in pods.iter().cloned().enumerate() {
        let fault = faults::read(&faults::path(faults, &pod.name));
        asked.spawn(async move {
            let answer =
                timeout(TIMEOUT, startup::ready(&pod)).await.unwrap_or_else(|_| Err("no answer in time".into()));
            let row = PodRow {
                app: pod.app().map(|app| app.to_string()),
                admin: pod.admin.to_string(),
                ready: answer.is_ok(),
                reason: answer.err(),
                fault: fault.map(|fault| fault.to_string()),
                name: pod.name,
                namespace: pod.namespace,
            };
            (at, row)
        });
    }
    let mut rows = asked.join_all().await;
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

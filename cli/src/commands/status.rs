//! `mesh demo status`: each pod and the controller, whether it is ready, its fault, its addresses.
//!
//! What the controller cannot honour in the manifests comes first, on standard error. Ready means here what it means to
//! the demo itself: the proxy says so and the app takes connections.

use std::{path::Path, time::Duration};

use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

use super::{Context, block_on};
use crate::{
    cli::Format,
    demo::{
        cast::Pod,
        faults::{self, CONTROLLER, Fault},
        startup,
        state::Description,
    },
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
    /// `null`: the controller, which is no pod.
    namespace: Option<String>,
    ready: bool,
    /// Why it is not ready.
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
        block_on(async { Ok(tokio::join!(rows(&demo, &faults), live::manifest_errors(demo.controller_admin))) })?;
    let killed = faults::read(&faults::path(&faults, CONTROLLER)) == Some(Fault::Kill);
    let manifests = match manifests {
        Ok(manifests) => manifests.lines(),
        // As it was asked for: the table says it.
        Err(_) if killed => Vec::new(),
        Err(why) => vec![format!("warning: no answer from the controller: {why}")],
    };
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
            let view = View { columns: context.printer.columns(), ..View::default() };
            context.printer.data(&table::text(&rows, view))?;
        }
    }
    Ok(Exit::Ok)
}

async fn rows(demo: &Description, faults: &Path) -> Vec<PodRow> {
    let (mut rows, controller) = tokio::join!(of_pods(&demo.pods, faults), of_controller(demo, faults));
    rows.push(controller);
    rows
}

async fn of_controller(demo: &Description, faults: &Path) -> PodRow {
    let answer = live::ready(demo.controller_admin).await;
    PodRow {
        name: CONTROLLER.to_owned(),
        namespace: None,
        ready: answer.is_ok(),
        reason: answer.err(),
        fault: faults::read(&faults::path(faults, CONTROLLER)).map(|fault| fault.to_string()),
        app: None,
        admin: demo.controller_admin.to_string(),
    }
}

async fn of_pods(pods: &[Pod], faults: &Path) -> Vec<PodRow> {
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
                namespace: Some(pod.namespace),
            };
            (at, row)
        });
    }
    let mut rows = asked.join_all().await;
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{cast::Subnet, state::tests::Scratch};

    #[tokio::test]
    async fn the_controller_has_a_row_and_every_row_every_field() {
        let scratch = Scratch::new("status");
        faults::set(&scratch, CONTROLLER, Fault::Kill).expect("set");
        let subnet: Subnet = "127.1.203".parse().expect("a subnet");
        let mut pods = subnet.pods();
        pods.truncate(1);
        let demo = Description { pid: 1, started: 1, controller_admin: subnet.controller_admin(), pods };
        let mut rows = rows(&demo, &scratch).await;
        rows[0].reason = None;
        let text = table::text(&rows, View::default());
        let line = text.lines().nth(2).expect("a line for the controller");
        let cells: Vec<&str> = line.split_whitespace().take(5).collect();
        assert_eq!(cells, [CONTROLLER, "no", "kill", MISSING, "127.1.203.1:9990"]);
        let json: serde_json::Value = serde_json::from_str(&table::json(&rows, None)).expect("valid JSON");
        let fields = |row: usize| json["rows"][row].as_object().expect("an object").keys().collect::<Vec<_>>();
        assert_eq!(fields(0), fields(1));
        assert!(json["rows"][0].as_object().is_some_and(|row| row.contains_key("reason")));
    }
}

//! `mesh stat`: success rate, request rate and latency of workloads, pods and services, read straight from the proxies.
//!
//! Workloads and pods are the inbound side of their own proxies; services are the outbound side of everybody's, so what
//! clients really got, after retries.

use std::time::Duration;

use lacewing_proxy::live::{Direction, Report};
use serde::Serialize;

use super::{Context, block_on};
use crate::{
    cli::{Kind, Selector, Stat, WideFormat},
    demo::cast::{NAMESPACE, Pod},
    failure::{Exit, Failure},
    golden::{Golden, Numbers},
    live::{self, Reading},
    output::{
        table::{self, Column, Row, View},
        units::{self, MISSING},
    },
};

/// One workload, pod or service.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct StatRow {
    namespace: String,
    kind: &'static str,
    name: String,
    /// Pods whose proxy answered, of all pods: `2/2`. A service has none.
    meshed: Option<String>,
    #[serde(flatten)]
    numbers: Numbers,
    #[serde(skip)]
    short_kind: &'static str,
}

impl Row for StatRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE").only(|view| view.namespaces),
        Column::text("NAME"),
        Column::number("MESHED"),
        Column::number("SUCCESS"),
        Column::number("RPS"),
        Column::number("LATENCY_P50"),
        Column::number("LATENCY_P95"),
        Column::number("LATENCY_P99"),
        Column::number("TCP_CONN"),
        Column::number("READ_BYTES/SEC").only(|view| view.wide),
        Column::number("WRITE_BYTES/SEC").only(|view| view.wide),
    ];

    fn cells(&self, view: View) -> Vec<String> {
        let n = &self.numbers;
        vec![
            self.namespace.clone(),
            if view.kinds { format!("{}/{}", self.short_kind, self.name) } else { self.name.clone() },
            self.meshed.clone().unwrap_or_else(|| MISSING.to_owned()),
            units::percent(n.success_rate),
            units::rate(n.rps),
            units::latency(n.latency_ms_p50),
            units::latency(n.latency_ms_p95),
            units::latency(n.latency_ms_p99),
            units::count(n.tcp_open_connections),
            units::bytes_rate(n.tcp_read_bytes_rate),
            units::bytes_rate(n.tcp_write_bytes_rate),
        ]
    }
}

pub fn run(context: &mut Context, options: &Stat) -> Result<Exit, Failure> {
    let resource = resource(options)?;
    let resource = resource.as_ref();
    let pods = context.layout.running()?.pods;
    let window = options.time_window;
    let readings = block_on(async { Ok(live::reports(&pods, window).await) })?;
    live::report_unreachable(&readings, context.printer)?;
    let namespace = (!options.all_namespaces).then(|| options.namespace.as_deref().unwrap_or(NAMESPACE));
    let rows = select(rows(&readings), namespace, resource);
    let view = View {
        namespaces: options.all_namespaces,
        kinds: resource.is_none_or(|resource| resource.kind.is_none()),
        wide: options.output == WideFormat::Wide,
    };
    if options.output == WideFormat::Json {
        context.printer.data(&table::json(&rows, Some(window.as_secs())))?;
    } else if !rows.is_empty() {
        context.printer.data(&table::text(&rows, view))?;
    }
    if rows.is_empty() {
        return Err(nothing(&pods, namespace, resource));
    }
    for note in notes(&readings, &rows, window) {
        context.printer.note(&note);
    }
    Ok(Exit::Ok)
}

/// What is to be shown, of `KIND`, `KIND/NAME`, `KIND NAME` or `NAME`.
fn resource(options: &Stat) -> Result<Option<Selector>, Failure> {
    let named = |(resource, name): (Selector, &String)| resource.named(name);
    let both = options.resource.clone().zip(options.name.as_ref()).map(named).transpose();
    let both = both.map_err(|why| {
        Failure::new(Exit::Usage, why).hint("see the names with `mesh stat`, one of them with `mesh stat deploy/web`")
    })?;
    Ok(both.or_else(|| options.resource.clone()))
}

/// The table of all workloads and services, for the demo's first numbers.
pub async fn overview(pods: &[Pod], window: Duration) -> String {
    let rows = select(rows(&live::reports(pods, window).await), Some(NAMESPACE), None);
    table::text(&rows, View { kinds: true, ..View::default() })
}

/// What is being added up for one row.
struct Group {
    kind: Kind,
    namespace: String,
    name: String,
    /// Pods that answered, of all.
    meshed: (u32, u32),
    golden: Golden,
}

/// Rows of all kinds: deployments and pods in the order of the pods, then services.
fn rows(readings: &[Reading<Report>]) -> Vec<StatRow> {
    let mut groups: Vec<Group> = Vec::new();
    for kind in [Kind::Deployment, Kind::Pod] {
        for Reading { pod, answer } in readings {
            let name = if kind == Kind::Pod { &pod.name } else { &pod.workload };
            let group = group(&mut groups, kind, &pod.namespace, name);
            group.meshed.1 += 1;
            let Ok(report) = answer else { continue };
            group.meshed.0 += 1;
            group.golden.cover(report.covered_s);
            for row in report.rows.iter().filter(|row| row.key.direction == Direction::Inbound) {
                group.golden.add(row, report.covered_s);
            }
        }
    }
    // In the demo a workload that listens has a Service of its name; without traffic it is shown all the same.
    for pod in readings.iter().map(|reading| &reading.pod).filter(|pod| pod.app_port.is_some()) {
        group(&mut groups, Kind::Service, &pod.namespace, &pod.workload);
    }
    for report in readings.iter().filter_map(|reading| reading.answer.as_ref().ok()) {
        for row in report.rows.iter().filter(|row| row.key.direction == Direction::Outbound) {
            let Some((namespace, name)) = row.key.service.as_deref().and_then(service) else { continue };
            group(&mut groups, Kind::Service, namespace, name).golden.add(row, report.covered_s);
        }
    }
    groups.into_iter().map(finish).collect()
}

fn group<'a>(groups: &'a mut Vec<Group>, kind: Kind, namespace: &str, name: &str) -> &'a mut Group {
    let found = groups.iter().position(|g| g.kind == kind && g.namespace == namespace && g.name == name);
    let at = found.unwrap_or_else(|| {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        groups.push(Group { kind, namespace, name, meshed: (0, 0), golden: Golden::default() });
        groups.len() - 1
    });
    &mut groups[at]
}

/// Namespace and name of `namespace/name:port`.
pub fn service(text: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = text.split_once('/')?;
    Some((namespace, rest.rsplit_once(':').map_or(rest, |(name, _)| name)))
}

fn finish(group: Group) -> StatRow {
    let (up, all) = group.meshed;
    StatRow {
        namespace: group.namespace,
        kind: group.kind.name(),
        name: group.name,
        meshed: (group.kind != Kind::Service).then(|| format!("{up}/{all}")),
        numbers: group.golden.numbers(),
        short_kind: group.kind.short(),
    }
}

/// The rows that were asked for; without a kind, deployments and services.
fn select(rows: Vec<StatRow>, namespace: Option<&str>, resource: Option<&Selector>) -> Vec<StatRow> {
    let wanted = |row: &StatRow| match resource {
        None => row.kind != Kind::Pod.name(),
        Some(selector) => {
            selector.kind.is_none_or(|kind| row.kind == kind.name())
                && selector.name.as_ref().is_none_or(|name| *name == row.name)
        }
    };
    rows.into_iter().filter(|row| wanted(row) && namespace.is_none_or(|namespace| row.namespace == namespace)).collect()
}

/// Why the table is empty, and what to run next.
fn nothing(pods: &[Pod], namespace: Option<&str>, resource: Option<&Selector>) -> Failure {
    let place = namespace.map_or_else(|| "in any namespace".to_owned(), |ns| format!("in namespace {ns:?}"));
    let here = |pod: &&Pod| namespace.is_none_or(|namespace| pod.namespace == namespace);
    let what = match resource {
        Some(Selector { kind: Some(kind), name: Some(name) }) => {
            format!("there is no {} {name:?} {place}", kind.name())
        }
        Some(Selector { kind: None, name: Some(name) }) => format!("nothing is named {name:?} {place}"),
        _ => format!("nothing is meshed {place}"),
    };
    let failure = Failure::new(Exit::NoData, what);
    if !pods.iter().any(|pod| here(&pod)) {
        return failure.hint("the demo's namespace is \"emojivoto\"; see all with `mesh stat -A`");
    }
    match resource {
        Some(Selector { kind: Some(kind), .. }) => {
            failure.hint(format!("see those there are with `mesh stat {}`", kind.short()))
        }
        Some(Selector { kind: None, .. }) => {
            failure.hint("see the names with `mesh stat`; the kinds are deploy, pod and svc, as in deploy/web")
        }
        None => failure.hint("see whether the pods are up with `mesh demo status`"),
    }
}

fn notes(readings: &[Reading<Report>], rows: &[StatRow], window: Duration) -> Vec<String> {
    let mut notes = live::age_notes(readings, window);
    if rows.iter().all(|row| row.numbers.is_empty()) {
        notes.push("note: nothing came through in this window; ask for a longer one with `-t 10m`".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests;

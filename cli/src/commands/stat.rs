//! `mesh stat`: success rate, request rate and latency of workloads, pods and services, read straight from the proxies.
//!
//! Workloads and pods are the inbound side of their own proxies; services are the outbound side of everybody's, so what
//! clients really got, after retries.

use std::{collections::BTreeSet, time::Duration};

use lacewing_proxy::live::{Direction, Report};
use serde::Serialize;

use super::{Context, block_on};
use crate::{
    cli::{Kind, Selector, Stat, WideFormat},
    failure::{Exit, Failure},
    golden::{Golden, Numbers},
    live::{self, Pod, Reading},
    mesh::{self, Mesh, Roll},
    output::{
        table::{self, Column, Row, View},
        units::{self, MISSING},
    },
};

/// One workload, pod or service.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct StatRow {
    namespace: String,
    kind: String,
    name: String,
    /// Pods that have a proxy, of all pods: `2/2`. A service has none.
    meshed: Option<String>,
    #[serde(flatten)]
    numbers: Numbers,
    #[serde(skip)]
    short_kind: String,
    /// Whether it is shown where no kind is asked for.
    #[serde(skip)]
    is_workload: bool,
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
    block_on(show(context, options, resource.as_ref()))
}

async fn show(context: &mut Context<'_>, options: &Stat, resource: Option<&Selector>) -> Result<Exit, Failure> {
    let mesh = Mesh::choose(context).await?;
    let namespace = (!options.all_namespaces).then(|| mesh.namespace(context));
    let namespace = namespace.as_deref();
    let window = options.time_window;
    let services = resource.is_none_or(|selector| selector.kind.is_none_or(|kind| kind == Kind::Service));
    let roll = mesh.roll(namespace, services).await?;
    let mut readings = live::reports(&roll.pods, window).await;
    live::report_unreachable(&readings, mesh.next_when_silent(), context.printer)?;
    let rows = select(rows(&readings, &roll), namespace, resource);
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
    for note in &roll.notes {
        context.printer.note(note);
    }
    if rows.is_empty() {
        return Err(match &mesh {
            Mesh::Demo(_) => nothing(&roll.pods, namespace, resource),
            Mesh::Cluster { cluster, .. } => mesh::why_empty(cluster, namespace, &roll.pods)
                .await
                .unwrap_or_else(|| nothing(&roll.pods, namespace, resource)),
        });
    }
    // Of callers from elsewhere only the calls are shown.
    readings.retain(|reading| namespace.is_none_or(|namespace| reading.pod.namespace == namespace));
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
pub async fn overview(roll: &Roll, window: Duration) -> String {
    let rows = select(rows(&live::reports(&roll.pods, window).await, roll), None, None);
    table::text(&rows, View { kinds: true, ..View::default() })
}

/// What is being added up for one row.
struct Group {
    /// In full, as in `deployment`.
    kind: String,
    namespace: String,
    name: String,
    /// Pods that have a proxy, of all.
    meshed: (u32, u32),
    golden: Golden,
    is_workload: bool,
}

/// Rows of all kinds: workloads and pods in the order of the pods, then services.
fn rows(readings: &[Reading<Report>], roll: &Roll) -> Vec<StatRow> {
    let mut groups: Vec<Group> = Vec::new();
    let bare = |pod: &Pod| pod.owner.kind == Kind::Pod.name();
    for reading in readings.iter().filter(|reading| !bare(&reading.pod)) {
        add_inbound(
            group(&mut groups, &reading.pod.owner.kind, &reading.pod.namespace, &reading.pod.owner.name),
            reading,
        );
    }
    for group in &mut groups {
        group.is_workload = true;
    }
    for reading in readings {
        let group = group(&mut groups, Kind::Pod.name(), &reading.pod.namespace, &reading.pod.name);
        add_inbound(group, reading);
        // A pod that nobody manages is all there is of it.
        group.is_workload = bare(&reading.pod);
    }
    for (namespace, name) in &roll.services {
        group(&mut groups, Kind::Service.name(), namespace, name).is_workload = true;
    }
    for report in readings.iter().filter_map(|reading| reading.answer.as_ref().ok()) {
        for row in report.rows.iter().filter(|row| row.key.direction == Direction::Outbound) {
            let Some((namespace, name)) = row.key.service.as_deref().and_then(service) else { continue };
            let group = group(&mut groups, Kind::Service.name(), namespace, name);
            group.is_workload = true;
            group.golden.add(row, report.covered_s);
        }
    }
    groups.into_iter().map(finish).collect()
}

/// Adds a pod, and what it served.
fn add_inbound(group: &mut Group, reading: &Reading<Report>) {
    group.meshed.0 += u32::from(reading.is_meshed());
    group.meshed.1 += 1;
    let Ok(report) = &reading.answer else { return };
    group.golden.cover(report.covered_s);
    for row in report.rows.iter().filter(|row| row.key.direction == Direction::Inbound) {
        group.golden.add(row, report.covered_s);
    }
}

fn group<'a>(groups: &'a mut Vec<Group>, kind: &str, namespace: &str, name: &str) -> &'a mut Group {
    let found = groups.iter().position(|g| g.kind == kind && g.namespace == namespace && g.name == name);
    let at = found.unwrap_or_else(|| {
        let (kind, namespace, name) = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        groups.push(Group { kind, namespace, name, meshed: (0, 0), golden: Golden::default(), is_workload: false });
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
        meshed: (group.kind != Kind::Service.name()).then(|| format!("{up}/{all}")),
        short_kind: Kind::shorten(&group.kind).to_owned(),
        kind: group.kind,
        name: group.name,
        numbers: group.golden.numbers(),
        is_workload: group.is_workload,
    }
}

/// The rows that were asked for; without a kind, workloads and services, of namespaces that have something meshed.
fn select(rows: Vec<StatRow>, namespace: Option<&str>, resource: Option<&Selector>) -> Vec<StatRow> {
    let has_proxy = |row: &StatRow| row.meshed.as_ref().is_some_and(|meshed| !meshed.starts_with("0/"));
    let is_measured = |row: &StatRow| !row.numbers.is_empty() || has_proxy(row);
    let measured: BTreeSet<String> =
        rows.iter().filter(|row| is_measured(row)).map(|row| row.namespace.clone()).collect();
    let wanted = |row: &StatRow| match resource {
        None => row.is_workload,
        Some(selector) => {
            selector.kind.is_none_or(|kind| row.kind == kind.name())
                && selector.name.as_ref().is_none_or(|name| *name == row.name)
        }
    };
    let named = resource.is_some_and(|selector| selector.name.is_some());
    rows.into_iter()
        .filter(|row| wanted(row) && namespace.is_none_or(|namespace| row.namespace == namespace))
        .filter(|row| named || measured.contains(&row.namespace))
        .collect()
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
        return failure.hint("see all namespaces with `mesh stat -A`");
    }
    match resource {
        Some(Selector { kind: Some(kind), .. }) => {
            failure.hint(format!("see those there are with `mesh stat {}`", kind.short()))
        }
        Some(Selector { kind: None, .. }) => failure
            .hint("see the names with `mesh stat`; the kinds are deploy, sts, ds, job, pod and svc, as in deploy/web"),
        None => failure.hint("see whether the pods are up"),
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

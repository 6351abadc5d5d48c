//! `mesh stat`: success rate, request rate and latency of workloads, pods and services, read straight from the proxies.
//!
//! Workloads and pods are the inbound side of their own proxies; services are the outbound side of everybody's, so what
//! clients really got, after retries. Calls to or from something named are read from the side that sends them.

use std::{collections::BTreeSet, fmt, time::Duration};

use lacewing_proxy::live::{Direction, Key, Report};
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

    fn cells(&self, _: View) -> Vec<String> {
        let n = &self.numbers;
        vec![
            self.namespace.clone(),
            format!("{}/{}", self.short_kind, self.name),
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
    let wrong = impossible(options, resource.as_ref().and_then(|resource| resource.kind));
    if let Some((what, next)) = wrong {
        return Err(Failure::new(Exit::Usage, what).hint(next));
    }
    block_on(show(context, options, resource.as_ref()))
}

/// What nobody counts, and what to ask instead.
fn impossible(options: &Stat, shown: Option<Kind>) -> Option<(&'static str, &'static str)> {
    let kind = |selector: &Option<Selector>| selector.as_ref().and_then(|selector| selector.kind);
    let service = Some(Kind::Service);
    if options.to.is_some() && shown == service || kind(&options.from) == service {
        return Some(("a Service sends nothing: only pods do", "name their workload, as in deploy/web"));
    }
    if options.from.is_some() && shown == Some(Kind::Pod) || kind(&options.to) == Some(Kind::Pod) {
        let next = "name the workload, as in deploy/web; what single pods serve is shown by `mesh stat pods`";
        return Some(("senders count which workload they reached, not which of its pods", next));
    }
    (options.selector.is_some() && shown == service)
        .then_some(("-l is about pods, and a Service is measured at its clients", "leave -l out"))
}

/// Which calls are counted.
enum Calls {
    /// Of workloads and pods what they received, of Services what was sent to them.
    All,
    /// What they sent to this.
    To(Other),
    /// What this sent to them.
    From(Other),
}

/// The other side of the calls.
struct Other {
    selector: Selector,
    namespace: Option<String>,
}

impl Calls {
    /// As asked for; `namespace` is what is shown.
    fn of(options: &Stat, namespace: Option<&str>) -> Self {
        let other = |selector: &Selector, own: &Option<String>| Other {
            selector: selector.clone(),
            namespace: own.as_deref().or(namespace).map(str::to_owned),
        };
        match (&options.to, &options.from) {
            (Some(to), _) => Self::To(other(to, &options.to_namespace)),
            (None, Some(from)) => Self::From(other(from, &options.from_namespace)),
            (None, None) => Self::All,
        }
    }
}

impl Other {
    fn is(&self, namespace: &str, kind: &str, name: &str) -> bool {
        self.namespace.as_ref().is_none_or(|own| own == namespace)
            && self.selector.kind.is_none_or(|own| own.name() == kind)
            && self.selector.name.as_ref().is_none_or(|own| own == name)
    }

    fn sends(&self, pod: &Pod) -> bool {
        self.is(&pod.namespace, Kind::Pod.name(), &pod.name)
            || self.is(&pod.namespace, &pod.owner.kind, &pod.owner.name)
    }

    fn is_called(&self, key: &Key) -> bool {
        let by_service = key.service.as_deref().and_then(service);
        by_service.is_some_and(|(namespace, name)| self.is(namespace, Kind::Service.name(), name))
            || key.peer.split_once('/').is_some_and(|(kind, name)| self.is(&key.peer_namespace, kind, name))
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.selector.kind.map(Kind::short), self.selector.name.as_deref()];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("/"))?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " of namespace {namespace:?}"))
    }
}

async fn show(context: &mut Context<'_>, options: &Stat, resource: Option<&Selector>) -> Result<Exit, Failure> {
    let mesh = Mesh::choose(context).await?;
    let namespace = (!options.all_namespaces).then(|| mesh.namespace(context));
    let namespace = namespace.as_deref();
    let window = options.time_window;
    let calls = Calls::of(options, namespace);
    let elsewhere = match &calls {
        Calls::All => resource.is_none_or(|selector| selector.kind.is_none_or(|kind| kind == Kind::Service)),
        Calls::To(_) => false,
        Calls::From(other) => other.namespace.as_deref() != namespace,
    };
    let roll = match &options.selector {
        Some(labels) => mesh.labelled(namespace, labels).await?,
        None => mesh.roll(namespace, elsewhere).await?,
    };
    let mut readings = live::reports(&roll.pods, window).await;
    live::report_unreachable(&readings, mesh.next_when_silent(), context.printer)?;
    let mut rows = select(rows(&readings, &roll, &calls), namespace, resource);
    // Of labelled pods one does not know who else calls the Services that they call.
    rows.retain(|row| options.selector.is_none() || row.kind != Kind::Service.name());
    let view = View {
        namespaces: options.all_namespaces,
        wide: options.output == WideFormat::Wide,
        columns: context.printer.columns(),
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
        if let Some(why) = no_calls(&calls, options, &roll) {
            return Err(why);
        }
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
    let rows = select(rows(&live::reports(&roll.pods, window).await, roll, &Calls::All), None, None);
    table::text(&rows, View::default())
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

/// Rows of all kinds: workloads and pods in the order of the pods, then services. Where the other side of the calls is
/// named, those without a call are left out.
fn rows(readings: &[Reading<Report>], roll: &Roll, calls: &Calls) -> Vec<StatRow> {
    let mut groups: Vec<Group> = Vec::new();
    let bare = |pod: &Pod| pod.owner.kind == Kind::Pod.name();
    for reading in readings.iter().filter(|reading| !bare(&reading.pod)) {
        let owner = &reading.pod.owner;
        add_pod(group(&mut groups, &owner.kind, &reading.pod.namespace, &owner.name), reading, calls);
    }
    for group in &mut groups {
        group.is_workload = true;
    }
    for reading in readings {
        let group = group(&mut groups, Kind::Pod.name(), &reading.pod.namespace, &reading.pod.name);
        add_pod(group, reading, calls);
        // A pod that nobody manages is all there is of it.
        group.is_workload = bare(&reading.pod);
    }
    if let Calls::All = calls {
        for (namespace, name) in &roll.services {
            group(&mut groups, Kind::Service.name(), namespace, name).is_workload = true;
        }
    }
    let senders = readings.iter().filter(|reading| match calls {
        Calls::All => true,
        Calls::To(_) => false,
        Calls::From(other) => other.sends(&reading.pod),
    });
    for report in senders.filter_map(|reading| reading.answer.as_ref().ok()) {
        for row in report.rows.iter().filter(|row| row.key.direction == Direction::Outbound) {
            let called = row.key.service.as_deref().and_then(service);
            let reached = row.key.peer.split_once('/').filter(|_| matches!(calls, Calls::From(_)));
            let called = called.map(|(namespace, name)| (Kind::Service.name(), namespace, name));
            let reached = reached.map(|(kind, name)| (kind, row.key.peer_namespace.as_str(), name));
            for (kind, namespace, name) in called.into_iter().chain(reached) {
                let group = group(&mut groups, kind, namespace, name);
                group.is_workload = true;
                group.golden.add(row, report.covered_s);
            }
        }
    }
    let mut rows: Vec<StatRow> = groups.into_iter().map(finish).collect();
    rows.retain(|row| matches!(calls, Calls::All) || !row.numbers.is_empty());
    rows
}

/// Adds a pod, and what it served or sent.
fn add_pod(group: &mut Group, reading: &Reading<Report>, calls: &Calls) {
    group.meshed.0 += u32::from(reading.is_meshed());
    group.meshed.1 += 1;
    let Ok(report) = &reading.answer else { return };
    let counts = |key: &Key| match calls {
        Calls::All => key.direction == Direction::Inbound,
        Calls::To(other) => key.direction == Direction::Outbound && other.is_called(key),
        Calls::From(_) => false,
    };
    if !matches!(calls, Calls::From(_)) {
        group.golden.cover(report.covered_s);
    }
    for row in report.rows.iter().filter(|row| counts(&row.key)) {
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
        // Of what is only known as the other side of a call nobody has counted the pods.
        meshed: (group.kind != Kind::Service.name() && all > 0).then(|| format!("{up}/{all}")),
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

/// Why there is nothing to show of what was narrowed down, if that is why.
fn no_calls(calls: &Calls, options: &Stat, roll: &Roll) -> Option<Failure> {
    if let (Some(labels), true) = (&options.selector, roll.pods.is_empty()) {
        let failure = Failure::new(Exit::NoData, format!("no pod has the labels {labels:?} here"));
        return Some(failure.hint("see those there are with `kubectl get pods --show-labels`"));
    }
    let (way, other) = match calls {
        Calls::All => return None,
        Calls::To(other) => ("to", other),
        Calls::From(other) => ("from", other),
    };
    let window = units::span(options.time_window);
    let failure = Failure::new(Exit::NoData, format!("nothing went {way} {other} in the last {window}"));
    Some(
        failure.hint(
            "look further back with `-t 10m`, or in all namespaces with `-A`; who calls whom is shown by `mesh top`",
        ),
    )
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
        Some(Selector { kind: Some(kind), name: None }) if pods.iter().any(|pod| here(&pod)) => {
            return Failure::new(Exit::NoData, format!("there is no {} {place}", kind.name()))
                .hint("see what there is with `mesh stat`");
        }
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

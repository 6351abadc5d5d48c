//! `mesh top`: who calls whom, busiest first, refreshed every second.
//!
//! It reads the outbound side of every proxy: what callers got, after retries. A demo that ends ends it, too.

use std::{fmt::Write, time::Duration};

use lacewing_proxy::live::{Direction, Report};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::{Context, block_on, stat::service};
use crate::{
    cli::{Format, Kind, Top},
    failure::{Exit, Failure},
    golden::{Golden, Numbers},
    live::{self, Reading},
    mesh::{self, Mesh},
    output::{
        table::{self, Column, Row, View},
        units,
    },
};

/// Time between two pictures.
const REFRESH: Duration = Duration::from_secs(1);

/// One caller and what it calls.
#[derive(Debug, Serialize)]
struct TopRow {
    /// The caller's namespace.
    namespace: String,
    source: String,
    destination_namespace: String,
    destination: String,
    #[serde(flatten)]
    numbers: Numbers,
}

impl Row for TopRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE").only(|view| view.namespaces),
        Column::text("SOURCE"),
        Column::text("DESTINATION"),
        Column::number("SUCCESS"),
        Column::number("RPS"),
        Column::number("LATENCY_P50"),
        Column::number("LATENCY_P95"),
        Column::number("LATENCY_P99"),
        Column::number("TCP_CONN"),
    ];

    fn cells(&self, _: View) -> Vec<String> {
        let n = &self.numbers;
        vec![
            self.namespace.clone(),
            self.source.clone(),
            self.destination.clone(),
            units::percent(n.success_rate),
            units::rate(n.rps),
            units::latency(n.latency_ms_p50),
            units::latency(n.latency_ms_p95),
            units::latency(n.latency_ms_p99),
            units::count(n.tcp_open_connections),
        ]
    }
}

pub fn run(context: &mut Context, options: &Top) -> Result<Exit, Failure> {
    block_on(async {
        let mesh = Mesh::choose(context).await?;
        let namespace =
            (!options.all_namespaces && matches!(mesh, Mesh::Cluster { .. })).then(|| mesh.namespace(context));
        let mut every = tokio::time::interval(REFRESH);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            every.tick().await;
            // Asked every time: a demo that ended must not look like one where nothing happens.
            let roll = mesh.roll(namespace.as_deref(), false).await?;
            let readings = live::reports(&roll.pods, options.time_window).await;
            let rows = rows(&readings);
            // Tables name the silent ones themselves; `report_unreachable` does where there is only one picture.
            if options.output == Format::Json
                && !options.once
                && let Some(news) = news_of_silence(&mut told, &readings)
            {
                context.printer.note(&news);
            }
            show(context, options, &readings, &rows, mesh.next_when_silent())?;
            if options.once {
                if !rows.is_empty() {
                    return Ok(Exit::Ok);
                }
                let why = match &mesh {
                    Mesh::Cluster { cluster, .. } => mesh::why_empty(cluster, namespace.as_deref(), &roll.pods).await,
                    Mesh::Demo(_) => None,
                };
                return Err(why.unwrap_or_else(|| nothing(options.time_window, mesh.next_when_silent())));
            }
        }
    })
}

fn show(
    context: &mut Context,
    options: &Top,
    readings: &[Reading<Report>],
    rows: &[TopRow],
    next: &str,
) -> Result<(), Failure> {
    let window_s = Some(options.time_window.as_secs());
    let view = View { namespaces: options.all_namespaces, columns: context.printer.columns(), ..View::default() };
    if options.once {
        live::report_unreachable(readings, next, context.printer)?;
        for note in live::age_notes(readings, options.time_window) {
            context.printer.note(&note);
        }
    }
    match (options.output, options.once) {
        (Format::Json, true) => context.printer.data(&table::json(rows, window_s)),
        (Format::Json, false) => context.printer.data(&table::json_line(rows, window_s)),
        (Format::Table, true) if rows.is_empty() => Ok(()),
        (Format::Table, true) => context.printer.data(&table::text(rows, view)),
        (Format::Table, false) => context.printer.refresh(&picture(readings, rows, view, options.time_window)),
    }
}

/// What the screen shows: a line about the whole, the table, and who is missing.
fn picture(readings: &[Reading<Report>], rows: &[TopRow], view: View, window: Duration) -> String {
    let mut text = format!("last {}, refreshed every second; Ctrl-C ends\n\n", units::span(window));
    text.push_str(&table::text(rows, view));
    let silent = silent(readings);
    if !silent.is_empty() {
        let _ = writeln!(text, "\nno answer from the proxies of: {silent}");
    }
    for note in live::age_notes(readings, window) {
        let _ = writeln!(text, "\n{note}");
    }
    if rows.is_empty() {
        text.push_str("\nno request and no connection in this time\n");
    }
    text
}

/// The pods whose proxies did not answer.
fn silent(readings: &[Reading<Report>]) -> String {
    let names: Vec<&str> = readings.iter().filter(|r| r.silence().is_some()).map(|r| r.pod.name.as_str()).collect();
    names.join(", ")
}

/// What to say where others are silent now than those `told` of last.
fn news_of_silence(told: &mut String, readings: &[Reading<Report>]) -> Option<String> {
    let silent = silent(readings);
    if silent == *told {
        return None;
    }
    *told = silent;
    Some(match told.as_str() {
        "" => "all proxies answer again".to_owned(),
        silent => format!("warning: no answer from the proxies of: {silent}"),
    })
}

fn nothing(window: Duration, next: &str) -> Failure {
    let what = format!("nobody called anybody in the last {}", units::span(window));
    Failure::new(Exit::NoData, what).hint(format!("look further back with `mesh top -t 10m`; {next}"))
}

/// One row for each caller and destination, the busiest first.
fn rows(readings: &[Reading<Report>]) -> Vec<TopRow> {
    let mut groups: Vec<([String; 4], Golden)> = Vec::new();
    for reading in readings {
        let Ok(report) = &reading.answer else { continue };
        for row in report.rows.iter().filter(|row| row.key.direction == Direction::Outbound) {
            let (namespace, destination) = match row.key.service.as_deref().and_then(service) {
                Some((namespace, name)) => (namespace.to_owned(), format!("svc/{name}")),
                None => (row.key.peer_namespace.clone(), row.key.peer.clone()),
            };
            let owner = &reading.pod.owner;
            let source = format!("{}/{}", Kind::shorten(&owner.kind), owner.name);
            let key = [reading.pod.namespace.clone(), source, namespace, destination];
            let at = groups.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
                groups.push((key, Golden::default()));
                groups.len() - 1
            });
            groups[at].1.add(row, report.covered_s);
        }
    }
    let mut rows: Vec<TopRow> = groups.into_iter().map(|(key, golden)| finish(key, &golden)).collect();
    let rps = |row: &TopRow| row.numbers.rps.unwrap_or_default();
    rows.sort_by(|a, b| {
        rps(b).total_cmp(&rps(a)).then_with(|| (&a.source, &a.destination).cmp(&(&b.source, &b.destination)))
    });
    rows
}

fn finish([namespace, source, destination_namespace, destination]: [String; 4], golden: &Golden) -> TopRow {
    TopRow { namespace, source, destination_namespace, destination, numbers: golden.numbers() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        demo::cast::{self, Subnet},
        golden::tests::row,
        live::Pod,
    };

    fn readings() -> Vec<Reading<Report>> {
        let pods = "127.1.9".parse::<Subnet>().expect("a subnet").pods();
        let of = |workload: &str| match workload {
            "web" => vec![
                row("outbound", Some("emojivoto/voting:8080"), [20, 5], &[(120, 25)]),
                row("outbound", Some("emojivoto/voting:8080"), [20, 5], &[(120, 25)]),
                row("inbound", None, [100, 0], &[(200, 100)]),
            ],
            "traffic" => vec![
                row("outbound", Some("emojivoto/echo:7000"), [0, 0], &[]),
                row("outbound", Some("emojivoto/web:8080"), [200, 0], &[(200, 200)]),
            ],
            _ => vec![],
        };
        let read = |pod: cast::Pod| match pod.name.as_str() {
            "emoji-2" => Reading { pod: Pod::from(&pod), answer: Err("refused".to_owned()) },
            _ => Reading {
                answer: Ok(Report { covered_s: 10.0, rows: of(&pod.workload), ..Report::default() }),
                pod: Pod::from(&pod),
            },
        };
        pods.into_iter().map(read).collect()
    }

    #[test]
    fn callers_and_destinations_merge_and_the_busiest_comes_first() {
        let rows = rows(&readings());
        let shown: Vec<_> = rows.iter().map(|row| (&*row.source, &*row.destination, row.numbers.rps)).collect();
        let expected = [
            ("deploy/traffic", "svc/web", Some(20.0)),
            ("deploy/web", "svc/voting", Some(10.0)),
            ("deploy/traffic", "svc/echo", None),
        ];
        assert_eq!(shown, expected);
        assert_eq!(rows[1].numbers.success_rate, Some(0.8));
    }

    #[test]
    fn silence_is_told_when_it_begins_and_when_it_ends() {
        let mut told = String::new();
        assert_eq!(news_of_silence(&mut told, &[]), None);
        let news = news_of_silence(&mut told, &readings());
        assert_eq!(news.as_deref(), Some("warning: no answer from the proxies of: emoji-2"));
        assert_eq!(news_of_silence(&mut told, &readings()), None);
        assert_eq!(news_of_silence(&mut told, &[]).as_deref(), Some("all proxies answer again"));
    }

    #[test]
    fn the_picture_names_who_is_missing() {
        let readings = readings();
        let text = picture(&readings, &rows(&readings), View::default(), Duration::from_secs(10));
        assert!(text.starts_with("last 10s") && text.contains("no answer from the proxies of: emoji-2"), "{text}");
        let header: Vec<&str> = text.lines().nth(2).expect("a header").split_whitespace().collect();
        assert_eq!(header[..4], ["SOURCE", "DESTINATION", "SUCCESS", "RPS"], "the order of `mesh stat`");
        assert!(!text.contains("note:"), "{text}");
        let longer = picture(&readings, &rows(&readings), View::default(), Duration::from_secs(60));
        assert!(longer.contains("note: the proxies started 10s ago"), "{longer}");
        assert!(picture(&[], &[], View::default(), Duration::from_secs(10)).contains("no request and no connection"));
    }
}

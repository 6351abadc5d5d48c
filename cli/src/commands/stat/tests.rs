//! Tests of `mesh stat`'s merging, selection and looks, with reports made by hand.
//!
//! How sketches merge and quantiles are read is tested where they are, in the proxy.

use super::*;
use crate::{cluster::objects::Owner, demo::cast, golden::tests::row};

fn reading(pod: Pod, rows: Vec<lacewing_proxy::live::Row>) -> Reading<Report> {
    let report =
        Report { covered_s: 10.0, pod: pod.name.clone(), namespace: pod.namespace.clone(), rows, ..Report::default() };
    Reading { pod, answer: Ok(report) }
}

/// web-1 and web-2 serve and call voting; voting-2 does not answer; traffic calls web.
fn readings() -> Vec<Reading<Report>> {
    let pods = "127.1.9".parse::<cast::Subnet>().expect("a subnet").pods();
    let voting = Some("emojivoto/voting:8080");
    pods.into_iter()
        .filter(|pod| ["web", "voting", "traffic"].contains(&pod.workload.as_str()))
        .map(|pod| Pod::from(&pod))
        .map(|pod| match pod.name.as_str() {
            "web-1" => reading(
                pod,
                vec![row("inbound", None, [90, 10], &[(200, 100)]), row("outbound", voting, [40, 10], &[(120, 50)])],
            ),
            "web-2" => reading(
                pod,
                vec![row("inbound", None, [100, 0], &[(200, 100)]), row("outbound", voting, [50, 0], &[(120, 50)])],
            ),
            "voting-2" => Reading { pod, answer: Err("connection refused".to_owned()) },
            "traffic-1" => reading(pod, vec![row("outbound", Some("emojivoto/web:8080"), [200, 0], &[(210, 200)])]),
            _ => reading(pod, vec![row("inbound", None, [30, 0], &[(110, 30)])]),
        })
        .collect()
}

/// The Services of those that listen.
fn roll() -> Roll {
    let services = ["web", "voting"].map(|name| ("emojivoto".to_owned(), name.to_owned()));
    Roll { services: services.into(), ..Roll::default() }
}

fn selector(text: &str) -> Selector {
    text.parse().expect("a selector")
}

#[test]
fn workloads_by_their_inbound_services_by_their_clients() {
    let rows = select(rows(&readings(), &roll(), &Calls::All), Some("emojivoto"), None);
    let shown: Vec<_> = rows.iter().map(|row| (row.kind.as_str(), row.name.as_str(), row.meshed.as_deref())).collect();
    let expected = [
        ("deployment", "web", Some("2/2")),
        ("deployment", "voting", Some("2/3")),
        ("deployment", "traffic", Some("1/1")),
        ("service", "web", None),
        ("service", "voting", None),
    ];
    assert_eq!(shown, expected);
    assert_eq!(rows[0].numbers.success_rate, Some(0.95));
    assert_eq!(rows[0].numbers.rps, Some(20.0));
    assert!(rows[2].numbers.is_empty(), "the load generator serves nobody");
    assert_eq!(rows[4].numbers.success_rate, Some(0.9));
    assert_eq!(rows[4].numbers.rps, Some(10.0));
}

#[test]
fn the_table_has_the_columns_that_hands_and_scripts_know() {
    let rows = select(rows(&readings(), &roll(), &Calls::All), Some("emojivoto"), Some(&selector("deploy")));
    let text = table::text(&rows, View::default());
    let lines: Vec<&str> = text.lines().collect();
    let header: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(header, ["NAME", "MESHED", "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99", "TCP_CONN"]);
    assert!(lines[1].starts_with("deploy/web         2/2   95.00%  20.0rps"), "{text}");
    assert!(lines[3].split_whitespace().eq(["deploy/traffic", "1/1", "-", "-", "-", "-", "-", "-"]), "{text}");
    let wide = table::text(&rows, View { wide: true, namespaces: true, columns: None });
    assert!(wide.starts_with("NAMESPACE  NAME "), "{wide}");
    let web = wide.lines().nth(1).expect("a row");
    assert!(web.starts_with("emojivoto  deploy/web ") && web.ends_with("  2.0B/s           4.0B/s"), "{wide}");
}

#[test]
fn json_has_one_schema_for_every_kind() {
    let text = table::json(&rows(&readings(), &roll(), &Calls::All), Some(60));
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["window_s"], 60);
    let rows = value["rows"].as_array().expect("rows");
    let keys = |row: &serde_json::Value| row.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert!(rows.iter().all(|row| keys(row) == keys(&rows[0])));
    for key in [
        "namespace",
        "kind",
        "name",
        "meshed",
        "success_rate",
        "rps",
        "latency_ms_p50",
        "latency_ms_p95",
        "latency_ms_p99",
        "tcp_open_connections",
        "covered_s",
    ] {
        assert!(keys(&rows[0]).contains(&key.to_owned()), "{key}");
    }
    assert!(rows[0]["latency_ms_p50"].is_f64());
    assert!(rows.iter().any(|row| row["kind"] == "pod" && row["name"] == "voting-2" && row["meshed"] == "0/1"));
}

#[test]
fn empty_tables_say_why_and_what_next() {
    let readings = readings();
    let pods: Vec<Pod> = readings.iter().map(|reading| reading.pod.clone()).collect();
    let table = [
        (
            Some("emojivoto"),
            Some(selector("deploy/nope")),
            "there is no deployment \"nope\" in namespace \"emojivoto\"",
            "mesh stat deploy",
        ),
        (
            Some("emojivoto"),
            Some(selector("nodes")),
            "nothing is named \"nodes\"",
            "deploy, sts, ds, job, pod and svc, as in deploy/web",
        ),
        (Some("emojivoto"), Some(selector("ds")), "there is no daemonset in namespace \"emojivoto\"", "`mesh stat`"),
        (Some("shop"), None, "nothing is meshed in namespace \"shop\"", "mesh stat -A"),
        (Some("shop"), Some(selector("svc/web")), "there is no service \"web\" in namespace \"shop\"", "mesh stat -A"),
    ];
    for (namespace, resource, what, next) in table {
        assert!(select(rows(&readings, &roll(), &Calls::All), namespace, resource.as_ref()).is_empty());
        let failure = nothing(&pods, namespace, resource.as_ref());
        assert_eq!(failure.exit(), Exit::NoData);
        assert!(failure.to_string().contains(what) && failure.to_string().contains(next), "{failure}");
    }
}

#[test]
fn a_name_alone_selects_every_kind() {
    let shown = |text: &str| -> Vec<String> {
        let rows = select(rows(&readings(), &roll(), &Calls::All), Some("emojivoto"), Some(&selector(text)));
        rows.iter().map(|row| format!("{}/{}", row.short_kind, row.name)).collect()
    };
    assert_eq!(shown("web"), ["deploy/web", "svc/web"]);
    assert_eq!(shown("web-1"), ["pod/web-1"]);
}

#[test]
fn calls_to_and_from_something_are_those_that_the_senders_counted() {
    type Shown = (String, Option<String>, Option<f64>, Option<f64>);
    let shown = |calls: &Calls, resource: Option<&str>| -> Vec<Shown> {
        let resource = resource.map(selector);
        let rows = select(rows(&readings(), &roll(), calls), Some("emojivoto"), resource.as_ref());
        let shown = |row: StatRow| {
            (format!("{}/{}", row.short_kind, row.name), row.meshed, row.numbers.rps, row.numbers.success_rate)
        };
        rows.into_iter().map(shown).collect()
    };
    let other = |text: &str, namespace: &str| Other { selector: selector(text), namespace: Some(namespace.to_owned()) };
    let row = |name: &str, meshed: Option<&str>, rps, success| {
        (name.to_owned(), meshed.map(str::to_owned), Some(rps), Some(success))
    };
    for to in ["svc/voting", "deploy/voting", "voting"] {
        let calls = Calls::To(other(to, "emojivoto"));
        let expected = match to {
            "svc/voting" => vec![row("deploy/web", Some("2/2"), 10.0, 0.9)],
            // The double's rows all say that they reached voting's pods.
            _ => vec![row("deploy/web", Some("2/2"), 10.0, 0.9), row("deploy/traffic", Some("1/1"), 20.0, 1.0)],
        };
        assert_eq!(shown(&calls, None), expected, "to {to}");
        assert_eq!(shown(&calls, Some("pod/web-1")), [row("pod/web-1", Some("1/1"), 5.0, 0.8)], "to {to}");
        assert_eq!(shown(&calls, Some("svc")), [], "a Service sends nothing");
    }
    for from in ["deploy/web", "web"] {
        let calls = Calls::From(other(from, "emojivoto"));
        let expected = [row("deploy/voting", Some("2/3"), 10.0, 0.9), row("svc/voting", None, 10.0, 0.9)];
        assert_eq!(shown(&calls, None), expected, "from {from}");
    }
    let one = Calls::From(other("pod/web-1", "emojivoto"));
    assert_eq!(shown(&one, Some("svc")), [row("svc/voting", None, 5.0, 0.8)]);
    for nobody in [Calls::To(other("svc/voting", "shop")), Calls::From(other("deploy/voting", "emojivoto"))] {
        assert_eq!(shown(&nobody, None), []);
    }
}

#[test]
fn what_nobody_counts_is_refused_with_what_to_ask_instead() {
    use clap::Parser;
    let options = |line: &str| {
        let cli = crate::cli::Cli::try_parse_from(line.split_whitespace());
        match cli.map(|cli| cli.command) {
            Ok(crate::cli::Command::Stat(options)) => options,
            _ => panic!("{line}"),
        }
    };
    for (line, part) in [
        ("mesh stat svc --to svc/voting", Some("a Service sends nothing")),
        ("mesh stat --from svc/web", Some("a Service sends nothing")),
        ("mesh stat --to pod/web-1", Some("which workload they reached")),
        ("mesh stat pods --from deploy/web", Some("which workload they reached")),
        ("mesh stat svc -l app=web", Some("-l is about pods")),
        ("mesh stat svc --from pod/web-1", None),
        ("mesh stat pods --to svc/voting --to-namespace shop", None),
        ("mesh stat deploy -l app=web --to voting", None),
    ] {
        let options = options(line);
        let kind = resource(&options).expect(line).and_then(|resource| resource.kind);
        assert_eq!(
            impossible(&options, kind).map(|(what, _)| what.contains(part.unwrap_or("-"))),
            part.map(|_| true),
            "{line}"
        );
    }
    let asked = options("mesh stat --to svc/voting --to-namespace shop -t 10m");
    let calls = Calls::of(&asked, Some("emojivoto"));
    let why = no_calls(&calls, &asked, &Roll::default()).expect("nothing").to_string();
    assert!(why.contains("to svc/voting of namespace \"shop\" in the last 10m"), "{why}");
    let labelled = options("mesh stat -l app=nope");
    let why = no_calls(&Calls::All, &labelled, &Roll::default()).expect("nothing").to_string();
    assert!(why.contains("no pod has the labels \"app=nope\""), "{why}");
}

#[test]
fn a_restarted_proxy_shortens_the_rows_it_is_in() {
    let mut readings = readings();
    let web = readings.iter_mut().find(|reading| reading.pod.name == "web-1").expect("web-1");
    web.answer.as_mut().expect("a report").covered_s = 4.0;
    let covered = |kind: &str, name: &str| {
        let rows = rows(&readings, &roll(), &Calls::All);
        rows.iter().find(|row| row.short_kind == kind && row.name == name).expect("a row").numbers.covered_s
    };
    for (kind, name, seconds) in [
        ("deploy", "web", Some(4.0)),
        ("deploy", "voting", Some(10.0)),
        ("svc", "voting", Some(4.0)),
        ("svc", "web", Some(10.0)),
        ("deploy", "traffic", Some(10.0)),
        ("pod", "voting-2", None),
    ] {
        assert_eq!(covered(kind, name), seconds, "{kind}/{name}");
    }
    let rows = rows(&readings, &roll(), &Calls::All);
    let said = notes(&readings, &rows, Duration::from_secs(10));
    assert!(said.len() == 1 && said[0].contains("web-1's proxy started 4s ago"), "{said:?}");
}

#[test]
fn young_proxies_are_noted() {
    let readings = readings();
    let rows = select(rows(&readings, &roll(), &Calls::All), None, None);
    let said = notes(&readings, &rows, Duration::from_secs(60)).join("\n");
    assert!(said.contains("started 10s ago") && said.contains("not 1m"), "{said}");
    assert!(notes(&readings, &rows, Duration::from_secs(10)).is_empty());
    assert!(notes(&readings, &rows[2..3], Duration::from_secs(10)).join("").contains("nothing came through"));
}

#[test]
fn services_are_read_from_their_name() {
    for (text, expected) in [("shop/web:80", Some(("shop", "web"))), ("shop/web", Some(("shop", "web"))), ("web", None)]
    {
        assert_eq!(service(text), expected);
    }
}

/// A cluster's namespace: `db`, a StatefulSet that is half meshed, a bare pod without a proxy, and one that is silent.
#[test]
fn in_a_cluster_meshed_is_what_the_api_says() {
    let pod = |name: &str, kind: &str, owner: &str, meshed: bool, asked: bool| Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        owner: Owner { kind: kind.to_owned(), name: owner.to_owned() },
        has_proxy: Some(meshed),
        proxy: asked.then(|| live::Way::Address(([127, 0, 0, 1], 1).into())),
    };
    let silent = |pod: Pod| Reading { pod, answer: Err("silent".to_owned()) };
    let readings = vec![
        reading(pod("db-0", "statefulset", "db", true, true), vec![row("inbound", None, [10, 0], &[(90, 10)])]),
        silent(pod("db-1", "statefulset", "db", false, false)),
        silent(pod("tool", "pod", "tool", false, false)),
        silent(pod("web-1", "deployment", "web", true, true)),
    ];
    let shown = |resource: Option<&str>| -> Vec<(String, Option<String>)> {
        let selector = resource.map(selector);
        let rows = select(rows(&readings, &Roll::default(), &Calls::All), Some("shop"), selector.as_ref());
        rows.into_iter().map(|row| (format!("{}/{}", row.short_kind, row.name), row.meshed)).collect()
    };
    let row = |name: &str, meshed: &str| (name.to_owned(), Some(meshed.to_owned()));
    assert_eq!(shown(None), [row("sts/db", "1/2"), row("deploy/web", "1/1"), row("pod/tool", "0/1")]);
    assert_eq!(shown(Some("sts")), [row("sts/db", "1/2")]);
    assert_eq!(shown(Some("tool")), [row("pod/tool", "0/1")]);
    let quiet: Vec<&str> = readings.iter().filter(|r| r.silence().is_some()).map(|r| &*r.pod.name).collect();
    assert_eq!(quiet, ["web-1"], "only those who were asked can be silent");
    // Where nothing is meshed there is no table but a reason.
    let unmeshed = vec![silent(pod("tool", "pod", "tool", false, false))];
    assert!(select(rows_of(&unmeshed), Some("shop"), None).is_empty());
    assert_eq!(select(rows_of(&unmeshed), Some("shop"), Some(&selector("tool"))).len(), 1);
}

fn rows_of(readings: &[Reading<Report>]) -> Vec<StatRow> {
    rows(readings, &Roll::default(), &Calls::All)
}

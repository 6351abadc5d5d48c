//! The demo as a new user sees it: up at once, traffic in the table, nothing left behind.

use std::time::Duration;

use lacewing_tests::{
    demo::{Demo, get, signal},
    wait::until,
};

#[test]
fn comes_up_shows_traffic_and_leaves_nothing() {
    let demo = Demo::start(50);
    let row = until("a row with traffic, and a share of failures to find", Duration::from_secs(20), || {
        let row = demo.row("deploy", "voting", "60s")?;
        (row["rps"].as_f64() > Some(1.0) && row["success_rate"].as_f64() < Some(1.0)).then_some(row)
    });
    assert_eq!(row["meshed"], "3/3", "{row}");
    let table = String::from_utf8(demo.mesh(&["stat"]).stdout).unwrap();
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let columns = ["NAME", "MESHED", "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99", "TCP_CONN"];
    assert_eq!(header, columns);
    let answer = get(demo.outbound("traffic-1"), "/", &[("host", "web.emojivoto:8080")]);
    assert_eq!(answer.status, 200, "{}\n{}", answer.head, answer.body);

    let (dir, pid) = (demo.dir.clone(), demo.pid());
    let children = demo.children(&[]);
    assert!(children.len() >= 19, "{children:?}");
    signal(pid, "INT");
    until("every process is gone", Duration::from_secs(10), || {
        children.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    until("its directory is gone", Duration::from_secs(5), || (!dir.exists()).then_some(()));
}

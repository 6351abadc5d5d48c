//! The bench's own pure parts: its plan, what it reads from programs, its tables and its plot. What it measures is
//! another ring's business.

#[path = "../bench/main.rs"]
#[allow(dead_code, reason = "nobody measures here")]
mod code;

use std::time::Duration;

use self::code::{
    growth,
    instructions::last_total,
    load::succeeded,
    measures::{Figures, Measure, counted},
    plan::Plan,
    plot::{Line, Point, Scale, svg},
    report::{Results, median, spread},
    targets::{far_off, ratios, table},
};

fn plan(args: &str) -> Plan {
    Plan::from_args(args.split_whitespace().map(str::to_owned)).unwrap()
}

#[test]
fn nobody_always_comes_first() {
    let plan = plan("full --measures pair-h2-saturation");
    let first: Vec<&str> = (0..4).map(|round| plan.steps(round)[0].peer.name()).collect();
    assert_eq!(first, ["lacewing", "envoy", "haproxy", "hyper-floor"]);
    assert!(plan.steps(0).iter().all(|step| step.name() == "pair-h2" && step.measures == [Measure::Saturation]));
}

#[test]
fn arguments_say_what_is_run() {
    let smoke = plan("smoke --bench --json x");
    assert_eq!((smoke.rounds, smoke.steps(0).len(), smoke.growth(0).len()), (3, 4, 0));
    let some = plan("--measures growth-end --rounds 1");
    assert_eq!((some.steps(0).len(), some.growth(0).len(), some.growth(growth::ROUNDS).len()), (0, 3, 0));
    assert_eq!(plan("--peers nginx --measures pair-h2,instructions").steps(0).len(), 0);
    for bad in ["--peers apache", "--rounds many", "--json", "--fast"] {
        assert!(Plan::from_args(bad.split(' ').map(str::to_owned)).is_err(), "{bad}");
    }
}

#[test]
fn it_ends_in_time() {
    assert!(plan("full").estimate() < Duration::from_secs(45 * 60), "{:?}", plan("full").estimate());
    assert!(plan("smoke").estimate() < Duration::from_secs(110), "{:?}", plan("smoke").estimate());
}

#[test]
fn a_scale_has_whole_decades_at_its_ends() {
    let scale = Scale::new([20.0, 45.0, 5_000.0].into_iter(), 100.0, 400.0);
    assert_eq!(scale.decades(), [10.0, 100.0, 1_000.0, 10_000.0]);
    assert!((scale.at(10.0) - 100.0).abs() < 1e-9);
    assert!((scale.at(1_000.0) - 300.0).abs() < 1e-9);
    // One value only still has a decade to stand in, whichever way it grows.
    let scale = Scale::new([1.0].into_iter(), 300.0, 40.0);
    assert_eq!(scale.decades(), [1.0, 10.0]);
    assert!((scale.at(10.0) - 40.0).abs() < 1e-9);
}

#[test]
fn a_plot_has_a_point_and_a_value_for_each_figure() {
    let points = vec![Point { x: 1.0, y: 21.5 }, Point { x: 100.0, y: 22.0 }];
    let text = svg("t", "how many", "µs", &[Line { name: "services", points }]);
    assert_eq!(text.matches("<circle").count(), 2);
    assert!(text.contains(">21.5<") && text.contains(">services<") && text.contains(">how many<"), "{text}");
    assert!(text.contains("prefers-color-scheme:dark") && text.ends_with("</svg>\n"));
}

fn results(ours: f64, floor: f64) -> Results {
    let mut results = Results::default();
    for (peer, value) in [("lacewing", ours), ("hyper-floor", floor)] {
        let values = [("cpu_us".to_owned(), value)].into();
        results.add("pair-h1-saturation", peer, Figures { command: String::new(), values });
    }
    results
}

#[test]
fn a_row_says_what_is_wanted_and_what_is_missed() {
    let text = table(&ratios(&results(46.0, 40.0)));
    let row = "| pair HTTP/1.1, saturation, CPU µs/request | 46.0 | ≤ 1.25 × hyper-floor (1.15) | **≤ 1.1 × hyper-floor \
               (1.15)** |";
    assert!(text.lines().any(|line| line == row), "{text}");
}

#[test]
fn only_what_no_noise_explains_is_far_off() {
    assert!(far_off(&results(79.0, 40.0)).is_empty());
    assert_eq!(far_off(&results(81.0, 40.0)).len(), 1);
    assert!(far_off(&Results::default()).is_empty());
}

#[test]
fn the_last_total_counts() {
    let log = "==7== \n==7== I   refs:      1,234\nready\n==8== I refs:        5,678,901\n==8== \n";
    assert_eq!(last_total(log), Some(5_678_901));
    assert_eq!(last_total("==7== Cachegrind\nready\n"), None);
}

fn said(requests: &str, codes: &str) -> String {
    format!("finished in 1s\nrequests: {requests}\nstatus codes: {codes}, 0 3xx, 0 4xx, 0 5xx\n")
}

#[test]
fn a_run_of_h2load_with_an_error_is_none() {
    let good = "900 total, 900 started, 900 done, 836 succeeded, 0 failed, 0 errored, 0 timeout";
    assert_eq!(succeeded(&said(good, "900 2xx")), Some(836.0));
    assert_eq!(succeeded(&said(good, "700 2xx")), None);
    assert_eq!(succeeded(&said(&good.replace("0 errored", "1 errored"), "836 2xx")), None);
    assert_eq!(succeeded(&said(&good.replace("836", "0"), "0 2xx")), None);
    assert_eq!(succeeded("connect failed"), None);
}

#[test]
fn a_summary_of_strace() {
    let text = "% time     seconds  usecs/call     calls    errors syscall\n------ ---------\n\
                62.10    0.011000           9      1200         4 read\n37.90    0.006700           5      1300           \
                writev\n100.00    0.017700           7      2500         4 total\n";
    let all = counted(text);
    assert_eq!(all, [("read".to_owned(), 1200.0), ("writev".to_owned(), 1300.0), ("calls".to_owned(), 2500.0)]);
}

#[test]
fn medians_and_spread() {
    assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9 && (median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
    assert_eq!((spread(&[3.0, 1.0, 2.0]).as_str(), spread(&[123.4]).as_str()), ("2.00 [1.00..3.00]", "123"));
}

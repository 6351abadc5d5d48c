//! Faults under load: pods that are slow, fail or are killed, proxies that stop, a controller that hangs, dies or is not
//! there yet, certificates that lapse. What must hold each time: the others serve, and no idempotent request fails.

#![allow(clippy::print_stdout, reason = "measured figures, shown with --nocapture")]

use std::{
    fs,
    net::TcpStream,
    time::{Duration, Instant},
};

use lacewing_tests::{
    demo::{Demo, get, signal},
    load::Load,
    solo::{HOST, Solo},
    wait::until,
};

const VOTING: [&str; 3] = ["voting-1", "voting-2", "voting-3"];
/// A vote that is counted: an idempotent GET, as far as proxies can know.
const VOTE: &str = "/api/vote?choice=kite";
const VOTING_HOST: &str = "voting.emojivoto:8080";
/// Requests that each replica of voting has received.
type Counts = [f64; 3];

/// The full time that the controller is away, with `LACEWING_TEST_LONG`.
fn away() -> Duration {
    let long = std::env::var_os("LACEWING_TEST_LONG").is_some_and(|value| !value.is_empty());
    Duration::from_secs(if long { 60 } else { 8 })
}

fn counts(demo: &Demo) -> Counts {
    VOTING.map(|pod| demo.metric(pod, "request_total", &["direction=\"inbound\""]))
}

/// Voting-2's share of what voting received during `window`.
fn share(demo: &Demo, window: Duration) -> f64 {
    let before = counts(demo);
    std::thread::sleep(window);
    let after = counts(demo);
    let deltas: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let all: f64 = deltas.iter().sum();
    assert!(all > 50.0, "hardly any traffic was measured: {deltas:?}");
    println!("voting received {deltas:?} in {window:?}");
    deltas[1] / all
}

#[track_caller]
fn run(demo: &Demo, args: &[&str]) {
    let out = demo.mesh(args);
    assert!(out.status.success(), "mesh {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Waits until voting-2 has its part of the traffic: a first slow answer, such as one with a handshake in it, weighs for
/// a while.
#[track_caller]
fn has_its_share(demo: &Demo) {
    let started = Instant::now();
    until("voting-2 has a share above 15 %", Duration::from_secs(20), || {
        (share(demo, Duration::from_secs(1)) > 0.15).then_some(())
    });
    println!("it has its share after {:.1?}", started.elapsed());
}

#[test]
fn a_slow_pod_loses_its_traffic_and_gets_it_back() {
    let demo = Demo::start(200);
    has_its_share(&demo);
    run(&demo, &["demo", "fault", "slow", "voting-2"]);
    std::thread::sleep(Duration::from_secs(2));
    let slow = share(&demo, Duration::from_secs(3));
    assert!(slow < 0.05, "voting-2 still had {:.1} % of the requests", slow * 100.0);
    run(&demo, &["demo", "heal", "voting-2"]);
    has_its_share(&demo);
}

#[test]
fn a_killed_pod_costs_no_request_and_a_failing_one_is_taken_out() {
    let demo = Demo::start(50);
    let load = Load::start(demo.outbound("traffic-1"), VOTING_HOST, VOTE, 100);
    has_its_share(&demo);
    run(&demo, &["demo", "fault", "kill", "voting-2"]);
    until("both of its processes are gone", Duration::from_secs(5), || {
        demo.children(&["voting-2"]).is_empty().then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    run(&demo, &["demo", "heal", "voting-2"]);
    until("it is back", Duration::from_secs(20), || demo.output().contains("voting-2 is back and ready").then_some(()));
    has_its_share(&demo);
    let report = load.stop();
    report.assert_clean(300);
    println!("kill and heal: {} requests, the slowest took {:.1?}", report.samples.len(), report.slowest());

    let load = Load::start(demo.outbound("traffic-1"), VOTING_HOST, VOTE, 100);
    run(&demo, &["demo", "fault", "fail", "voting-2"]);
    std::thread::sleep(Duration::from_secs(3));
    let failing = share(&demo, Duration::from_secs(3));
    assert!(failing < 0.05, "voting-2 fails and still had {:.1} % of the requests", failing * 100.0);
    let report = load.stop();
    let late = report.samples.iter().filter(|sample| sample.at > Duration::from_secs(4));
    let (ok, failed): (Vec<_>, Vec<_>) = late.partition(|sample| sample.is_ok());
    println!("while voting-2 fails: {} ok, {} failed once it was out", ok.len(), failed.len());
    assert!(ok.len() > 100, "the others serve: {}", ok.len());
    // The breaker lets a probe through now and then.
    assert!(failed.len() * 20 < ok.len(), "{} of {} failed", failed.len(), ok.len() + failed.len());
    let _load = Load::start(demo.outbound("traffic-1"), VOTING_HOST, VOTE, 100);
    run(&demo, &["demo", "heal", "voting-2"]);
    has_its_share(&demo);
}

#[test]
fn a_hanging_controller_and_a_stopping_proxy_cost_no_request() {
    let demo = Demo::start(20);
    let load = Load::start(demo.outbound("traffic-1"), VOTING_HOST, VOTE, 100);
    until("voting is known", Duration::from_secs(5), || (known(&demo).len() == 3).then_some(()));
    let [controller] = demo.children(&["run controller"])[..] else { panic!("one controller") };
    signal(controller, "STOP");
    std::thread::sleep(Duration::from_secs(8));
    signal(controller, "CONT");
    // What changed meanwhile, or now, arrives.
    let slice = demo.dir.join("manifests/voting-endpoints.yaml");
    let before = fs::read_to_string(&slice).unwrap();
    replace(&slice, &unready(&before, "voting-2"));
    until("voting-2 is out", Duration::from_secs(10), || {
        (!known(&demo).contains(&"voting-2".to_owned())).then_some(())
    });
    replace(&slice, &before);
    until("voting-2 is in", Duration::from_secs(10), || known(&demo).contains(&"voting-2".to_owned()).then_some(()));

    // Drained: what is under way ends well, the rest goes elsewhere.
    let proxy = |demo: &Demo| demo.children(&["run proxy", "LACEWING_POD_NAME=voting-2"]);
    let [old] = proxy(&demo)[..] else { panic!("one proxy") };
    signal(old, "TERM");
    until("the proxy has drained and ended", Duration::from_secs(10), || (!proxy(&demo).contains(&old)).then_some(()));
    until("another one is ready", Duration::from_secs(20), || {
        TcpStream::connect((demo.ip("voting-2"), 4191)).ok()?;
        (get((demo.ip("voting-2"), 4191).into(), "/ready", &[]).status == 200).then_some(())
    });
    has_its_share(&demo);

    // Killed: the demo starts another one, and every proxy finds it.
    let reconnects = demo.metric("traffic-1", "control_reconnects_total", &[]);
    signal(controller, "KILL");
    until("traffic-1 has a stream to the new controller", Duration::from_secs(20), || {
        let again = demo.metric("traffic-1", "control_reconnects_total", &[]) > reconnects;
        (again && demo.private("traffic-1", "/destinations")["control_stream"] == "up").then_some(())
    });
    let report = load.stop();
    report.assert_clean(1_000);
    println!("hang, drain, kill: {} requests, the slowest took {:.1?}", report.samples.len(), report.slowest());
}

/// The pods of voting that traffic-1's proxy balances over.
fn known(demo: &Demo) -> Vec<String> {
    let shown = demo.private("traffic-1", "/destinations");
    let backends = shown["backends"].as_array().unwrap();
    let voting = backends.iter().filter(|backend| backend["backend"] == "emojivoto/voting:8080");
    let pods = voting.flat_map(|backend| backend["endpoints"].as_array().unwrap());
    pods.map(|endpoint| endpoint["pod"].as_str().unwrap().to_owned()).collect()
}

/// An EndpointSlice in which one pod is not ready.
fn unready(slice: &str, pod: &str) -> String {
    let blocks = slice.split("  - addresses:");
    let changed = blocks.map(|block| {
        if block.contains(&format!("name: {pod}\n")) {
            block.replace("ready: true", "ready: false").replace("serving: true", "serving: false")
        } else {
            block.to_owned()
        }
    });
    let changed = changed.collect::<Vec<_>>().join("  - addresses:");
    assert_ne!(changed, slice, "{pod} is in the slice");
    changed
}

/// Beside, then renamed: half a file may be a good one.
fn replace(path: &std::path::Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

#[test]
fn a_dead_controller_costs_no_request_and_its_successor_is_heard() {
    let mut solo = Solo::running(3);
    let load = Load::start(solo.outbound(), HOST, "/", 100);
    until("all three serve", Duration::from_secs(10), || (solo.endpoints().len() == 3).then_some(()));
    solo.kill("controller");
    until("the stream is down", Duration::from_secs(5), || {
        solo.private("client", "/destinations")["control_stream"].as_str()?.starts_with("down").then_some(())
    });
    assert_eq!(get(solo.admin("client"), "/ready", &[]).status, 200, "it goes on with what it knows");
    std::thread::sleep(away());
    assert_eq!(solo.endpoints().len(), 3, "nothing was forgotten");
    // A server that comes to nothing meanwhile must be out as soon as a controller says so.
    solo.write_slice(&["server-2"]);
    solo.start_controller();
    let back = Instant::now();
    until("the streams are back", Duration::from_secs(5), || {
        solo.pods().iter().all(|pod| solo.private(pod, "/destinations")["control_stream"] == "up").then_some(())
    });
    until("server-2 is out", Duration::from_secs(5), || (solo.endpoints() == ["server-1", "server-3"]).then_some(()));
    println!("the change was there {:.1?} after the controller was ready", back.elapsed());
    solo.write_slice(&[]);
    until("server-2 is in", Duration::from_secs(5), || (solo.endpoints().len() == 3).then_some(()));
    let report = load.stop();
    report.assert_clean(500);
    println!("{:?} without a controller: {} requests, slowest {:.1?}", away(), report.samples.len(), report.slowest());
}

#[test]
fn a_stopping_proxy_ends_what_it_has_and_the_rest_goes_elsewhere() {
    let mut solo = Solo::running(2);
    let load = Load::start(solo.outbound(), HOST, "/", 100);
    until("both serve", Duration::from_secs(10), || solo.apps.iter().all(|app| app.seen().len() > 20).then_some(()));
    let stopping = Instant::now();
    solo.terminate("server-1", Duration::from_secs(10));
    println!("drained in {:.2?}", stopping.elapsed());
    let before = solo.apps[0].seen().len();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(solo.apps[0].seen().len(), before, "it takes nothing any more");
    solo.start_proxy("server-1");
    // A breaker that saw it refuse connections waits a little before it tries again.
    until("server-1 serves again", Duration::from_secs(20), || (solo.apps[0].seen().len() > before + 20).then_some(()));
    let report = load.stop();
    report.assert_clean(200);
    println!("drain: {} requests, the slowest took {:.1?}", report.samples.len(), report.slowest());
}

#[test]
fn a_proxy_without_a_controller_says_so_and_comes_up_with_it() {
    let mut solo = Solo::new(1);
    // One that came and went: it left its trust root and the pods' tokens.
    solo.start_controller();
    solo.kill("controller");
    solo.start_proxy("client");
    solo.start_proxy("server-1");
    let controller = solo.controller_grpc().to_string();
    let answer = until("the reason is given", Duration::from_secs(10), || {
        TcpStream::connect(solo.admin("client")).ok()?;
        let answer = get(solo.admin("client"), "/ready", &[]);
        answer.body.contains(&controller).then_some(answer)
    });
    assert_eq!(answer.status, 503, "{}", answer.body);
    println!("/ready: {}", answer.body.trim());
    assert_eq!(get(solo.admin("client"), "/live", &[]).status, 200);
    let refused = solo.get("/");
    assert_eq!(refused.status, 503, "{}", refused.body);
    // Long enough for the waits between attempts to have grown to their longest.
    std::thread::sleep(Duration::from_secs(5));
    solo.start_controller();
    let back = Instant::now();
    until("both proxies are ready", Duration::from_secs(2), || {
        solo.pods().iter().all(|pod| get(solo.admin(pod), "/ready", &[]).status == 200).then_some(())
    });
    println!("ready {:.2?} after the controller", back.elapsed());
    let answer = solo.get("/");
    assert_eq!((answer.status, answer.body.trim()), (200, "server-1"));
    assert!(refused.body.contains(&controller), "a request is told the same: {}", refused.body);
}

#[test]
fn certificates_are_renewed_under_load() {
    let mut solo = Solo::new(2);
    // The shortest there is: renewed half a minute to a minute after it was issued.
    solo.leaf_lifetime = "2m";
    solo.start_controller();
    solo.start_proxies();
    let load = Load::start(solo.outbound(), HOST, "/", 50);
    let serials = |solo: &Solo| -> Vec<String> {
        solo.pods().iter().map(|pod| solo.private(pod, "/identity")["serial"].as_str().unwrap().to_owned()).collect()
    };
    let first = serials(&solo);
    until("every proxy has another certificate", Duration::from_secs(100), || {
        std::thread::sleep(Duration::from_secs(1));
        serials(&solo).iter().zip(&first).all(|(now, first)| now != first).then_some(())
    });
    // A connection made with the new certificates, by everybody.
    for server in ["server-1", "server-2"] {
        solo.kill(server);
        solo.start_proxy(server);
        solo.until_ready(server, solo.admin(server));
    }
    let report = load.stop();
    report.assert_clean(1_000);
    assert!(report.answered_by("server-1") > 0 && report.answered_by("server-2") > 0);
}

//! The trust root is replaced under load: a wish for it, a second root for everybody, certificates under the new one, and
//! with `LACEWING_TEST_LONG` the end of the old one. Nothing restarts and no request fails.

#![allow(clippy::print_stdout, reason = "measured figures, shown with --nocapture")]

use std::{
    fs,
    net::TcpStream,
    time::{Duration, Instant},
};

use lacewing_tests::{
    demo::get,
    load::Load,
    solo::{HOST, Solo},
    wait::until,
};
use serde_json::Value;

/// What every proxy says of its identity.
fn identities(solo: &Solo) -> Vec<Value> {
    solo.pods().iter().map(|pod| solo.private(pod, "/identity")).collect()
}

#[track_caller]
fn until_all(solo: &Solo, what: &str, patience: u64, holds: impl Fn(usize, &Value) -> bool) {
    let started = Instant::now();
    until(what, Duration::from_secs(patience), || {
        std::thread::sleep(Duration::from_millis(500));
        identities(solo).iter().enumerate().all(|(pod, identity)| holds(pod, identity)).then_some(())
    });
    println!("{what} after {:.1?}", started.elapsed());
}

#[test]
fn a_root_is_replaced_under_load() {
    let mut solo = Solo::new(2);
    solo.leaf_lifetime = "2m";
    solo.start_controller();
    solo.start_proxies();
    let made_with = fs::read_to_string(solo.dir.join("controller/root.pem")).unwrap();
    // As its pod is made: with the roots of that moment, and a place for those of later ones.
    let state = solo.dir.join("state").display().to_string();
    fs::create_dir(&state).unwrap();
    let as_made = [("LACEWING_TRUST_BUNDLE", made_with), ("LACEWING_STATE_DIR", state)];
    solo.kill("server-1");
    solo.start_proxy_with("server-1", &as_made);
    solo.until_ready("server-1", solo.admin("server-1"));
    let load = Load::start(solo.outbound(), HOST, "/", 200);
    let first = fs::read_to_string(solo.dir.join("controller/root.pem")).unwrap();
    fs::write(solo.dir.join("controller/rotate"), "").unwrap();
    until_all(&solo, "every proxy trusts two roots", 20, |_, identity| identity["roots"] == 2);
    let old = identities(&solo);
    let issued = |identity: &Value| identity["not_before"].as_u64().unwrap();
    until_all(&solo, "every proxy has a certificate under the new root", 60, |pod, identity| {
        identity["under_first_root"] == true && identity["serial"] != old[pod]["serial"]
    });
    let early = identities(&solo).iter().zip(&old).all(|(new, old)| issued(new) - issued(old) < 120);
    assert!(early, "they did not wait for half of their certificate's life twice");
    let public = fs::read_to_string(solo.dir.join("controller/root.pem")).unwrap();
    assert!(public.ends_with(&first) && public.len() > first.len(), "the new root goes first");
    // Handshakes with what is new on both sides, and with a proxy whose container is started anew: what it was made with
    // is too old, what it has kept is not.
    solo.kill("server-1");
    solo.start_proxy_with("server-1", &as_made);
    solo.until_ready("server-1", solo.admin("server-1"));
    // One that has kept nothing says what to do, to whoever asks.
    solo.kill("server-2");
    solo.start_proxy_with("server-2", &as_made[..1]);
    until("server-2 says why it is not ready", Duration::from_secs(20), || {
        let up = TcpStream::connect(solo.admin("server-2")).is_ok();
        let answer = up.then(|| get(solo.admin("server-2"), "/ready", &[]))?;
        (answer.status == 503 && answer.body.contains("delete the pod")).then_some(())
    });
    assert!(solo.log("server-2").contains("delete the pod"), "{}", solo.log("server-2"));
    solo.kill("server-2");
    solo.start_proxy("server-2");
    solo.until_ready("server-2", solo.admin("server-2"));
    if std::env::var_os("LACEWING_TEST_LONG").is_some_and(|value| !value.is_empty()) {
        until_all(&solo, "every proxy trusts the new root alone", 300, |_, identity| identity["roots"] == 1);
        solo.kill("server-2");
        solo.start_proxy("server-2");
        solo.until_ready("server-2", solo.admin("server-2"));
    }
    let report = load.stop();
    report.assert_clean(2_000);
    assert!(report.answered_by("server-1") > 0 && report.answered_by("server-2") > 0);
    println!("{} requests, the slowest took {:.1?}", report.samples.len(), report.slowest());
}

//! Tests of the supervisor with small shell commands in place of the mesh's processes.
//!
//! Its clock is a parameter, so restarts and endpoints that follow later need no waiting; only real exits are awaited.

use std::{os::unix::fs::PermissionsExt, thread::sleep};

use super::*;
use crate::demo::{cast::Subnet, state::tests::Scratch};

/// A crew whose executable is a shell script: `$1` is `run`, `$2` what to do.
fn crew(scratch: &Scratch, script: &str) -> (Crew, Layout) {
    let layout = Layout::new(Some(scratch.to_path_buf()), |_| None);
    for dir in [layout.manifests(), layout.faults(), layout.root().join("logs")] {
        fs::create_dir(dir).expect("make");
    }
    let exe = scratch.join("mesh.sh");
    fs::write(&exe, format!("#!/bin/sh\n{script}\n")).expect("write");
    fs::set_permissions(&exe, fs::Permissions::from_mode(0o700)).expect("executable");
    let pods = "127.1.9".parse::<Subnet>().expect("a subnet").pods();
    (Crew::new(exe, layout.clone(), pods), layout)
}

fn spec(name: &str, pod: Option<&str>) -> Spec {
    Spec { name: name.to_owned(), pod: pod.map(str::to_owned), args: vec!["app".to_owned()], env: vec![] }
}

/// Ticks with a clock of its own until something is said, at most some real seconds.
fn news(crew: &mut Crew, now: &mut Instant) -> Vec<String> {
    for _ in 0..500 {
        let news = crew.tick(*now);
        if !news.is_empty() {
            return news;
        }
        *now += Duration::from_millis(100);
        sleep(Duration::from_millis(10));
    }
    Vec::new()
}

#[test]
fn a_dead_process_is_restarted_five_times_and_quoted() {
    let scratch = Scratch::new("crew-restart");
    let (mut crew, _) = crew(&scratch, "echo out of luck; exit 3");
    crew.start(spec("web-1-app", None)).expect("starts");
    let mut now = Instant::now();
    for _ in 0..RESTARTS_MAX {
        let said = news(&mut crew, &mut now).join("\n");
        assert!(said.contains("web-1-app died (exit status: 3), restarting"), "{said}");
        assert!(said.contains("out of luck"), "{said}");
    }
    let said = news(&mut crew, &mut now).join("\n");
    assert!(said.contains("not restarted any more: it died 6 times"), "{said}");
    now += Duration::from_secs(60);
    assert_eq!(crew.tick(now), Vec::<String>::new());
}

#[test]
fn kill_takes_the_pod_out_and_heal_brings_it_back() {
    let scratch = Scratch::new("crew-kill");
    let (mut crew, layout) = crew(&scratch, "exec cat");
    crew.start(spec("voting-2-app", Some("voting-2"))).expect("starts");
    crew.start(spec("voting-1-app", Some("voting-1"))).expect("starts");
    let endpoints = layout.manifests().join("voting-endpoints.yaml");
    let now = Instant::now();
    faults::set(&layout.faults(), "voting-2", Fault::Kill).expect("set");
    let said = crew.tick(now).join("\n");
    assert!(said.contains("voting-2 killed") && said.contains("mesh demo heal voting-2"), "{said}");
    let alive = |crew: &Crew| crew.members.iter().map(|member| member.child.is_some()).collect::<Vec<_>>();
    assert_eq!(alive(&crew), [false, true]);
    assert!(!endpoints.exists(), "the endpoints follow after a moment only");
    assert!(crew.tick(now + UNREADY_AFTER).is_empty());
    assert_eq!(fs::read_to_string(&endpoints).expect("written").matches("ready: false").count(), 1);
    faults::clear(&layout.faults(), "voting-2").expect("clear");
    crew.tick(now + UNREADY_AFTER * 2);
    assert_eq!(alive(&crew), [true, true]);
    let returning = crew.returning();
    assert_eq!(returning.len(), 1);
    assert_eq!(fs::read_to_string(&endpoints).expect("written").matches("ready: false").count(), 1);
    assert_eq!(crew.returned("voting-2").as_deref(), Some("voting-2 is back and ready"));
    assert!(!fs::read_to_string(&endpoints).expect("written").contains("ready: false"));
    crew.stop();
}

#[test]
fn a_pod_healed_at_once_is_out_until_it_is_ready() {
    let scratch = Scratch::new("crew-quick");
    let (mut crew, layout) = crew(&scratch, "exec cat");
    crew.start(spec("voting-2-app", Some("voting-2"))).expect("starts");
    let endpoints = layout.manifests().join("voting-endpoints.yaml");
    let now = Instant::now();
    faults::set(&layout.faults(), "voting-2", Fault::Kill).expect("set");
    crew.tick(now);
    faults::clear(&layout.faults(), "voting-2").expect("clear");
    crew.tick(now + faults::POLL);
    assert_eq!(fs::read_to_string(&endpoints).expect("written").matches("ready: false").count(), 1);
    crew.returned("voting-2").expect("news");
    assert!(!fs::read_to_string(&endpoints).expect("written").contains("ready: false"));
}

#[test]
fn endpoints_that_cannot_be_written_are_tried_again_and_told_once() {
    let scratch = Scratch::new("crew-retry");
    let (mut crew, layout) = crew(&scratch, "exec cat");
    let endpoints = layout.manifests().join("voting-endpoints.yaml");
    // A directory in its place cannot be replaced by a file.
    fs::create_dir(&endpoints).expect("make");
    let mut now = Instant::now();
    faults::set(&layout.faults(), "voting-2", Fault::Kill).expect("set");
    crew.tick(now);
    now += UNREADY_AFTER;
    let said = crew.tick(now).join("\n");
    assert!(said.contains("cannot write the endpoints of voting"), "{said}");
    now += faults::POLL;
    assert_eq!(crew.tick(now), Vec::<String>::new());
    fs::remove_dir(&endpoints).expect("remove");
    now += faults::POLL;
    assert_eq!(crew.tick(now), Vec::<String>::new());
    assert_eq!(fs::read_to_string(&endpoints).expect("written").matches("ready: false").count(), 1);
}

#[test]
fn a_killed_controller_stays_away_until_healed_and_no_pod_with_it() {
    let scratch = Scratch::new("crew-controller");
    let (mut crew, layout) = crew(&scratch, "exec cat");
    crew.start(spec(CONTROLLER, None)).expect("starts");
    crew.start(spec("web-1-app", Some("web-1"))).expect("starts");
    let alive = |crew: &Crew| crew.members.iter().map(|member| member.child.is_some()).collect::<Vec<_>>();
    let mut now = Instant::now();
    faults::set(&layout.faults(), CONTROLLER, Fault::Kill).expect("set");
    let said = crew.tick(now).join("\n");
    assert!(said.contains("controller killed") && said.contains("mesh demo heal controller"), "{said}");
    for _ in 0..3 {
        now += RESTART_AFTER;
        assert_eq!(crew.tick(now), Vec::<String>::new());
        assert_eq!(alive(&crew), [false, true]);
    }
    faults::clear(&layout.faults(), CONTROLLER).expect("clear");
    assert_eq!(crew.tick(now), ["controller started again"]);
    assert_eq!(alive(&crew), [true, true]);
}

#[test]
fn children_end_with_their_crew() {
    let scratch = Scratch::new("crew-end");
    let (mut crew, _) = crew(&scratch, "exec cat");
    crew.start(spec("a", None)).expect("starts");
    let pid = crew.members[0].child.as_ref().expect("runs").id();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(crew);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn logs_are_capped_and_quoted_by_their_end() {
    let scratch = Scratch::new("crew-log");
    let log = scratch.join("x.log");
    assert_eq!(tail(&log), "nothing");
    fs::write(&log, "one\ntwo\n\nthree\nfour\n").expect("write");
    assert_eq!(tail(&log), "two | three | four");
    fs::write(&log, vec![b'x'; LOG_MAX as usize]).expect("write");
    cap(&log);
    assert_eq!(fs::metadata(&log).expect("there").len(), LOG_MAX);
    fs::write(&log, vec![b'x'; LOG_MAX as usize + 1]).expect("write");
    cap(&log);
    assert_eq!(fs::metadata(&log).expect("there").len(), 0);
}

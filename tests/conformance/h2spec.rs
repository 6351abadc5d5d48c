//! h2spec, somebody else's suite for HTTP/2 servers, at each of ours: the outbound port (whose requests go through both
//! proxies to an HTTP/2 app), the inbound port as it serves HTTP/2 apps, and as it serves HTTP/1 apps (`lacewing/h1h2`).
//! The gate is its own report: every test case of the suite is there, and every one passed.

use std::{net::SocketAddr, path::Path, process::Command};

use crate::{
    bench::{Bench, HTTP1_PORT, HTTP2_PORT, SERVER, sni},
    bridge::{bridge, http2_app},
};

/// Test cases in the pinned version, ordinary and with the strict one.
const CASES: usize = 146;
const STRICT_CASES: usize = 147;

#[test]
fn every_http2_server_of_ours_passes_h2spec() {
    let bench = Bench::start();
    let client = bench.solo.ip("client");
    let _app = http2_app(SocketAddr::new(bench.solo.ip(SERVER), HTTP2_PORT));
    let inbound = |alpn: &[u8], port: u16| {
        bridge(SocketAddr::new(client, 0), bench.solo.inbound(SERVER), bench.mesh_client(alpn), sni(port))
    };
    let (to_http2, _to_http2_runs) = inbound(b"lacewing/h2", HTTP2_PORT);
    let (to_http1, _to_http1_runs) = inbound(b"lacewing/h1h2", HTTP1_PORT);
    let mut wrong = Vec::new();
    for (what, to) in [
        ("outbound, and through the pair", bench.solo.outbound()),
        ("inbound, HTTP/2 app", to_http2),
        ("inbound, HTTP/1 app", to_http1),
    ] {
        for (strict, cases) in [(false, CASES), (true, STRICT_CASES)] {
            let report = bench.solo.dir.join("h2spec.xml");
            if let Err(why) = run(to, strict, cases, &report) {
                wrong.push(format!("{what}, strict: {strict}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs the suite and reads its report.
fn run(to: SocketAddr, strict: bool, cases: usize, report: &Path) -> Result<(), String> {
    let program = std::env::var_os("LACEWING_TEST_H2SPEC")
        .expect("LACEWING_TEST_H2SPEC names the h2spec program; `tests/run conformance` builds it and sets it");
    let mut command = Command::new(&program);
    command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string(), "-P", "/h2spec", "-j"]).arg(report);
    if strict {
        command.arg("-S");
    }
    let _ = std::fs::remove_file(report);
    let out = command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let said = String::from_utf8_lossy(&out.stdout);
    let xml = std::fs::read_to_string(report).map_err(|error| format!("no report: {error}\n{said}"))?;
    let tally = Tally::read(&xml);
    let whole = Tally { tests: cases, bad: 0 };
    if tally == whole && out.status.success() {
        return Ok(());
    }
    let failures = said.split_once("Failures:").map_or(&*said, |(_, failures)| failures);
    Err(format!("{tally:?} instead of {whole:?}, {}\n{failures}", out.status))
}

/// Cases in a JUnit report, and those that did not pass: failed, broken off or passed over.
#[derive(Debug, PartialEq, Eq)]
struct Tally {
    tests: usize,
    bad: usize,
}

impl Tally {
    fn read(xml: &str) -> Self {
        let count = |element: &str| xml.matches(&format!("<{element}")).count();
        Self { tests: count("testcase"), bad: count("failure") + count("error") + count("skipped") }
    }
}

#[test]
fn reports_are_read_case_by_case() {
    let good = "<testsuite tests=\"1\"><testcase name=\"a\"></testcase></testsuite><testsuite><testcase/></testsuite>";
    assert_eq!(Tally::read(good), Tally { tests: 2, bad: 0 });
    let bad =
        "<testsuite errors=\"1\"><testcase><failure>x</failure></testcase><testcase><skipped/></testcase></testsuite>";
    assert_eq!(Tally::read(bad), Tally { tests: 2, bad: 2 });
}

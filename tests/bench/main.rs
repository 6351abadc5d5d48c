//! The `bench` ring: our proxies beside Envoy, HAProxy, nginx and floors of our own, in one run on one machine. See
//! `README.md` beside this file for the method and for the JSON. It fails if any run had errors, and with `--musts` if a
//! ratio that must hold does not. Arguments: `smoke` or `full`, `--rounds N`, `--peers A,B`, `--measures A,B`, `--json FILE`, `--svg FILE`, `--rr`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot run must end, loudly")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table is its output")]

pub mod certs;
pub mod cpu;
pub mod growth;
pub mod instructions;
pub mod load;
pub mod measures;
pub mod peers;
pub mod plan;
pub mod plot;
pub mod report;
pub mod site;
pub mod targets;

use std::{collections::BTreeMap, process::ExitCode};

use lacewing_tests::net::ring;

use self::{
    growth::Growth,
    measures::{Figures, Measure, take},
    peers::{Peer, start},
    plan::{Plan, Step},
    report::Results,
    site::Site,
};

fn main() -> ExitCode {
    let plan = match Plan::from_args(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("bench: {why}");
            return ExitCode::from(2);
        }
    };
    ring::ring();
    cpu::pin(&[cpu::LOAD]);
    if plan.real_time {
        cpu::real_time();
    }
    eprintln!("bench: about {:.1} minutes", plan.estimate().as_secs_f64() / 60.0);
    let site = Site::set_up();
    let mut results = Results::default();
    for round in 0..plan.rounds {
        for step in plan.steps(round) {
            run(&site, &plan, &step, round, &mut results);
        }
    }
    grow(&site, &plan, &mut results);
    sizes(&site, &mut results);
    results.derive();
    let ratios = targets::ratios(&results);
    print!("{}\n{}\n{}", results.table(), results.beside(), targets::table(&ratios));
    if let Some(file) = &plan.json
        && let Err(error) = std::fs::write(file, results.json(&plan, &ratios))
    {
        results.failures.push(format!("{}: {error}", file.display()));
    }
    if let (Some(file), Some(lines)) = (&plan.svg, growth::lines(&results))
        && let Err(error) = std::fs::write(file, plot::svg(growth::TITLE, growth::X_AXIS, growth::Y_AXIS, &lines))
    {
        results.failures.push(format!("{}: {error}", file.display()));
    }
    if plan.smoke {
        results.failures.extend(targets::far_off(&results));
    }
    for failure in &results.failures {
        println!("FAILED: {failure}");
    }
    println!("test result: {} passed; {} failed", results.measured(), results.failures.len());
    let missed = ratios.iter().any(|ratio| !ratio.holds);
    if results.failures.is_empty() && !(plan.musts && missed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One peer in one place: started once, then all that is measured of it there.
fn run(site: &Site, plan: &Plan, step: &Step, round: usize, results: &mut Results) {
    let peer = step.peer.name();
    eprintln!("round {} {}: {peer}", round + 1, step.name());
    if step.measures == [Measure::Instructions] {
        let name = format!("{}-instructions", step.name());
        return match instructions::count(site, step.peer) {
            Ok(figures) => results.add(&name, peer, figures),
            Err(error) => results.failures.push(format!("{name} {peer}: {error}")),
        };
    }
    let running = match start(site, step.peer, step.shape, step.protocol) {
        Ok(running) => running,
        Err(error) => return results.failures.push(format!("{} {peer}: {error}", step.name())),
    };
    for measure in &step.measures {
        let name = format!("{}-{}", step.name(), measure.name());
        match take(site, step.peer, (step.shape, step.protocol), &running, *measure, plan.seconds) {
            Ok(figures) => results.add(&name, peer, figures),
            Err(error) => results.failures.push(format!("{name} {peer}: {error}")),
        }
    }
}

/// What more Services, endpoints and workers cost.
fn grow(site: &Site, plan: &Plan, results: &mut Results) {
    let rounds: Vec<Vec<Growth>> = (0..plan.rounds).map(|round| plan.growth(round)).collect();
    if rounds.iter().any(|round| !round.is_empty()) {
        growth::prepare(site);
    }
    for (round, growths) in rounds.into_iter().enumerate() {
        for growth in growths {
            let name = growth.name();
            eprintln!("round {} {name}", round + 1);
            match growth::take(site, growth, plan.seconds) {
                Ok(figures) => results.add(&name, Peer::Lacewing.name(), figures),
                Err(error) => results.failures.push(format!("{name}: {error}")),
            }
        }
    }
}

/// Programs as they lie there.
fn sizes(site: &Site, results: &mut Results) {
    let programs = [(Peer::Lacewing, ring::program("lacewing-proxy")), (Peer::Hyper, site.parts.clone())];
    for (peer, program) in programs {
        let bytes = std::fs::metadata(&program).map_or(0, |file| file.len());
        let values = BTreeMap::from([("size_mb".to_owned(), bytes as f64 / 1e6)]);
        results.add("binary", peer.name(), Figures { command: "stat -c %s PROGRAM".to_owned(), values });
    }
}

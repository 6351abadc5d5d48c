//! User instructions per request of each proxy of a pair, as valgrind counts them: the same on a noisy machine as on a
//! quiet one. It counts from start to end, so the proxies run twice, with fewer and with more requests, one at a time on
//! one connection, and the difference is what the further requests cost.

use std::{collections::BTreeMap, time::Duration};

use lacewing_tests::net::Process;
use rustix::process::Signal;

use super::{
    load,
    measures::Figures,
    peers::{self, Peer, Protocol, Shape},
    site::Site,
};

/// Requests of the two runs.
const FEWER: u64 = 500;
const MORE: u64 = 2_500;
/// What counts. Caches are not simulated: only instructions are wanted, and this is the cheapest tool that has them.
pub const UNDER: [&str; 5] =
    ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--vgdb=no"];
/// From the wish that it ends to its last words.
const END: Duration = Duration::from_secs(30);

/// Instructions by role.
type Totals = Vec<(&'static str, u64)>;

/// # Errors
/// A load had errors, or a proxy left no count.
pub fn count(site: &Site, peer: Peer) -> Result<Figures, String> {
    let (fewer, _) = totals(site, peer, FEWER)?;
    let (more, command) = totals(site, peer, MORE)?;
    let mut values = BTreeMap::new();
    for ((role, fewer), (_, more)) in fewer.into_iter().zip(more) {
        let each = more.checked_sub(fewer).ok_or(format!("{role}: {more} instructions for more, {fewer} for fewer"))?;
        values.insert(format!("instructions_{role}_k"), each as f64 / (MORE - FEWER) as f64 / 1e3);
    }
    Ok(Figures { command: format!("{} PROXY; {command}", UNDER.join(" ")), values })
}

/// Instructions of each proxy for so many requests, start and end included, and the command of the load.
fn totals(site: &Site, peer: Peer, requests: u64) -> Result<(Totals, String), String> {
    let counted = peers::start_under(site, peer, &UNDER)?;
    let command = load::one_by_one(site, Shape::Pair, requests)?.command;
    let end = |(role, process): (&'static str, Process)| {
        process.signal(Signal::TERM);
        process.ended(END);
        let total = last_total(&process.log()).ok_or(format!("{role}: no count; it said:\n{}", process.log()))?;
        Ok((role, total))
    };
    let totals = counted.into_iter().map(end).collect::<Result<_, String>>()?;
    Ok((totals, command))
}

/// From valgrind's last words, such as `==7== I   refs:      1,234,567`; a log has those of earlier runs, too.
pub fn last_total(log: &str) -> Option<u64> {
    let said = log.lines().rev().find_map(|line| {
        let (_, words) = line.strip_prefix("==")?.split_once("==")?;
        words.trim_start().strip_prefix('I')?.trim_start().strip_prefix("refs:")
    });
    said?.trim().replace(',', "").parse().ok()
}

/// Counting works for HTTP/1.1 through a pair only.
pub const AT: (Shape, Protocol) = (Shape::Pair, Protocol::H1);

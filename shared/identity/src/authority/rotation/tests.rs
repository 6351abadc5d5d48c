//! Years of a mesh in a moment: when steps are due, and that no leaf is ever refused by anybody on the way.

use rustls_pki_types::UnixTime;

use super::*;
use crate::authority::{ISSUER_LIFETIME, ROOT_LIFETIME};
use crate::testing::{DAY, NOW, authority, id};
use crate::{Leaf, TrustBundle, tls};

fn at(now: u64) -> Situation {
    Situation { now, leaf_lifetime: DAY, overlap: DAY, applied: true, wanted: false }
}

fn holds(leaf: &Leaf, bundle: &TrustBundle, now: u64) -> bool {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    tls::verify_workload_chain(bundle, leaf.chain(), now).is_ok()
}

#[test]
fn each_step_waits_for_what_it_needs() {
    let stable = authority("cluster.local");
    let publishing = stable.step(Step::AddRoot, NOW).unwrap();
    let retiring = publishing.step(Step::SwitchIssuer, NOW).unwrap();
    assert_eq!([&stable, &publishing, &retiring].map(Authority::phase), Phase::ALL);
    let late = |seconds| Situation { applied: false, ..at(NOW + seconds) };
    let short = |seconds| Situation { overlap: 10, ..at(NOW + seconds) };
    let table = [
        ("nothing to do", &stable, at(NOW), None),
        ("asked for", &stable, Situation { wanted: true, ..at(NOW) }, Some(Step::AddRoot)),
        ("half of the issuer's life", &stable, at(NOW + ISSUER_LIFETIME / 2), Some(Step::RenewIssuer)),
        ("most of the root's life", &stable, at(NOW + ROOT_LIFETIME * 81 / 100), Some(Step::AddRoot)),
        ("after the root's life", &stable, at(NOW + ROOT_LIFETIME + DAY), Some(Step::AddRoot)),
        ("an issuer of the future", &stable, at(NOW - 9 * DAY), Some(Step::RenewIssuer)),
        ("just published", &publishing, at(NOW + DAY - 1), None),
        ("published for a leaf's life", &publishing, at(NOW + DAY), Some(Step::SwitchIssuer)),
        ("published for as long as one controller needs", &publishing, short(10), Some(Step::SwitchIssuer)),
        ("not applied by all", &publishing, late(DAY), None),
        ("never applied by one", &publishing, late(3 * DAY), Some(Step::SwitchIssuer)),
        ("an issuer that ended", &publishing, at(NOW + ISSUER_LIFETIME), Some(Step::SwitchIssuer)),
        ("asked for once more", &publishing, Situation { wanted: true, ..at(NOW) }, None),
        ("leaves may hold", &retiring, at(NOW + DAY + MARGIN - 1), None),
        ("all leaves have lapsed", &retiring, at(NOW + DAY + MARGIN), Some(Step::DropRoots)),
        ("still not applied by all", &retiring, late(DAY + MARGIN), None),
        ("one never applies", &retiring, late(3 * (DAY + MARGIN)), Some(Step::DropRoots)),
        ("the new issuer ages first", &retiring, at(NOW + ISSUER_LIFETIME / 2), Some(Step::RenewIssuer)),
        ("the clock was set back", &publishing, at(NOW - DAY / 2), None),
    ];
    for (what, authority, situation, expected) in table {
        assert_eq!(authority.due(&situation), expected, "{what}");
    }
}

#[test]
fn steps_that_do_not_follow_are_refused() {
    let stable = authority("cluster.local");
    let publishing = stable.step(Step::AddRoot, NOW).unwrap();
    let retiring = publishing.step(Step::SwitchIssuer, NOW).unwrap();
    let table = [
        (&stable, Step::SwitchIssuer),
        (&stable, Step::DropRoots),
        (&publishing, Step::AddRoot),
        (&publishing, Step::DropRoots),
        (&publishing, Step::RenewIssuer),
        (&retiring, Step::AddRoot),
        (&retiring, Step::SwitchIssuer),
    ];
    for (authority, step) in table {
        assert!(authority.step(step, NOW).is_err(), "{step:?} on {:?}", authority.phase());
    }
}

#[test]
fn every_step_can_be_gone_on_with_after_a_restart() {
    let mut authority = authority("cluster.local");
    let mut now = NOW;
    for step in [Step::AddRoot, Step::SwitchIssuer, Step::RenewIssuer, Step::DropRoots] {
        now += 2 * DAY;
        authority = authority.step(step, now).unwrap();
        let domain = authority.trust_domain().clone();
        for again in [
            Authority::from_pem(&domain, &authority.to_pem()).unwrap(),
            Authority::from_secret(&domain, &authority.to_secret(), now).unwrap(),
        ] {
            assert_eq!(again.to_secret(), authority.to_secret(), "{step:?}");
            assert_eq!((again.phase(), again.bundle()), (authority.phase(), authority.bundle()), "{step:?}");
            assert_eq!(again.due(&at(now + DAY + MARGIN)), authority.due(&at(now + DAY + MARGIN)), "{step:?}");
        }
    }
    assert_eq!((authority.phase(), authority.bundle().certificates().len()), (Phase::Stable, 1));
}

/// What one workload has: its leaf, and the bundle that it has applied.
struct Workload {
    leaf: Leaf,
    bundle: TrustBundle,
}

#[test]
fn no_leaf_is_refused_in_thirty_years() {
    let mut authority = authority("cluster.local");
    let first = authority.bundle().certificates()[0].clone();
    let own = |authority: &Authority, now| authority.issue_own(&id("a", "b"), now, DAY).unwrap();
    let mut workloads: Vec<Workload> =
        (0..4).map(|_| Workload { leaf: own(&authority, NOW), bundle: authority.bundle().clone() }).collect();
    let (mut now, mut steps, mut rotations, mut renewals) = (NOW, 0, 0, 0);
    while now < NOW + 30 * 365 * DAY {
        // Closely while something goes on, in leaps of weeks otherwise (everybody then has a new leaf).
        let quiet = authority.phase() == Phase::Stable && authority.due(&at(now + 31 * DAY)).is_none();
        now += if quiet { 30 * DAY } else { DAY / 8 };
        steps += 1;
        if let Some(step) = authority.due(&at(now)) {
            authority = authority.step(step, now).unwrap();
            rotations += u32::from(step == Step::DropRoots);
            renewals += u32::from(step == Step::RenewIssuer);
        }
        // One after the other renews or hears of the bundle; each as late as it may: with the end of its leaf.
        for (number, workload) in workloads.iter_mut().enumerate() {
            if quiet || workload.leaf.renew_at(1.0) + DAY / 4 <= now || steps % 8 == number {
                *workload = Workload { leaf: own(&authority, now), bundle: authority.bundle().clone() };
            }
        }
        for one in workloads.iter().filter(|_| !quiet) {
            assert!(one.leaf.not_after() > now, "the test renews in time");
            for other in &workloads {
                assert!(holds(&one.leaf, &other.bundle, now), "{} s after the start", now - NOW);
            }
        }
    }
    assert_eq!(rotations, 3, "after 8 of 10 years each");
    assert!((55..=66).contains(&renewals), "{renewals}: twice a year, but when the root changes");
    assert!(!authority.bundle().certificates().contains(&first));
}

#[test]
fn whoever_lags_by_less_than_a_leafs_life_is_still_understood() {
    // One workload applies nothing new for nearly a leaf's life after each step, and keeps its old leaf as long.
    let old = authority("cluster.local");
    let publishing = old.step(Step::AddRoot, NOW).unwrap();
    let switched = publishing.step(Step::SwitchIssuer, NOW + DAY).unwrap();
    let dropped = switched.step(Step::DropRoots, NOW + 2 * DAY + MARGIN).unwrap();
    let own = |authority: &Authority, now| authority.issue_own(&id("a", "b"), now, DAY).unwrap();
    // It knows the bundle of the step before.
    for (before, after, now) in [(&old, &publishing, NOW + DAY - 1), (&publishing, &switched, NOW + 2 * DAY)] {
        assert!(holds(&own(after, now), before.bundle(), now));
    }
    // The last leaf of the old issuer holds to its end.
    let last = own(&publishing, NOW + DAY - 1);
    assert!(holds(&last, switched.bundle(), last.not_after()));
    assert!(!holds(&last, dropped.bundle(), last.not_after()) && last.not_after() < NOW + 2 * DAY);
    assert!(!last.is_under_first(switched.bundle()) && last.is_under_first(publishing.bundle()));
    assert!(own(&switched, NOW + DAY).is_under_first(switched.bundle()));
}

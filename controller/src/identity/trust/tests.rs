//! What is in force when what is kept changes under us: with overlap, without, back again, and across restarts.

use lacewing_identity::{Leaf, SecretParts, SpiffeId, TrustDomain, authority::rotation::Step};

use super::*;

const NOW: u64 = 1_795_300_000;
const DAY: u64 = 86_400;
const TERMS: Terms = Terms { leaf_lifetime: DAY, overlap: DAY };

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn ours(now: u64) -> Authority {
    Authority::generate(&domain(), now).unwrap()
}

/// As an operator leaves it: without the root's key.
fn theirs(now: u64) -> Authority {
    let parts = SecretParts { root_key: None, ..ours(now).to_secret() };
    Authority::from_secret(&domain(), &parts, now).unwrap()
}

fn same(authority: &Authority, now: u64) -> Authority {
    Authority::from_secret(&domain(), &authority.to_secret(), now).unwrap()
}

fn leaf(trust: &Trust, now: u64) -> Leaf {
    let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
    trust.signing().issue_own(&id, now, DAY).unwrap()
}

/// Whether somebody who trusts these roots takes the leaf.
fn holds(leaf: &Leaf, bundle: &TrustBundle) -> bool {
    let one = |root: &[u8]| TrustBundle::from_der([root.to_vec()]).unwrap();
    bundle.certificates().iter().any(|root| leaf.is_under_first(&one(root)))
}

#[test]
fn a_swap_without_overlap_gets_one() {
    let (old, new) = (theirs(NOW), theirs(NOW));
    let mut trust = Trust::new(same(&old, NOW), None, TERMS, NOW);
    let first = leaf(&trust, NOW + DAY);
    trust.keep(same(&new, NOW), NOW + DAY);
    let table = [
        // Seconds after the swap, whether the new issuer signs, how many roots are published, phase.
        (0, false, 2, Phase::Publishing),
        (DAY - 1, false, 2, Phase::Publishing),
        (DAY, true, 2, Phase::Retiring),
        (2 * DAY + MARGIN - 1, true, 2, Phase::Retiring),
        (2 * DAY + MARGIN, true, 1, Phase::Stable),
    ];
    let (mut leaves, mut bundles) = (vec![first], vec![]);
    for (after, switched, roots, phase) in table {
        let now = NOW + DAY + after;
        trust.settle(now, true);
        assert_eq!((trust.phase(), trust.bundle().certificates().len()), (phase, roots), "{after}");
        assert_eq!(trust.signing().has_issuer_of(&new), switched, "{after}");
        assert_eq!(trust.previous().is_some(), roots == 2, "{after}");
        leaves.push(leaf(&trust, now));
        bundles.push(trust.bundle().clone());
        for leaf in leaves.iter().filter(|leaf| leaf.not_after() > now) {
            assert!(holds(leaf, trust.bundle()), "{after}: {leaf:?}");
        }
        assert!(leaf(&trust, now).is_under_first(trust.bundle()), "the root of what is signed goes first");
    }
    // Whoever has not heard of anything since the swap takes what is signed until the switch.
    assert!(holds(&leaves[2], old.bundle()) && !holds(&leaves[3], old.bundle()));
}

#[test]
fn who_has_not_applied_is_waited_for_but_not_for_ever() {
    let (old, new) = (theirs(NOW), theirs(NOW));
    let swapped = || {
        let mut trust = Trust::new(same(&old, NOW), None, TERMS, NOW);
        trust.keep(same(&new, NOW), NOW);
        trust
    };
    let mut trust = swapped();
    for (day, switched, roots) in [(1, false, 2), (2, false, 2), (3, true, 2), (4, true, 2), (5, true, 1)] {
        trust.settle(NOW + day * DAY + MARGIN, false);
        assert_eq!(
            (trust.signing().has_issuer_of(&new), trust.bundle().certificates().len()),
            (switched, roots),
            "{day}"
        );
    }
    // An issuer that ended signs nothing that could be waited for.
    let mut trust = swapped();
    trust.settle(old.issuer_not_after(), false);
    assert!(trust.signing().has_issuer_of(&new));
}

#[test]
fn what_needs_no_overlap_has_none() {
    // The same root with a new issuer.
    let ours = ours(NOW);
    let mut trust = Trust::new(same(&ours, NOW), None, TERMS, NOW);
    let renewed = ours.step(Step::RenewIssuer, NOW + DAY).unwrap();
    trust.keep(same(&renewed, NOW), NOW + DAY);
    trust.settle(NOW + DAY, false);
    assert!(trust.signing().has_issuer_of(&renewed) && trust.phase() == Phase::Stable);
    // Swapped, and back before the other was used: nothing was signed under it, and its root goes in time.
    let other = theirs(NOW);
    trust.keep(same(&other, NOW), NOW + DAY);
    trust.settle(NOW + DAY + 9, true);
    trust.keep(same(&renewed, NOW), NOW + DAY + 10);
    trust.settle(NOW + DAY + 10, true);
    assert!(trust.signing().has_issuer_of(&renewed));
    assert_eq!(trust.bundle().certificates().len(), 2);
    trust.settle(NOW + 4 * DAY, true);
    assert_eq!(trust.bundle(), ours.bundle());
}

#[test]
fn a_root_that_its_keeper_drops_is_dropped() {
    let mut kept = ours(NOW);
    let mut trust = Trust::new(same(&kept, NOW), None, TERMS, NOW);
    for (step, day, roots, phase) in [
        (Step::AddRoot, 1, 2, Phase::Publishing),
        (Step::SwitchIssuer, 2, 2, Phase::Retiring),
        (Step::DropRoots, 4, 1, Phase::Stable),
    ] {
        kept = kept.step(step, NOW + day * DAY).unwrap();
        trust.keep(same(&kept, NOW), NOW + day * DAY);
        trust.settle(NOW + day * DAY, true);
        assert_eq!((trust.bundle().certificates().len(), trust.phase()), (roots, phase), "{step:?}");
        assert!(trust.signing().has_issuer_of(&kept) && trust.previous().is_none(), "{step:?}");
    }
}

#[test]
fn a_follower_that_saw_a_root_late_uses_it_late() {
    let first = ours(NOW);
    let added = first.step(Step::AddRoot, NOW).unwrap();
    let switched = added.step(Step::SwitchIssuer, NOW + DAY).unwrap();
    let mut trust = Trust::new(same(&first, NOW), None, TERMS, NOW);
    trust.keep(same(&added, NOW), NOW + 8);
    trust.settle(NOW + 8, true);
    trust.keep(same(&switched, NOW), NOW + DAY + 1);
    trust.settle(NOW + DAY + 1, true);
    assert!(trust.signing().has_issuer_of(&first));
    trust.settle(NOW + DAY + 8, true);
    assert!(trust.signing().has_issuer_of(&switched));
    // Before the leader drops the old root, the last leaf of the late one has lapsed.
    const { assert!(8 < MARGIN) };
}

#[test]
fn roots_of_before_survive_a_restart() {
    let (old, new) = (theirs(NOW), theirs(NOW));
    let mut trust = Trust::new(same(&old, NOW), None, TERMS, NOW);
    let before = leaf(&trust, NOW);
    trust.keep(same(&new, NOW), NOW);
    let previous = trust.previous().cloned().unwrap();
    assert_eq!((previous.roots.certificates(), previous.until), (old.bundle().certificates(), NOW + 2 * DAY + MARGIN));
    let mut again = Trust::new(same(&new, NOW), Some(previous.clone()), TERMS, NOW + 60);
    again.settle(NOW + 60, true);
    // The old issuer's key is gone with the process.
    assert!(again.signing().has_issuer_of(&new) && holds(&before, again.bundle()));
    let late = Trust::new(same(&new, NOW), Some(previous), TERMS, NOW + 3 * DAY);
    assert_eq!(late.bundle(), new.bundle());
}

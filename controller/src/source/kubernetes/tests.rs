//! Tables of what the API server may say, and what the world and `/errors` then show. No server: that is ring `it`.

use std::collections::HashSet;

use lacewing_crds::labels;
use lacewing_identity::{SpiffeId, TrustDomain};

use super::*;
use crate::publish::{Answer, Followed, Mailbox, Query};

fn intake() -> Intake {
    let publisher = Publisher::new(TrustDomain::parse("cluster.local").unwrap());
    Intake::new(Arc::new(publisher), Arc::default())
}

fn pod(name: &str, more: &str) -> Read {
    let json = format!(r#"{{"metadata":{{"namespace":"a","name":"{name}"{more}}}}}"#);
    Read::Object(Object::Pod(serde_json::from_str(&json).unwrap()))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Pod, name: Name::new("a", name) }
}

fn names(names: &[&str]) -> HashSet<Name> {
    names.iter().map(|name| Name::new("a", *name)).collect()
}

fn listed(intake: &mut Intake, kinds: &[Kind]) {
    for kind in kinds {
        intake.listed(*kind, &HashSet::new());
    }
}

fn in_force(intake: &Intake) -> Vec<String> {
    intake.publisher.with_world(|world| world.pods().map(|(name, _)| name.name.clone()).collect())
}

fn errors(intake: &Intake) -> Vec<String> {
    intake.status.lock().errors.iter().map(ToString::to_string).collect()
}

fn follow(intake: &Intake, target: &str, mailbox: &Arc<Mailbox>) -> Followed {
    let peer = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/web").unwrap();
    let query = Query::Target { namespace: "a".into(), target: target.into() };
    intake.publisher.follow(&intake.publisher.quota(&peer), &query, mailbox, 1).unwrap()
}

#[test]
fn nothing_is_answered_before_every_kind_was_listed() {
    let mut intake = intake();
    let followed = follow(&intake, "web:80", &Arc::default());
    intake.take([pod("one", ""), pod("two", "")]);
    intake.listed(Kind::Pod, &names(&["one", "two"]));
    // What happens meanwhile counts, and so does a list that had to be made again.
    intake.take([pod("three", ""), Read::Gone(key("one"))]);
    intake.listed(Kind::Pod, &names(&["three"]));
    listed(&mut intake, &[Kind::Namespace, Kind::Service]);
    assert!(followed.answer().is_none() && in_force(&intake).is_empty() && !intake.status.lock().loaded);
    listed(&mut intake, &[Kind::EndpointSlice]);
    assert!(matches!(followed.answer().as_deref(), Some(Answer::Target(_))));
    assert_eq!(in_force(&intake), ["three"]);
    assert!(intake.status.lock().loaded && intake.held.is_empty());
}

#[test]
fn a_list_takes_away_what_is_not_in_it_and_nothing_of_other_kinds() {
    let mut intake = intake();
    listed(&mut intake, &Kind::ALL);
    intake.take([pod("one", ""), pod("two", "")]);
    intake.listed(Kind::Service, &HashSet::new());
    assert_eq!(in_force(&intake), ["one", "two"]);
    intake.take([pod("three", "")]);
    intake.listed(Kind::Pod, &names(&["two", "three"]));
    assert_eq!(in_force(&intake), ["three", "two"]);
}

#[test]
fn what_makes_no_difference_disturbs_nobody() {
    let mut intake = intake();
    listed(&mut intake, &Kind::ALL);
    let mailbox = Arc::default();
    let _followed = follow(&intake, "web:80", &mailbox);
    intake.take([pod("one", "")]);
    intake.take([pod("one", "")]);
    assert!(mailbox.take().is_empty());
}

#[test]
fn an_object_that_cannot_be_read_keeps_its_last_good_version_and_stops_nobody() {
    let mut intake = intake();
    listed(&mut intake, &Kind::ALL);
    intake.take([pod("one", "")]);
    let bad = || Read::Unreadable(key("one"), "invalid type: map".to_owned());
    intake.take([bad(), pod("two", "")]);
    assert_eq!(in_force(&intake), ["one", "two"]);
    assert_eq!(
        errors(&intake),
        ["Pod a/one: invalid type: map; its last good version, if there was one, stays in force"]
    );
    intake.take([bad()]);
    assert_eq!(errors(&intake).len(), 1);
    intake.take([pod("one", "")]);
    assert_eq!(errors(&intake), Vec::<String>::new());
    intake.take([bad()]);
    intake.listed(Kind::Pod, &names(&["two"]));
    assert_eq!((errors(&intake), in_force(&intake)), (Vec::new(), vec!["two".to_owned()]));
}

#[test]
fn an_object_with_a_bad_annotation_is_in_force_and_reported() {
    let mut intake = intake();
    listed(&mut intake, &Kind::ALL);
    let annotated = format!(r#","annotations":{{"{}":"perhaps"}}"#, labels::INJECT);
    intake.take([pod("one", &annotated)]);
    assert_eq!(in_force(&intake), ["one"]);
    let [error] = &errors(&intake)[..] else { panic!("{:?}", errors(&intake)) };
    for part in ["Pod a/one", labels::INJECT, "perhaps", "the rest of the object is in force"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    intake.take([Read::Gone(key("one"))]);
    assert!(errors(&intake).is_empty() && in_force(&intake).is_empty());
}

#[test]
fn a_kind_that_cannot_be_followed_is_shown_until_it_can() {
    let mut intake = intake();
    intake.trouble(Kind::Pod, Some("forbidden".into()));
    assert_eq!(errors(&intake), ["every Pod: forbidden; nothing is answered before everything was read once"]);
    listed(&mut intake, &Kind::ALL);
    intake.trouble(Kind::Pod, Some("away".into()));
    assert_eq!(errors(&intake), ["every Pod: away; what was last read stays in force"]);
    intake.trouble(Kind::Service, None);
    intake.trouble(Kind::Pod, None);
    assert!(errors(&intake).is_empty() && intake.status.lock().loaded);
}

#[test]
fn errors_are_bounded() {
    let mut intake = intake();
    listed(&mut intake, &Kind::ALL);
    intake.take((0..ERRORS_MAX + 7).map(|n| Read::Unreadable(key(&n.to_string()), "bad".to_owned())));
    assert_eq!(intake.status.lock().errors.len(), ERRORS_MAX);
}

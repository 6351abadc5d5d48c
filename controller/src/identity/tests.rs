//! The controller's identity with the state directory: made once, kept privately, renewed in time, never replaced in
//! silence. Time is what a test says it is.

use std::{cell::Cell, fs, os::unix::fs::PermissionsExt};

use lacewing_identity::KeyAndCsr;
use tokio::sync::watch;

use super::{
    keeper::{Done, Keeper},
    store::{AUTHORITY_FILE, BUNDLE_FILE, Directory, Store, StoreError},
    *,
};
use crate::{grpc::streams::Streams, publish::Publisher, source::directory::tests::TempDir};

pub(super) const NOW: u64 = 1_795_300_000;
pub(super) const DAY: u64 = 86_400;

thread_local! {
    static TIME: Cell<u64> = const { Cell::new(NOW) };
}

pub(super) fn set_time(now: u64) {
    TIME.set(now);
}

pub(super) fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

/// The care for trust with this store, by a replica that leads or not.
pub(super) fn keeper(store: Store, leads: bool, webhook: Option<&str>) -> Keeper {
    let identity = Identity::new(&domain(), DAY, store.place(), webhook.map(str::to_owned)).unwrap();
    Keeper {
        identity: Arc::new(identity),
        store,
        publisher: Arc::new(Publisher::new(domain())),
        streams: Arc::new(Streams::new(1)),
        leading: watch::channel(leads).1,
        injector: None,
        now: || TIME.get(),
        jitter: || 0.0,
        done: Done::default(),
    }
}

fn directory(temp: &TempDir) -> Keeper {
    keeper(Store::Directory(Directory::open(&temp.0.join("state")).unwrap()), true, None)
}

async fn open(temp: &TempDir) -> Keeper {
    let mut keeper = directory(temp);
    keeper.start().await.unwrap();
    keeper
}

async fn look(keeper: &mut Keeper, now: u64) {
    set_time(now);
    keeper.start().await.unwrap();
}

/// What is wrong, as it is listed.
pub(super) fn problems(keeper: &Keeper) -> Vec<Problem> {
    keeper.identity.problems().into_values().collect()
}

fn file(temp: &TempDir, name: &str) -> String {
    fs::read_to_string(temp.0.join("state").join(name)).unwrap()
}

#[tokio::test]
async fn the_root_is_made_once_and_kept_privately() {
    let temp = TempDir::new();
    let (first, second) = (open(&temp).await, open(&temp).await);
    assert_eq!(first.identity.bundle(), second.identity.bundle());
    let state = temp.0.join("state");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    for file in fs::read_dir(&state).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let public = file(&temp, BUNDLE_FILE);
    assert!(!public.contains("PRIVATE") && TrustBundle::from_pem(&public).is_ok());
}

#[tokio::test]
async fn a_damaged_root_is_never_replaced_in_silence() {
    let temp = TempDir::new();
    let mut running = open(&temp).await;
    let path = temp.0.join("state").join(AUTHORITY_FILE);
    let good = file(&temp, AUTHORITY_FILE);
    fs::write(&path, "nonsense").unwrap();
    let error = directory(&temp).start().await.unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains(AUTHORITY_FILE) && error.contains("remove it"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    // Who runs already goes on, and says so.
    look(&mut running, NOW + DAY).await;
    assert_eq!(running.identity.unready(NOW + DAY), None);
    let [problem] = &problems(&running)[..] else { panic!("one problem") };
    assert!(problem.place.contains(AUTHORITY_FILE) && problem.in_force.contains("last good"), "{problem}");
    fs::write(&path, good).unwrap();
    look(&mut running, NOW + DAY).await;
    assert!(running.identity.problems().is_empty());
}

#[tokio::test]
async fn the_own_certificate_is_there_on_demand_and_renewed_in_time() {
    let temp = TempDir::new();
    let mut keeper = directory(&temp);
    let identity = keeper.identity.clone();
    assert!(identity.tls().is_none() && identity.unready(NOW).unwrap().contains("not been read"));
    look(&mut keeper, NOW).await;
    let first = identity.tls().unwrap();
    look(&mut keeper, NOW + DAY * 49 / 100).await;
    assert!(Arc::ptr_eq(&identity.tls().unwrap(), &first));
    look(&mut keeper, NOW + DAY * 51 / 100).await;
    assert!(!Arc::ptr_eq(&identity.tls().unwrap(), &first));
    assert_eq!(identity.unready(NOW + DAY), None);
    assert!(identity.unready(NOW + 2 * DAY).unwrap().contains("expired"));
}

/// An authority as an operator leaves it who keeps the root's key elsewhere.
async fn without_root_key(temp: &TempDir) -> Keeper {
    open(temp).await;
    let text = file(temp, AUTHORITY_FILE);
    let sections: Vec<&str> = text.split_inclusive("-----END PRIVATE KEY-----\n").collect();
    assert_eq!(sections.len(), 2, "root's certificate and key, issuer's certificate and key");
    let root = sections[0].split("-----BEGIN PRIVATE KEY-----").next().unwrap();
    fs::write(temp.0.join("state").join(AUTHORITY_FILE), format!("{root}{}", sections[1])).unwrap();
    open(temp).await
}

#[tokio::test]
async fn without_the_roots_key_the_issuer_serves_to_its_end() {
    let temp = TempDir::new();
    let mut keeper = without_root_key(&temp).await;
    let before = file(&temp, AUTHORITY_FILE);
    let late = NOW + 300 * DAY;
    look(&mut keeper, late).await;
    assert_eq!(keeper.identity.unready(late), None);
    let [problem] = &problems(&keeper)[..] else { panic!("one problem") };
    assert!(problem.cause.contains("sign a new issuer"), "{problem}");
    look(&mut keeper, NOW + 400 * DAY).await;
    assert_eq!(file(&temp, AUTHORITY_FILE), before);
    assert!(keeper.identity.unready(NOW + 400 * DAY).is_some());
    let problems = keeper.identity.problems();
    assert!(problems.values().any(|problem| problem.cause.contains("issuer ended")), "{problems:?}");
}

#[tokio::test]
async fn a_clock_that_was_set_back_is_noticed() {
    let temp = TempDir::new();
    let mut keeper = open(&temp).await;
    look(&mut keeper, NOW + 2 * DAY).await;
    let first = keeper.identity.tls().unwrap();
    assert!(keeper.identity.unready(NOW).unwrap().contains("clock set back"));
    look(&mut keeper, NOW).await;
    assert!(!Arc::ptr_eq(&keeper.identity.tls().unwrap(), &first));
    assert_eq!(keeper.identity.unready(NOW), None);
    // Hours before the root was made are within what root and issuer allow for.
    look(&mut keeper, NOW - DAY / 2).await;
    assert_eq!(keeper.identity.unready(NOW - DAY / 2), None);
}

#[tokio::test]
async fn an_issuer_of_the_future_is_reported_or_replaced() {
    let temp = TempDir::new();
    let (early, mut keeper) = (NOW - 9 * DAY, without_root_key(&temp).await);
    look(&mut keeper, early).await;
    let why = keeper.identity.unready(early).unwrap();
    assert!(why.contains("issuer") && why.contains(AUTHORITY_FILE), "{why}");
    let temp = TempDir::new();
    set_time(NOW);
    let mut keeper = open(&temp).await;
    look(&mut keeper, early).await;
    look(&mut keeper, early).await;
    assert_eq!(keeper.identity.unready(early), None);
}

#[tokio::test]
async fn the_issuer_is_renewed_and_survives_a_restart() {
    let temp = TempDir::new();
    let mut keeper = open(&temp).await;
    look(&mut keeper, NOW + 300 * DAY).await;
    let (_, csr) = KeyAndCsr::generate().unwrap();
    let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/web").unwrap();
    // After the end of the first issuer's life.
    let late = NOW + 400 * DAY;
    let (issued, _) = keeper.identity.issue(&csr, &id, late).unwrap();
    assert!(issued.not_after > late);
    assert_eq!(issued.chain[1], open(&temp).await.identity.issue(&csr, &id, late).unwrap().0.chain[1]);
}

#[tokio::test]
async fn a_file_asks_for_a_new_root() {
    let temp = TempDir::new();
    let mut keeper = open(&temp).await;
    let old = keeper.identity.bundle().unwrap();
    fs::write(temp.0.join("state/rotate"), "").unwrap();
    let mut phases = Vec::new();
    for after in [0, 9, 10, DAY, DAY + 70] {
        look(&mut keeper, NOW + after).await;
        let levels = keeper.identity.levels().unwrap();
        phases.push(levels.phase.label());
        let bundle = keeper.identity.bundle().unwrap();
        assert_eq!(file(&temp, BUNDLE_FILE), bundle.to_pem());
    }
    assert_eq!(phases, ["publishing", "publishing", "retiring", "retiring", "stable"]);
    assert!(!temp.0.join("state/rotate").exists() && keeper.identity.problems().is_empty());
    let new = keeper.identity.bundle().unwrap();
    assert!(new.certificates().len() == 1 && new != old);
    assert_eq!(open(&temp).await.identity.bundle().unwrap(), new);
}

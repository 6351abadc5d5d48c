//! Work that may block, and token files that cannot be written.

use std::fs;

use lacewing_crds::Name;
use tokio::task::JoinSet;

use super::*;
use crate::{source::directory::tests::TempDir, tokens::jwt};

#[tokio::test]
async fn work_beside_the_runtime_leaves_it_free_and_passes_its_panic_on() {
    let (go, wait) = std::sync::mpsc::channel();
    // The work waits for what this thread does meanwhile.
    let (work, ()) = tokio::join!(beside(wait, |wait| wait.recv().unwrap()), async move { go.send(7).unwrap() });
    assert_eq!(work.1, 7);
    let mut tasks = JoinSet::new();
    tasks.spawn(async { beside((), |()| panic!("on purpose")).await.1 });
    assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
}

#[test]
fn failed_minting_is_tried_again_less_and_less_often() {
    let temp = TempDir::new();
    let key = Arc::new(jwt::Key::new(&[1; jwt::KEY_BYTES]));
    let mut minting = Minting::new(Minter::new(temp.0.join("tokens"), key).unwrap());
    let pods = Pods::from([(Name::new("a", "one"), "web".to_owned())]);
    fs::remove_dir(temp.0.join("tokens")).unwrap();
    let start = Instant::now();
    assert!(minting.is_due(false, start));
    let mut now = start;
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        let outcome = minting.minter.sync(&pods, 1_000);
        assert!(outcome.is_err());
        minting.note(outcome, now);
        let pause = Duration::from_secs(seconds);
        assert!(!minting.is_due(true, now + pause - Duration::from_millis(1)) && minting.is_due(false, now + pause));
        assert!(minting.error.is_some());
        now += pause;
    }
    minting.note(Ok(()), now);
    assert!(minting.error.is_none() && minting.is_due(true, now) && !minting.is_due(false, now));
}

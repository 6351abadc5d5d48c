//! Early renewal, on tokio's stopped clock: when another root goes first, soon but not at once, and once for each.

use lacewing_identity::{
    Authority, SpiffeId, TrustDomain,
    authority::rotation::Step::{AddRoot, SwitchIssuer},
};

use super::*;

const LIFE: u64 = 3_600;

#[tokio::test(start_paused = true)]
async fn another_first_root_is_followed_once() {
    let (now, domain) = (clock::unix_now(), TrustDomain::parse("cluster.local").unwrap());
    let id = SpiffeId::new(&domain, "shop", "web").unwrap();
    let leaf = |authority: &Authority| authority.issue_own(&id, now, LIFE).unwrap();
    let old = Authority::generate(&domain, now).unwrap();
    let published = old.step(AddRoot, now).unwrap();
    let switched = published.step(SwitchIssuer, now).unwrap();
    let identity = Identity::default();
    let waits = async |moved: Option<&CertificateDer<'static>>| {
        timeout(RENEW_EARLY_WITHIN, another_root(&identity, moved)).await.ok()
    };
    assert_eq!(waits(None).await, None, "there is nothing yet");
    identity.set(leaf(&old), old.bundle().clone()).unwrap();
    assert_eq!(waits(None).await, None);
    identity.set(leaf(&old), published.bundle().clone()).unwrap();
    assert_eq!(waits(None).await, None, "a root beside it is no reason");
    let (moved, ()) = tokio::join!(waits(None), async {
        tokio::task::yield_now().await;
        identity.set(leaf(&old), switched.bundle().clone()).unwrap();
    });
    let first = switched.bundle().certificates()[0].clone();
    assert_eq!(moved.as_ref(), Some(&first), "a change is heard");
    assert_eq!(waits(moved.as_ref()).await, None, "a controller that lags may sign under the old one");
    identity.set(leaf(&switched), switched.bundle().clone()).unwrap();
    assert_eq!(waits(None).await, None);
}

//! Three controllers, and the one that writes is killed: another takes over, and meanwhile pods are injected and get their
//! certificates from those that are left. The rotation's load runs on, and no request of it fails.

use std::time::Duration;

use lacewing_tests::cluster::{MESH, PATIENCE, Space, await_some, get, kubectl, run_mesh};

use super::{
    mesh::{CLIENT, assert_clean, assert_meshed, sent_more, upgrade},
    rotation,
};

/// A Lease is over after 15 s, which those that wait notice within 2.5 s, and write within 4.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);

/// Who stops in peace gives it back: sooner than it would be over.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(10);

/// Names of the controllers that are there to stay.
fn controllers() -> Vec<String> {
    let pods = get(&["pods", "-n", MESH]);
    let staying = pods["items"].as_array().unwrap().iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    staying.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Which of the controllers holds the Lease, if one of them does.
fn leader() -> Option<String> {
    let lease = get(&["lease", "lacewing-controller", "-n", MESH]);
    let holder = lease["spec"]["holderIdentity"].as_str()?;
    controllers().into_iter().find(|name| name == holder)
}

#[test]
fn of_three_another_takes_over_and_no_request_fails() {
    let space = Space::lent(rotation::NAME);
    assert_clean(&space, 1);
    assert_eq!(upgrade(&["--ha"]), [""; 0]);
    assert_eq!(controllers().len(), 3);
    let first = await_some("one of the three leads", TAKEN_OVER_WITHIN, leader);
    kubectl(&["-n", MESH, "delete", "pod", &first, "--grace-period=0", "--force", "--wait=false"]).good();
    // While nobody leads, and while not everybody has heard that one of three is gone.
    space.apply(CLIENT);
    space.kubectl(&["rollout", "restart", "deployment/client"]);
    space.ready("deployment/client");
    space.pods("app=client").iter().for_each(assert_meshed);
    let second = await_some("another leads", TAKEN_OVER_WITHIN, || leader().filter(|next| *next != first));
    let check = run_mesh(&["check", "--wait", "60s"], "");
    assert!(check.out.contains("its replicas are ready (3 of 3)"), "{}", check.out);
    kubectl(&["-n", MESH, "delete", "pod", &second, "--wait=false"]).good();
    await_some("another leads at once", HANDED_OVER_WITHIN, || leader().filter(|next| *next != second));

    let obsolete = upgrade(&["--set", "controller.replicas=1"]);
    let [delete] = &obsolete[..] else { panic!("{obsolete:?}") };
    let delete: Vec<_> = delete.split(' ').collect();
    assert!(delete[0] == "kubectl" && delete.concat().contains("poddisruptionbudget"), "{delete:?}");
    kubectl(&delete[1..]).good();
    await_some("one controller", PATIENCE, || (controllers().len() == 1).then_some(()));
    sent_more(&space, 200);
    assert_clean(&space, 1_000);
}

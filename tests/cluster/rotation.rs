//! The root is rotated while everything else of the ring goes on, and a load with it: `begins` starts both, `has_ended` looks
//! at what came of it. In between are minutes: the old root stays good until nobody has a certificate of it, and others use
//! the load, too.

use std::time::Duration;

use lacewing_tests::cluster::{MESH, Space, await_some, kubectl, run};

use super::mesh::{SOON, WEB, assert_clean, restarts, start_load};

pub const NAME: &str = "rotation";
/// Two lives of a certificate of two minutes, and what else it takes.
const ENDS_WITHIN: Duration = Duration::from_secs(420);

/// What the mesh trusts, as it tells the API server: PEM in base64.
fn trusted() -> String {
    let bundle = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    kubectl(&["get", "mutatingwebhookconfiguration", "lacewing-injector", "-o", bundle]).good()
}

fn roots_in(trusted: &str) -> usize {
    let pem = run("base64", &["-d"], trusted, SOON).good();
    pem.matches("BEGIN CERTIFICATE").count()
}

#[test]
fn begins() {
    let space = Space::meshed(NAME);
    space.apply(WEB);
    space.ready("deployment/web");
    start_load(&space, "web", 100);
    space.kubectl(&["annotate", "deployment", "load", &format!("trusted={}", trusted())]);
    assert_eq!(roots_in(&trusted()), 1, "a rotation is under way already");
    kubectl(&["-n", MESH, "annotate", "secret", "lacewing-root", "lacewing.dev/rotate=now"]).good();
    space.keep();
}

#[test]
fn has_ended() {
    let space = Space::found(NAME);
    let before = space.kubectl(&["get", "deployment", "load", "-o", "jsonpath={.metadata.annotations.trusted}"]);
    await_some("a new root alone is trusted", ENDS_WITHIN, || {
        let now = trusted();
        (now != before && roots_in(&now) == 1).then_some(())
    });
    assert_clean(&space, 5_000);
    for pod in space.pods("app in (web,load)") {
        assert_eq!(restarts(&pod), 0, "{}", pod["metadata"]["name"]);
    }
}

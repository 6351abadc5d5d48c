//! The Secret of the trust root, as operators get it wrong: what cannot be used is named by `mesh check` with the way out, and
//! nothing changes for anybody until it is mended. The rotation's load runs meanwhile, and no request of it fails.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lacewing_identity::{Authority, SecretParts, TrustDomain};
use lacewing_tests::cluster::{Answer, MESH, Space, await_some, get, kubectl_input, run_mesh};
use serde_json::{Value, json};

use super::{
    mesh::{CLIENT, SOON, assert_clean, assert_meshed, sent_more},
    rotation,
};

const DAY: u64 = 86_400;
/// What `mesh check` exits with when it finds an error.
const ERROR: Option<i32> = Some(3);
const LAST_GOOD: &str = "the last good one stays in use";

/// As an operator makes it, `days` ago.
#[allow(clippy::disallowed_methods, reason = "certificates begin now")]
fn given(days: u64) -> SecretParts {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let domain = TrustDomain::parse("cluster.local").unwrap();
    SecretParts { root_key: None, ..Authority::generate(&domain, now - days * DAY).unwrap().to_secret() }
}

fn manifest(parts: &SecretParts) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "lacewing-root", "namespace": MESH},
        "data": {
            "tls.crt": STANDARD.encode(&parts.chain),
            "tls.key": STANDARD.encode(&parts.key),
            "ca.crt": STANDARD.encode(&parts.roots),
        },
    })
}

/// The roots in a Secret, each as PEM.
fn roots(secret: &Value) -> Vec<String> {
    let pem = STANDARD.decode(secret["data"]["ca.crt"].as_str().unwrap()).unwrap();
    let pem = String::from_utf8(pem).unwrap();
    pem.split_inclusive("-----END CERTIFICATE-----")
        .map(|root| root.trim().to_owned())
        .filter(|root| !root.is_empty())
        .collect()
}

/// Writes over the whole Secret.
fn replace(secret: &Value) {
    kubectl_input(&["replace", "-f", "-"], &secret.to_string()).good();
}

/// Runs `mesh check`, a process each time, until it says so.
#[track_caller]
fn check(what: &str, says: impl Fn(&Answer) -> bool) {
    let began = Instant::now();
    loop {
        let check = run_mesh(&["check"], "");
        if says(&check) {
            return;
        }
        assert!(began.elapsed() < SOON, "{what}: not within {SOON:?}; last {:?}:\n{}", check.code, check.out);
    }
}

/// Makes whole what a failed test leaves: the leader puts a deleted Secret back.
struct Mend;

impl Drop for Mend {
    fn drop(&mut self) {
        if std::thread::panicking() {
            kubectl_input(&["-n", MESH, "delete", "secret", "lacewing-root"], "");
        }
    }
}

#[test]
fn one_that_cannot_be_used_is_named_and_changes_nothing() {
    let space = Space::lent(rotation::NAME);
    assert_clean(&space, 1);
    let mut ours = await_some("the wish for another root is taken", SOON, || {
        let secret = get(&["secret", "lacewing-root", "-n", MESH]);
        secret["metadata"]["annotations"]["lacewing.dev/rotate"].is_null().then_some(secret)
    });
    for server in ["resourceVersion", "uid", "creationTimestamp", "managedFields"] {
        ours["metadata"].as_object_mut().unwrap().remove(server);
    }
    let _mend = Mend;
    let (good, other) = (given(0), given(0));
    let cases = [
        ("expired", manifest(&given(400)), "tls.crt expired"),
        (
            "of another root",
            manifest(&SecretParts { roots: other.roots, ..given(0) }),
            "cannot sign leaves under this root",
        ),
        ("with another key", manifest(&SecretParts { key: other.key, ..given(0) }), "key does not belong"),
        ("garbage", manifest(&SecretParts { chain: "garbage".to_owned(), ..good }), "tls.crt holds no certificate"),
    ];
    for (what, secret, cause) in &cases {
        replace(secret);
        check(what, |check| {
            let named = check.out.lines().any(|line| line.contains("lacewing/lacewing-root") && line.contains(cause));
            named && check.code == ERROR && check.out.contains("kubectl -n lacewing delete secret lacewing-root")
        });
    }
    // Who is new gets a certificate from the last good one.
    space.apply(CLIENT);
    space.ready("deployment/client");
    space.pods("app=client").iter().for_each(assert_meshed);
    let well = |check: &Answer| check.code != ERROR && !check.out.contains(LAST_GOOD);
    replace(&ours);
    check("well with the right one", well);

    // As `kubectl apply` does it: what is not named stays, such as the root's key.
    kubectl_input(&["apply", "-f", "-"], &cases[1].1.to_string()).good();
    check("of another root, and with the old one's key", |check| check.code == ERROR && check.out.contains(LAST_GOOD));
    kubectl_input(&["-n", MESH, "delete", "secret", "lacewing-root"], "").good();
    check("well once it is deleted", well);
    let back = get(&["secret", "lacewing-root", "-n", MESH]);
    // The rotation may have taken a step meanwhile, but a root of its own would have nothing in common.
    assert!(roots(&back).iter().any(|root| roots(&ours).contains(root)), "it was not put back as it was");
    sent_more(&space, 200);
    assert_clean(&space, 1_000);
    let controllers = get(&["pods", "-n", MESH]);
    let restarts: u64 = controllers["items"].as_array().unwrap().iter().map(super::mesh::restarts).sum();
    assert_eq!(restarts, 0, "a controller was restarted");
}

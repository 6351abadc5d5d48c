//! The end: `mesh uninstall` refuses while pods are meshed, and otherwise leaves nothing.

use lacewing_tests::cluster::{PATIENCE, Space, await_some, kubectl, kubectl_input, run_mesh};

use super::mesh::{CLIENT, assert_meshed};

/// Kinds of objects that a cluster has one list of.
const EVERYWHERE: &str = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,\
                          customresourcedefinitions,namespaces,priorityclasses";

#[test]
fn uninstall_refuses_while_pods_are_meshed_and_then_leaves_nothing() {
    let space = Space::meshed("last");
    space.apply(CLIENT);
    space.ready("deployment/client");
    space.pods("app=client").iter().for_each(assert_meshed);
    let refused = run_mesh(&["uninstall"], "");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.out.is_empty() && refused.err.contains(space.name()), "{refused:?}");

    kubectl(&["annotate", "namespace", space.name(), "lacewing.dev/inject-"]).good();
    space.kubectl(&["rollout", "restart", "deployment/client"]);
    space.ready("deployment/client");
    let objects = await_some("no pod is meshed any more", PATIENCE, || {
        let uninstall = run_mesh(&["uninstall"], "");
        (uninstall.code == Some(0)).then_some(uninstall.out)
    });
    kubectl_input(&["delete", "-f", "-", "--wait"], &objects).good();
    let left = kubectl(&["get", EVERYWHERE, "-o", "name"]).good();
    let left: Vec<_> = left.lines().filter(|name| name.contains("lacewing")).collect();
    assert!(left.is_empty(), "{left:?}");
}

//! Faults under load, one after the other: no request fails. What is broken is made whole again by whoever broke it.

use lacewing_tests::{
    cluster::{MESH, PATIENCE, Space, await_some, get, kubectl, run_mesh},
    history::run_for,
};

use super::mesh::{SOON, assert_clean, assert_meshed, away, controller_is_back, restarts, sent_more, shop};

fn scale_controller(replicas: &str) {
    let replicas = format!("--replicas={replicas}");
    kubectl(&["-n", MESH, "scale", "deployment/lacewing-controller", &replicas]).good();
}

fn controller_is_gone() {
    scale_controller("0");
    await_some("no controller", SOON, || {
        let pods = get(&["pods", "-n", MESH]);
        pods["items"].as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn both_ends_are_restarted_and_no_request_fails() {
    let space = shop("rolling");
    for deployment in ["deployment/web", "deployment/front"] {
        space.kubectl(&["rollout", "restart", deployment]);
        space.ready(deployment);
    }
    await_some("the old pods are gone", PATIENCE, || {
        let pods = space.get(&["pods"]);
        (pods["items"].as_array().unwrap().len() == 5).then_some(())
    });
    sent_more(&space, 400);
    assert_clean(&space, 2_000);
    for pod in space.pods("app in (web,front,load)") {
        assert_meshed(&pod);
        assert_eq!(restarts(&pod), 0, "{}", pod["metadata"]["name"]);
    }
}

#[test]
fn the_controller_is_away_and_no_request_fails() {
    let away = away();
    let space = shop("controller");
    controller_is_gone();
    run_for(away);
    // Pods without a controller: they are not meshed, and `check` says which.
    space.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    space.ready("deployment/web");
    scale_controller("1");
    controller_is_back();
    let escaped = |pods: Vec<serde_json::Value>| {
        pods.iter().filter(|pod| pod["metadata"]["annotations"]["lacewing.dev/proxy-version"].is_null()).count()
    };
    assert_eq!(escaped(space.pods("app=web")), 1, "the pod that came while nobody injected");
    let check = await_some("`mesh check --proxy` names the pod that escaped", PATIENCE, || {
        let check = run_mesh(&["check", "--proxy", "-n", space.name()], "");
        (check.out.contains("web-")).then_some(check)
    });
    assert!(check.out.contains("kubectl"), "no command that mends it:\n{}", check.out);
    space.kubectl(&["scale", "deployment/web", "--replicas=2"]);
    sent_more(&space, 400);
    assert_clean(&space, 4_000);
}

#[test]
fn without_the_webhook_fail_refuses_pods() {
    let space = Space::meshed("closed");
    let policy = |policy: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "{policy}"}}]"#);
        let webhook = "mutatingwebhookconfiguration/lacewing-injector";
        kubectl(&["patch", webhook, "--type", "json", "--patch", &patch]).good();
    };
    policy("Fail");
    controller_is_gone();
    let answer = space.attempt(&["run", "lone", "--image", "localhost/peers:test", "--restart=Never"]);
    policy("Ignore");
    scale_controller("1");
    controller_is_back();
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.err.contains("lacewing"), "{answer:?}");
}

//! Bad input, as the API server passes it on: what cannot be meshed is refused with words that say why, or starts without a
//! proxy and an Event says why; nothing is half done.

use lacewing_tests::cluster::{PATIENCE, Space, await_some, run_mesh};
use serde_json::Value;

/// A pod with some of its JSON left open.
fn pod(name: &str, annotations: &str, spec: &str, containers: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "annotations": {{{annotations}}}}},
            "spec": {{"terminationGracePeriodSeconds": 0, {spec} "containers": [
                {{"name": "app", "image": "localhost/peers:test", "imagePullPolicy": "IfNotPresent",
                  "command": ["sleep", "86400"]}} {containers}]}}}}"#
    )
}

#[test]
fn bad_annotations_are_refused_by_name() {
    let space = Space::meshed("refused");
    let cases = [
        (r#""lacewing.dev/inject": "perhaps""#, "lacewing.dev/inject"),
        (r#""config.lacewing.dev/proxy-memory-limit": "lots""#, "config.lacewing.dev/proxy-memory-limit"),
        (r#""config.lacewing.dev/skip-inbound-ports": "http""#, "config.lacewing.dev/skip-inbound-ports"),
        (r#""config.lacewing.dev/skip-inbound-ports": "53/udp""#, "config.lacewing.dev/skip-inbound-ports"),
        (r#""config.lacewing.dev/inbound": "closed""#, "config.lacewing.dev/inbound"),
        (r#""config.lacewing.dev/proxy-colour": "red""#, "config.lacewing.dev/proxy-colour"),
    ];
    for (annotation, key) in cases {
        let answer = space.try_apply(&pod("bad", annotation, "", ""));
        assert_eq!(answer.code, Some(1), "{annotation}: {answer:?}");
        assert!(answer.err.contains(key), "{annotation}: {answer:?}");
        assert!(space.pods("").is_empty(), "{annotation}");
    }
}

#[test]
fn a_namespace_that_forbids_the_init_step_is_told_so() {
    let space = Space::meshed("secure");
    space.kubectl(&["label", "namespace", space.name(), "pod-security.kubernetes.io/enforce=baseline"]);
    // The controller hears of the label in its own time.
    let answer = await_some("the pod is refused", PATIENCE, || {
        let answer = space.try_apply(&pod("secure", "", "", ""));
        if answer.code == Some(0) {
            space.kubectl(&["delete", "pod", "secure", "--wait"]);
        }
        (answer.code == Some(1)).then_some(answer)
    });
    for word in ["NET_ADMIN", "baseline", "lacewing.dev/inject: disabled"] {
        assert!(answer.err.contains(word), "{answer:?}");
    }
}

#[test]
fn what_is_left_alone_starts_as_it_is_and_an_event_says_why() {
    let space = Space::meshed("left-alone");
    let foreign = r#", {"name": "istio-proxy", "image": "localhost/peers:test", "imagePullPolicy": "IfNotPresent",
                       "command": ["sleep", "86400"]}"#;
    let cases = [
        ("host", pod("host", "", r#""hostNetwork": true,"#, ""), Some("host network")),
        ("foreign", pod("foreign", "", "", foreign), Some("istio-proxy")),
        ("unwilling", pod("unwilling", r#""lacewing.dev/inject": "disabled""#, "", ""), None),
    ];
    for (name, manifest, said) in cases {
        space.apply(&manifest);
        space.wait_for("Ready", &format!("pod/{name}"));
        let pod = space.get(&["pod", name]);
        assert!(pod["spec"]["initContainers"].is_null(), "{name} is meshed");
        let events = || {
            let about = format!("involvedObject.name={name}");
            let events = space.get(&["events", "--field-selector", &about]);
            events["items"].as_array().unwrap().iter().map(|event| event["message"].to_string()).collect::<Vec<_>>()
        };
        match said {
            Some(said) => await_some("an Event says why", PATIENCE, || {
                events().iter().any(|message| message.contains(said)).then_some(())
            }),
            None => assert!(!events().iter().any(|message| message.contains("lacewing")), "{:?}", events()),
        }
    }
}

const OURS: [&str; 2] = ["lacewing-init", "lacewing-proxy"];

/// By name: what is in them is renewed, such as the roots to trust.
fn init_containers(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["initContainers"].as_array().expect("init containers").iter();
    containers.filter_map(|container| container["name"].as_str()).collect()
}

#[test]
fn an_injected_pod_is_not_injected_again() {
    let space = Space::meshed("twice");
    space.apply(&pod("once", "", "", ""));
    space.wait_for("Ready", "pod/once");
    let mut once = space.get(&["pod", "once"]);
    assert_eq!(init_containers(&once), OURS);
    // As somebody does it who copies a pod: what the server has filled in stays.
    once["metadata"]["name"] = "twice".into();
    for server in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
        once["metadata"].as_object_mut().unwrap().remove(server);
    }
    once.as_object_mut().unwrap().remove("status");
    space.apply(&once.to_string());
    let twice = space.get(&["pod", "twice"]);
    assert_eq!(init_containers(&twice), OURS);
    space.wait_for("Ready", "pod/twice");
}

#[test]
fn who_may_not_look_is_told_what_is_missing() {
    for arguments in [&["stat", "deploy", "-A"][..], &["check"], &["identity", "-A"]] {
        let nobody = run_mesh(&[arguments, &["--as", "nobody"]].concat(), "");
        assert!(!matches!(nobody.code, Some(0) | None), "{arguments:?}: {nobody:?}");
        let said = format!("{}{}", nobody.out, nobody.err);
        assert!(said.contains("nobody") && said.to_lowercase().contains("forbidden"), "{arguments:?}: {nobody:?}");
    }
}

#[test]
fn manifests_that_cannot_be_injected_are_named_and_nothing_is_written() {
    let cases = [
        ("broken YAML", "kind: Pod\n  metadata: [", "standard input:2: "),
        ("no kind", "metadata: {name: x}\n", "kind"),
        ("a bad value", &pod("x", r#""config.lacewing.dev/inbound": "closed""#, "", ""), "config.lacewing.dev/inbound"),
    ];
    for (what, input, said) in cases {
        let answer = run_mesh(&["inject", "-"], input);
        assert!(matches!(answer.code, Some(1 | 2)), "{what}: {answer:?}");
        assert!(answer.err.contains(said), "{what}: {answer:?}");
        assert!(answer.out.is_empty(), "{what}: {answer:?}");
    }
}

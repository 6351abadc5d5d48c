//! Golden pods (`golden/NAME.yaml` in, `golden/NAME.out.yaml` out; `LACEWING_GOLDEN_ACCEPT=1` writes them anew), and what
//! holds for every one of them: the patch leads to the pod, again changes nothing, and removal gives the pod back.

use std::{collections::BTreeMap, fs, path::PathBuf};

use lacewing_crds::labels::InboundMode;
use serde_json::json;

use super::*;

fn mesh() -> Mesh {
    Mesh {
        settings: r#"{"image":"ghcr.io/lacewing/proxy:test","annotations":{"proxy-log-level":"warn"},
            "resources":{"requests":{"cpu":"10m","memory":"16Mi"},"limits":{"memory":"128Mi"}}}"#
            .parse()
            .unwrap(),
        bundle: "THE ROOTS IN PEM\n".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        namespace: "lacewing".to_owned(),
    }
}

fn enabled() -> Value {
    json!({"metadata": {"annotations": {labels::INJECT: "enabled"}}, "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

/// Merges `more` into the pod `into`, lists and all.
fn with(mut into: Value, more: Value) -> Value {
    fn merge(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(into), Value::Object(more)) => {
                more.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, more) => *into = more,
        }
    }
    merge(&mut into, more);
    into
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn in_namespace(pod: &Value, annotations: &[(&str, &str)], labels: &[(&str, &str)]) -> Outcome {
    let (annotations, labels) = (map(annotations), map(labels));
    inject(pod, Surroundings { annotations: &annotations, labels: &labels }, &mesh())
}

fn injected(pod: &Value) -> Injected {
    match in_namespace(pod, &[], &[]) {
        Outcome::Injected(injected) => injected,
        other => panic!("{other:?}"),
    }
}

fn refusal(pod: &Value) -> String {
    match in_namespace(pod, &[], &[]) {
        Outcome::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

/// The value of a variable of the proxy.
fn variable(pod: &Value, name: &str) -> Option<String> {
    let environment = pod["spec"]["initContainers"][1]["env"].as_array()?;
    let found = environment.iter().find(|variable| variable["name"] == name)?;
    found["value"].as_str().map(str::to_owned)
}

/// Lists and maps that are empty or `null` count as absent.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), without_empty(value)));
            Value::Object(kept.filter(|(_, value)| !matches!(value, Value::Null)).collect())
        }
        Value::Array(list) if list.is_empty() => Value::Null,
        Value::Array(list) => list.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

#[derive(serde::Deserialize)]
struct Golden {
    /// Annotations and labels of the Namespace.
    #[serde(default)]
    namespace: BTreeMap<String, BTreeMap<String, String>>,
    pod: Value,
}

#[test]
fn golden_pods() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/inject/golden");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !file.to_string_lossy().ends_with(".out.yaml"));
    files.sort();
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let Golden { namespace, pod } = serde_yaml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let part = |name: &str| namespace.get(name).cloned().unwrap_or_default();
        let (annotations, labels) = (part("annotations"), part("labels"));
        let surroundings = Surroundings { annotations: &annotations, labels: &labels };
        let outcome = inject(&pod, surroundings, &mesh());
        if let Outcome::Injected(injected) = &outcome {
            holds_for_all(&pod, injected, surroundings);
        }
        let shown = match outcome {
            Outcome::Injected(Injected { pod, warnings, .. }) => json!({ "injected": pod, "warnings": warnings }),
            Outcome::Skipped(skip) => json!({ "skipped": skip.to_string() }),
            Outcome::Refused(why) => json!({ "refused": why }),
        };
        let expected = file.with_extension("out.yaml");
        if std::env::var_os("LACEWING_GOLDEN_ACCEPT").is_some() {
            fs::write(&expected, serde_yaml::to_string(&shown).unwrap()).unwrap();
        }
        let golden: Value = serde_yaml::from_str(&fs::read_to_string(&expected).unwrap()).unwrap();
        assert_eq!(shown, golden, "{}: LACEWING_GOLDEN_ACCEPT=1 writes it anew", expected.display());
    }
}

fn holds_for_all(before: &Value, injected: &Injected, surroundings: Surroundings<'_>) {
    let mut patched = before.clone();
    json_patch::patch(&mut patched, &injected.patch).unwrap();
    assert_eq!(patched, injected.pod, "the patch leads to the pod");
    let again = inject(&injected.pod, surroundings, &mesh());
    assert_eq!(again, Outcome::Skipped(Skip::AlreadyInjected), "the same however often");
    let mut edit = Edit::new(injected.pod.clone());
    removal::remove(&mut edit).unwrap();
    let (mut after, _) = edit.finish();
    if before["metadata"]["annotations"].get("config.lacewing.dev/skip-inbound-ports").is_none() {
        let annotations = after["metadata"]["annotations"].as_object_mut();
        annotations.map(|annotations| annotations.remove("config.lacewing.dev/skip-inbound-ports"));
    }
    let without = |pod: &Value| {
        let mut pod = without_empty(pod);
        if pod["metadata"]["annotations"] == json!({}) {
            pod["metadata"].as_object_mut().map(|metadata| metadata.remove("annotations"));
        }
        pod
    };
    assert_eq!(without(&after), without(before), "removal gives the pod back");
}

#[test]
fn the_pod_wins_over_its_namespace() {
    let pod = |wish: Option<&str>| match wish {
        Some(wish) => with(enabled(), json!({"metadata": {"annotations": {labels::INJECT: wish}}})),
        None => json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}}),
    };
    for (own, inherited, expected) in [
        (None, None, "not_wanted"),
        (None, Some("enabled"), "injected"),
        (None, Some("disabled"), "disabled"),
        (Some("enabled"), Some("disabled"), "injected"),
        (Some("disabled"), Some("enabled"), "disabled"),
        (Some("enabled"), Some("nonsense"), "injected"),
        (None, Some("nonsense"), "refused"),
        (Some("true"), None, "refused"),
        (Some("ingress"), None, "refused"),
    ] {
        let annotations: Vec<_> = inherited.iter().map(|value| (labels::INJECT, *value)).collect();
        let word = match in_namespace(&pod(own), &annotations, &[]) {
            Outcome::Injected(_) => "injected",
            Outcome::Skipped(skip) => skip.word(),
            Outcome::Refused(_) => "refused",
        };
        assert_eq!(word, expected, "{own:?} {inherited:?}");
    }
}

#[test]
fn settings_come_from_chart_namespace_and_pod_in_this_order() {
    let pod = with(enabled(), json!({"metadata": {"annotations": {"config.lacewing.dev/proxy-cpu-limit": "2"}}}));
    let namespace = [
        ("config.lacewing.dev/proxy-cpu-limit", "1"),
        ("config.lacewing.dev/proxy-memory-limit", "64Mi"),
        ("config.lacewing.dev/skip-inbound-ports", "25, 8000-8100"),
        ("config.lacewing.dev/proxy-workers", "2"),
    ];
    let Outcome::Injected(Injected { pod, .. }) = in_namespace(&pod, &namespace, &[]) else { panic!() };
    let [init, proxy] = [0, 1].map(|at| &pod["spec"]["initContainers"][at]);
    assert_eq!(proxy["resources"]["limits"], json!({"cpu": "2", "memory": "64Mi"}));
    assert_eq!(proxy["resources"]["requests"], json!({"cpu": "10m", "memory": "16Mi"}));
    assert_eq!(proxy["resources"], init["resources"]);
    assert_eq!(variable(&pod, "LACEWING_LOG").as_deref(), Some("warn"));
    assert_eq!(variable(&pod, "LACEWING_WORKERS").as_deref(), Some("2"));
    assert_eq!(init["env"], json!([{"name": "LACEWING_SKIP_INBOUND_PORTS", "value": "25,8000-8100"}]));
    let written = &pod["metadata"]["annotations"]["config.lacewing.dev/skip-inbound-ports"];
    assert_eq!(written, "25, 8000-8100", "the controller reads it there");
}

#[test]
fn the_drain_fits_into_the_grace() {
    for (grace, period, drain) in [
        (None, None, "28000ms"),
        (Some(60), None, "58000ms"),
        (Some(1_000), None, "120000ms"),
        (Some(0), None, "0ms"),
        (Some(60), Some("5s"), "5000ms"),
        (Some(10), Some("5m"), "8000ms"),
    ] {
        let mut pod = enabled();
        pod["spec"]["terminationGracePeriodSeconds"] = json!(grace);
        if let Some(period) = period {
            pod["metadata"]["annotations"]["config.lacewing.dev/shutdown-grace-period"] = json!(period);
        }
        let drained = variable(&injected(&pod).pod, "LACEWING_DRAIN_TIMEOUT");
        assert_eq!(drained.as_deref(), Some(drain), "{grace:?} {period:?}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_the_cause_and_the_way_out() {
    let annotated = |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}});
    let containers = |container: Value| json!({"spec": {"containers": [container]}});
    for (more, parts) in [
        (
            annotated("config.lacewing.dev/skip-inbound-ports", "http"),
            ["skip-inbound-ports", "\"http\"", "25,8000-8100"],
        ),
        (annotated("config.lacewing.dev/opaque-ports", "25"), ["opaque-ports", "not honoured", "appProtocol"]),
        (annotated("config.lacewing.dev/skip-inbound-port", "25"), ["skip-inbound-port\"", "did you mean", "ports?"]),
        (annotated("lacewing.dev/injekt", "enabled"), ["injekt", "did you mean", "lacewing.dev/inject"]),
        (
            annotated("lacewing.dev/rotate", "1"),
            ["lacewing.dev/rotate", "no annotation", "; docs/injection.md lists those"],
        ),
        (
            annotated("config.lacewing.dev/bogus", "1"),
            ["config.lacewing.dev/bogus", "no", "; docs/injection.md lists those"],
        ),
        (
            annotated("lacewing.dev/proxy-image", "x"),
            ["proxy-image", "did you mean", "config.lacewing.dev/proxy-image?"],
        ),
        (annotated("lacewing.dev/proxy-address", "10.0.0.1:4143"), ["proxy-address", "not redirected", "redirects"]),
        (containers(json!({"name": "a", "securityContext": {"runAsUser": 2102}})), ["\"a\"", "2102", "choose another"]),
        (json!({"spec": {"securityContext": {"runAsUser": 2102}}}), ["\"app\"", "2102", "choose another"]),
        (containers(json!({"name": "a", "ports": [{"containerPort": 4191}]})), ["\"a\"", "4191", "choose another"]),
        (json!({"spec": {"containers": "none"}}), ["no pod", "invalid type", "string"]),
    ] {
        let why = refusal(&with(enabled(), more));
        assert!(parts.iter().all(|part| why.contains(part)), "{parts:?} in {why}");
    }
    let both = with(
        annotated("config.lacewing.dev/proxy-cpu-limit", "many"),
        annotated("config.lacewing.dev/proxy-memory-limit", "128m"),
    );
    let why = refusal(&with(enabled(), both));
    assert!(why.contains("proxy-cpu-limit") && why.contains("proxy-memory-limit"), "all at once: {why}");
    let crowded = with(
        annotated("config.lacewing.dev/proxy-cpu-limit", "1500m"),
        annotated("config.lacewing.dev/proxy-workers", "3"),
    );
    assert!(refusal(&with(enabled(), crowded)).contains("3 threads need as many processors"));
}

#[test]
fn a_wish_in_the_wrong_place_is_seen() {
    let labelled = json!({"metadata": {"labels": {labels::INJECT: "enabled"}}, "spec": {"containers": []}});
    assert!(refusal(&labelled).contains("write it as an annotation"));
    let misspelt =
        json!({"metadata": {"annotations": {"lacewing.dev/injected": "enabled"}}, "spec": {"containers": []}});
    assert!(refusal(&misspelt).contains("did you mean lacewing.dev/inject?"));
}

#[test]
fn pod_security_that_forbids_the_init_step_is_named() {
    for (level, refused) in [("baseline", true), ("restricted", true), ("privileged", false)] {
        match in_namespace(&enabled(), &[], &[(labels::POD_SECURITY, level)]) {
            Outcome::Refused(why) if refused => {
                let parts = [level, labels::POD_SECURITY, "NET_ADMIN", "enforce privileged", "disabled"];
                assert!(parts.iter().all(|part| why.contains(part)), "{parts:?} in {why}");
            }
            Outcome::Injected(_) if !refused => {}
            other => panic!("{level}: {other:?}"),
        }
    }
}

/// The rules of the Pod Security level `restricted` that concern a container.
#[test]
fn the_proxy_is_restricted_and_only_the_init_step_has_net_admin() {
    let pod = injected(&enabled()).pod;
    let [init, proxy] = [0, 1].map(|at| &pod["spec"]["initContainers"][at]);
    let context = &proxy["securityContext"];
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!((&context["runAsNonRoot"], &context["runAsUser"]), (&json!(true), &json!(2102)));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!((&context["privileged"], &context["readOnlyRootFilesystem"]), (&json!(false), &json!(true)));
    assert!(proxy["ports"][0].get("hostPort").is_none());
    for volume in pod["spec"]["volumes"].as_array().unwrap() {
        assert!(volume.get("projected").or(volume.get("emptyDir")).is_some(), "{volume}");
    }
    assert_eq!(init["securityContext"]["capabilities"], json!({"add": ["NET_ADMIN"], "drop": ["ALL"]}));
    assert_eq!(init["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!((&init["restartPolicy"], &proxy["restartPolicy"]), (&Value::Null, &json!("Always")));
}

#[test]
fn probes_keep_their_meaning() {
    let probe = |more: Value| {
        json!({"spec": {"containers": [with(json!({"name": "app", "ports": [
        {"containerPort": 8080, "name": "http"}, {"containerPort": 9000, "name": "grpc"}]}), more)]}})
    };
    let none = (None, None);
    let through = |text: &'static str| (Some(text), None);
    let dialled = |text: &'static str| (None, Some(text));
    for (more, expected) in [
        (json!({}), none),
        (json!({"readinessProbe": {"httpGet": {"port": "http", "path": "/ready"}}}), through("8080/ready")),
        (json!({"readinessProbe": {"httpGet": {"port": 8080}}}), through("8080/")),
        (json!({"readinessProbe": {"httpGet": {"port": "8081", "path": "a b?c=d$#e"}}}), through("8081/a%20b?c=d$$")),
        (json!({"livenessProbe": {"httpGet": {"port": 8080, "scheme": "HTTPS"}}}), through("8080:tls")),
        (json!({"livenessProbe": {"httpGet": {"port": 8080, "host": "10.0.0.1"}}}), none),
        (json!({"livenessProbe": {"httpGet": {"port": "gone"}}}), none),
        (json!({"livenessProbe": {"exec": {"command": ["true"]}}}), none),
        (json!({"startupProbe": {"grpc": {"port": 9000}}}), through("9000/grpc.health.v1.Health/Check")),
        (json!({"lifecycle": {"preStop": {"httpGet": {"port": "http", "path": "/bye"}}}}), through("8080/bye")),
        (json!({"livenessProbe": {"tcpSocket": {"port": "http"}}}), dialled("8080=900ms")),
        (
            json!({"livenessProbe": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 3}, "readinessProbe": {"tcpSocket": {"port": 5432}}}),
            dialled("5432=2900ms"),
        ),
        (json!({"livenessProbe": {"tcpSocket": {"port": 5432, "host": "10.0.0.1"}}}), none),
    ] {
        let pod = injected(&with(enabled(), probe(more.clone()))).pod;
        let told = (variable(&pod, "LACEWING_PROBES"), variable(&pod, "LACEWING_TCP_PROBES"));
        assert_eq!((told.0.as_deref(), told.1.as_deref()), expected, "{more}");
    }
    let pod = injected(&with(
        enabled(),
        probe(json!({"livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 7}})),
    ));
    let written = json!({"httpGet": {"path": "/probe/8080?port=http", "port": 4191}, "periodSeconds": 7});
    assert_eq!(pod.pod["spec"]["containers"][0]["livenessProbe"], written);
    let nameless = probe(json!({"livenessProbe": {"tcpSocket": {"port": "gone"}}}));
    let pod = injected(&with(enabled(), nameless));
    assert!(pod.warnings[0].contains("\"gone\"") && pod.warnings[0].contains("livenessProbe"), "{:?}", pod.warnings);
    assert_eq!(pod.pod["spec"]["containers"][0]["livenessProbe"]["tcpSocket"]["port"], "gone", "left as it is");
}

#[test]
fn a_pod_without_the_clusters_dns_is_warned_of() {
    for (policy, warned) in [("ClusterFirst", false), ("Default", true), ("None", true)] {
        let Injected { pod, warnings, .. } = injected(&with(enabled(), json!({"spec": {"dnsPolicy": policy}})));
        assert_eq!(warnings.iter().any(|warning| warning.contains("lacewing-controller.lacewing.svc has")), warned);
        let controller = variable(&pod, "LACEWING_CONTROLLER_ADDR");
        assert_eq!(controller.as_deref(), Some("lacewing-controller.lacewing.svc:8080"));
    }
}

#[test]
fn the_charts_values_are_checked() {
    for (json, part) in [
        ("{}", "missing field `image`"),
        (r#"{"image":"a b"}"#, "proxy-image"),
        (r#"{"image":"a","colour":"red"}"#, "colour"),
        (r#"{"image":"a","imagePullPolicy":"Sometimes"}"#, "Always, IfNotPresent or Never"),
        (r#"{"image":"a","annotations":{"skip-subnets":"10.1.2.3/8"}}"#, "skip-subnets"),
        (r#"{"image":"a","annotations":{"opaque-ports":"25"}}"#, "not honoured"),
        (r#"{"image":"a","annotations":{"inbound":"closed"}}"#, "permissive or strict"),
    ] {
        let error = json.parse::<ProxySettings>().unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let strict: ProxySettings = r#"{"image":"a","annotations":{"inbound":"strict"}}"#.parse().unwrap();
    assert_eq!((strict.inbound(), ProxySettings::default().inbound()), (InboundMode::Strict, InboundMode::Permissive));
    let shown = format!("{{\"image\":{:?}}}", ProxySettings::default().image);
    assert_eq!(shown.parse(), Ok(ProxySettings::default()));
}

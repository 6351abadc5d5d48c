//! The chart as a whole: what it makes, and that nothing in it can be forgotten.

use std::{collections::BTreeSet, fs, path::PathBuf};

use k8s_openapi::{
    Resource,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        core::v1::{Namespace, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
    },
    serde::de::DeserializeOwned,
};

use lacewing_crds::labels::config;

use super::*;

/// The most that the controller may write: API group, resource, verb, and the only names if names can limit it.
const WRITES: &[(&str, &str, &str, &[&str])] = &[
    ("authentication.k8s.io", "tokenreviews", "create", &[]),
    ("", "events", "create", &[]),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "patch", &["lacewing-injector"]),
    ("", "secrets", "create", &[]),
    ("", "secrets", "update", &["lacewing-root", "lacewing-previous-roots"]),
    ("coordination.k8s.io", "leases", "create", &[]),
    ("coordination.k8s.io", "leases", "update", &["lacewing-controller"]),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/lacewing")
}

fn everything() -> Value {
    json!({
        "createNamespace": true, "givenValues": "{}", "imagePullSecrets": [{ "name": "registry" }],
        "controller": { "replicas": 3, "priorityClassName": "system-cluster-critical" },
        "podMonitor": { "enabled": true, "labels": { "release": "x" } },
    })
}

fn objects(given: Value) -> Vec<Value> {
    let rendered = render(given).unwrap_or_else(|error| panic!("{error}"));
    let documents = rendered.manifests.split("---\n").filter(|text| !text.is_empty());
    documents.map(|text| values::read(text).unwrap_or_else(|why| panic!("{why}: {text}"))).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Reads an object as Kubernetes would, with no field that it does not know.
fn known_to_kubernetes<T: Resource + DeserializeOwned>(object: &Value) -> T {
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!(T::KIND), &json!(T::API_VERSION)));
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    let read = read.unwrap_or_else(|error| panic!("{error}: {object}"));
    assert_eq!(unknown, Vec::<String>::new(), "{} has fields that Kubernetes does not know", T::KIND);
    read
}

#[test]
fn every_file_of_the_chart_is_carried() {
    let entries = fs::read_dir(folder().join("templates")).expect("templates");
    let there: BTreeSet<String> =
        entries.map(|entry| format!("templates/{}", entry.expect("an entry").file_name().display())).collect();
    let carried = TEMPLATES.iter().chain([&NOTES]).map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(there, carried);
}

#[test]
fn the_chart_is_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = embedded("Chart.yaml", CHART).expect("a chart");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    let values = embedded("values.yaml", VALUES).expect("values");
    for part in ["controller", "proxy"] {
        let image = format!("ghcr.io/lacewing/{part}:{version}");
        assert_eq!(values[part]["image"], json!(image));
        assert!(chart["annotations"]["artifacthub.io/images"].as_str().is_some_and(|images| images.contains(&image)));
    }
}

#[test]
fn a_default_install_is_nine_objects() {
    let objects = objects(json!({ "createNamespace": true }));
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(
        kinds,
        [
            "Namespace",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "Service",
            "Deployment",
            "MutatingWebhookConfiguration",
        ]
    );
}

#[test]
fn every_object_is_known_to_kubernetes_and_has_the_labels() {
    let cluster_wide = ["Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"];
    for given in [json!({}), everything()] {
        for object in objects(given) {
            let kind = object["kind"].as_str().expect("a kind");
            match kind {
                "Namespace" => _ = known_to_kubernetes::<Namespace>(&object),
                "ServiceAccount" => _ = known_to_kubernetes::<ServiceAccount>(&object),
                "ClusterRole" => _ = known_to_kubernetes::<ClusterRole>(&object),
                "ClusterRoleBinding" => _ = known_to_kubernetes::<ClusterRoleBinding>(&object),
                "Role" => _ = known_to_kubernetes::<Role>(&object),
                "RoleBinding" => _ = known_to_kubernetes::<RoleBinding>(&object),
                "Service" => _ = known_to_kubernetes::<Service>(&object),
                "Deployment" => _ = known_to_kubernetes::<Deployment>(&object),
                "MutatingWebhookConfiguration" => _ = known_to_kubernetes::<MutatingWebhookConfiguration>(&object),
                "PodDisruptionBudget" => _ = known_to_kubernetes::<PodDisruptionBudget>(&object),
                "PodMonitor" => {}
                _ => panic!("{kind} is new here"),
            }
            let labels = &object["metadata"]["labels"];
            for label in ["name", "instance", "version", "component", "part-of"] {
                assert!(labels[format!("app.kubernetes.io/{label}")].is_string(), "{kind}: {label}");
            }
            let namespace = object["metadata"]["namespace"].as_str();
            assert_eq!(namespace, (!cluster_wide.contains(&kind)).then_some(RELEASE), "{kind}");
        }
    }
}

#[test]
fn the_same_values_make_the_same_bytes() {
    let [first, second] = [render(everything()), render(everything())].map(|rendered| rendered.expect("it renders"));
    assert_eq!((first.manifests, first.notes), (second.manifests, second.notes));
    for text in TEMPLATES.iter().map(|(_, text)| text) {
        for word in ["rand", "now", "lookup", "helm.sh/hook", "genCA", "genSelfSigned", "uuid"] {
            let used = text.split(|c: char| !c.is_alphanumeric() && c != '.' && c != '/').any(|found| found == word);
            assert!(!used, "{word} makes other bytes each time");
        }
    }
}

fn rules<T: DeserializeOwned>(objects: &[Value], kind: &str) -> T {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "one {kind}");
    serde_json::from_value(found[0]["rules"].clone()).expect("rules")
}

#[test]
fn rights_are_exactly_those_that_are_used() {
    let objects = objects(everything());
    let everywhere: Vec<PolicyRule> = rules(&objects, "ClusterRole");
    let own: Vec<PolicyRule> = rules(&objects, "Role");
    for rule in everywhere.iter().chain(&own) {
        let groups = rule.api_groups.as_ref().expect("groups");
        let resources = rule.resources.as_ref().expect("resources");
        let names: BTreeSet<&str> = rule.resource_names.iter().flatten().map(String::as_str).collect();
        assert!(rule.non_resource_urls.is_none());
        for (group, resource, verb) in groups.iter().flat_map(|group| {
            resources.iter().flat_map(move |resource| rule.verbs.iter().map(move |verb| (group, resource, verb)))
        }) {
            assert!(![group, resource, verb].iter().any(|word| word.contains('*')), "{rule:?}");
            if ["get", "list", "watch"].contains(&verb.as_str()) {
                continue;
            }
            let allowed =
                WRITES.iter().find(|(g, r, v, _)| (g, r, v) == (&group.as_str(), &resource.as_str(), &verb.as_str()));
            let (.., only) = allowed.unwrap_or_else(|| panic!("{group}/{resource} {verb} is not on the list"));
            assert_eq!(names, only.iter().copied().collect(), "{group}/{resource} {verb}");
        }
    }
    let resources = |rules: &[PolicyRule]| {
        rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert!(!resources(&everywhere).contains(&"secrets".to_owned()), "Secrets are those of its own namespace");
    assert!(own.iter().all(|rule| !rule.verbs.iter().any(|verb| verb == "list" || verb == "watch")), "by name only");
    for (binding, role) in [("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")] {
        let found = of_kind(&objects, binding);
        assert_eq!(found[0]["roleRef"]["kind"], role);
        assert_eq!(
            found[0]["subjects"],
            json!([{ "kind": "ServiceAccount", "name": "lacewing-controller", "namespace": "lacewing" }])
        );
    }
}

#[test]
fn the_controller_is_restricted_and_confined() {
    let objects = objects(json!({}));
    let deployment: Deployment = known_to_kubernetes(of_kind(&objects, "Deployment")[0]);
    let pod = deployment.spec.and_then(|spec| spec.template.spec).expect("a pod");
    let security = pod.security_context.expect("a security context");
    assert_eq!(security.run_as_non_root, Some(true));
    assert_eq!(security.seccomp_profile.map(|profile| profile.type_).as_deref(), Some("RuntimeDefault"));
    assert_eq!((pod.containers.len(), pod.init_containers, pod.volumes), (1, None, None));
    let security = pod.containers[0].security_context.clone().expect("a security context");
    assert_eq!((security.allow_privilege_escalation, security.read_only_root_filesystem), (Some(false), Some(true)));
    let capabilities = security.capabilities.expect("capabilities");
    assert_eq!((capabilities.drop, capabilities.add), (Some(vec!["ALL".to_owned()]), None));
    let ports = pod.containers[0].ports.iter().flatten().map(|port| (port.name.as_deref(), port.container_port));
    assert_eq!(ports.collect::<Vec<_>>(), [(Some("grpc"), 8080), (Some("webhook"), 8443), (Some("admin"), 9990)]);
}

#[test]
fn more_than_one_controller_is_highly_available() {
    let one = objects(json!({}));
    assert_eq!(of_kind(&one, "PodDisruptionBudget").len(), 0);
    let three = objects(json!({ "controller": { "replicas": 3 } }));
    assert_eq!(of_kind(&three, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"], json!(1));
    for (objects, replicas, affinity) in [(&one, 1, false), (&three, 3, true)] {
        let spec = &of_kind(objects, "Deployment")[0]["spec"];
        assert_eq!(
            (&spec["replicas"], &spec["strategy"]["rollingUpdate"]["maxUnavailable"]),
            (&json!(replicas), &json!(0))
        );
        let apart = &spec["template"]["spec"]["affinity"]["podAntiAffinity"];
        // One node must be able to take them all.
        assert!(apart["requiredDuringSchedulingIgnoredDuringExecution"].is_null());
        let wishes = apart["preferredDuringSchedulingIgnoredDuringExecution"].as_array();
        let wishes: Vec<_> =
            wishes.into_iter().flatten().map(|wish| (&wish["weight"], &wish["podAffinityTerm"])).collect();
        let keys: Vec<_> = wishes.iter().map(|(weight, term)| (*weight, &term["topologyKey"])).collect();
        let expected =
            [(json!(100), json!("kubernetes.io/hostname")), (json!(50), json!("topology.kubernetes.io/zone"))];
        assert_eq!(keys == expected.each_ref().map(|(weight, key)| (weight, key)), affinity, "{keys:?}");
    }
    let notes = |given| render(given).expect("it renders").notes;
    assert!(notes(json!({})).contains("new pods are not meshed"));
    assert!(notes(json!({ "injector": { "failurePolicy": "Fail" } })).contains("new pods are refused"));
    assert!(!notes(json!({ "controller": { "replicas": 3 } })).contains("One controller"));
}

#[test]
fn the_webhook_is_gentle_by_default() {
    for (given, policy, namespaces) in [
        (json!({}), "Ignore", vec!["lacewing", "kube-system"]),
        (json!({ "injector": { "failurePolicy": "Fail", "ignoredNamespaces": [] } }), "Fail", vec!["lacewing"]),
    ] {
        let objects = objects(given);
        let webhook = &of_kind(&objects, "MutatingWebhookConfiguration")[0]["webhooks"][0];
        assert_eq!(webhook["failurePolicy"], policy);
        assert_eq!(webhook["clientConfig"]["caBundle"], Value::Null, "the controller writes it");
        let expressions = webhook["namespaceSelector"]["matchExpressions"].as_array().expect("expressions");
        let excluded = expressions.iter().flat_map(|e| e["values"].as_array().into_iter().flatten());
        assert_eq!(excluded.filter_map(Value::as_str).collect::<Vec<_>>(), namespaces);
    }
}

#[test]
fn what_the_controller_reads_survives_the_way() {
    let annotations = json!({ "skip-outbound-ports": "25,8000-8100", "proxy-log-level": "warn" });
    let objects = objects(json!({ "proxy": { "annotations": annotations, "resources": { "limits": { "cpu": 1 } } } }));
    let env = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["env"];
    let text =
        env.as_array().into_iter().flatten().find(|entry| entry["name"] == "LACEWING_PROXY").expect("LACEWING_PROXY");
    let read: Value = serde_json::from_str(text["value"].as_str().expect("a text")).expect("JSON");
    let image = format!("ghcr.io/lacewing/proxy:{}", env!("CARGO_PKG_VERSION"));
    let expected = json!({
        "image": image, "imagePullPolicy": "IfNotPresent", "annotations": annotations,
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "cpu": 1, "memory": "250Mi" } },
    });
    assert_eq!(read, expected);
}

#[test]
fn bad_values_are_all_told() {
    let given =
        json!({ "proxy": { "imag": "x", "image": null }, "controller": { "replicas": "3" }, "podMonitors": {} });
    let Err(ChartError::Values(found)) = render(given) else { panic!("refused") };
    for (part, meant) in [
        ("proxy.imag: there is no such value", "did you mean image?"),
        ("proxy.image: it must have a value", ""),
        ("controller.replicas: \"3\" is not a whole number", ""),
        ("podMonitors: there is no such value", "did you mean podMonitor?"),
    ] {
        assert!(found.iter().any(|what| what.starts_with(part) && what.contains(meant)), "{part}: {found:?}");
    }
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn what_the_controller_would_refuse_is_refused_at_once() {
    for (given, part) in [
        (json!({ "leafLifetime": "1m" }), "leafLifetime: a certificate lives from 2m to 720h"),
        (json!({ "leafLifetime": "soon" }), "leafLifetime: \"soon\" does not match pattern '^[0-9]+(ms|s|m|h)$': "),
        (json!({ "trustDomain": "Cluster.Local" }), "trustDomain: "),
        (json!({ "proxy": { "annotations": { "skip-inbound-ports": "many" } } }), "docs/injection.md"),
        (json!({ "proxy": { "image": "a b" } }), "proxy.image: \"a b\" does not match pattern"),
        (
            json!({ "controller": { "resources": { "limits": { "memory": "64 Mi" } } } }),
            "[KMGTPE]i)?$': An amount as Kubernetes writes it, such as 100m or 64Mi.",
        ),
    ] {
        match render(given) {
            Err(ChartError::Values(found)) => assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}"),
            other => panic!("{part}: {other:?}"),
        }
    }
}

#[test]
fn the_schema_has_the_settings_of_the_table() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let there = &schema["properties"]["proxy"]["properties"]["annotations"]["properties"];
    let there: BTreeSet<&str> = there.as_object().expect("a map").keys().map(String::as_str).collect();
    assert_eq!(there, config::SETTINGS.iter().map(config::Setting::suffix).collect());
}

/// Every map in a schema says what else may be in it.
fn closed(rules: &Value, path: &str) {
    if rules["type"] == "object" {
        assert!(!rules["additionalProperties"].is_null(), "{path} takes anything");
    }
    match rules {
        Value::Object(map) => map.iter().for_each(|(key, rules)| closed(rules, &format!("{path}/{key}"))),
        Value::Array(list) => list.iter().for_each(|rules| closed(rules, path)),
        _ => {}
    }
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    closed(&schema, "");
    let values = embedded("values.yaml", VALUES).expect("values");
    assert_eq!(schema::violations(&schema, &values), Vec::<String>::new());
    let names = |map: &Value| map.as_object().map(|map| map.keys().cloned().collect::<BTreeSet<_>>());
    assert_eq!(names(&values), names(&schema["properties"]));
    for part in ["controller", "injector", "proxy", "podMonitor"] {
        assert_eq!(names(&values[part]), names(&schema["properties"][part]["properties"]), "{part}");
    }
}

/// The rows of the table in docs/install.md: each value that has a `# --` comment, its default, and the comment.
fn table() -> Vec<String> {
    let values = embedded("values.yaml", VALUES).expect("values");
    let (mut rows, mut parents, mut words) = (Vec::new(), Vec::<&str>::new(), Vec::<&str>::new());
    for line in VALUES.lines() {
        let text = line.trim_start();
        if let Some(first) = text.strip_prefix("# -- ") {
            words = vec![first];
        } else if let Some(more) = text.strip_prefix("# ").filter(|_| !words.is_empty()) {
            words.push(more);
        } else if let Some((key, _)) = text.split_once(':') {
            parents.truncate((line.len() - text.len()) / 2);
            parents.push(key);
            if !words.is_empty() {
                let default = values.pointer(&format!("/{}", parents.join("/"))).expect("a value");
                rows.push(format!("| `{}` | `{default}` | {} |", parents.join("."), words.join(" ")));
                words.clear();
            }
        }
    }
    rows
}

#[test]
fn the_page_for_users_lists_every_value() {
    let page = fs::read_to_string(folder().join("../../docs/install.md")).expect("docs/install.md");
    let (_, page) = page.split_once("\n## Values\n").expect("a section");
    let section = page.lines().take_while(|line| !line.starts_with("## "));
    let there: Vec<&str> = section.filter(|line| line.starts_with("| `")).collect();
    let table = table();
    assert_eq!(there, table, "docs/install.md needs this table:\n{}", table.join("\n"));
    let leaves = |map: &Value| map.as_object().map_or(1, serde_json::Map::len);
    let values = embedded("values.yaml", VALUES).expect("values");
    let parts = ["controller", "injector", "proxy", "podMonitor"];
    let all: usize = values
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, map)| if parts.contains(&key.as_str()) { leaves(map) } else { 1 })
        .sum();
    assert_eq!(table.len(), all, "a value without a `# --` comment");
}

//! Manifests of every kind go in; what comes out, what is said and the exit code are looked at. Injecting and uninjecting
//! gives the same objects.

use std::{fs, path::PathBuf};

use super::*;
use crate::{
    cluster::Flags,
    demo::state::{Layout, tests::Scratch},
    output::{Printer, tests::Captured},
};

/// What was printed, what was said, and how it failed if it did.
struct Ran {
    out: String,
    said: String,
    failure: Option<Failure>,
}

fn run_with(act: impl FnOnce(&mut Context) -> Result<Exit, Failure>) -> Ran {
    let (out, err) = (Captured::default(), Captured::default());
    let mut printer = Printer::to(Box::new(out.clone()), Box::new(err.clone()));
    let layout = Layout::new(Some(PathBuf::from("/nowhere")), |_| None);
    let mut context = Context { layout, dir_asked: false, flags: Flags::default(), now: 0, printer: &mut printer };
    let failure = act(&mut context).err();
    Ran { out: out.text(), said: err.text(), failure }
}

fn inject_text(text: &str, manual: bool, config: &[(&str, &str)]) -> Ran {
    let scratch = Scratch::new("inject");
    let file = scratch.join("in.yaml");
    fs::write(&file, text).expect("write");
    let roots = scratch.join("roots.pem");
    fs::write(&roots, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n").expect("write");
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let options = Inject { files: vec![file], config, manual, trust_bundle: manual.then_some(roots) };
    run_with(|context| inject(context, &options))
}

fn uninject_text(text: &str) -> Ran {
    let scratch = Scratch::new("inject");
    let file = scratch.join("in.yaml");
    fs::write(&file, text).expect("write");
    run_with(|context| uninject(context, &Uninject { files: vec![file] }))
}

fn values(text: &str) -> Vec<Value> {
    manifest::parse("text", text).map(|all| all.iter().map(|one| one.root.value()).collect()).expect("YAML")
}

const WORKLOADS: &str = "\
# kept, since nothing is done here
apiVersion: v1
kind: Service
metadata: {name: web}   # as it is
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers:
      - name: web
        image: nginx
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {tcpSocket: {port: http}}
      volumes:
      - name: conf
        configMap: {name: conf, defaultMode: 0644} # as it is
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report}
spec:
  schedule: '0 * * * *'
  jobTemplate: {spec: {template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec: {containers: [{name: a, image: a}]}
---
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: db}
  spec: {template: {metadata: {annotations: {x: why}}, spec: {containers: [{name: db, image: db}]}}}
- apiVersion: apps/v1
  kind: DaemonSet
  metadata: {name: agent}
  spec: {template: {spec: {hostNetwork: yes, containers: [{name: a, image: a}]}}}
";

#[test]
fn every_kind_is_marked_where_its_pods_are_and_each_object_has_its_line() {
    let ran = inject_text(WORKLOADS, false, &[("proxy-cpu-limit", "1")]);
    assert!(ran.failure.is_none(), "{:?}", ran.failure);
    let said: Vec<&str> = ran.said.lines().collect();
    assert_eq!(
        said[..5],
        [
            "service \"web\" skipped: it makes no pods",
            "deployment \"web\" injected",
            "cronjob \"report\" injected",
            "pod \"one\" injected",
            "statefulset \"db\" injected",
        ]
    );
    assert!(said[5].starts_with("daemonset \"agent\" skipped: it is on the host network"), "{}", said[5]);
    assert!(ran.out.starts_with("# kept, since nothing is done here\napiVersion: v1\n"), "{}", ran.out);
    assert!(ran.out.contains("metadata: {name: web}   # as it is\n---\n"), "{}", ran.out);
    // What is put in has the style of its surroundings.
    let block =
        "defaultMode: 0644} # as it is\n    metadata:\n      annotations:\n        lacewing.dev/inject: enabled\n";
    assert!(ran.out.contains(block), "{}", ran.out);
    let flow = "metadata: {name: one, annotations: {lacewing.dev/inject: enabled, config.lacewing.dev/proxy-cpu-limit: \"1\"}}\n";
    assert!(ran.out.contains(flow), "{}", ran.out);
    let out = values(&ran.out);
    let marked = |template: &Value| {
        let annotations = &template["metadata"]["annotations"];
        annotations["lacewing.dev/inject"] == "enabled" && annotations["config.lacewing.dev/proxy-cpu-limit"] == "1"
    };
    assert!(marked(&out[1]["spec"]["template"]) && marked(&out[2]["spec"]["jobTemplate"]["spec"]["template"]));
    assert!(marked(&out[3]) && marked(&out[4]["items"][0]["spec"]["template"]));
    assert!(!marked(&out[4]["items"][1]["spec"]["template"]));
    let again = inject_text(&ran.out, false, &[("proxy-cpu-limit", "1")]);
    assert!(again.said.contains("deployment \"web\" skipped: it is marked already"), "{}", again.said);
    assert_eq!(again.out, ran.out);
}

#[test]
fn uninject_gives_back_what_was_injected() {
    for manual in [false, true] {
        let injected = inject_text(WORKLOADS, manual, &[("skip-inbound-ports", "25")]);
        assert!(injected.failure.is_none(), "{:?}", injected.failure);
        assert_eq!(injected.out.contains("lacewing-proxy"), manual);
        let back = uninject_text(&injected.out);
        assert!(back.said.contains("deployment \"web\" uninjected"), "{}", back.said);
        assert!(back.said.contains("service \"web\" skipped"), "{}", back.said);
        let mut expected = values(WORKLOADS);
        // A template without metadata has an empty one then.
        expected[1]["spec"]["template"]["metadata"] = json!({});
        let mut found = values(&back.out);
        for value in [&mut found[1]["spec"]["template"], &mut expected[1]["spec"]["template"]] {
            value.as_object_mut().map(|map| map.remove("metadata"));
        }
        assert_eq!(found, expected, "{manual}");
    }
}

#[test]
fn comments_stay_and_uninject_gives_back_the_very_text() {
    let text = "\
# The shop's door.
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2           # for now
  template:
    metadata:
      labels: {app: web}
      # annotations come here
    spec:
      # the app itself
      containers:
        - name: web
          image: \"nginx:1.27\"    # pinned
          command: ['sh', \"-c\", run]

# the end
";
    let injected = inject_text(text, false, &[]).out;
    let added = "      labels: {app: web}\n      annotations:\n        lacewing.dev/inject: enabled\n";
    assert_eq!(injected, text.replace("      labels: {app: web}\n", added));
    assert_eq!(uninject_text(&injected).out, text);
    let manual = inject_text(text, true, &[]).out;
    assert!(text.lines().filter(|line| line.contains('#')).all(|line| manual.contains(line)), "{manual}");
    let json = "{\n  \"kind\": \"Pod\",\n  \"spec\": {\"containers\": [{\"name\": \"a\"}]}\n}\n";
    let added = "]}, \"metadata\": {\"annotations\": {\"lacewing.dev/inject\": \"enabled\"}}\n";
    assert_eq!(inject_text(json, false, &[]).out, json.replace("]}\n", added));
}

#[test]
fn nothing_empty_is_left_where_injection_had_made_a_map() {
    let deployment = |template: &str| {
        format!(
            "kind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n{template}    spec:\n      containers:\n      - name: a\n"
        )
    };
    let json = "{\"kind\": \"Pod\", \"spec\": {\"containers\": [{\"name\": \"a\"}]}}\n";
    let labelled = deployment("    metadata:\n      labels:\n        app: web\n");
    let indented =
        "{\n  \"kind\": \"Pod\",\n  \"spec\": {\n    \"containers\": [\n      {\"name\": \"a\"}\n    ]\n  }\n}\n";
    for text in [&deployment(""), &labelled, json, indented] {
        for manual in [false, true] {
            let injected = inject_text(text, manual, &[("proxy-workers", "2")]).out;
            assert!(injected.contains("annotations"), "{injected}");
            assert_eq!(values(&uninject_text(&injected).out), values(text), "{injected}");
        }
        assert_eq!(uninject_text(&inject_text(text, false, &[]).out).out, text);
    }
    let empty = deployment("    metadata: {}\n");
    assert!(uninject_text(&empty).said.contains("nothing of the mesh"), "somebody else's empty map stays");
}

#[test]
fn manual_writes_what_the_webhook_would() {
    let ran = inject_text(WORKLOADS, true, &[]);
    let out = values(&ran.out);
    let spec = &out[1]["spec"]["template"]["spec"];
    assert_eq!(spec["initContainers"][0]["name"], "lacewing-init");
    assert_eq!(spec["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(spec["containers"][0]["readinessProbe"]["httpGet"]["path"], "/probe/8080?port=http");
    let again = inject_text(&ran.out, true, &[]);
    assert!(again.said.contains("deployment \"web\" skipped: it has its proxy already"), "{}", again.said);
}

#[test]
fn namespaces_are_annotated_and_forbidding_ones_are_warned_of() {
    let ran = inject_text("kind: Namespace\napiVersion: v1\nmetadata:\n  name: shop\n", false, &[]);
    assert_eq!(ran.said, "namespace \"shop\" annotated\n");
    assert!(ran.out.ends_with("  annotations:\n    lacewing.dev/inject: enabled\n"), "{}", ran.out);
    let labelled = "kind: Namespace\nmetadata: {name: shop, labels: {pod-security.kubernetes.io/enforce: baseline}}\n";
    let ran = inject_text(labelled, false, &[]);
    assert!(ran.said.contains("warning: namespace \"shop\"") && ran.said.contains("baseline"), "{}", ran.said);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_nothing_is_printed() {
    let pod = |more: &str| format!("kind: Pod\nmetadata: {{name: a{more}}}\nspec: {{containers: [{{name: a}}]}}\n");
    let good = pod("");
    for (text, parts) in [
        (format!("{good}---\nkind: [\n"), vec!["in.yaml:", "nothing was printed"]),
        (format!("{good}---\nname: x\n"), vec!["in.yaml:4", "`kind` is missing"]),
        (
            format!("{good}---\n{}", pod(", annotations: {config.lacewing.dev/proxy-workers: many}")),
            vec!["in.yaml:4", "pod \"a\"", "proxy-workers", "\"many\"", "from 1 to 64"],
        ),
        (
            pod(", annotations: {lacewing.dev/inject: ingress}")
                .replace("ingress", "enabled, config.lacewing.dev/opaque-ports: '1'"),
            vec!["not honoured", "appProtocol"],
        ),
        (
            pod(", annotations: {lacewing.dev/inject: 'false'}"),
            vec!["in.yaml:1", "lacewing.dev/inject", "\"false\"", "enabled, disabled or ingress"],
        ),
        (pod(", annotations: {lacewing.dev/inject: ingress}"), vec!["in.yaml:1", "ingress is not there yet"]),
        (
            "kind: Namespace\nmetadata: {name: a, annotations: {lacewing.dev/inject: disable}}\n".to_owned(),
            vec!["in.yaml:1", "\"disable\""],
        ),
        ("kind: Deployment\nmetadata: {name: x}\nspec: {}\n".to_owned(), vec!["spec.template is missing"]),
        ("kind: Pod\n".to_owned(), vec!["in.yaml:1: pod: spec.containers is missing"]),
        ("name: x\n".to_owned(), vec!["in.yaml:1: this is no Kubernetes object"]),
        ("kind: Job\nspec: {template: {spec: {}}}\n".to_owned(), vec!["job: spec.template.spec.containers is missing"]),
    ] {
        let ran = inject_text(&text, false, &[]);
        let failure = ran.failure.expect("it fails");
        assert_eq!(failure.exit(), Exit::Error);
        let said = failure.to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!((ran.out.as_str(), ran.said.as_str()), ("", ""), "nothing half done: {text}");
    }
    let usage = inject_text(&good, false, &[("proxy-cpu-limit", "many")]).failure.expect("it fails");
    assert!(usage.exit() == Exit::Usage && usage.to_string().contains("100m or 0.5"), "{usage}");
}

#[test]
fn where_there_is_nothing_that_is_said() {
    for text in ["", "# only this\n", "---\n---\n", "kind: List\nitems: []\n"] {
        for ran in [inject_text(text, false, &[]), uninject_text(text)] {
            let failure = ran.failure.expect("it fails");
            assert_eq!((failure.exit(), ran.out.as_str()), (Exit::NoData, ""), "{text}: {failure}");
            assert!(failure.to_string().contains("no object in what was given"), "{failure}");
        }
    }
    let scratch = Scratch::new("inject-bytes");
    let file = scratch.join("a.yaml");
    fs::write(&file, b"\x7fELF\xff").expect("write");
    let ran = run_with(|context| uninject(context, &Uninject { files: vec![file] }));
    assert!(ran.failure.is_some_and(|failure| failure.to_string().ends_with("a.yaml: it is no text in UTF-8")));
}

#[test]
fn udp_foreign_sidecars_and_the_wish_to_be_left_alone() {
    let pod = |spec: &str, annotations: &str| {
        format!("kind: Pod\nmetadata: {{name: a, annotations: {{{annotations}}}}}\nspec: {{containers: [{spec}]}}\n")
    };
    for (text, part) in [
        (
            pod("{name: dns, ports: [{containerPort: 53, protocol: UDP}]}", ""),
            "warning: pod \"a\": UDP port 53 of container \"dns\"",
        ),
        (pod("{name: a}, {name: istio-proxy}", ""), "skipped: it has the sidecar of another mesh: istio-proxy"),
        (pod("{name: a}", "lacewing.dev/inject: disabled"), "skipped: lacewing.dev/inject: disabled"),
    ] {
        let ran = inject_text(&text, false, &[]);
        assert!(ran.failure.is_none() && ran.said.contains(part), "{}", ran.said);
    }
    let unwilling = "kind: Namespace\nmetadata: {name: a, annotations: {lacewing.dev/inject: disabled}}\n";
    let ran = inject_text(unwilling, false, &[]);
    assert_eq!(
        (ran.out.as_str(), ran.said.as_str()),
        (unwilling, "namespace \"a\" skipped: lacewing.dev/inject: disabled\n")
    );
    let kept = uninject_text(&pod("{name: a}", "lacewing.dev/inject: disabled"));
    assert!(kept.said.contains("nothing of the mesh"), "{}", kept.said);
}

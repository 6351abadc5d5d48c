//! `mesh install` beside Helm itself: for the same values the same objects, byte for byte, and the same refusals. Helm comes
//! from somebody else's npm package (`tests/run` unpacks it); LACEWING_TEST_HELM names it, and a test without it fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use lacewing_tests::demo::mesh;
use serde_json::{Value, json};

/// What was typed, and the values that it means.
type Case = (&'static [&'static str], fn() -> Value);

const CASES: &[Case] = &[
    (&[], || json!({})),
    (&["--set", "controller.replicas=3"], || json!({ "controller": { "replicas": 3 } })),
    (
        &["--set", "podMonitor.enabled=true,podMonitor.labels.release=x"],
        || json!({ "podMonitor": { "enabled": true, "labels": { "release": "x" } } }),
    ),
    (
        &["--set", "controller.nodeSelector.a\\.b/c=d\\,e"],
        || json!({ "controller": { "nodeSelector": { "a.b/c": "d,e" } } }),
    ),
    (&["--set", "controller.resources.limits=null"], || json!({ "controller": { "resources": { "limits": null } } })),
    (
        &["--set", "injector.ignoredNamespaces={a,b},injector.failurePolicy=Fail,injector.timeoutSeconds=30"],
        || json!({ "injector": { "ignoredNamespaces": ["a", "b"], "failurePolicy": "Fail", "timeoutSeconds": 30 } }),
    ),
    (
        &["--set", "imagePullSecrets[0].name=one,imagePullSecrets[1].name=two"],
        || json!({ "imagePullSecrets": [{ "name": "one" }, { "name": "two" }] }),
    ),
    (
        &["--set-string", "proxy.annotations.skip-inbound-ports=25", "--set", "proxy.resources.limits.cpu=1"],
        || json!({ "proxy": { "annotations": { "skip-inbound-ports": "25" }, "resources": { "limits": { "cpu": 1 } } } }),
    ),
    (
        &["--set", "controller.nodeSelector.q=<a>&\"b\" 'c'=\\\\ {{ .Values }}"],
        || json!({ "controller": { "nodeSelector": { "q": "<a>&\"b\" 'c'=\\ {{ .Values }}" } } }),
    ),
    (&["--set", "controller.nodeSelector.é=😀"], || json!({ "controller": { "nodeSelector": { "é": "😀" } } })),
    (
        &["--set", "controller.replicas=2", "--set", "controller.replicas=+4", "--set", "createNamespace=TRUE"],
        || json!({ "controller": { "replicas": 4 }, "createNamespace": true }),
    ),
    // What the schema's patterns take at their edges.
    (
        &[
            "--set",
            concat!(
                "controller.resources.limits.cpu=0.5,controller.resources.limits.memory=1.5Gi,",
                "controller.resources.requests.cpu=.5,controller.resources.requests.memory=1e3,proxy.resources.limits.cpu=0,",
                "proxy.resources.limits.memory=12E-2,proxy.resources.limits.ephemeral-storage=1.k,leafLifetime=720h,",
                "podMonitor.interval=1m30s,trustDomain=a-b_c.9,proxy.image=localhost:5000/a_b/c@sha256:0a"
            ),
        ],
        || {
            let (limits, requests) =
                (json!({ "cpu": "0.5", "memory": "1.5Gi" }), json!({ "cpu": ".5", "memory": "1e3" }));
            let proxy = json!({ "limits": { "cpu": 0, "memory": "12E-2", "ephemeral-storage": "1.k" } });
            json!({
                "controller": { "resources": { "limits": limits, "requests": requests } }, "leafLifetime": "720h",
                "podMonitor": { "interval": "1m30s" }, "trustDomain": "a-b_c.9",
                "proxy": { "resources": proxy, "image": "localhost:5000/a_b/c@sha256:0a" },
            })
        },
    ),
    (&["-f", "FILE", "--set", "controller.tolerations[0].operator=Exists"], || {
        json!({
            "trustDomain": "example.org", "controller": { "logLevel": "debug", "tolerations": [{ "key": "a", "operator": "Exists" }] },
        })
    }),
];
const FILE: &str =
    "# mine\ntrustDomain: example.org\ncontroller:\n  logLevel: \"debug\"\n  tolerations:\n    - {key: a}\n";

/// What both refuse.
const REFUSED: &[&str] = &[
    "typo=1",
    "proxy.typo=1",
    "controller.resources.typo.cpu=1",
    "controller.resources.limits.typo=1",
    "imagePullSecrets[0].typo=x",
    "controller.tolerations[0].typo=x",
    "proxy.annotations.typo=x",
    "controller.replicas=0",
    "controller.replicas=1.5",
    "controller.replicas=null",
    "controller.nodeSelector.a=1",
    "injector.failurePolicy=fail",
    "injector.timeoutSeconds=31",
    "createNamespace=yes",
    "controller=5",
    "proxy.image=",
    "proxy.image=a b",
    "proxy.image=a\n",
    "controller.image=-x",
    "controller.resources.limits.memory=64 Mi",
    "controller.resources.limits.memory=64mi",
    "controller.resources.limits.memory=Mi",
    "controller.resources.limits.memory=64Mi\n",
    "controller.resources.limits.cpu=-1",
    "proxy.resources.requests.cpu=1.2.3",
    "proxy.resources.requests.cpu=1e",
    "proxy.resources.requests.cpu=.",
    "leafLifetime=soon",
    "leafLifetime=24",
    "leafLifetime=1.5h",
    "leafLifetime=1h30m",
    "leafLifetime=1d",
    "podMonitor.interval=10",
    "podMonitor.interval=30s1m",
    "trustDomain=Cluster.Local",
    "trustDomain=",
];

fn helm(arguments: &[&str]) -> Output {
    let helm = std::env::var_os("LACEWING_TEST_HELM").expect("LACEWING_TEST_HELM names Helm (tests/run unpacks one)");
    // No file of the user's, and no cluster, has a say.
    let mut command = Command::new(helm);
    command.env_clear().env("HOME", "/nowhere").env("KUBECONFIG", "/nowhere/config").args(arguments);
    command.output().expect("Helm runs")
}

fn run_mesh(arguments: &[&str]) -> Output {
    Command::new(mesh()).env("KUBECONFIG", "/nowhere").args(arguments).output().expect("mesh runs")
}

fn chart() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    root.join("charts/lacewing").display().to_string()
}

/// A file that goes when it is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lacewing-it-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("write");
        Self(path)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The documents in an order of their own, without what Helm says about their source.
fn documents(text: &str) -> Vec<String> {
    let lines = |document: &str| {
        let kept = document.trim().lines().filter(|line| !line.starts_with("# Source: "));
        kept.fold(String::new(), |all, line| all + line + "\n")
    };
    let mut all: Vec<String> =
        format!("\n{text}").split("\n---\n").map(lines).filter(|text| !text.is_empty()).collect();
    all.sort_unstable();
    all
}

#[test]
fn the_same_values_make_the_same_objects() {
    let file = Temporary::new("values.yaml", FILE);
    for (number, (typed, given)) in CASES.iter().enumerate() {
        let path = file.path();
        let typed: Vec<&str> = typed.iter().map(|word| if *word == "FILE" { path.as_str() } else { word }).collect();
        let given = given();
        let ours = run_mesh(&[&["install"], &typed[..]].concat());
        // What `mesh install` gives itself: the namespace, and the values, which it keeps.
        let kept = if given == json!({}) { String::new() } else { given.to_string() };
        let own = json!({ "createNamespace": true, "givenValues": kept });
        let own = Temporary::new(&format!("own-{number}.json"), &own.to_string());
        let template = ["template", "lacewing", &chart(), "-n", "lacewing", "-f", &own.path()];
        let theirs = helm(&[&template[..], &typed[..]].concat());
        let (ours, theirs) = (documents(&good(&ours)), documents(&good(&theirs)));
        assert_eq!(ours.len(), theirs.len(), "{typed:?}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{typed:?}");
        }
    }
}

#[test]
fn the_same_values_are_refused() {
    for set in REFUSED {
        let ours = run_mesh(&["install", "--set", set]);
        assert_eq!((ours.status.code(), ours.stdout.as_slice()), (Some(2), &b""[..]), "{set}");
        let path = set.split(['=', '[', '.']).next().unwrap_or_default();
        let said = String::from_utf8_lossy(&ours.stderr).into_owned();
        assert!(said.contains(path), "{set}: {said}");
        let theirs = helm(&["template", "lacewing", &chart(), "-n", "lacewing", "--set", set]);
        assert!(!theirs.status.success(), "{set}");
        let told = String::from_utf8_lossy(&theirs.stderr).to_lowercase();
        assert_eq!(
            said.contains("does not match pattern"),
            told.contains("does not match pattern"),
            "{set}: {said} {told}"
        );
    }
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let lint = helm(&["lint", "--strict", &chart(), "-n", "lacewing"]);
    assert!(good(&lint).contains("0 chart(s) failed"));
    let elsewhere = helm(&["template", "lacewing", &chart(), "-n", "default"]);
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(!elsewhere.status.success() && said.contains("--namespace lacewing --create-namespace"), "{said}");
}

#[test]
fn both_say_what_to_do_next() {
    let notes = good(&helm(&["install", "lacewing", &chart(), "-n", "lacewing", "--dry-run=client"]));
    let (_, notes) = notes.split_once("NOTES:\n").expect("notes");
    let ours = String::from_utf8(run_mesh(&["install"]).stderr).expect("text");
    assert_eq!(ours.trim_end(), notes.trim_end());
    assert!(ours.contains("mesh check"));
}

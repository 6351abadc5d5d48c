//! The whole of `mesh check` against an API server of canned answers: looks, order and exit codes.

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::{
    cli::{Cli, Command},
    cluster::tests::{Fake, status},
    demo::state::tests::Scratch,
};

fn options(line: &str) -> cli::Check {
    let Command::Check(options) = Cli::try_parse_from(line.split_whitespace()).expect(line).command else {
        panic!("{line}")
    };
    options
}

fn printer() -> Printer {
    Printer::to(Box::new(std::io::sink()), Box::new(std::io::sink()))
}

async fn look(answers: Vec<(&str, u16, Value)>, line: &str) -> (Found, Exit) {
    let scratch = Scratch::new("check");
    let fake = Fake::start(answers);
    let cluster = Cluster::connect(&fake.flags(&scratch)).await.expect("a cluster");
    let options = options(line);
    // 2026-11-22 12:00:00 UTC, as the server says.
    let typed = Typed::cluster(&[("--context", "dev".to_owned())]);
    let look = Look { cluster, namespace: None, options: &options, now: 1_795_348_800, typed };
    let found = look.all(|_| Ok(())).await.expect("found");
    let exit = exit(&found, &options);
    (found, exit)
}

fn version() -> (&'static str, u16, Value) {
    ("GET /version", 200, json!({ "gitVersion": "v1.34.4" }))
}

fn nothing() -> Vec<(&'static str, u16, Value)> {
    let empty = || json!({ "items": [] });
    vec![
        version(),
        ("GET /api/v1/nodes", 200, empty()),
        ("GET /apis/networking.k8s.io/v1/networkpolicies", 200, empty()),
        ("GET /api/v1/pods", 200, empty()),
        ("GET /api/v1/namespaces", 200, empty()),
        ("GET /api/v1/events", 200, empty()),
        ("GET /api/v1/namespaces/lacewing/pods", 200, empty()),
    ]
}

fn names(found: &Found) -> Vec<&str> {
    found.categories.iter().map(|category| category.name).collect()
}

#[tokio::test]
async fn where_nothing_is_installed_that_is_what_is_said() {
    let (found, exit) = look(nothing(), "mesh check").await;
    assert_eq!((names(&found), exit), (vec!["kubernetes", "install"], Exit::NotInstalled));
    let shown = whole(&printer(), &found.categories, CheckFormat::Short);
    let golden = "x install: the controller is installed\n    \
                  there is no Deployment lacewing-controller in namespace lacewing\n    \
                  fix: install it: `mesh --context dev install | kubectl --context dev apply -f -`\n";
    assert_eq!(shown, golden);
    assert_eq!(verdict(&printer(), &found.categories), "x 1 error, 0 warnings");
}

#[tokio::test]
async fn while_it_waits_what_is_well_takes_a_line() {
    let (found, _) = look(nothing(), "mesh check").await;
    let wrong = "x install: the controller is installed\n    \
                 there is no Deployment lacewing-controller in namespace lacewing\n    \
                 fix: install it: `mesh --context dev install | kubectl --context dev apply -f -`\n";
    let left = Some(Duration::from_millis(61_400));
    let picture = format!("x 1 error, 0 warnings; looking again, 1m1s left\n\n+ kubernetes (3)\n{wrong}");
    assert_eq!(checklist(&printer(), &found.categories, left), picture);
    assert_eq!(checklist(&printer(), &found.categories[..1], None), "looking ...\n\n+ kubernetes (3)\n");
}

#[tokio::test]
async fn before_an_installation_only_what_it_needs_is_checked() {
    let (found, exit) = look(nothing(), "mesh check --pre").await;
    assert_eq!((names(&found), exit), (vec!["kubernetes", "before the installation", "environment"], Exit::Ok));
    assert_eq!(
        worst(&found.categories),
        Outcome::Success,
        "{}",
        whole(&printer(), &found.categories, CheckFormat::Table)
    );
    let mut poor = nothing();
    poor.push(("deny clusterroles", 0, Value::Null));
    let (found, exit) = look(poor, "mesh check --pre -o json").await;
    assert_eq!(exit, Exit::CheckErrors);
    let document: Value = serde_json::from_str(&json(&found.categories)).expect("JSON");
    assert_eq!((document["success"].as_bool(), document["schema_version"].as_u64()), (Some(false), Some(1)));
    let check = &document["categories"][1]["checks"][1];
    assert_eq!(check["result"], "error");
    assert!(check["message"].as_str().is_some_and(|words| words.contains("clusterroles")), "{check}");
    assert!(check["fix"].as_str().is_some_and(|words| words.contains("kubectl --context dev auth can-i")), "{check}");
}

#[tokio::test]
async fn warnings_count_when_they_are_asked_for_and_waiting_ends() {
    let mut taken = nothing();
    taken.push(("GET /api/v1/namespaces/lacewing", 200, json!({ "metadata": { "name": "lacewing" } })));
    assert_eq!(look(taken.clone(), "mesh check --pre").await.1, Exit::Ok);
    assert_eq!(look(taken, "mesh check --pre --fail-on=warning").await.1, Exit::CheckWarnings);
    assert_eq!(look(nothing(), "mesh check --wait 1s").await.1, Exit::Timeout);
}

#[tokio::test]
async fn a_server_that_refuses_is_all_there_is_to_say() {
    let refusal = status(401, "Unauthorized", "Unauthorized");
    let (found, exit) = look(vec![("GET /version", 401, refusal)], "mesh check --proxy").await;
    assert_eq!((names(&found), exit), (vec!["kubernetes"], Exit::CheckErrors));
    let shown = whole(&printer(), &found.categories, CheckFormat::Table);
    assert!(
        shown.starts_with("kubernetes\n----------\nx the API server of context dev")
            && shown.contains("kubectl --context dev auth whoami"),
        "{shown}"
    );
}

#[tokio::test]
async fn without_rights_what_cannot_be_known_is_no_success() {
    let forbidden = || status(403, "Forbidden", "forbidden");
    let answers = vec![
        version(),
        ("GET /apis/apps/v1/namespaces/lacewing/deployments/lacewing-controller", 403, forbidden()),
        ("GET /api/v1/nodes", 403, forbidden()),
        ("GET /api/v1/pods", 403, forbidden()),
        ("GET /api/v1/namespaces/lacewing/secrets/lacewing-root", 403, forbidden()),
        ("GET /api/v1/namespaces", 403, forbidden()),
        ("GET /api/v1/namespaces/kube-system/configmaps/cilium-config", 403, forbidden()),
        ("GET /apis/networking.k8s.io/v1/networkpolicies", 403, forbidden()),
    ];
    let (found, exit) = look(answers, "mesh check").await;
    assert_eq!((worst(&found.categories), exit), (Outcome::Error, Exit::CheckErrors));
    let shown = whole(&printer(), &found.categories, CheckFormat::Short);
    assert!(
        shown.contains("you may not list nodes") && shown.contains("kubectl --context dev auth can-i list nodes"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_named() {
    let scratch = Scratch::new("check-namespace");
    let fake = Fake::start(nothing());
    let cluster = Cluster::connect(&fake.flags(&scratch)).await.expect("a cluster");
    let checks = injection::judge(&injection::gather(&cluster, Some("nope")).await);
    crate::check::tests::one_is(&checks, Outcome::Error, &["there is no namespace \"nope\"", "kubectl get namespaces"]);
}

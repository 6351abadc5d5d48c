//! A controller on an API server (the double of `lacewing_tests::api`): lists, watches, bad days, tokens.

use lacewing_crds::{Kind, Name};
use lacewing_tests::api::{Api, Token};
use serde_json::{Value, json};

use super::*;
use crate::inject::settings::ProxySettings;

const NAMESPACE: &str = "emojivoto";

#[allow(clippy::needless_pass_by_value, reason = "reads well where it is called")]
fn pod(name: &str, more: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "app", "image": "x"}]}});
    pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    pod
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]}})
}

fn path(pod: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}")
}

/// An API server at which the webhook is registered.
fn installed() -> Api {
    let api = Api::start();
    api.put(&json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "lacewing-injector"}, "webhooks": [{"name": "inject.lacewing.dev"}]}));
    api
}

/// A controller that reads `api`; it need not be ready.
async fn controller(api: &Api) -> Controller {
    with(api, "controller-1", ProxySettings::default()).await
}

/// The same, as that pod, with these values of the chart.
async fn with(api: &Api, pod: &str, proxy: ProxySettings) -> Controller {
    let temp = TempDir::new();
    let kubeconfig = temp.0.join("kubeconfig");
    fs::write(&kubeconfig, api.kubeconfig()).unwrap();
    let mut config = config(&temp.0);
    config.source = config::Source::Kubernetes(config::Kubernetes {
        kubeconfig: Some(kubeconfig),
        namespace: "lacewing".into(),
        pod_name: pod.into(),
        webhook_addr: "127.0.0.1:0".parse().unwrap(),
        proxy,
    });
    Controller::of(temp, config).await
}

async fn ready(controller: &Controller) {
    until("ready", async || controller.admin("/ready").await.starts_with("HTTP/1.1 200")).await;
}

/// Waits until it is so.
async fn until(what: &str, look: impl AsyncFn() -> bool) {
    let looking = async {
        while !look().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn there(controller: &Controller, pod: &str) -> bool {
    controller.publisher.with_world(|world| world.pod(&Name::new(NAMESPACE, pod)).is_some())
}

fn lists(api: &Api, of: &str) -> usize {
    let start = format!("GET /api/v1/{of}?");
    api.requests().iter().filter(|request| request.starts_with(&start) && request.contains("limit=")).count()
}

#[tokio::test]
async fn a_cluster_is_read_by_pages_and_followed() {
    let api = installed();
    for n in 0..600 {
        api.put(&service(&format!("service-{n}")));
    }
    api.put(&pod("one", json!({})));
    api.put(&pod("over", json!({"status": {"phase": "Succeeded"}})));
    let controller = controller(&api).await;
    ready(&controller).await;
    let count = |kind| controller.publisher.with_world(|world| world.count(kind));
    assert_eq!((count(Kind::Service), count(Kind::Pod), lists(&api, "services")), (600, 1, 3));

    api.put(&pod("two", json!({})));
    until("a new pod", async || there(&controller, "two")).await;
    api.delete(&path("one"));
    until("a pod that is gone", async || !there(&controller, "one")).await;
    // One that has finished leaves the selection.
    api.put(&pod("two", json!({"status": {"phase": "Failed"}})));
    until("a pod that has finished", async || !there(&controller, "two")).await;
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_was_and_an_old_one_is_read_anew() {
    let api = installed();
    for n in ["one", "two"] {
        api.put(&pod(n, json!({})));
    }
    let controller = controller(&api).await;
    ready(&controller).await;
    api.bookmark();
    api.cut();
    api.put(&pod("three", json!({})));
    until("what happened in between", async || there(&controller, "three")).await;
    assert_eq!(lists(&api, "pods"), 1, "no second list");

    api.away(true);
    api.delete(&path("one"));
    api.compact();
    api.away(false);
    until("what was deleted meanwhile", async || !there(&controller, "one")).await;
    assert!(there(&controller, "two") && lists(&api, "pods") > 1, "{:?}", api.requests());
    ready(&controller).await;
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for_and_nothing_is_forgotten() {
    let api = installed();
    api.put(&pod("one", json!({})));
    api.away(true);
    let controller = controller(&api).await;
    until("the reason", async || {
        let why = controller.admin("/ready").await;
        why.starts_with("HTTP/1.1 503") && why.contains("cannot reach the API server")
    })
    .await;
    assert!(controller.admin("/live").await.starts_with("HTTP/1.1 200"));
    api.away(false);
    ready(&controller).await;

    api.away(true);
    until("an error that says so", async || controller.admin("/errors").await.contains("stays in force")).await;
    assert!(there(&controller, "one") && controller.admin("/ready").await.starts_with("HTTP/1.1 200"));
    api.put(&pod("two", json!({})));
    api.away(false);
    until("the change", async || there(&controller, "two")).await;
    until("no such error", async || !controller.admin("/errors").await.contains("stays in force")).await;
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_and_nothing_is_answered_without() {
    let api = installed();
    api.refuse("/api/v1/pods", 403);
    let controller = controller(&api).await;
    until("the reason", async || {
        let why = controller.admin("/ready").await;
        why.contains("every Pod: the API server answers 403") && why.contains("refused on demand")
    })
    .await;
    api.refuse("/api/v1/pods", 0);
    ready(&controller).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_shown_and_stops_nobody() {
    let api = installed();
    let bad = |name| pod(name, json!({"status": {"podIP": "nowhere"}}));
    api.put(&bad("one"));
    api.put(&pod("two", json!({})));
    let controller = controller(&api).await;
    ready(&controller).await;
    assert!(there(&controller, "two"));
    until("the error", async || controller.admin("/errors").await.contains("Pod emojivoto/one")).await;
    api.put(&bad("three"));
    api.put(&pod("one", json!({})));
    until("both changes", async || {
        let errors = controller.admin("/errors").await;
        there(&controller, "one") && errors.contains("Pod emojivoto/three") && !errors.contains("Pod emojivoto/one")
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_given_for_a_pods_token_that_the_api_server_knows() {
    let api = installed();
    let token = |audience: &str, pod: &str| Token {
        username: format!("system:serviceaccount:{NAMESPACE}:web"),
        audiences: vec![audience.to_owned()],
        pod: pod.to_owned(),
    };
    api.token("good", token(AUDIENCE, "web-1"));
    api.token("other", token("https://kubernetes.default.svc", "web-1"));
    api.token("unbound", token(AUDIENCE, ""));
    let controller = controller(&api).await;
    ready(&controller).await;
    let leaf = controller.certify("good".into()).await.unwrap();
    assert!(controller.client(Some(&leaf)).await.certify(wire::CertifyRequest::default()).await.is_err());
    for (token, part) in
        [("other", "invalid for the target audiences"), ("unbound", "bound to a pod"), ("none", "invalid"), ("", "")]
    {
        let status = controller.certify(token.into()).await.unwrap_err();
        assert!(status.code() == Code::Unauthenticated && status.message().contains(part), "{token}: {status:?}");
    }
    api.refuse("/apis/authentication.k8s.io", 500);
    assert_eq!(controller.certify("good".into()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn the_chart_says_whom_pods_serve_where_nothing_is_annotated() {
    let api = installed();
    api.put(&pod("one", json!({})));
    for (values, mode) in
        [(r#"{"image":"x"}"#, "Permissive"), (r#"{"image":"x","annotations":{"inbound":"strict"}}"#, "Strict")]
    {
        let controller = with(&api, "controller-1", values.parse().unwrap()).await;
        ready(&controller).await;
        let name = Name::new(NAMESPACE, "one");
        let inbound = controller.publisher.with_world(|world| crate::policy::inbound(world, &name)).unwrap();
        assert_eq!(format!("{:?}", inbound.mode), mode, "{values}");
    }
}

async fn leads(controller: &Controller) -> bool {
    controller.admin("/metrics").await.contains("\nlacewing_controller_leading 1\n")
}

#[tokio::test]
async fn one_leads_and_when_it_stops_the_lease_is_free() {
    let api = installed();
    let holder = || {
        let lease = api.get("/apis/coordination.k8s.io/v1/namespaces/lacewing/leases/lacewing-controller").unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    };
    let mut first = controller(&api).await;
    until("it leads", async || leads(&first).await).await;
    assert_eq!(holder(), "controller-1");
    let mut second = with(&api, "controller-2", ProxySettings::default()).await;
    ready(&second).await;
    stop(&mut second).await;
    assert_eq!(holder(), "controller-1", "who never led takes nothing away");
    stop(&mut first).await;
    assert_eq!(holder(), "", "nobody has to wait until it is over");
    let third = with(&api, "controller-3", ProxySettings::default()).await;
    until("it leads at once", async || leads(&third).await).await;
    assert_eq!(holder(), "controller-3");
}

async fn stop(controller: &mut Controller) {
    controller.stop.take().unwrap().send(()).unwrap();
    timeout(PATIENCE, &mut controller.serving).await.expect("it stops in time").unwrap().unwrap();
}

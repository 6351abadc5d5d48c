//! Owns `--probe`: one real request through two proxies. Nothing is made in the cluster: the request enters the outbound
//! port of a pod that is there, by port-forward, and goes to a Service that leads to another.
//!
//! It is a `HEAD /`, which changes nothing (RFC 9110, section 9.2.1); whatever the app answers, it was reached.

use std::sync::Arc;

use super::Check;
use crate::{
    cluster::{
        ApiError, Cluster, Forward,
        objects::{EndpointSlice, Pod, Service, ServicePort},
    },
    live::{self, Answered, Way},
    mesh::Mesh,
    output::plain,
};

const OUTBOUND_PORT: u16 = 4140;
/// Label of a slice: its Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// From whom to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    /// Namespace and name of the pod whose proxy sends.
    from: (String, String),
    /// The Service as the proxies name it.
    backend: String,
    /// And as an app does.
    host: String,
}

pub enum Facts {
    /// No two meshed pods of which one serves HTTP.
    Nobody,
    Tried {
        from: String,
        to: String,
        answer: Result<Answered, String>,
        /// Whom the sending proxy expects there; none: it speaks plain text.
        identities: Vec<Option<String>>,
    },
}

/// # Errors
/// Pods, Services or slices may not be listed.
pub async fn gather(cluster: &Cluster, namespace: Option<&str>) -> Result<Facts, ApiError> {
    let scope = namespace.map_or_else(String::new, |name| format!("/namespaces/{name}"));
    let (pods, services, slices) = (
        format!("/api/v1{scope}/pods"),
        format!("/api/v1{scope}/services"),
        format!("/apis/discovery.k8s.io/v1{scope}/endpointslices"),
    );
    let (pods, services, slices) = tokio::join!(
        cluster.list::<Pod>(&pods),
        cluster.list::<Service>(&services),
        cluster.list::<EndpointSlice>(&slices)
    );
    let pods = pods?;
    let Some(route) = choose(&pods, &services?, &slices?) else { return Ok(Facts::Nobody) };
    let (namespace, name) = &route.from;
    let way = Way::Forward(Arc::new(Forward::new(cluster, namespace, name, OUTBOUND_PORT)));
    let answer = live::head(&way, &route.host).await;
    let sender = pods.iter().find(|pod| pod.namespace() == namespace && pod.name() == name);
    let sender: Vec<live::Pod> = sender.and_then(|pod| Mesh::of(cluster.clone()).pod(pod)).into_iter().collect();
    let told = live::destinations(&sender).await;
    let backends = told.into_iter().filter_map(|reading| reading.answer.ok()).flat_map(|told| told.backends);
    let endpoints = backends.filter(|backend| backend.backend == route.backend).flat_map(|backend| backend.endpoints);
    let identities = endpoints.map(|endpoint| endpoint.identity).collect();
    Ok(Facts::Tried { from: format!("{namespace}/{name}"), to: route.backend, answer, identities })
}

fn choose(pods: &[Pod], services: &[Service], slices: &[EndpointSlice]) -> Option<Route> {
    let up: Vec<&Pod> = pods.iter().filter(|pod| pod.is_meshed() && pod.is_staying() && pod.is_ready()).collect();
    for service in services {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let Some(port) = service.spec.ports.iter().find(|port| is_http(port)) else { continue };
        let own = slices.iter().filter(|slice| {
            slice.metadata.namespace.as_deref() == Some(namespace)
                && slice.metadata.label(SERVICE) == Some(&service.metadata.name)
        });
        let ready = own.flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.conditions.ready != Some(false));
        let names: Vec<&str> = ready.filter_map(|endpoint| Some(endpoint.target_ref.as_ref()?.name.as_str())).collect();
        let behind = |pod: &&Pod| pod.namespace() == namespace && names.contains(&pod.name());
        // All of them, else the request may go to one without a proxy; and one who is none of them to send it.
        if names.is_empty() || up.iter().filter(|pod| behind(pod)).count() < names.len() {
            continue;
        }
        if let Some(from) = up.iter().find(|pod| !behind(pod)) {
            let name = &service.metadata.name;
            return Some(Route {
                from: (from.namespace().to_owned(), from.name().to_owned()),
                backend: format!("{namespace}/{name}:{}", port.port),
                host: format!("{name}.{namespace}:{}", port.port),
            });
        }
    }
    None
}

fn is_http(port: &ServicePort) -> bool {
    let name = port.name.as_deref().unwrap_or_default();
    let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let declared = port.app_protocol.as_deref();
    tcp && declared
        .map_or(name == "http" || name.starts_with("http-") || port.port == 80, |protocol| protocol == "http")
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    let description = "a request goes through two proxies";
    let (from, to, answer, identities) = match facts {
        Facts::Nobody => {
            let message =
                "there is no Service for HTTP whose pods are all meshed, with another meshed pod to ask it from";
            return vec![
                Check::bad(description, message, "mesh two workloads (`kubectl annotate namespace NAMESPACE lacewing.dev/inject=enabled`), or look in all namespaces without -n").mild(),
            ];
        }
        Facts::Tried { from, to, answer, identities } => (from, to, answer, identities),
    };
    let description = format!("{description} (HEAD / from {from} to {to})");
    let look = format!("`mesh diagnostics destination {} {}`", from.rsplit('/').next().unwrap_or(from), to);
    vec![match answer {
        Err(why) => Check::bad(
            description,
            plain(why),
            "may you? `kubectl auth can-i get pods/portforward` (since Kubernetes 1.35: create)",
        ),
        Ok(Answered { error: Some(error), status }) => {
            Check::bad(description, format!("a proxy answered {status} itself: {}", plain(error)), look)
        }
        Ok(_) if identities.is_empty() => {
            Check::bad(description, "it was answered, but the proxy does not say by whom", look).mild()
        }
        Ok(_) if identities.iter().any(Option::is_none) => {
            Check::bad(description, "it was answered, but an endpoint there is spoken to in plain text", look)
        }
        Ok(Answered { status, .. }) => Check::good(format!("{description}: {status}, by mesh TLS")),
    }]
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::check::{
        Outcome::{Error, Warning},
        tests::{all_good, one_is},
    };

    fn pod(name: &str, meshed: bool) -> Pod {
        let annotations = if meshed { json!({ "lacewing.dev/proxy-version": "1" }) } else { json!({}) };
        from_value(json!({ "metadata": { "namespace": "shop", "name": name, "annotations": annotations },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } }))
        .expect("a pod")
    }

    fn service(port: &serde_json::Value) -> Service {
        from_value(json!({ "metadata": { "namespace": "shop", "name": "web" }, "spec": { "ports": [port] } }))
            .expect("a service")
    }

    fn slice(pods: &[&str]) -> EndpointSlice {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|pod| json!({ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": pod } }))
            .collect();
        from_value(json!({ "metadata": { "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } }, "endpoints": endpoints }))
            .expect("a slice")
    }

    #[test]
    fn sender_and_receiver_are_both_meshed_and_not_the_same() {
        let pods = [pod("web-1", true), pod("web-2", false), pod("ui", true)];
        let http = service(&json!({ "name": "http", "port": 8080 }));
        let route = choose(&pods, std::slice::from_ref(&http), &[slice(&["web-1"])]).expect("a route");
        assert_eq!(
            (route.from.1.as_str(), route.backend.as_str(), route.host.as_str()),
            ("ui", "shop/web:8080", "web.shop:8080")
        );
        assert_eq!(choose(&pods, std::slice::from_ref(&http), &[slice(&["web-1", "web-2"])]), None, "one has no proxy");
        assert_eq!(choose(&pods[..1], &[http], &[slice(&["web-1"])]), None, "nobody to send");
        for port in [
            json!({ "name": "grpc", "port": 80, "appProtocol": "kubernetes.io/h2c" }),
            json!({ "name": "dns", "port": 80, "protocol": "UDP" }),
        ] {
            assert_eq!(choose(&pods, &[service(&port)], &[slice(&["web-1"])]), None, "{port}");
        }
    }

    #[test]
    fn only_an_answer_over_mesh_tls_is_good() {
        let tried = |answer: Result<Answered, String>, identities: &[Option<&str>]| {
            let identities = identities.iter().map(|id| id.map(str::to_owned)).collect();
            judge(&Facts::Tried { from: "shop/ui".to_owned(), to: "shop/web:80".to_owned(), answer, identities })
        };
        let answered = |status, error: Option<&str>| Ok(Answered { status, error: error.map(str::to_owned) });
        all_good(&tried(answered(404, None), &[Some("spiffe://x/ns/shop/sa/web")]));
        one_is(
            &tried(answered(200, None), &[None]),
            Error,
            &["plain text", "mesh diagnostics destination ui shop/web:80"],
        );
        one_is(&tried(answered(503, Some("no_endpoint")), &[]), Error, &["answered 503 itself: no_endpoint"]);
        one_is(&tried(Err("forbidden".to_owned()), &[]), Error, &["forbidden", "can-i"]);
        one_is(&judge(&Facts::Nobody), Warning, &["mesh two workloads"]);
    }
}

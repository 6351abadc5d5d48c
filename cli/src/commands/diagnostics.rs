//! `mesh diagnostics`: a look inside, for when the numbers do not explain what happens.
//!
//! `endpoints` tells what Kubernetes says of a Service, `destination` what one proxy makes of it, `applied` whether the
//! proxies act on what their controllers sent. Nothing is judged here: that is `mesh check`.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{Context, block_on, identity::find};
use crate::{
    check::install::controllers,
    cli::{Diagnose, Format},
    cluster::{
        Cluster, Forward,
        objects::{EndpointSlice, Pod, Service},
    },
    failure::{Exit, Failure},
    live::{self, BackendEndpoint, Stream, Way},
    mesh::Mesh,
    output::{
        plain,
        table::{self, Column, Row, View},
        units,
    },
};

const CONTROLLER_ADMIN_PORT: u16 = 9990;
/// Most destinations that an error lists.
const LISTED_MAX: usize = 20;

pub fn run(context: &mut Context, command: &Diagnose) -> Result<Exit, Failure> {
    block_on(async {
        match command {
            Diagnose::Endpoints { service, output } => endpoints(context, service, *output).await,
            Diagnose::Destination { pod, destination, output } => {
                self::destination(context, pod, destination.as_deref(), *output).await
            }
            Diagnose::Applied { output } => applied(context, *output).await,
        }
    })
}

fn print<R: Row>(context: &mut Context, rows: &[R], output: Format) -> Result<Exit, Failure> {
    context.printer.data(&match output {
        Format::Json => table::json(rows, None),
        Format::Table => table::text(rows, View { columns: context.printer.columns(), ..View::default() }),
    })?;
    Ok(Exit::Ok)
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct EndpointRow {
    namespace: String,
    service: String,
    ip: String,
    port: Option<u16>,
    pod: Option<String>,
    ready: bool,
    /// Whether it has a proxy; none: it is no pod of this namespace.
    meshed: Option<bool>,
}

impl Row for EndpointRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE"),
        Column::text("IP"),
        Column::number("PORT"),
        Column::text("POD"),
        Column::text("SERVICE"),
        Column::text("READY"),
        Column::text("MESHED"),
    ];

    fn cells(&self, _: View) -> Vec<String> {
        let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
        let missing = || units::MISSING.to_owned();
        vec![
            self.namespace.clone(),
            self.ip.clone(),
            self.port.map_or_else(missing, |port| port.to_string()),
            self.pod.clone().unwrap_or_else(missing),
            self.service.clone(),
            yes(self.ready),
            self.meshed.map_or_else(missing, yes),
        ]
    }
}

async fn endpoints(
    context: &mut Context<'_>,
    (name, port): &(String, Option<u16>),
    output: Format,
) -> Result<Exit, Failure> {
    let cluster = Cluster::connect(&context.flags).await?;
    let scope = format!("/namespaces/{}", cluster.namespace());
    let (service, slices, pods) = (
        format!("/api/v1{scope}/services/{name}"),
        format!("/apis/discovery.k8s.io/v1{scope}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}"),
        format!("/api/v1{scope}/pods"),
    );
    let (service, slices, pods) =
        tokio::join!(cluster.find::<Service>(&service), cluster.list(&slices), cluster.list::<Pod>(&pods));
    let Some(service) = service? else {
        let what =
            format!("there is no Service {name:?} in namespace {:?} of {}", cluster.namespace(), cluster.place());
        return Err(Failure::error(what)
            .hint(format!("see those there are with `kubectl get services -n {}`", cluster.namespace())));
    };
    let rows = endpoint_rows(&service, *port, &slices?, &pods?)?;
    if rows.is_empty() {
        let what = format!("Service {name:?} has no endpoint");
        return Err(Failure::new(Exit::NoData, what).hint(format!(
            "do pods match its selector, and are they there? `kubectl describe service {name} -n {}`",
            cluster.namespace()
        )));
    }
    for note in not_carried(&service, *port) {
        context.printer.note(&note);
    }
    print(context, &rows, output)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.unwrap_or("TCP") == "TCP"
}

/// What goes past the proxies, for people.
fn not_carried(service: &Service, wanted: Option<u16>) -> Vec<String> {
    let asked = service.spec.ports.iter().filter(|port| wanted.is_none_or(|wanted| wanted == port.port));
    let others = asked.filter(|port| !is_tcp(port.protocol.as_deref()));
    let said = others.map(|port| {
        let protocol = plain(port.protocol.as_deref().unwrap_or_default());
        format!("note: port {} is {protocol}; the mesh carries TCP: it works as without, in plain text", port.port)
    });
    said.collect()
}

fn endpoint_rows(
    service: &Service,
    port: Option<u16>,
    slices: &[EndpointSlice],
    pods: &[Pod],
) -> Result<Vec<EndpointRow>, Failure> {
    // One number may stand for two ports, as with DNS: one of TCP and one of UDP.
    let asked = service.spec.ports.iter().filter(|asked| port.is_none_or(|wanted| wanted == asked.port));
    let names: Vec<&str> = asked.map(|port| port.name.as_deref().unwrap_or_default()).collect();
    if let (Some(wanted), true) = (port, names.is_empty()) {
        let ports: Vec<String> = service.spec.ports.iter().map(|port| port.port.to_string()).collect();
        return Err(Failure::error(format!("Service {} has no port {wanted}", service.metadata.name))
            .hint(format!("its ports are: {}", ports.join(", "))));
    }
    let meshed: BTreeMap<&str, bool> = pods.iter().map(|pod| (pod.name(), pod.is_meshed())).collect();
    let mut rows = Vec::new();
    for slice in slices {
        let wanted = |name: &Option<String>| port.is_none() || names.contains(&name.as_deref().unwrap_or_default());
        for number in slice.ports.iter().filter(|port| wanted(&port.name)) {
            let carried = is_tcp(number.protocol.as_deref());
            for endpoint in &slice.endpoints {
                let pod = endpoint
                    .target_ref
                    .as_ref()
                    .filter(|target| target.kind == "Pod")
                    .map(|target| target.name.clone());
                for ip in &endpoint.addresses {
                    rows.push(EndpointRow {
                        namespace: slice.metadata.namespace.clone().unwrap_or_default(),
                        service: service.metadata.name.clone(),
                        ip: ip.clone(),
                        port: number.port,
                        meshed: pod.as_deref().and_then(|pod| meshed.get(pod)).map(|meshed| *meshed && carried),
                        pod: pod.clone(),
                        ready: endpoint.conditions.ready != Some(false),
                    });
                }
            }
        }
    }
    Ok(rows)
}

#[derive(Serialize)]
struct DestinationRow {
    /// `namespace/name:port`, or an address.
    backend: String,
    #[serde(flatten)]
    endpoint: BackendEndpoint,
}

impl Row for DestinationRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("BACKEND"),
        Column::text("ADDRESS"),
        Column::text("POD"),
        Column::number("LATENCY_EWMA"),
        Column::number("IN_FLIGHT"),
        Column::text("BREAKER"),
        Column::text("IDENTITY"),
    ];

    fn cells(&self, _: View) -> Vec<String> {
        let endpoint = &self.endpoint;
        vec![
            plain(&self.backend),
            plain(&endpoint.address),
            plain(&endpoint.pod),
            units::latency(Some(endpoint.latency_ewma_ms)),
            endpoint.in_flight.to_string(),
            if endpoint.ejected { "held out" } else { "closed" }.to_owned(),
            endpoint.identity.as_deref().map_or_else(|| "none: plain text".to_owned(), plain),
        ]
    }
}

async fn destination(
    context: &mut Context<'_>,
    name: &str,
    destination: Option<&str>,
    output: Format,
) -> Result<Exit, Failure> {
    let mesh = Mesh::choose(context).await?;
    let namespace = mesh.namespace(context);
    let roll = mesh.roll(Some(&namespace), false).await?;
    let pod = find(&roll.pods, name.strip_prefix("pod/").unwrap_or(name))?.clone();
    if pod.proxy.is_none() {
        let what = format!("pod {name} has no proxy that runs");
        return Err(Failure::new(Exit::NoData, what).hint(mesh.next_when_silent()));
    }
    let mut readings = live::destinations(&[pod]).await;
    live::report_unreachable(&readings, mesh.next_when_silent(), context.printer)?;
    let Some(Ok(found)) = readings.pop().map(|reading| reading.answer) else {
        return Err(Failure::error(format!("pod {name} gave no answer")).hint(mesh.next_when_silent()));
    };
    if found.control_stream != "up" {
        let words = format!(
            "note: this proxy hears from no controller and runs on what it knew ({})",
            plain(&found.control_stream)
        );
        context.printer.note(&words);
    }
    let wanted = destination.map(|text| meanings(text, &namespace));
    let is_wanted = |backend: &str| wanted.as_ref().is_none_or(|wanted| wanted.iter().any(|name| name == backend));
    let (shown, others): (Vec<_>, Vec<_>) = found.backends.into_iter().partition(|backend| is_wanted(&backend.backend));
    if shown.is_empty() {
        let known: Vec<String> = others.iter().map(|backend| plain(&backend.backend)).take(LISTED_MAX).collect();
        let what = match destination {
            Some(text) => {
                format!("the proxy of {name} sends nothing to {text:?} now: nobody asked it to, or not lately")
            }
            None => format!("the proxy of {name} sends nothing to anybody now"),
        };
        let known = if known.is_empty() { "nowhere".to_owned() } else { known.join(", ") };
        return Err(Failure::new(Exit::NoData, what).hint(format!("it sends to: {known}")));
    }
    for why in shown.iter().filter_map(|backend| Some((&backend.backend, backend.why_no_service.as_ref()?))) {
        context.printer.note(&format!("note: {} is no Service: {}", plain(why.0), plain(why.1)));
    }
    for backend in shown.iter().filter(|backend| backend.endpoints.is_empty()) {
        context.printer.note(&format!("note: {} has no endpoint: requests to it fail", plain(&backend.backend)));
    }
    let rows = shown.into_iter().flat_map(|backend| {
        let name = backend.backend;
        backend.endpoints.into_iter().map(move |endpoint| DestinationRow { backend: name.clone(), endpoint })
    });
    print(context, &rows.collect::<Vec<_>>(), output)
}

/// The backends that `text` may mean to an app in `namespace`: `voting:8080`, `voting.shop:8080`,
/// `voting.shop.svc.cluster.local:8080`, or an address or name as the proxy has it.
fn meanings(text: &str, namespace: &str) -> Vec<String> {
    let mut all = vec![text.to_owned()];
    let Some((host, port)) = text.rsplit_once(':') else { return all };
    let mut parts = host.trim_end_matches('.').split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => all.push(format!("{namespace}/{name}:{port}")),
        (Some(name), Some(place), None | Some("svc")) => all.push(format!("{place}/{name}:{port}")),
        _ => {}
    }
    all
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct AppliedRow {
    /// The proxy's identity.
    proxy: String,
    controller: String,
    /// What it follows, and how much of that it has not applied yet.
    keys: usize,
    behind: Vec<Behind>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Behind {
    key: String,
    sent: u64,
    applied: u64,
}

impl Row for AppliedRow {
    const COLUMNS: &'static [Column] =
        &[Column::text("PROXY"), Column::text("CONTROLLER"), Column::number("FOLLOWS"), Column::text("BEHIND")];

    fn cells(&self, _: View) -> Vec<String> {
        let behind =
            self.behind.iter().map(|key| format!("{} (acts on {} of {})", plain(&key.key), key.applied, key.sent));
        let behind: Vec<String> = behind.collect();
        let behind = if behind.is_empty() { "nothing".to_owned() } else { behind.join(", ") };
        vec![plain(&self.proxy), self.controller.clone(), self.keys.to_string(), behind]
    }
}

fn applied_row(controller: &str, stream: Stream) -> AppliedRow {
    let keys = stream.keys.len();
    let late = stream.keys.into_iter().filter(|key| key.applied < key.sent);
    let behind = late.map(|key| Behind { key: key.key, sent: key.sent, applied: key.applied }).collect();
    AppliedRow { proxy: stream.peer, controller: controller.to_owned(), keys, behind }
}

async fn applied(context: &mut Context<'_>, output: Format) -> Result<Exit, Failure> {
    let mesh = Mesh::choose(context).await?;
    let controllers = match &mesh {
        Mesh::Demo(layout) => vec![("controller".to_owned(), Way::Address(layout.running()?.controller_admin))],
        Mesh::Cluster { cluster, .. } => of_cluster(cluster).await?,
    };
    let (mut rows, mut silent) = (Vec::new(), Vec::new());
    for (name, way) in &controllers {
        match live::streams(way).await {
            Ok(streams) => rows.extend(streams.into_iter().map(|stream| applied_row(name, stream))),
            Err(why) => silent.push(format!("{name}: {}", plain(&why))),
        }
    }
    if !silent.is_empty() && silent.len() == controllers.len() {
        let what = format!("no controller answered; {}", silent[0]);
        return Err(Failure::error(what).hint(mesh.next_when_silent()));
    }
    for why in silent {
        context.printer.note(&format!("warning: no answer from {why}"));
    }
    if rows.is_empty() {
        return Err(Failure::new(Exit::NoData, "no proxy is connected to a controller").hint(mesh.next_when_silent()));
    }
    rows.sort_by(|a, b| (&a.proxy, &a.controller).cmp(&(&b.proxy, &b.controller)));
    print(context, &rows, output)
}

async fn of_cluster(cluster: &Cluster) -> Result<Vec<(String, Way)>, Failure> {
    let pods = controllers(cluster).await?;
    if pods.is_empty() {
        let what = format!("no controller runs in {}", cluster.place());
        return Err(Failure::new(Exit::NotInstalled, what)
            .hint("install it with `mesh install | kubectl apply -f -`, or see `mesh check`"));
    }
    let way =
        |pod: &Pod| Way::Forward(Arc::new(Forward::new(cluster, pod.namespace(), pod.name(), CONTROLLER_ADMIN_PORT)));
    Ok(pods.iter().map(|pod| (pod.name().to_owned(), way(pod))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn hosts_mean_what_they_mean_to_an_app() {
        for (text, expected) in [
            ("voting:8080", "shop/voting:8080"),
            ("voting.front:80", "front/voting:80"),
            ("voting.front.svc:80", "front/voting:80"),
            ("voting.front.svc.cluster.local.:80", "front/voting:80"),
            ("shop/voting:8080", "shop/voting:8080"),
            ("10.0.0.7:80", "10.0.0.7:80"),
        ] {
            assert!(meanings(text, "shop").contains(&expected.to_owned()), "{text}: {:?}", meanings(text, "shop"));
        }
        assert_eq!(meanings("example.com.au:80", "shop"), ["example.com.au:80"]);
    }

    #[test]
    fn endpoints_are_those_of_the_port_with_what_is_known_of_their_pods() {
        let service: Service = from_value(json!({ "metadata": { "name": "web" },
            "spec": { "ports": [{ "name": "http", "port": 80 }, { "name": "admin", "port": 90 }] } }))
        .expect("a service");
        let slice: EndpointSlice = from_value(json!({
            "metadata": { "namespace": "shop" },
            "ports": [{ "name": "http", "port": 8080 }, { "name": "admin", "port": 9090 }],
            "endpoints": [{ "addresses": ["10.0.0.7"], "targetRef": { "kind": "Pod", "name": "web-1" } },
                { "addresses": ["10.9.9.9"], "conditions": { "ready": false } }],
        }))
        .expect("a slice");
        let pod: Pod = from_value(
            json!({ "metadata": { "name": "web-1", "annotations": { "lacewing.dev/proxy-version": "1" } } }),
        )
        .expect("a pod");
        let slices = [slice];
        let rows = endpoint_rows(&service, Some(80), &slices, std::slice::from_ref(&pod)).expect("rows");
        let shown: Vec<_> = rows.iter().map(|row| (&*row.ip, row.port, row.ready, row.meshed)).collect();
        assert_eq!(shown, [("10.0.0.7", Some(8080), true, Some(true)), ("10.9.9.9", Some(8080), false, None)]);
        assert_eq!(endpoint_rows(&service, None, &slices, &[]).expect("rows").len(), 4);
        let failure = endpoint_rows(&service, Some(81), &slices, &[]).expect_err("no such port").to_string();
        assert!(failure.contains("has no port 81") && failure.contains("its ports are: 80, 90"), "{failure}");
        assert_eq!(not_carried(&service, None), [""; 0]);
    }

    #[test]
    fn a_port_of_udp_is_not_in_the_mesh_even_where_tcp_has_the_same_number() {
        let service: Service = from_value(json!({ "metadata": { "name": "dns" }, "spec": { "ports": [
            { "name": "tcp", "port": 53, "protocol": "TCP" }, { "name": "udp", "port": 53, "protocol": "UDP" },
            { "name": "more", "port": 54, "protocol": "SCTP" }] } }))
        .expect("a service");
        let slice: EndpointSlice = from_value(json!({
            "ports": [{ "name": "tcp", "port": 5353, "protocol": "TCP" }, { "name": "udp", "port": 5353, "protocol": "UDP" }],
            "endpoints": [{ "addresses": ["10.0.0.7"], "targetRef": { "kind": "Pod", "name": "dns-1" } }],
        }))
        .expect("a slice");
        let pod: Pod = from_value(
            json!({ "metadata": { "name": "dns-1", "annotations": { "lacewing.dev/proxy-version": "1" } } }),
        )
        .expect("a pod");
        let rows = endpoint_rows(&service, Some(53), &[slice], &[pod]).expect("rows");
        assert_eq!(rows.iter().map(|row| row.meshed).collect::<Vec<_>>(), [Some(true), Some(false)]);
        let notes = not_carried(&service, Some(53));
        assert!(notes.len() == 1 && notes[0].contains("port 53 is UDP"), "{notes:?}");
        assert!(not_carried(&service, None)[1].contains("port 54 is SCTP"));
    }

    #[test]
    fn who_is_behind_is_told_with_both_versions() {
        let stream: Stream = from_value(json!({ "peer": "spiffe://x/ns/shop/sa/web", "keys": [
            { "key": "ports", "sent": 3, "applied": 3 }, { "key": "endpoints shop/web:80", "sent": 5, "applied": 4 }] }))
        .expect("a stream");
        let row = applied_row("c-1", stream);
        assert_eq!((row.keys, row.behind.len()), (2, 1));
        let text = table::text(&[row], View::default());
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|line| line.ends_with("c-1               2  endpoints shop/web:80 (acts on 4 of 5)")),
            "{text}"
        );
    }
}

//! Probes as a kubelet sends them: from a host without mesh TLS, to the pod's own address. They pass in every mode and mean what
//! they mean without the mesh, nothing else passes with them, and they are no traffic of anybody's in the metrics.

use std::time::Duration;

use lacewing_tests::{
    net::{Behaviour, Cluster, Host, PodSpec, TcpApp, http_app},
    wait::until,
};

/// For a thing that should happen.
const SOON: Duration = Duration::from_secs(10);
/// What the pod's spec would say, in the words of injection.
const PROBES: &str = "8080/head 8443:tls";
const TCP_PROBES: &str = "9000=900ms";
const KUBELET: (&str, &str) = ("user-agent", "kube-probe/1.34");

/// The kubelet's question at both of a pod's addresses: the one status.
#[track_caller]
fn asked(kubelet: &Host, pod: &Host, port: u16, path: &str, agent: (&str, &str)) -> u16 {
    let [v4, v6] = [pod.at(port), pod.at_v6(port)].map(|to| kubelet.get(to, path, &[agent]).status);
    assert_eq!(v4, v6, "{path} at {port}");
    v4
}

fn probes(spec: PodSpec, is_strict: bool) {
    let cluster = Cluster::new();
    let spec = spec.service("web").port("http", 8080, "").port("tcp", 9000, "");
    let spec = spec.proxy_env("LACEWING_PROBES", PROBES).proxy_env("LACEWING_TCP_PROBES", TCP_PROBES);
    let web = cluster.pod(spec);
    let (app, tcp) = (http_app(&web.host, 8080), TcpApp::start(&web.host, 9000, Behaviour::Echo));
    let (client, kubelet) = (cluster.pod(PodSpec::new("client")), cluster.net.host("kubelet"));
    cluster.published();
    let ask = |port, path| asked(&kubelet, &web.host, port, path, KUBELET);

    assert_eq!((ask(8080, "/head"), app.requests()), (200, 2), "httpGet");
    assert_eq!(ask(4191, "/probe/9000"), 200, "tcpSocket, written anew");
    until("the app was dialled", SOON, || (tcp.connections() == 2).then_some(()));
    assert_eq!(ask(4191, "/probe/8080"), 404, "no probe is for that port");
    // What only looks like a probe, and a probe that somebody else sends.
    let (others, answered) = (if is_strict { 403 } else { 404 }, app.requests());
    assert_eq!(ask(8080, "/headless"), others);
    assert_eq!(ask(8080, "/head/../large"), others);
    assert_eq!(app.requests() - answered, if is_strict { 0 } else { 4 });
    assert_eq!(asked(&kubelet, &web.host, 8080, "/head", ("user-agent", "curl/8")), 200);

    // Only the kubelet's are no traffic: its two questions are not among these, nor are those at the admin port.
    let name = cluster.name("web");
    let answer = client.host.get(cluster.address("web", 8080), "/head", &[("host", &name)]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let count = |metric: &str, tls: &str| web.metric(metric, &["direction=\"inbound\"", tls]) as u64;
    for metric in ["request_total", "response_total"] {
        // The last response is counted when its stream has ended.
        until(metric, SOON, || (count(metric, "tls=\"true\"") == 1).then_some(()));
        assert_eq!(count(metric, "tls=\"no_identity\""), 4 + 2, "{metric}: what is no probe, or not the kubelet's");
    }

    // A dead app fails its probes.
    drop((app, tcp));
    assert_eq!((ask(4191, "/probe/9000"), ask(8080, "/head") >= 500), (503, true));
    assert_eq!(count("response_total", "tls=\"no_identity\""), 4 + 2);
}

#[test]
fn probes_pass_where_only_the_mesh_is_served() {
    probes(PodSpec::new("web-1").strict(), true);
}

#[test]
fn probes_pass_where_everybody_is_served() {
    probes(PodSpec::new("web-1"), false);
}

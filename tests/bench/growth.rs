//! Whether a request costs more where more is known: one proxy of ours in plain text, with more Services in use, more
//! endpoints behind one Service, more workers. Services stand for routes as long as there are none. One nginx answers at
//! all addresses; it runs after everything else, since what it adds to the cluster stays there.

use std::{fmt::Write as _, time::Duration};

use lacewing_tests::net::{Host, ring};

use super::{
    cpu, load,
    measures::{Figures, measured},
    peers::{Peer, Protocol, Shape, start_on},
    plot::{Line, Point},
    report::Results,
    site::Site,
};

/// Rounds; the figure repeats well.
pub const ROUNDS: usize = 3;
/// Connections that are spread over all Services in use, however many these are, and their requests per second.
pub const SERVICE_CONNECTIONS: u32 = 1_000;
const SERVICE_RATE: u64 = 2_000;
/// Before the load counts: connections to all endpoints are opened.
pub const WARM: Duration = Duration::from_secs(3);
/// Endpoints of a slice, at most, as Kubernetes has it.
const SLICE: u32 = 1_000;
/// First two bytes of the addresses of Services, and of endpoints.
const SERVICES: &str = "10.97";
const ENDPOINTS: &str = "10.98";

pub const TITLE: &str = "CPU time per request of one proxy, plain HTTP/1.1, 1 KB bodies";
pub const X_AXIS: &str = "how many";
pub const Y_AXIS: &str = "CPU µs per request";

/// What there is more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// A proxy knows at most 1,000 targets.
    Services(u32),
    Endpoints(u32),
    /// Threads; left out where the proxy has no such setting.
    Workers(u32),
}

pub const ALL: [Growth; 8] = [
    Growth::Services(1),
    Growth::Services(100),
    Growth::Services(1_000),
    Growth::Endpoints(1),
    Growth::Endpoints(100),
    Growth::Endpoints(5_000),
    Growth::Workers(1),
    Growth::Workers(2),
];
/// The proxy's setting.
const WORKERS: &str = "LACEWING_WORKERS";

impl Growth {
    /// `growth-services-100`
    pub fn name(self) -> String {
        let (of, count) = self.parts();
        format!("growth-{of}-{count}")
    }

    fn parts(self) -> (&'static str, u32) {
        match self {
            Self::Services(count) => ("services", count),
            Self::Endpoints(count) => ("endpoints", count),
            Self::Workers(count) => ("workers", count),
        }
    }

    /// As the plot calls it.
    fn legend(self) -> &'static str {
        match self {
            Self::Services(_) => "Services in use, 2,000 rps",
            Self::Endpoints(_) => "endpoints, saturation",
            Self::Workers(_) => "workers, saturation",
        }
    }
}

/// Writes what is needed, once: all Services, and addresses for all endpoints at the host without a proxy.
pub fn prepare(site: &Site) {
    let (namespace, backend) = (&site.cluster.namespace, site.plain.v4().to_string());
    let mut text = String::new();
    for number in 1..SERVICE_CONNECTIONS {
        service(
            &mut text,
            namespace,
            &format!("grown-{number}"),
            &address(SERVICES, number),
            std::slice::from_ref(&backend),
        );
    }
    for (at, growth) in ALL.into_iter().enumerate() {
        let Growth::Endpoints(count) = growth else { continue };
        let endpoints: Vec<String> = (0..count).map(|number| address(ENDPOINTS, number)).collect();
        service(&mut text, namespace, &growth.name(), &many(at), &endpoints);
    }
    site.cluster.write_manifest("growth", &text);
    site.cluster.published();
    let ip = |host: &Host, words: &str| {
        let net = format!("--net={}", host.namespace().display());
        ring::run("nsenter", &[&[net.as_str(), "ip"], words.split(' ').collect::<Vec<_>>().as_slice()].concat(), "");
    };
    ip(&site.plain.host, &format!("route replace local {ENDPOINTS}.0.0/16 dev lo"));
    ip(&site.client.host, &format!("route replace {ENDPOINTS}.0.0/16 via {backend}"));
}

/// # Errors
/// The load had errors.
pub fn take(site: &Site, growth: Growth, seconds: u64) -> Result<Figures, String> {
    let (shape, port) = (Shape::Single, Protocol::H1.port());
    let workers = if let Growth::Workers(count) = growth { count } else { 1 };
    site.client.proxy().set_env(WORKERS, &workers.to_string());
    // A second one shares the other processor with the load: what a request costs is asked, not how many go.
    let processors = if workers > 1 { &[cpu::PROXY, cpu::LOAD][..] } else { &[cpu::PROXY] };
    let running = start_on(processors, site, Peer::Lacewing, shape, Protocol::H1)?;
    match growth {
        Growth::Workers(_) => {
            load::wrk(site, shape, "/", WARM.as_secs())?;
            measured(&running, |done| done.count, || load::wrk(site, shape, "/", seconds))
        }
        Growth::Services(count) => {
            // The first is the one by which it was seen to be ready: more than it can know would be one too many.
            let first = std::iter::once(site.target(shape, Protocol::H1).to_string());
            let others = (1..count).map(|number| format!("{}:{port}", address(SERVICES, number)));
            let all: Vec<String> = first.chain(others).collect();
            let counted = SERVICE_RATE * (WARM.as_secs() + seconds);
            let load = || {
                load::rate_to(site, shape, &all.join(","), SERVICE_RATE, [WARM.as_secs(), seconds], SERVICE_CONNECTIONS)
            };
            measured(&running, |_| counted as f64, load)
        }
        Growth::Endpoints(_) => {
            let at = ALL.iter().position(|other| *other == growth).unwrap_or_default();
            let to = format!("{}:{port}", many(at));
            load::wrk_to(site, shape, &to, "/", WARM.as_secs())?;
            measured(&running, |done| done.count, || load::wrk_to(site, shape, &to, "/", seconds))
        }
    }
}

/// What the plot shows, if all of it was measured.
pub fn lines(results: &Results) -> Option<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    for growth in ALL {
        let (of, count) = (growth.legend(), growth.parts().1);
        let value = results.median(&growth.name(), "cpu_us", Peer::Lacewing.name())?;
        let point = Point { x: count.into(), y: value };
        match lines.last_mut().filter(|line| line.name == of) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name: of, points: vec![point] }),
        }
    }
    Some(lines)
}

/// The Service with many endpoints that is used at this place of [`ALL`].
fn many(at: usize) -> String {
    format!("{SERVICES}.200.{}", at + 1)
}

fn address(net: &str, number: u32) -> String {
    format!("{net}.{}.{}", number / 250, number % 250 + 1)
}

/// A Service without a selector, and its slices.
fn service(text: &mut String, namespace: &str, name: &str, ip: &str, endpoints: &[String]) {
    let port = Protocol::H1.port();
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  clusterIP: {ip}\n  \
         clusterIPs: [{ip}]\n  ipFamilies: [IPv4]\n  ports: [{{name: http, port: {port}, targetPort: {port}, appProtocol: \
         http}}]\n"
    );
    for (at, slice) in endpoints.chunks(SLICE as usize).enumerate() {
        let all: Vec<String> =
            slice.iter().map(|ip| format!("{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}")).collect();
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{at}\n  namespace: \
             {namespace}\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nports: [{{name: http, port: \
             {port}, protocol: TCP, appProtocol: http}}]\nendpoints: [{}]\n",
            all.join(", ")
        );
    }
}

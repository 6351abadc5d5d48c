//! What a pod and its services look like as manifests: what a scenario says in a [`PodSpec`], as the YAML that an API
//! server would show, and as the rules with which a node would serve it. Pure: writing files, keeping them true and
//! loading rules is `cluster`'s business.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A port of a service, and the container's port behind it.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: &'static str,
    /// The service's.
    pub port: u16,
    /// The container's.
    pub target: u16,
    /// `appProtocol`; empty: nothing is declared.
    pub app_protocol: &'static str,
}

/// A pod as a scenario wants it. By default: meshed, redirected, ready as soon as its proxy is, and no service.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub name: String,
    pub account: String,
    pub services: Vec<String>,
    pub ports: Vec<Port>,
    pub meshed: bool,
    pub redirected: bool,
    pub headless: bool,
    pub held: bool,
    pub annotations: BTreeMap<String, String>,
    pub proxy_env: Vec<(&'static str, String)>,
    pub init_env: Vec<(&'static str, String)>,
}

impl PodSpec {
    /// `name` is also the service account.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            account: name.to_owned(),
            services: Vec::new(),
            ports: Vec::new(),
            meshed: true,
            redirected: true,
            headless: false,
            held: false,
            annotations: BTreeMap::new(),
            proxy_env: Vec::new(),
            init_env: Vec::new(),
        }
    }

    /// The pod belongs to this service, which has the ports and the shape that its first pod says. More than one is fine.
    #[must_use]
    pub fn service(mut self, name: &str) -> Self {
        self.services.push(name.to_owned());
        self
    }

    #[must_use]
    pub fn account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.account);
        self
    }

    /// A port of the container and of the service: the same number. An empty `app_protocol` declares nothing.
    #[must_use]
    pub fn port(self, name: &'static str, port: u16, app_protocol: &'static str) -> Self {
        self.port_to(name, port, port, app_protocol)
    }

    /// The same, with the service's number and then the container's.
    #[must_use]
    pub fn port_to(mut self, name: &'static str, port: u16, target: u16, app_protocol: &'static str) -> Self {
        self.ports.push(Port { name, port, target, app_protocol });
        self
    }

    /// No proxy, no annotation, no redirection.
    #[must_use]
    pub fn unmeshed(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// A proxy, but no redirection yet: for tests of `lacewing-proxy init` itself. See `Pod::init`.
    #[must_use]
    pub fn not_redirected(mut self) -> Self {
        self.redirected = false;
        self
    }

    /// Its services have no cluster address: their names are the pods.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    /// It does not become ready by itself: start the app, then call `Cluster::set_ready`.
    #[must_use]
    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// Only meshed clients.
    #[must_use]
    pub fn strict(self) -> Self {
        self.annotation("config.lacewing.dev/inbound", "strict")
    }

    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A setting of the proxy.
    #[must_use]
    pub fn proxy_env(mut self, name: &'static str, value: &str) -> Self {
        self.proxy_env.push((name, value.to_owned()));
        self
    }

    /// A setting of `lacewing-proxy init`.
    #[must_use]
    pub fn init_env(mut self, name: &'static str, value: &str) -> Self {
        self.init_env.push((name, value.to_owned()));
        self
    }
}

/// What a pod's endpoints say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    NotReady,
    Ready,
    /// To be deleted: not ready, still serving.
    Terminating,
}

/// A service as it stands.
#[derive(Clone)]
pub(super) struct Service {
    /// None: headless.
    pub addresses: Option<(Ipv4Addr, Ipv6Addr)>,
    pub ports: Vec<Port>,
}

/// One endpoint of a service.
pub(super) struct Endpoint<'a> {
    pub pod: &'a str,
    pub uid: u32,
    pub v4: IpAddr,
    pub v6: IpAddr,
    pub readiness: Readiness,
}

pub(super) fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

/// `uid` tells pods of the same name apart.
pub(super) fn pod(spec: &PodSpec, namespace: &str, uid: u32, ips: [IpAddr; 2], readiness: Readiness) -> String {
    let mut annotations = spec.annotations.clone();
    if spec.meshed {
        annotations.insert("lacewing.dev/proxy-version".to_owned(), "netns".to_owned());
    }
    let deletion = match readiness {
        Readiness::Terminating => "  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n  deletionGracePeriodSeconds: 30\n",
        _ => "",
    };
    let mut labels = format!("app: {}", spec.account);
    for service in &spec.services {
        let _ = write!(labels, ", {}: \"yes\"", selector(service));
    }
    let annotations = fields(annotations.iter().map(|(name, value)| format!("{name}: \"{value}\"")));
    let ports = spec.ports.iter().map(|port| format!("{{name: {}, containerPort: {}}}", port.name, port.target));
    let [v4, v6] = ips;
    let ready = if readiness == Readiness::Ready { "True" } else { "False" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  uid: \"{uid}\"\n{deletion}  \
         labels: {{{labels}}}\n  annotations: {{{annotations}}}\nspec:\n  serviceAccountName: {account}\n  containers:\n  \
         - name: app\n    image: netns\n    ports: [{ports}]\nstatus:\n  phase: Running\n  podIP: {v4}\n  podIPs: \
         [{{ip: {v4}}}, {{ip: \"{v6}\"}}]\n  conditions: [{{type: Ready, status: \"{ready}\"}}]\n",
        name = spec.name,
        account = spec.account,
        ports = fields(ports),
    )
}

/// The service with its slices, one for each family.
pub(super) fn service(name: &str, namespace: &str, service: &Service, endpoints: &[Endpoint<'_>]) -> String {
    let addresses = service.addresses.map_or_else(
        || "clusterIP: None".to_owned(),
        |(v4, v6)| format!("clusterIP: {v4}\n  clusterIPs: [{v4}, \"{v6}\"]"),
    );
    let protocol = |port: &Port| match port.app_protocol {
        "" => String::new(),
        declared => format!(", appProtocol: {declared}"),
    };
    let ports = service.ports.iter().map(|port| {
        format!("{{name: {}, port: {}, targetPort: {}{}}}", port.name, port.port, port.target, protocol(port))
    });
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {addresses}\n  \
         ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n  selector: {{{}: \"yes\"}}\n  ports: [{}]\n",
        selector(name),
        fields(ports),
    );
    for family in ["IPv4", "IPv6"] {
        let ports = service
            .ports
            .iter()
            .map(|port| format!("{{name: {}, port: {}, protocol: TCP{}}}", port.name, port.target, protocol(port)));
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{}\n  namespace: \
             {namespace}\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: {family}\nports: [{}]\n\
             endpoints: [{}]\n",
            family.to_lowercase(),
            fields(ports),
            fields(endpoints.iter().map(|one| endpoint(one, namespace, family == "IPv4"))),
        );
    }
    text
}

fn endpoint(endpoint: &Endpoint<'_>, namespace: &str, v4: bool) -> String {
    let Endpoint { pod, uid, readiness, .. } = endpoint;
    let ip = if v4 { endpoint.v4 } else { endpoint.v6 };
    let ready = *readiness == Readiness::Ready;
    let serving = *readiness != Readiness::NotReady;
    let terminating = *readiness == Readiness::Terminating;
    format!(
        "{{addresses: [\"{ip}\"], conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}, \
         targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}, uid: \"{uid}\"}}}}"
    )
}

/// The label by which a service selects its pods: a pod may belong to several.
fn selector(service: &str) -> String {
    format!("serves-{service}")
}

fn fields(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

/// What a node's service proxy does for those who are not redirected, as an nft script for one pod: cluster addresses
/// go round robin to ready endpoints, and are refused where there is none.
pub(super) fn node_rules<'a>(services: impl Iterator<Item = (&'a Service, Vec<(IpAddr, IpAddr)>)>) -> String {
    let (mut translate, mut refuse) = (String::new(), String::new());
    for (service, ready) in services {
        let Some((v4, v6)) = service.addresses else { continue };
        for port in &service.ports {
            let (v4, v6) =
                (format!("ip daddr {v4} tcp dport {}", port.port), format!("ip6 daddr {v6} tcp dport {}", port.port));
            if ready.is_empty() {
                let _ = write!(refuse, "    {v4} reject\n    {v6} reject\n");
                continue;
            }
            let map = |ips: Vec<IpAddr>| {
                fields(ips.iter().enumerate().map(|(n, ip)| format!("{n} : {ip} . {}", port.target)))
            };
            let (many, all_v4, all_v6) = (
                ready.len(),
                map(ready.iter().map(|(v4, _)| *v4).collect()),
                map(ready.iter().map(|(_, v6)| *v6).collect()),
            );
            let _ = write!(
                translate,
                "    {v4} dnat ip addr . port to numgen inc mod {many} map {{ {all_v4} }}\n    \
                 {v6} dnat ip6 addr . port to numgen inc mod {many} map {{ {all_v6} }}\n"
            );
        }
    }
    format!(
        "table inet node\ndelete table inet node\ntable inet node {{\n  chain translate {{\n    type nat hook output \
         priority -50; policy accept;\n{translate}  }}\n  chain refuse {{\n    type filter hook output priority 0; policy \
         accept;\n{refuse}  }}\n}}\n"
    )
}

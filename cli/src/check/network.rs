//! Owns the checks of NetworkPolicies: do they let the API server, the controller, the proxies and DNS reach each other.
//!
//! A policy closes a direction of the pods that it selects; what is open is what any rule of any such policy opens. What
//! the objects alone do not decide is neither open nor closed, and told as a warning. Policies of other APIs (of Cilium
//! or Calico, AdminNetworkPolicy) are not read: `mesh check --proxy` shows who hears from the controller in fact.

use std::{collections::BTreeMap, net::IpAddr};

use lacewing_crds::ObjectMeta;
use lacewing_proxy::cidr::Cidr;

use super::{Check, environment::CILIUM, install::controllers, some_of};
use crate::cluster::{
    ApiError, Cluster,
    objects::{EndpointSlice, IpBlock, Meta, NetworkPolicy, NetworkPolicyPeer, Pod, PortName, Rule, Selector, Service},
};

/// The controller's ports for proxies and for the API server.
const GRPC: Port = Port { number: 8080, protocol: "TCP" };
const WEBHOOK: Port = Port { number: 8443, protocol: "TCP" };
/// By it a proxy finds the controller.
const DNS: Port = Port { number: 53, protocol: "UDP" };
/// Where the API server listens, at its Service and behind it, where these cannot be read.
const API_SERVER_PORTS: [u16; 2] = [443, 6443];
const API_SERVER: &str = "/api/v1/namespaces/default/services/kubernetes";
const API_SERVER_SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
                                 ?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";
/// Label of the pods that answer DNS.
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");

type Known<T> = Result<T, ApiError>;

pub struct Facts {
    pub policies: Known<Vec<NetworkPolicy>>,
    pub namespaces: Known<Vec<Meta>>,
    /// All of them.
    pub pods: Known<Vec<Pod>>,
    pub controllers: Known<Vec<Pod>>,
    /// Where the API server is: as its Service has it, and as the endpoints of that have it.
    pub server: [Known<Door>; 2],
    /// Cilium takes neither pods nor nodes by their addresses.
    pub cilium: bool,
}

/// Every address has every port.
#[derive(Debug, Clone)]
pub struct Door {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Door {
    fn of_service(service: &Service) -> Self {
        let address = service.spec.cluster_ip.iter().filter_map(|address| address.parse().ok());
        let ports = service.spec.ports.iter().map(|port| port.port);
        Self { addresses: address.collect(), ports: ports.collect() }
    }

    fn of_slices(slices: &[EndpointSlice]) -> Self {
        let addresses = slices.iter().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses);
        let ports = slices.iter().flat_map(|slice| &slice.ports).filter_map(|port| port.port);
        Self { addresses: addresses.filter_map(|address| address.parse().ok()).collect(), ports: ports.collect() }
    }

    /// Its addresses; none, once, where none is known.
    fn addresses(&self) -> Vec<Option<IpAddr>> {
        if self.addresses.is_empty() { vec![None] } else { self.addresses.iter().copied().map(Some).collect() }
    }
}

pub async fn gather(cluster: &Cluster) -> Facts {
    let (policies, namespaces, pods, controllers, service, slices, cilium) = tokio::join!(
        cluster.list("/apis/networking.k8s.io/v1/networkpolicies"),
        cluster.list("/api/v1/namespaces"),
        cluster.list("/api/v1/pods"),
        controllers(cluster),
        cluster.find::<Service>(API_SERVER),
        cluster.list(API_SERVER_SLICES),
        cluster.find::<Meta>(CILIUM)
    );
    let server = [
        service.map(|service| Door::of_service(&service.unwrap_or_default())),
        slices.map(|slices: Vec<EndpointSlice>| Door::of_slices(&slices)),
    ];
    // That it could not be read is said where Cilium is the matter, in `environment.rs`.
    let cilium = matches!(cilium, Ok(Some(_)));
    Facts { policies, namespaces, pods, controllers, server, cilium }
}

pub fn judge(facts: &Facts) -> Vec<Check> {
    let description = "no NetworkPolicy cuts the mesh off";
    let known = (&facts.policies, &facts.namespaces, &facts.pods, &facts.controllers);
    let (policies, namespaces, pods, controllers) = match known {
        (Ok(policies), Ok(namespaces), Ok(pods), Ok(controllers)) => (policies, namespaces, pods, controllers),
        (Err(error), ..) | (_, Err(error), ..) | (_, _, Err(error), _) | (.., Err(error)) => {
            return vec![Check::unknown(description, error)];
        }
    };
    if policies.is_empty() {
        return vec![Check::good(format!("{description}: there is none"))];
    }
    let by_name: BTreeMap<&str, &ObjectMeta> =
        namespaces.iter().map(|namespace| (&*namespace.metadata.name, &namespace.metadata)).collect();
    let net = Net { policies, namespaces: by_name, cilium: facts.cilium };
    let meshed: Vec<&Pod> = pods.iter().filter(|pod| pod.is_meshed() && pod.is_staying()).collect();
    vec![api_server(&net, controllers, &facts.server), proxies(&net, controllers, &meshed), dns(&net, &meshed, pods)]
}

/// Whether something passes. The least of the ways that it must pass counts, the greatest of those that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Open {
    No,
    /// The objects alone do not say.
    Unsure,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    In,
    Out,
}

#[derive(Clone, Copy)]
struct Port {
    number: u16,
    protocol: &'static str,
}

/// The other side of a connection.
#[derive(Clone, Copy)]
enum Other<'a> {
    Pod(&'a Pod),
    /// It is no pod, and may come from another address than this (if known), at which it listens.
    ApiServer(Option<IpAddr>),
    /// Whom a rule names is not asked.
    Anybody,
}

struct Net<'a> {
    policies: &'a [NetworkPolicy],
    namespaces: BTreeMap<&'a str, &'a ObjectMeta>,
    cilium: bool,
}

/// A connection that is not sure to pass.
struct Held<'a> {
    open: Open,
    way: Way,
    /// Whose it is.
    who: String,
    policies: Vec<&'a NetworkPolicy>,
}

impl<'a> Net<'a> {
    /// Whether `pod` may be reached by `other` at its `port`, or reach that of `other`; none if it surely may.
    fn held(&self, pod: &Pod, way: Way, other: Other, port: Port, who: &str) -> Option<Held<'a>> {
        let policies: Vec<&NetworkPolicy> = self.policies.iter().filter(|policy| applies(policy, pod, way)).collect();
        let named = |name: &str| match (way, other) {
            (Way::In, _) => has_port(pod, name, port),
            (Way::Out, Other::Pod(other)) => has_port(other, name, port),
            // Ports have names in pods.
            (Way::Out, Other::ApiServer(_)) => false,
            (Way::Out, Other::Anybody) => true,
        };
        let rules = policies.iter().flat_map(|policy| {
            let rules = if way == Way::In { &policy.spec.ingress } else { &policy.spec.egress };
            rules.iter().map(|rule| (policy.metadata.namespace.as_deref().unwrap_or_default(), rule))
        });
        let open =
            rules.filter(|(_, rule)| opens(rule, port, named)).map(|(home, rule)| self.means(rule, home, way, other));
        let open = open.max().unwrap_or(if policies.is_empty() { Open::Yes } else { Open::No });
        (open != Open::Yes).then(|| Held { open, way, who: who.to_owned(), policies })
    }

    /// Whether `rule` of a policy in the namespace `home` means `other`.
    fn means(&self, rule: &Rule, home: &str, way: Way, other: Other) -> Open {
        if rule.peers.is_empty() || matches!(other, Other::Anybody) {
            return Open::Yes;
        }
        rule.peers.iter().map(|peer| self.is(peer, home, way, other)).max().unwrap_or(Open::No)
    }

    fn is(&self, peer: &NetworkPolicyPeer, home: &str, way: Way, other: Other) -> Open {
        match (other, &peer.ip_block) {
            (Other::Anybody, _) => Open::Yes,
            (Other::Pod(pod), Some(block)) => match pod.status.pod_ip.as_deref().map(str::parse) {
                Some(Ok(address)) => match holds(block, address) {
                    Some(true) if self.cilium => Open::Unsure,
                    Some(true) => Open::Yes,
                    Some(false) => Open::No,
                    None => Open::Unsure,
                },
                _ => Open::Unsure,
            },
            (Other::Pod(pod), None) => {
                let in_namespace = match &peer.namespace_selector {
                    Some(selector) => {
                        self.namespaces.get(pod.namespace()).is_some_and(|namespace| selects(selector, namespace))
                    }
                    None => pod.namespace() == home,
                };
                let selected = peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.metadata));
                if in_namespace && selected { Open::Yes } else { Open::No }
            }
            (Other::ApiServer(address), Some(block)) => {
                match (address.and_then(|address| holds(block, address)), way) {
                    (Some(true), _) if !self.cilium => Open::Yes,
                    (Some(false), Way::Out) => Open::No,
                    _ => Open::Unsure,
                }
            }
            // It, or a relay for it (konnectivity), may be a pod of another namespace, never one beside the controller.
            (Other::ApiServer(_), None) if peer.namespace_selector.is_some() => Open::Unsure,
            (Other::ApiServer(_), None) => Open::No,
        }
    }
}

/// Whether the policy closes this direction of the pod, but for what its rules open.
fn applies(policy: &NetworkPolicy, pod: &Pod, way: Way) -> bool {
    let spec = &policy.spec;
    let typed = match (spec.policy_types.is_empty(), way) {
        (true, Way::In) => true,
        (true, Way::Out) => !spec.egress.is_empty(),
        (false, Way::In) => spec.policy_types.iter().any(|kind| kind == "Ingress"),
        (false, Way::Out) => spec.policy_types.iter().any(|kind| kind == "Egress"),
    };
    typed && policy.metadata.namespace.as_deref() == Some(pod.namespace()) && selects(&spec.pod_selector, &pod.metadata)
}

/// Whether the rule is about this port, which may be `named` so.
fn opens(rule: &Rule, port: Port, named: impl Fn(&str) -> bool) -> bool {
    rule.ports.is_empty()
        || rule.ports.iter().any(|allowed| {
            allowed.protocol.as_deref().unwrap_or("TCP") == port.protocol
                && match &allowed.port {
                    Some(PortName::Number(first)) => {
                        (*first..=allowed.end_port.unwrap_or(*first)).contains(&port.number)
                    }
                    Some(PortName::Name(name)) => named(name),
                    None => true,
                }
        })
}

fn has_port(pod: &Pod, name: &str, port: Port) -> bool {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    containers.flat_map(|container| &container.ports).any(|own| {
        own.name.as_deref() == Some(name)
            && own.number == port.number
            && own.protocol.as_deref().unwrap_or("TCP") == port.protocol
    })
}

/// Whether the address is in the block; none if the block cannot be read.
fn holds(block: &IpBlock, address: IpAddr) -> Option<bool> {
    let within = |cidr: &String| Some(cidr.parse::<Cidr>().ok()?.contains(address));
    let excepted: Option<Vec<bool>> = block.except.iter().map(within).collect();
    Some(within(&block.cidr)? && !excepted?.contains(&true))
}

fn selects(selector: &Selector, object: &ObjectMeta) -> bool {
    selector.match_labels.iter().all(|(key, value)| object.label(key) == Some(value))
        && selector.match_expressions.iter().all(|expression| {
            let own = object.label(&expression.key);
            let listed = own.is_some_and(|own| expression.values.iter().any(|value| value == own));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => own.is_some(),
                "DoesNotExist" => own.is_none(),
                _ => false,
            }
        })
}

fn api_server(net: &Net, controllers: &[Pod], server: &[Known<Door>; 2]) -> Check {
    let description = "no NetworkPolicy stands between the API server and the controller";
    let doors = [0, 1].map(|at| {
        let guess = || Door { addresses: Vec::new(), ports: vec![API_SERVER_PORTS[at]] };
        server[at].as_ref().map_or_else(|_| guess(), Clone::clone)
    });
    let is_known = server.iter().all(Result::is_ok);
    let mut held = Vec::new();
    for pod in controllers {
        let froms = doors[1].addresses().into_iter().map(Other::ApiServer);
        let ins = froms.filter_map(|from| net.held(pod, Way::In, from, WEBHOOK, "the API server"));
        held.extend(ins.min_by_key(|held| held.open));
        held.extend(way_out(net, pod, &doors, is_known));
    }
    let mut ports: Vec<u16> = doors.iter().flat_map(|door| door.ports.clone()).collect();
    ports.dedup();
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ");
    let why = server.iter().find_map(|door| door.as_ref().err());
    let why = why.map(|error| format!("cannot be known: {error}"));
    let part = "network plugins differ in whether they judge by the address and port of the Service `default/kubernetes` or \
                by those behind it, and it is open to a part of these";
    told(description, &held, |held| match held.way {
        Way::In => Words {
            what: "TCP 8443",
            mend: "let TCP 8443 in from everywhere: the API server is no pod that a selector could name".to_owned(),
            unsure: format!(
                "whether the API server is among those let in {}",
                why.as_deref().unwrap_or("cannot be known from here")
            ),
        },
        Way::Out => Words {
            what: "TCP to the API server",
            mend: format!("let TCP {ports} out to everywhere"),
            unsure: why.as_deref().map_or_else(|| part.to_owned(), |why| format!("where the API server listens {why}")),
        },
    })
}

/// How the pod reaches the API server: surely only if every way is open to it, and not at all if none is.
fn way_out<'a>(net: &Net<'a>, pod: &Pod, doors: &[Door], is_known: bool) -> Option<Held<'a>> {
    let ways = doors.iter().flat_map(|door| {
        let ways = door.addresses().into_iter().flat_map(|address| door.ports.iter().map(move |port| (address, *port)));
        ways.map(|(address, number)| {
            let port = Port { number, protocol: "TCP" };
            net.held(pod, Way::Out, Other::ApiServer(address), port, pod.name())
        })
    });
    let ways: Vec<Option<Held>> = ways.collect();
    let is_shut = is_known && ways.iter().all(|way| way.as_ref().is_some_and(|held| held.open == Open::No));
    let open = if is_shut { Open::No } else { Open::Unsure };
    ways.into_iter().flatten().next().map(|held| Held { open, ..held })
}

fn proxies(net: &Net, controllers: &[Pod], meshed: &[&Pod]) -> Check {
    let description = "no NetworkPolicy keeps proxies from the controller";
    let mut held = Vec::new();
    for controller in controllers {
        if meshed.is_empty() {
            held.extend(net.held(controller, Way::In, Other::Anybody, GRPC, "whoever asks"));
        }
        for pod in meshed {
            let who = format!("{}/{}", pod.namespace(), pod.name());
            held.extend(net.held(pod, Way::Out, Other::Pod(controller), GRPC, &who));
            held.extend(net.held(controller, Way::In, Other::Pod(pod), GRPC, &who));
        }
    }
    told(description, &held, |held| Words {
        what: "TCP 8080",
        mend: match held.way {
            Way::In => "let TCP 8080 in from the namespaces of meshed pods".to_owned(),
            Way::Out => "let TCP 8080 out to namespace lacewing".to_owned(),
        },
        unsure: "only an ipBlock lets it through, which Cilium does not apply to pods".to_owned(),
    })
}

fn dns(net: &Net, meshed: &[&Pod], pods: &[Pod]) -> Check {
    let description = "no NetworkPolicy keeps proxies from DNS";
    let servers: Vec<&Pod> = pods.iter().filter(|pod| pod.metadata.label(DNS_LABEL.0) == Some(DNS_LABEL.1)).collect();
    let mut held = Vec::new();
    for pod in meshed {
        let who = format!("{}/{}", pod.namespace(), pod.name());
        let Some(nobody) = net.held(pod, Way::Out, Other::Anybody, DNS, &who) else {
            let ways = servers.iter().map(|server| net.held(pod, Way::Out, Other::Pod(server), DNS, &who));
            let ways: Option<Vec<Held>> = ways.collect();
            // It may be answered by something else: a cache on the node, which is no pod to a policy.
            held.extend(ways.and_then(|mut ways| ways.pop()).map(|way| Held { open: Open::Unsure, ..way }));
            continue;
        };
        held.push(nobody);
    }
    told(description, &held, |_| Words {
        what: "UDP 53",
        mend: "let UDP and TCP 53 out to namespace kube-system: by DNS a proxy finds the controller".to_owned(),
        unsure: "it is open, but not to the pods with the label k8s-app=kube-dns".to_owned(),
    })
}

struct Words {
    /// Protocol and port.
    what: &'static str,
    /// What to change in the policy.
    mend: String,
    /// Why it is not known whether it passes.
    unsure: String,
}

/// The worst of what is held, in words.
fn told(description: &str, held: &[Held], words: impl Fn(&Held) -> Words) -> Check {
    let Some(worst) = held.iter().min_by_key(|held| (held.open, held.way)) else { return Check::good(description) };
    let alike = held.iter().filter(|other| (other.open, other.way) == (worst.open, worst.way));
    let mut who: Vec<&str> = alike.map(|held| held.who.as_str()).collect();
    who.dedup();
    let name = |policy: &&NetworkPolicy| {
        format!("{}/{}", policy.metadata.namespace.as_deref().unwrap_or_default(), policy.metadata.name)
    };
    let policies = some_of(&worst.policies.iter().map(name).collect::<Vec<_>>());
    let Words { what, mend, unsure } = words(worst);
    let way = if worst.way == Way::In { "in" } else { "out" };
    let from = some_of(&who);
    let edit = worst.policies.first().map(|policy| &policy.metadata);
    let edit = edit.map_or_else(String::new, |policy| {
        format!("{} -n {}", policy.name, policy.namespace.as_deref().unwrap_or_default())
    });
    let fix = format!("`kubectl edit networkpolicy {edit}`: {mend}");
    if worst.open == Open::No {
        return Check::bad(description, format!("{policies} does not let {what} {way} from {from}"), fix);
    }
    let message = format!("{policies} may or may not let {what} {way} from {from}: {unsure}");
    Check::bad(description, message, fix).mild()
}

#[cfg(test)]
mod tests;

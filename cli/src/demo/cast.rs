//! Owns who is in the demo: workloads, their pods, and every address. Pure data; nothing is started here.
//!
//! A subnet of loopback is the only choice: everything else follows from it, so that two demos can run side by side.

use std::{
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The one namespace of the demo; its inbound mode is `strict`.
pub const NAMESPACE: &str = "emojivoto";
/// Last byte of the controller's address.
const CONTROLLER_HOST: u8 = 1;
/// Last byte of the first pod's address.
const FIRST_POD_HOST: u8 = 10;
const CONTROLLER_GRPC_PORT: u16 = 8080;
const CONTROLLER_ADMIN_PORT: u16 = 9990;
const OUTBOUND_PORT: u16 = 4140;
const INBOUND_PORT: u16 = 4143;
const ADMIN_PORT: u16 = 4191;
const PRIVATE_ADMIN_PORT: u16 = 4192;
/// Where the load generator's proxy takes raw TCP for the echo service.
const ECHO_ENTRY_PORT: u16 = 7001;

/// What a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum App {
    /// HTTP/1.1 front: calls emoji and voting.
    Web,
    /// gRPC.
    Emoji,
    /// HTTP/1.1 and HTTP/2; fails every vote for the doughnut.
    Voting,
    /// Raw TCP: says what it hears.
    Echo,
    /// The load generator.
    Traffic,
}

impl App {
    pub fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Emoji => "emoji",
            Self::Voting => "voting",
            Self::Echo => "echo",
            Self::Traffic => "traffic",
        }
    }
}

/// A Deployment of the demo and, where it listens, the Service of the same name.
pub struct Workload {
    pub app: App,
    pub replicas: u8,
    /// The label `pod-template-hash`: also the end of the ReplicaSet's name.
    pub template_hash: &'static str,
    /// What the pods listen on; the load generator does not.
    pub port: Option<Port>,
}

/// A port of a Service and of its pods.
pub struct Port {
    pub number: u16,
    pub name: &'static str,
    /// `appProtocol` of the Service; where there is none, the proxies find out by the first bytes.
    pub app_protocol: Option<&'static str>,
}

/// Everything that runs. Order gives the addresses.
pub const WORKLOADS: [Workload; 5] = [
    Workload {
        app: App::Web,
        replicas: 2,
        template_hash: "7d9f6c5b8",
        port: Some(Port { number: 8080, name: "http", app_protocol: Some("http") }),
    },
    Workload {
        app: App::Emoji,
        replicas: 2,
        template_hash: "5c8b4dd7f",
        port: Some(Port { number: 8080, name: "grpc", app_protocol: Some("kubernetes.io/h2c") }),
    },
    Workload {
        app: App::Voting,
        replicas: 3,
        template_hash: "6f7d9c844",
        port: Some(Port { number: 8080, name: "http", app_protocol: None }),
    },
    Workload {
        app: App::Echo,
        replicas: 1,
        template_hash: "84d7c6b9f",
        port: Some(Port { number: 7000, name: "tcp", app_protocol: Some("lacewing.dev/opaque") }),
    },
    Workload { app: App::Traffic, replicas: 1, template_hash: "7b5f8d49c", port: None },
];

impl Workload {
    pub fn name(&self) -> &'static str {
        self.app.name()
    }
}

/// The first three bytes of every address: a /24 of loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet([u8; 3]);

impl Subnet {
    fn host(self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, host)
    }

    pub fn controller_grpc(self) -> SocketAddr {
        (self.host(CONTROLLER_HOST), CONTROLLER_GRPC_PORT).into()
    }

    pub fn controller_admin(self) -> SocketAddr {
        (self.host(CONTROLLER_HOST), CONTROLLER_ADMIN_PORT).into()
    }

    /// Every pod of the demo.
    pub fn pods(self) -> Vec<Pod> {
        let replicas = WORKLOADS.iter().flat_map(|workload| (1..=workload.replicas).map(move |n| (workload, n)));
        (FIRST_POD_HOST..).zip(replicas).map(|(host, (workload, n))| Pod::new(self.host(host), workload, n)).collect()
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: Ipv4Addr = format!("{text}.0").parse().map_err(|_| "expected three bytes, such as 127.1.5")?;
        match address.octets() {
            [127, 0, 0, _] => {
                Err("127.0.0 belongs to everybody on this machine; use another one, such as 127.1.5".to_owned())
            }
            [127, b, c, _] => Ok(Self([127, b, c])),
            _ => Err("the demo stays on loopback; use 127.X.Y, such as 127.1.5".to_owned()),
        }
    }
}

/// A pod of the demo, as `demo.json` tells the other commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    /// `deployment`.
    pub workload_kind: String,
    pub workload: String,
    pub ip: Ipv4Addr,
    pub app_port: Option<u16>,
    /// Anyone may ask here: `/ready`, `/metrics`.
    pub admin: SocketAddr,
    /// Live data, to whoever runs the demo.
    pub private_admin: SocketAddr,
}

impl Pod {
    fn new(ip: Ipv4Addr, workload: &Workload, n: u8) -> Self {
        Self {
            name: format!("{}-{n}", workload.name()),
            namespace: NAMESPACE.to_owned(),
            workload_kind: "deployment".to_owned(),
            workload: workload.name().to_owned(),
            ip,
            app_port: workload.port.as_ref().map(|port| port.number),
            admin: (ip, ADMIN_PORT).into(),
            private_admin: (ip, PRIVATE_ADMIN_PORT).into(),
        }
    }

    /// The workload that this is a pod of; `None` only for a `demo.json` of another version.
    pub fn of(&self) -> Option<&'static Workload> {
        WORKLOADS.iter().find(|workload| workload.name() == self.workload)
    }

    pub fn app(&self) -> Option<SocketAddr> {
        self.app_port.map(|port| (self.ip, port).into())
    }

    pub fn outbound(&self) -> SocketAddr {
        (self.ip, OUTBOUND_PORT).into()
    }

    pub fn inbound(&self) -> SocketAddr {
        (self.ip, INBOUND_PORT).into()
    }

    /// Where this pod's proxy takes raw TCP for the echo service; only the load generator's does.
    pub fn echo_entry(&self) -> Option<SocketAddr> {
        (self.workload == App::Traffic.name()).then(|| (self.ip, ECHO_ENTRY_PORT).into())
    }

    /// Every address that the pod's processes listen on, with what it is for.
    pub fn listens(&self) -> Vec<(SocketAddr, &'static str)> {
        let mut all = vec![
            (self.outbound(), "its proxy's outbound port"),
            (self.inbound(), "its proxy's inbound port"),
            (self.admin, "its proxy's admin port"),
            (self.private_admin, "its proxy's private admin port"),
        ];
        all.extend(self.app().map(|app| (app, "its app")));
        all.extend(self.echo_entry().map(|entry| (entry, "its proxy's entry to echo")));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pods_are_numbered_from_ten() {
        let pods = "127.1.5".parse::<Subnet>().expect("a subnet").pods();
        let names: Vec<_> = pods.iter().map(|pod| (pod.name.as_str(), pod.ip.octets()[3])).collect();
        let expected = [
            ("web-1", 10),
            ("web-2", 11),
            ("emoji-1", 12),
            ("emoji-2", 13),
            ("voting-1", 14),
            ("voting-2", 15),
            ("voting-3", 16),
            ("echo-1", 17),
            ("traffic-1", 18),
        ];
        assert_eq!(names, expected);
        assert!(pods.iter().all(|pod| pod.ip.octets()[..3] == [127, 1, 5] && pod.of().is_some()));
    }

    #[test]
    fn no_address_is_used_twice() {
        let pods = Subnet([127, 1, 0]).pods();
        let all: Vec<_> = pods.iter().flat_map(Pod::listens).map(|(address, _)| address).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn only_loopback_beside_the_common_one() {
        assert_eq!("127.9.8".parse(), Ok(Subnet([127, 9, 8])));
        for bad in ["127.0.0", "10.1.2", "127.1", "127.1.2.3", "127.1.256", ""] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}

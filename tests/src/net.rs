//! Network namespaces as machines: a [`Net`] is a bridge with [`Host`]s on it, each with addresses of its own (IPv4 and
//! IPv6), faults at will and real processes inside; a [`Cluster`] is a controller and pods on it, with real redirection.
//! The whole ring lives in namespaces of its own (`ring`), so nothing is left behind. The kernel has no netem here:
//! slow and broken links are a [`Relay`]'s business. An example stands at [`Cluster`].

mod apps;
mod cluster;
pub mod daemons;
mod faults;
mod host;
mod manifests;
mod pod;
mod process;
mod relay;
pub mod ring;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, Ordering::Relaxed},
    },
};

pub use apps::{Behaviour, TcpApp, http_app};
pub use cluster::Cluster;
pub use host::{Host, User};
pub use manifests::{PodSpec, Port};
pub use pod::Pod;
pub use process::Process;
pub use relay::{Link, Relay};

/// Where the world outside of the cluster is: these are on the bridge, too, without a gateway (RFC 5737, RFC 3849).
/// See [`Host::add_address`].
pub const OUTSIDE: [&str; 2] = ["203.0.113.0/24", "2001:db8::/32"];

/// Numbers of nets in use: third byte of their addresses.
static IN_USE: Mutex<BTreeSet<u8>> = Mutex::new(BTreeSet::new());
/// Nets so far: for names, which are never used again.
static SERIAL: AtomicU32 = AtomicU32::new(1);

/// A bridge with hosts on it: `10.42.N.0/24` and `fd42:N::/64`. The gateway is this process's own namespace, which
/// reaches every host and forwards nothing: what has no host goes there and is lost, as in a network that drops.
#[derive(Clone)]
pub struct Net(Arc<Bridge>);

pub(crate) struct Bridge {
    /// N of the addresses.
    pub(crate) number: u8,
    /// Unlike the number, never given to another net of this ring.
    pub(crate) serial: u32,
    next_host: AtomicU8,
}

impl Net {
    /// A net of one's own; several at once are fine.
    ///
    /// # Panics
    /// The ring cannot be entered (see `ring`), or all numbers are in use.
    #[expect(clippy::new_without_default, reason = "it makes a device")]
    pub fn new() -> Self {
        ring::ring();
        let number = {
            let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
            let free = (1..=250).find(|number| !in_use.contains(number)).expect("a number for a net");
            in_use.insert(free);
            free
        };
        let bridge = Bridge { number, serial: SERIAL.fetch_add(1, Relaxed), next_host: AtomicU8::new(2) };
        let device = bridge.device();
        let (v4, v6) = (bridge.v4(1), bridge.v6(1));
        ring::ip(&format!(
            "link add {device} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {device} addrgenmode none\n\
             address add {v4}/24 dev {device}\n\
             address add {v6}/64 dev {device} nodad\n\
             link set {device} up\n"
        ));
        Self(Arc::new(bridge))
    }

    /// Adds a host; `name` is for people, and unique in this net.
    pub fn host(&self, name: &str) -> Host {
        let address = self.0.next_host.fetch_add(1, Relaxed);
        assert!(address < 250, "a net has at most 247 hosts");
        Host::new(self.0.clone(), name, address)
    }

    /// The gateway's addresses: this process, seen from the hosts.
    pub fn gateway(&self) -> [IpAddr; 2] {
        [self.0.v4(1).into(), self.0.v6(1).into()]
    }

    /// N of this net's addresses.
    pub fn number(&self) -> u8 {
        self.0.number
    }

    pub(crate) fn bridge(&self) -> &Bridge {
        &self.0
    }
}

impl Bridge {
    pub(crate) fn device(&self) -> String {
        format!("br{}", self.number)
    }

    pub(crate) fn v4(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 42, self.number, host)
    }

    pub(crate) fn v6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd42, self.number.into(), 0, 0, 0, 0, 0, host.into())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ring::try_ip(&format!("link delete {}\n", self.device()));
        IN_USE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

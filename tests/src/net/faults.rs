//! What breaks a host's network: rules at its own end of the cable, for everything that comes in and goes out there.
//! Loopback is never touched. Faults add up until [`Host::heal`]. Latency, limits and stalls are a `Relay`'s business,
//! to which [`Host::divert`] sends what was meant for somebody else.

use std::net::{IpAddr, SocketAddr};

use super::Host;

/// Before connection tracking, and after every translation: addresses are those on the wire.
const CHAINS: &str = "\
table inet faults
delete table inet faults
table inet faults {
  chain in { type filter hook prerouting priority -310; policy accept; iifname \"lo\" accept; }
  chain out { type filter hook output priority 310; policy accept; oifname \"lo\" accept; ip daddr 127.0.0.0/8 accept; ip6 daddr ::1 accept; }
}
";

impl Host {
    /// Gone without a word: nothing comes in, nothing goes out. Established connections hang.
    pub fn vanish(&self) {
        self.fault(&["in drop", "out drop"]);
    }

    /// New connections to here get no answer; established ones go on. On `port`, or on all.
    pub fn drop_syn(&self, port: Option<u16>) {
        let port = port.map(|port| format!("tcp dport {port} ")).unwrap_or_default();
        self.fault(&[&format!("in {port}tcp flags & (syn|ack) == syn drop")]);
    }

    /// Every segment that arrives for `port` is answered with RST, and the app here never sees it.
    pub fn reset(&self, port: u16) {
        self.fault(&[&format!("in tcp dport {port} reject with tcp reset")]);
    }

    /// Every segment that a process here sends to `port` is answered with RST at once.
    pub fn reset_sent(&self, port: u16) {
        self.fault(&[&format!("out tcp dport {port} reject with tcp reset")]);
    }

    /// Loses `percent` of the packets, in each direction, by chance.
    pub fn lose(&self, percent: u8) {
        assert!(percent < 100, "all of them is `vanish`");
        let some = format!("numgen random mod 100 < {percent} drop");
        self.fault(&[&format!("in {some}"), &format!("out {some}")]);
    }

    /// A partition between two hosts: nothing of either reaches the other.
    pub fn cut(&self, other: &Host) {
        self.cut_from(&[other.v4, other.v6]);
    }

    /// Nothing from or to these addresses.
    pub fn cut_from(&self, addresses: &[IpAddr]) {
        let family = |ip: &IpAddr| if ip.is_ipv4() { "ip" } else { "ip6" };
        let rules = addresses.iter().flat_map(|ip| {
            [format!("in {} saddr {ip} drop", family(ip)), format!("out {} daddr {ip} drop", family(ip))]
        });
        let rules: Vec<String> = rules.collect();
        self.fault(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// A fault of one's own: rules that begin with `in` or `out`.
    #[track_caller]
    pub fn fault(&self, rules: &[&str]) {
        let mut faults = self.faults.lock().expect("no fault failed");
        faults.extend(rules.iter().map(|rule| format!("add rule inet faults {rule}\n")));
        self.nft(&format!("{CHAINS}{}", faults.concat()));
    }

    /// Ends all faults; diversions stay.
    pub fn heal(&self) {
        self.faults.lock().expect("no fault failed").clear();
        self.nft("table inet faults\ndelete table inet faults\n");
    }

    /// New connections that leave this host for `from` go to `to` instead, a relay say. In a meshed pod this meets the
    /// proxy's connections: those of apps were redirected before.
    pub fn divert(&self, from: SocketAddr, to: SocketAddr) {
        assert_eq!(from.is_ipv4(), to.is_ipv4(), "a diversion stays in its family");
        let family = if from.is_ipv4() { "ip" } else { "ip6" };
        let (ip, port) = (from.ip(), from.port());
        let rule = format!("add rule inet diversions out {family} daddr {ip} tcp dport {port} dnat {family} to {to}\n");
        let mut diversions = self.diversions.lock().expect("no diversion failed");
        diversions.push(rule);
        self.nft(&format!(
            "table inet diversions\ndelete table inet diversions\ntable inet diversions {{\n  \
             chain out {{ type nat hook output priority -40; policy accept; }}\n}}\n{}",
            diversions.concat()
        ));
    }

    /// Ends all diversions; connections that took one keep it.
    pub fn divert_nothing(&self) {
        self.diversions.lock().expect("no diversion failed").clear();
        self.nft("table inet diversions\ndelete table inet diversions\n");
    }
}

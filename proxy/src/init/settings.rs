//! What to redirect, read from `LACEWING_*` like every setting, all errors at once. The ports come from the same
//! settings as the proxy's listeners, so that the two cannot differ; addresses at which no redirected connection could
//! arrive are errors here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lacewing_ops::{
    ports::{Ports, skip_list},
    settings::{Settings, SettingsError, parsed, text},
};

use crate::{
    cidr::Cidr,
    config::{self, ADMIN_ADDR, INBOUND_ADDR, OUTBOUND_ADDR},
};

/// What is redirected where, and what is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    pub log: String,
    /// Whose connections are the proxy's own.
    pub exempt: Exempt,
    /// Gets what the pod opens.
    pub outbound: u16,
    /// Gets what is opened to the pod.
    pub inbound: u16,
    /// All ports of the proxy: who dials one of them means it.
    pub own_ports: Vec<u16>,
    pub skip_inbound: Vec<Ports>,
    pub skip_outbound: Vec<Ports>,
    /// Destinations that the pod reaches without the proxy.
    pub skip_subnets: Vec<Cidr>,
}

/// How the kernel tells the proxy's connections from the app's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    Uid(u32),
    /// `SO_MARK`, instead of the uid: in a user namespace with a single uid everybody has the proxy's.
    Mark(u32),
}

impl Redirection {
    /// Reads all settings.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut s = Settings::new(env);
        let log = s.get("LACEWING_LOG", "info", text);
        let uid = s.get("LACEWING_PROXY_UID", "2102", uid);
        let mark = s.get("LACEWING_SOCKET_MARK", "", config::mark);
        let outbound = s.get("LACEWING_OUTBOUND_ADDR", OUTBOUND_ADDR, |value| redirect_port(value, reachable_outbound));
        let inbound = s.get("LACEWING_INBOUND_ADDR", INBOUND_ADDR, |value| redirect_port(value, reachable_inbound));
        let admin = s.get("LACEWING_ADMIN_ADDR", ADMIN_ADDR, config::list::<SocketAddr>);
        let private_admin = s.get("LACEWING_PRIVATE_ADMIN_ADDR", "127.0.0.1:4192", parsed::<SocketAddr>);
        let skip_inbound = s.get("LACEWING_SKIP_INBOUND_PORTS", "", skip_list);
        let skip_outbound = s.get("LACEWING_SKIP_OUTBOUND_PORTS", "", skip_list);
        let skip_subnets = s.get("LACEWING_SKIP_SUBNETS", "", skip_list);
        let built = (|| {
            let (outbound, inbound) = (outbound?, inbound?);
            let mut own_ports = vec![outbound, inbound];
            own_ports.extend(admin?.iter().chain(&[private_admin?]).map(SocketAddr::port));
            own_ports.sort_unstable();
            own_ports.dedup();
            Some(Self {
                log: log?,
                exempt: mark?.map_or(Exempt::Uid(uid?), Exempt::Mark),
                outbound,
                inbound,
                own_ports,
                skip_inbound: skip_inbound?,
                skip_outbound: skip_outbound?,
                skip_subnets: skip_subnets?,
            })
        })();
        s.finish(built)
    }
}

fn uid(value: &str) -> Result<u32, String> {
    // The highest number means "no user" to the kernel.
    parsed(value).ok().filter(|uid| *uid != u32::MAX).ok_or_else(|| "expected a user id".to_owned())
}

/// The port of all these addresses: a redirect leads to one.
fn redirect_port(value: &str, reachable: fn(IpAddr) -> Result<(), String>) -> Result<u16, String> {
    let addrs: Vec<SocketAddr> = config::list(value)?;
    let port = addrs.first().map_or(0, SocketAddr::port);
    if port == 0 || addrs.iter().any(|addr| addr.port() != port) {
        return Err("redirection needs one port, the same in all addresses".to_owned());
    }
    addrs.iter().try_for_each(|addr| reachable(addr.ip()))?;
    Ok(port)
}

fn reachable_outbound(ip: IpAddr) -> Result<(), String> {
    if ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST {
        return Ok(());
    }
    Err(format!("the kernel redirects to 127.0.0.1 and [::1], so nothing would arrive at {ip}"))
}

fn reachable_inbound(ip: IpAddr) -> Result<(), String> {
    if ip.is_loopback() {
        return Err(format!("what is redirected comes from outside and cannot arrive at {ip}: use 0.0.0.0 and [::]"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lacewing_ops::ports::SKIP_MAX;

    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Redirection, String> {
        let find = |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Redirection::read(&find).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_ports_of_the_proxy() {
        let redirection = read(&[]).unwrap();
        assert_eq!(redirection.exempt, Exempt::Uid(2102));
        assert_eq!((redirection.outbound, redirection.inbound), (4140, 4143));
        assert_eq!(redirection.own_ports, [4140, 4143, 4191, 4192]);
        assert!(redirection.skip_inbound.is_empty() && redirection.skip_subnets.is_empty());
    }

    #[test]
    fn settings_are_honoured() {
        let redirection = read(&[
            ("LACEWING_SOCKET_MARK", "0x2102"),
            ("LACEWING_OUTBOUND_ADDR", "127.0.0.1:5140"),
            ("LACEWING_INBOUND_ADDR", "10.1.2.3:5143,[fd00::3]:5143"),
            ("LACEWING_ADMIN_ADDR", "0.0.0.0:5191,[::]:4191"),
            ("LACEWING_SKIP_OUTBOUND_PORTS", "25, 3306-3310"),
            ("LACEWING_SKIP_SUBNETS", "10.0.0.0/8,fd00::/8"),
        ])
        .unwrap();
        assert_eq!(redirection.exempt, Exempt::Mark(0x2102));
        assert_eq!(redirection.own_ports, [4191, 4192, 5140, 5143, 5191]);
        assert_eq!(redirection.skip_outbound, [Ports { first: 25, last: 25 }, Ports { first: 3306, last: 3310 }]);
        assert_eq!(redirection.skip_subnets.len(), 2);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let many = vec!["7"; SKIP_MAX + 1].join(",");
        let error = read(&[
            ("LACEWING_PROXY_UID", "4294967295"),
            ("LACEWING_SOCKET_MARK", "0"),
            ("LACEWING_OUTBOUND_ADDR", "127.0.0.2:4140"),
            ("LACEWING_INBOUND_ADDR", "127.0.0.1:4143"),
            ("LACEWING_ADMIN_ADDR", "x"),
            ("LACEWING_SKIP_INBOUND_PORTS", &many),
            ("LACEWING_SKIP_OUTBOUND_PORTS", "9-8"),
            ("LACEWING_SKIP_SUBNETS", "10.1.2.3/8"),
        ])
        .unwrap_err();
        assert!(error.starts_with("8 bad settings"), "{error}");
        for part in
            ["user id", "a mark is", "arrive at 127.0.0.2", "from outside", "write 8-9", "at most 128", "10.1.2.3/8"]
        {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        let error = read(&[("LACEWING_OUTBOUND_ADDR", "127.0.0.1:4140,[::1]:4141")]).unwrap_err();
        assert!(error.contains("the same in all addresses"), "{error}");
    }
}

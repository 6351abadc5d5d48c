//! `init --check`: whether redirection really works. Outbound by trying: a connection to an address that nobody has must
//! end at the outbound port, with the right original destination. Inbound cannot be tried from inside, so the rules are
//! read back and compared with those that [`super::rules`] would make now.
//!
//! It changes nothing and sends nothing that leaves the pod while redirection works.

use std::{
    collections::HashSet,
    fmt, fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{
    expression, netlink,
    netlink::Attributes,
    rules::{self, Chain, TABLE},
    settings::{Exempt, Redirection},
};

/// A redirected connection is there at once; one that is not redirected finds nobody.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Networks for documentation (RFC 5737, RFC 3849): nobody has these addresses.
const NOBODY_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 1)];
const NOBODY_V6: [Ipv6Addr; 1] = [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)];
/// The first port to try.
const PORT: u16 = 20_001;

/// What was found.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Works(String),
    /// It could not be tried, and why.
    NotChecked(String),
    Broken(String),
}

impl Report {
    /// Something was checked, and nothing was broken.
    pub fn works(&self) -> bool {
        let broken = |finding: &Finding| matches!(finding, Finding::Broken(_));
        self.0.iter().any(|finding| matches!(finding, Finding::Works(_))) && !self.0.iter().any(broken)
    }

    /// Everything was checked.
    pub fn is_complete(&self) -> bool {
        !self.0.iter().any(|finding| matches!(finding, Finding::NotChecked(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, finding) in self.0.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "; " })?;
            match finding {
                Finding::Works(what) => write!(f, "{what}")?,
                Finding::NotChecked(what) => write!(f, "not checked: {what}")?,
                Finding::Broken(what) => write!(f, "BROKEN: {what}")?,
            }
        }
        Ok(())
    }
}

/// Checks everything that can be checked from here.
pub fn run(redirection: &Redirection) -> Report {
    let rules = read_rules(redirection);
    let (v4, v6) = match unseen(redirection) {
        // Every connection of ours would be exempt.
        Some(why) => return Report(vec![rules, Finding::Broken(why)]),
        None => (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
    };
    Report(vec![rules, outbound(redirection, v4), outbound(redirection, v6)])
}

/// Why a connection of this process would not be redirected, if so.
fn unseen(redirection: &Redirection) -> Option<String> {
    let Exempt::Uid(proxy) = redirection.exempt else { return None };
    match own_uid() {
        Ok(uid) if uid == proxy => Some(format!(
            "this check runs as uid {uid}, whose connections are the proxy's and are not redirected: \
             run it as another user (securityContext.runAsUser)"
        )),
        Ok(_) => None,
        Err(error) => Some(format!("cannot read the own uid from /proc/self/status: {error}")),
    }
}

/// The uid by which the kernel judges our sockets: that for file access, the last of the four.
fn own_uid() -> io::Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    uid.ok_or_else(|| io::Error::from(ErrorKind::InvalidData))
}

/// Tries it: `loopback` is where the kernel redirects to, and says which of IPv4 and IPv6 is meant.
fn outbound(redirection: &Redirection, loopback: IpAddr) -> Finding {
    let family = if loopback.is_ipv4() { "IPv4" } else { "IPv6" };
    let Some(target) = nobody(redirection, loopback) else {
        return Finding::NotChecked(format!("outbound {family} (the skip settings leave nothing to try)"));
    };
    if let Err(error) = route(target) {
        return Finding::NotChecked(format!("outbound {family} (no route to {}: {error})", target.ip()));
    }
    let here = SocketAddr::new(loopback, redirection.outbound);
    let tried = match TcpListener::bind(here) {
        Ok(listener) => arrives(&listener, target).map(|()| "arrived".to_owned()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            arrives_elsewhere(here, target).map(|()| "arrived at who listens there, probably the proxy".to_owned())
        }
        Err(error) if matches!(error.kind(), ErrorKind::AddrNotAvailable) => {
            return Finding::NotChecked(format!("outbound {family} (there is no address {loopback})"));
        }
        Err(error) => Err(format!("cannot listen there: {error}")),
    };
    match tried {
        Ok(how) => Finding::Works(format!("outbound {family}: a connection to {target}, redirected to {here}, {how}")),
        Err(why) => Finding::Broken(format!("outbound {family}: a connection to {target} should end at {here}: {why}")),
    }
}

/// An address of nobody that the settings do not skip.
fn nobody(redirection: &Redirection, loopback: IpAddr) -> Option<SocketAddr> {
    let addrs: Vec<IpAddr> =
        if loopback.is_ipv4() { NOBODY_V4.map(IpAddr::from).to_vec() } else { NOBODY_V6.map(IpAddr::from).to_vec() };
    let skipped = |addr: IpAddr| redirection.skip_subnets.iter().any(|net| net.contains(addr));
    let port =
        (PORT..=u16::MAX).chain(1..PORT).find(|port| !redirection.skip_outbound.iter().any(|p| p.contains(*port)))?;
    addrs.into_iter().find(|addr| !skipped(*addr)).map(|addr| SocketAddr::new(addr, port))
}

/// Whether there is a way out: connecting a datagram socket only looks it up.
fn route(target: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0))?.connect(target)
}

fn dial(target: SocketAddr) -> Result<(TcpStream, SocketAddr), String> {
    let stream = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)
        .map_err(|error| format!("it did not arrive there, and found nobody elsewhere: {error}"))?;
    let from = stream.local_addr().map_err(|error| error.to_string())?;
    Ok((stream, from))
}

/// A connection to `target` arrives at our listener, which can tell where it was meant for. That alone tells it from
/// connections of others: the kernel may have given it another source port, if both it and its end are in use.
fn arrives(listener: &TcpListener, target: SocketAddr) -> Result<(), String> {
    let (_open, _) = dial(target)?;
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut strangers = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("it was answered, but not here ({strangers} others came)"));
        }
        SockRef::from(listener).set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        let Ok((accepted, _)) = listener.accept() else { continue };
        let accepted = SockRef::from(&accepted);
        let meant = if target.is_ipv4() { accepted.original_dst_v4() } else { accepted.original_dst_v6() };
        let meant = meant.map_err(|error| format!("the kernel does not say where it was meant for: {error}"))?;
        if meant.as_socket().is_some_and(|meant| (meant.ip(), meant.port()) == (target.ip(), target.port())) {
            return Ok(());
        }
        strangers += 1;
    }
}

/// A connection to `target` arrives at somebody else's socket `here`: the kernel's list has a new connection there, from
/// the address that we dialled from. Its port can be another; see [`arrives`].
fn arrives_elsewhere(here: SocketAddr, target: SocketAddr) -> Result<(), String> {
    let before = peers(here)?;
    let (_open, from) = dial(target)?;
    let from = ip_in_list(from.ip());
    if peers(here)?.difference(&before).any(|peer| peer.starts_with(&from)) {
        return Ok(());
    }
    Err("somebody listens there, but it was answered elsewhere, or closed at once".to_owned())
}

/// Who has a connection to `here`, as the kernel lists them: `address:port`.
fn peers(here: SocketAddr) -> Result<HashSet<String>, String> {
    let list = if here.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let connections = fs::read_to_string(list).map_err(|error| format!("cannot read {list}: {error}"))?;
    let here = format!("{}:{:04X}", ip_in_list(here.ip()), here.port());
    let peer = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == here).then(|| words.next().map(str::to_owned))?
    };
    Ok(connections.lines().filter_map(peer).collect())
}

/// An address as `/proc/net/tcp` shows it: in words as the machine would print them.
fn ip_in_list(ip: IpAddr) -> String {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default();
    octets.chunks(4).map(|bytes| format!("{:08X}", word(bytes))).collect::<Vec<_>>().concat()
}

/// Compares the table in the kernel with the one that `init` would make.
fn read_rules(redirection: &Redirection) -> Finding {
    let wanted = rules::rules(redirection);
    match installed() {
        Ok((chains, found)) => match differs(&wanted, &chains, &found) {
            None => Finding::Works(format!("table inet {TABLE} has its {} rules", wanted.len())),
            Some(why) => {
                Finding::Broken(format!("{why}: run `lacewing-proxy init` with the same settings as this check"))
            }
        },
        Err(error) if error.is_capability() => {
            Finding::NotChecked("the rules, and with them inbound (reading them needs capability NET_ADMIN)".to_owned())
        }
        Err(error) => Finding::Broken(error.to_string()),
    }
}

/// A chain in the kernel.
#[derive(Clone, Debug)]
struct FoundChain {
    name: Vec<u8>,
    of_type: Vec<u8>,
    hook: Option<u32>,
}

/// A rule in the kernel.
#[derive(Debug)]
struct FoundRule {
    chain: Vec<u8>,
    comment: Vec<u8>,
    redirects_to: Option<u16>,
}

/// What the kernel has in our table, in order. No table is an empty one.
fn installed() -> Result<(Vec<FoundChain>, Vec<FoundRule>), super::error::Error> {
    const GET_CHAIN: u16 = 4;
    const GET_RULE: u16 = 7;
    let text = |attributes: &[u8], kind| {
        let value = Attributes::find(attributes, kind).unwrap_or_default();
        value.strip_suffix(&[0]).unwrap_or(value).to_vec()
    };
    // The kernel cannot be asked for the chains of one table only.
    let chains = netlink::dump(GET_CHAIN, &Attributes::default(), "read the chains of the kernel's packet filter")?;
    let ours = chains.iter().filter(|chain| text(chain, rules::CHAIN_TABLE) == TABLE.as_bytes());
    let chains = ours
        .map(|chain| FoundChain {
            name: text(chain, rules::CHAIN_NAME),
            of_type: text(chain, rules::CHAIN_TYPE),
            hook: Attributes::find(chain, rules::CHAIN_HOOK)
                .and_then(|hook| Attributes::find(hook, rules::HOOK_NUMBER)?.try_into().ok())
                .map(u32::from_be_bytes),
        })
        .collect();
    let our_rules = Attributes::default().text(rules::RULE_TABLE, TABLE);
    let found = netlink::dump(GET_RULE, &our_rules, &format!("read the rules of table inet {TABLE}"))?;
    let found = found
        .iter()
        .map(|rule| FoundRule {
            chain: text(rule, rules::RULE_CHAIN),
            comment: Attributes::find(rule, rules::RULE_COMMENT).unwrap_or_default().to_vec(),
            redirects_to: Attributes::find(rule, rules::RULE_EXPRESSIONS).and_then(expression::redirects_to),
        })
        .collect();
    Ok((chains, found))
}

/// The first difference, in words.
fn differs(wanted: &[rules::Rule], chains: &[FoundChain], found: &[FoundRule]) -> Option<String> {
    if chains.is_empty() {
        return Some(format!("there is no table inet {TABLE}"));
    }
    for chain in Chain::ALL {
        let name = chain.name();
        let Some(there) = chains.iter().find(|found| found.name == name.as_bytes()) else {
            return Some(format!("table inet {TABLE} has no chain {name}"));
        };
        if there.of_type != rules::CHAIN_OF_TYPE.as_bytes() || there.hook != Some(chain as u32) {
            return Some(format!("chain {name} of table inet {TABLE} is not where the kernel translates addresses"));
        }
        let mut rules = found.iter().filter(|rule| rule.chain == name.as_bytes());
        for rule in wanted.iter().filter(|rule| rule.chain == chain) {
            let same = rules.next().is_some_and(|there| {
                there.comment == rules::comment(&rule.sentence) && there.redirects_to == rule.redirects_to
            });
            if !same {
                return Some(format!(
                    "chain {name} of table inet {TABLE} lacks the rule {:?}, or not in its place",
                    rule.sentence
                ));
            }
        }
        if rules.next().is_some() {
            return Some(format!("chain {name} of table inet {TABLE} has rules that are not of these settings"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn redirection(settings: &[(&str, &str)]) -> Redirection {
        let settings: HashMap<_, _> = settings.iter().copied().collect();
        Redirection::read(&|name: &str| settings.get(name).map(|value| (*value).to_owned())).unwrap()
    }

    #[test]
    fn tries_an_address_that_is_not_skipped() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        for (subnets, ports, wanted_v4, wanted_v6) in [
            ("", "", Some("192.0.2.1:20001"), Some("[2001:db8::1]:20001")),
            ("192.0.2.0/24,198.51.100.1/32", "20001-20005", Some("203.0.113.1:20006"), Some("[2001:db8::1]:20006")),
            ("0.0.0.0/0", "20001-65535", None, Some("[2001:db8::1]:1")),
            ("", "1-65535", None, None),
        ] {
            let redirection =
                redirection(&[("LACEWING_SKIP_SUBNETS", subnets), ("LACEWING_SKIP_OUTBOUND_PORTS", ports)]);
            let found = |loopback| nobody(&redirection, loopback).map(|addr| addr.to_string());
            assert_eq!(found(v4).as_deref(), wanted_v4, "{subnets} {ports}");
            assert_eq!(found(v6).as_deref(), wanted_v6, "{subnets} {ports}");
        }
    }

    #[test]
    fn finds_both_ends_of_a_connection_in_the_kernels_list() {
        for (ip, list) in [("127.0.0.1:0", "/proc/net/tcp"), ("[::1]:0", "/proc/net/tcp6")] {
            let listener = TcpListener::bind(ip).unwrap();
            let here = listener.local_addr().unwrap();
            let socket = TcpStream::connect(here).unwrap();
            let client = socket.local_addr().unwrap();
            let peer = format!("{}:{:04X}", ip_in_list(client.ip()), client.port());
            assert!(peers(here).unwrap().contains(&peer), "{peer} is not in {list}");
            assert_eq!(arrives_elsewhere(here, here), Ok(()));
            let other = TcpListener::bind(ip).unwrap().local_addr().unwrap();
            assert!(arrives_elsewhere(other, here).unwrap_err().contains("answered elsewhere"));
        }
    }

    #[test]
    fn nothing_checked_is_not_a_success() {
        let (works, not, broken) = (
            || Finding::Works("a".to_owned()),
            || Finding::NotChecked("b".to_owned()),
            || Finding::Broken("c".to_owned()),
        );
        for (findings, wanted, complete, words) in [
            (vec![works(), works()], true, true, "a; a"),
            (vec![works(), not()], true, false, "a; not checked: b"),
            (vec![not(), not()], false, false, "not checked: b; not checked: b"),
            (vec![works(), broken()], false, true, "a; BROKEN: c"),
        ] {
            let report = Report(findings);
            assert_eq!((report.works(), report.is_complete(), report.to_string().as_str()), (wanted, complete, words));
        }
    }

    #[test]
    fn the_proxys_own_user_sees_nothing() {
        let uid = own_uid().unwrap().to_string();
        assert!(unseen(&redirection(&[("LACEWING_PROXY_UID", &uid)])).unwrap().contains("runAsUser"));
        assert_eq!(unseen(&redirection(&[("LACEWING_PROXY_UID", "4242424")])), None);
        assert_eq!(unseen(&redirection(&[("LACEWING_PROXY_UID", &uid), ("LACEWING_SOCKET_MARK", "1")])), None);
    }

    #[test]
    fn every_difference_of_the_rules_is_found() {
        let wanted = rules::rules(&redirection(&[("LACEWING_SKIP_INBOUND_PORTS", "25")]));
        let chains = || {
            let chain = |chain: Chain| FoundChain {
                name: chain.name().into(),
                of_type: "nat".into(),
                hook: Some(chain as u32),
            };
            Chain::ALL.map(chain).to_vec()
        };
        let rules = || -> Vec<FoundRule> {
            let there = |rule: &rules::Rule| FoundRule {
                chain: rule.chain.name().into(),
                comment: rules::comment(&rule.sentence),
                redirects_to: rule.redirects_to,
            };
            wanted.iter().map(there).collect()
        };
        assert_eq!(differs(&wanted, &chains(), &rules()), None);
        assert!(differs(&wanted, &[], &[]).unwrap().contains("no table"));
        assert!(differs(&wanted, &chains()[..1], &rules()).unwrap().contains("no chain prerouting"));
        let mut moved = chains();
        moved[0].hook = Some(1);
        assert!(differs(&wanted, &moved, &rules()).unwrap().contains("not where"));
        for gone in 0..wanted.len() {
            let mut rules = rules();
            rules.remove(gone);
            let words = differs(&wanted, &chains(), &rules).unwrap();
            assert!(words.contains(&wanted[gone].sentence), "{words}");
        }
        let mut other_port = rules();
        other_port.last_mut().unwrap().redirects_to = Some(1);
        assert!(differs(&wanted, &chains(), &other_port).unwrap().contains("TCP goes to port 4143"));
        let mut more = rules();
        more.push(FoundRule { chain: "output".into(), comment: Vec::new(), redirects_to: None });
        assert!(differs(&wanted, &chains(), &more).unwrap().contains("not of these settings"));
    }
}

//! The few nf_tables expressions that our rules are made of, as the kernel wants them (numbers of
//! `linux/netfilter/nf_tables.h`). A rule is a list of them: each loads a value into a register, or goes on only if the
//! register compares, or ends with a verdict. Register numbers, lengths and codes are big-endian; the values compared
//! are in the order in which the kernel loads them: of packets big-endian, of its own state native.

use std::net::IpAddr;

use super::netlink::Attributes;
use crate::cidr::Cidr;

/// The 16-byte register that all of ours use.
const REGISTER: u32 = 1;

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

const IFNAMSIZ: usize = 16;
const TCP_DESTINATION_PORT: (Base, u32, u32) = (Base::Transport, 2, 2);
const IPV4_DESTINATION: (Base, u32, u32) = (Base::Network, 16, 4);
const IPV6_DESTINATION: (Base, u32, u32) = (Base::Network, 24, 16);

/// One or more expressions of a rule.
pub type Expressions = Vec<Attributes>;

#[derive(Clone, Copy)]
enum Meta {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    SocketUid = 10,
    Family = 15,
    Protocol = 16,
}

#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    AtMost = 3,
    AtLeast = 5,
}

#[derive(Clone, Copy)]
enum Base {
    Network = 1,
    Transport = 2,
}

/// The socket that sends belongs to this user.
pub fn socket_uid(uid: u32) -> Expressions {
    vec![meta(Meta::SocketUid), compare(Compare::Equal, &uid.to_ne_bytes())]
}

/// The packet carries this mark.
pub fn mark(mark: u32) -> Expressions {
    vec![meta(Meta::Mark), compare(Compare::Equal, &mark.to_ne_bytes())]
}

/// It leaves by loopback: also what goes to the pod's own address.
pub fn leaves_by_loopback() -> Expressions {
    vec![meta(Meta::OutputName), compare(Compare::Equal, &loopback_name())]
}

/// It comes in by loopback.
pub fn comes_by_loopback() -> Expressions {
    vec![meta(Meta::InputName), compare(Compare::Equal, &loopback_name())]
}

/// The kernel compares the whole field of an interface's name.
fn loopback_name() -> [u8; IFNAMSIZ] {
    let mut name = [0; IFNAMSIZ];
    name[..2].copy_from_slice(b"lo");
    name
}

/// It is TCP, of IPv4 or IPv6.
pub fn tcp() -> Expressions {
    vec![meta(Meta::Protocol), compare(Compare::Equal, &[libc::IPPROTO_TCP as u8])]
}

/// It is TCP to one of these ports.
pub fn tcp_to(first: u16, last: u16) -> Expressions {
    let mut all = tcp();
    all.push(payload(TCP_DESTINATION_PORT));
    if first == last {
        all.push(compare(Compare::Equal, &first.to_be_bytes()));
    } else {
        all.push(compare(Compare::AtLeast, &first.to_be_bytes()));
        all.push(compare(Compare::AtMost, &last.to_be_bytes()));
    }
    all
}

/// It goes to this network.
pub fn destination(network: Cidr) -> Expressions {
    // The family's number in nf_tables is that of its sockets.
    let (family, field, network, mask) = match network.addr {
        IpAddr::V4(addr) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix)).unwrap_or(0);
            (libc::AF_INET, IPV4_DESTINATION, addr.octets().to_vec(), mask.to_be_bytes().to_vec())
        }
        IpAddr::V6(addr) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(network.prefix)).unwrap_or(0);
            (libc::AF_INET6, IPV6_DESTINATION, addr.octets().to_vec(), mask.to_be_bytes().to_vec())
        }
    };
    vec![
        meta(Meta::Family),
        compare(Compare::Equal, &[family as u8]),
        payload(field),
        bitwise_and(&mask),
        compare(Compare::Equal, &network),
    ]
}

/// Leave it alone: no further rule of the chain.
pub fn leave_alone() -> Attributes {
    const CODE: u16 = 1;
    const RETURN: u32 = -5_i32 as u32;
    const VERDICT_REGISTER: u32 = 0;
    let verdict = Attributes::default().number(CODE, RETURN);
    immediate(VERDICT_REGISTER, &Attributes::default().nest(DATA_VERDICT, &verdict))
}

/// Send it to this port of this machine: what leaves goes to loopback, what comes to the address of the interface.
pub fn redirect(port: u16) -> Expressions {
    const PORT_MIN: u16 = 1;
    vec![
        immediate(REGISTER, &value(&port.to_be_bytes())),
        expression("redir", &Attributes::default().number(PORT_MIN, REGISTER)),
    ]
}

/// The port that a rule of these expressions redirects to.
pub fn redirects_to(expressions: &[u8]) -> Option<u16> {
    const IMMEDIATE_DATA: u16 = 2;
    let mut loaded = None;
    for (_, one) in Attributes::read(expressions) {
        match Attributes::find(one, EXPRESSION_NAME)? {
            b"immediate\0" => {
                let data = Attributes::find(one, EXPRESSION_DATA)?;
                let value = Attributes::find(Attributes::find(data, IMMEDIATE_DATA)?, DATA_VALUE);
                loaded = value.and_then(|value| value.try_into().ok()).map(u16::from_be_bytes);
            }
            b"redir\0" => return loaded,
            _ => {}
        }
    }
    None
}

fn meta(key: Meta) -> Attributes {
    const INTO: u16 = 1;
    const KEY: u16 = 2;
    expression("meta", &Attributes::default().number(KEY, key as u32).number(INTO, REGISTER))
}

fn payload((base, offset, length): (Base, u32, u32)) -> Attributes {
    const INTO: u16 = 1;
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const LENGTH: u16 = 4;
    let field = Attributes::default().number(INTO, REGISTER).number(BASE, base as u32);
    expression("payload", &field.number(OFFSET, offset).number(LENGTH, length))
}

fn bitwise_and(mask: &[u8]) -> Attributes {
    const FROM: u16 = 1;
    const INTO: u16 = 2;
    const LENGTH: u16 = 3;
    const MASK: u16 = 4;
    const XOR: u16 = 5;
    let registers = Attributes::default().number(FROM, REGISTER).number(INTO, REGISTER);
    let masked = registers.number(LENGTH, mask.len() as u32).nest(MASK, &value(mask));
    expression("bitwise", &masked.nest(XOR, &value(&vec![0; mask.len()])))
}

fn compare(how: Compare, with: &[u8]) -> Attributes {
    const FROM: u16 = 1;
    const HOW: u16 = 2;
    const WITH: u16 = 3;
    expression("cmp", &Attributes::default().number(FROM, REGISTER).number(HOW, how as u32).nest(WITH, &value(with)))
}

fn immediate(register: u32, data: &Attributes) -> Attributes {
    const INTO: u16 = 1;
    const DATA: u16 = 2;
    expression("immediate", &Attributes::default().number(INTO, register).nest(DATA, data))
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(DATA_VALUE, bytes)
}

fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::default().text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, data)
}

/// The bytes below are what `nft` sends for the same rules, on a little-endian machine, as strace shows them.
#[cfg(test)]
mod tests {
    use super::*;

    const RETURN: &str = "30000180 0e000100 696d6d6564696174650000 00 \
         1c000280 0800010000000000 10000280 0c000280 08000100fffffffb";
    const TCP: &str = "24000180 09000100 6d65746100 000000 14000280 0800020000000010 0800010000000001 \
         2c000180 08000100 636d7000 20000280 0800010000000001 0800020000000000 0c000380 05000100 06 000000";
    const PORT: &str = "34000180 0c000100 7061796c6f616400 24000280 0800010000000001 0800020000000002 \
         0800030000000002 0800040000000002";

    /// As the list that a rule holds.
    fn list(expressions: &[Attributes]) -> Attributes {
        expressions.iter().fold(Attributes::default(), |list, expression| list.nest(1, expression))
    }

    fn left_alone(mut conditions: Expressions) -> Attributes {
        conditions.push(leave_alone());
        list(&conditions)
    }

    fn hex(attributes: &Attributes) -> String {
        attributes.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    }

    #[track_caller]
    fn assert_bytes(attributes: &Attributes, wanted: &[&str]) {
        assert_eq!(hex(attributes), wanted.concat().replace(char::is_whitespace, ""));
    }

    #[test]
    fn conditions_on_the_socket_and_the_interface() {
        let name = "6c6f0000000000000000000000000000";
        for (conditions, key, compared) in [
            (
                socket_uid(2102),
                "0a",
                "2c000180 08000100636d7000 20000280 0800010000000001 0800020000000000 0c000380 0800010036080000",
            ),
            (
                mark(0x2102),
                "03",
                "2c000180 08000100636d7000 20000280 0800010000000001 0800020000000000 0c000380 0800010002210000",
            ),
            (
                leaves_by_loopback(),
                "07",
                &format!(
                    "38000180 08000100636d7000 2c000280 0800010000000001 0800020000000000 18000380 14000100{name}"
                ),
            ),
            (
                comes_by_loopback(),
                "06",
                &format!(
                    "38000180 08000100636d7000 2c000280 0800010000000001 0800020000000000 18000380 14000100{name}"
                ),
            ),
        ] {
            let meta = format!("24000180 09000100 6d65746100 000000 14000280 08000200000000{key} 0800010000000001");
            assert_bytes(&left_alone(conditions), &[&meta, compared, RETURN]);
        }
    }

    #[test]
    fn ports_and_ranges() {
        let compare = |how: &str, port: &str| {
            format!(
                "2c000180 08000100636d7000 20000280 0800010000000001 08000200000000{how} 0c000380 06000100{port} 0000"
            )
        };
        assert_bytes(&left_alone(tcp_to(5432, 5432)), &[TCP, PORT, &compare("00", "1538"), RETURN]);
        let (from, to) = (compare("05", "000a"), compare("03", "0014"));
        assert_bytes(&left_alone(tcp_to(10, 20)), &[TCP, PORT, &from, &to, RETURN]);
    }

    #[test]
    fn networks() {
        let v4 = "24000180 09000100 6d65746100 000000 14000280 080002000000000f 0800010000000001 \
             2c000180 08000100636d7000 20000280 0800010000000001 0800020000000000 0c000380 05000100 02 000000 \
             34000180 0c000100 7061796c6f616400 24000280 0800010000000001 0800020000000001 0800030000000010 0800040000000004 \
             44000180 0c000100 6269747769736500 34000280 0800010000000001 0800020000000001 0800030000000004 \
             0c000480 08000100ff800000 0c000580 0800010000000000 \
             2c000180 08000100636d7000 20000280 0800010000000001 0800020000000000 0c000380 080001000a000000";
        assert_bytes(&left_alone(destination("10.0.0.0/9".parse().unwrap())), &[v4, RETURN]);
        let v6 = "24000180 09000100 6d65746100 000000 14000280 080002000000000f 0800010000000001 \
             2c000180 08000100636d7000 20000280 0800010000000001 0800020000000000 0c000380 05000100 0a 000000 \
             34000180 0c000100 7061796c6f616400 24000280 0800010000000001 0800020000000001 0800030000000018 0800040000000010 \
             5c000180 0c000100 6269747769736500 4c000280 0800010000000001 0800020000000001 0800030000000010 \
             18000480 14000100ff800000000000000000000000000000 18000580 1400010000000000000000000000000000000000 \
             38000180 08000100636d7000 2c000280 0800010000000001 0800020000000000 \
             18000380 14000100fd000000000000000000000000000000";
        assert_bytes(&left_alone(destination("fd00::/9".parse().unwrap())), &[v6, RETURN]);
    }

    #[test]
    fn masks_of_all_lengths() {
        for prefix in 0..=32_u8 {
            let mask = (u64::from(u32::MAX) << (32 - prefix)) as u32;
            let net = Cidr { addr: "0.0.0.0".parse().unwrap(), prefix };
            let wanted = format!("0c00048008000100{mask:08x}");
            assert!(hex(&list(&destination(net))).contains(&wanted), "/{prefix}");
        }
        for prefix in 0..=128_u8 {
            let mask: String = (0..128).map(|bit| if bit < prefix { '1' } else { '0' }).collect();
            let mask = u128::from_str_radix(&mask, 2).unwrap();
            let net = Cidr { addr: "::".parse().unwrap(), prefix };
            let wanted = format!("1800048014000100{mask:032x}");
            assert!(hex(&list(&destination(net))).contains(&wanted), "/{prefix}");
        }
    }

    #[test]
    fn redirects_and_is_recognised() {
        let mut rule = tcp();
        rule.extend(redirect(4140));
        let rule = list(&rule);
        let redirect = "2c000180 0e000100 696d6d656469617465000000 18000280 0800010000000001 0c000280 06000100102c 0000 \
             1c000180 0a000100 726564697200 0000 0c000280 0800010000000001";
        assert_bytes(&rule, &[TCP, redirect]);
        assert_eq!(redirects_to(rule.as_bytes()), Some(4140));
        assert_eq!(redirects_to(left_alone(tcp()).as_bytes()), None);
        assert_eq!(redirects_to(&rule.as_bytes()[..60]), None);
    }
}

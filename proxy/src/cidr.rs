//! Networks in CIDR notation (RFC 4632, RFC 4291): which addresses belong to the cluster, and which are none of the
//! mesh's business. Pure. It refuses host bits, since `10.1.2.3/8` is more often a slip than a wish.

use std::{fmt, net::IpAddr, str::FromStr};

/// One network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub addr: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl Cidr {
    /// Whether the address is in the network. An IPv4 address in IPv6 clothes is still that address.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => {
                let host_bits = 32 - u32::from(self.prefix);
                (net.to_bits() ^ addr.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(addr)) => {
                let host_bits = 128 - u32::from(self.prefix);
                (net.to_bits() ^ addr.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    /// # Errors
    /// What is wrong with it, in words for an operator.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is no network: write 10.0.0.0/8 or fd00::/8");
        let (addr, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let addr: IpAddr = addr.parse().map_err(|_| malformed())?;
        let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(malformed)?;
        let (longest, host_bits_set) = match addr {
            IpAddr::V4(addr) => (32, addr.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0),
            IpAddr::V6(addr) => (128, addr.to_bits().checked_shl(prefix.into()).unwrap_or(0) != 0),
        };
        if prefix > longest {
            return Err(malformed());
        }
        if host_bits_set {
            return Err(format!("{text:?} is no network: it has bits set behind the first {prefix}"));
        }
        Ok(Self { addr, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (net, addr, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("100.64.0.0/10", "100.127.255.255", true),
            ("100.64.0.0/10", "100.128.0.0", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.2", false),
            ("fd00::/8", "fd42::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "2001:db8::1", true),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("10.0.0.0/8", "fd00::1", false),
        ] {
            assert_eq!(net.parse::<Cidr>().unwrap().contains(addr.parse().unwrap()), inside, "{addr} in {net}");
        }
        for bad in
            ["10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "x/8", "10.0.0.0/+8", "10.0.0.0/", "fd00::/129", "fd00::1/8"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}

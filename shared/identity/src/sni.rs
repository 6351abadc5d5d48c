//! Owns the server names that say where a mesh connection wants to go when it did not arrive by redirection:
//! `p<port>.<service>.<namespace>.lacewing`. Refuses to mean anything for security: who the peer is comes from
//! certificates only. The inbound side accepts such a name only for ports that its workload declares.

use crate::name::is_label;

/// Last label of every such name. It is no public suffix, so nothing outside a mesh answers to it.
const SUFFIX: &str = "lacewing";

/// The name for the endpoint port `port` of `service` in `namespace`, e.g. `p8080.voting.emojivoto.lacewing`.
pub fn format(port: u16, service: &str, namespace: &str) -> String {
    format!("p{port}.{service}.{namespace}.{SUFFIX}")
}

/// Port, service and namespace of a name that [`format`] made; nothing for any other text.
pub fn parse(name: &str) -> Option<(u16, &str, &str)> {
    let mut labels = name.split('.');
    let (port, service, namespace) = (labels.next()?, labels.next()?, labels.next()?);
    if labels.next()? != SUFFIX || labels.next().is_some() {
        return None;
    }
    let digits = port.strip_prefix('p')?;
    // `u16::from_str` takes a plus sign and leading zeros; one endpoint has one name.
    if !digits.bytes().all(|b| b.is_ascii_digit()) || digits.starts_with('0') {
        return None;
    }
    let port = digits.parse().ok()?;
    (is_label(service) && is_label(namespace)).then_some((port, service, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for (port, service, namespace) in [(8080, "voting", "emojivoto"), (1, "a", "b"), (65535, "a-1", "0")] {
            assert_eq!(parse(&format(port, service, namespace)), Some((port, service, namespace)));
        }
        assert_eq!(format(8080, "voting", "emojivoto"), "p8080.voting.emojivoto.lacewing");
    }

    #[test]
    fn other_names_mean_nothing() {
        let table = [
            "",
            "p.voting.emojivoto.lacewing",
            "p0.voting.emojivoto.lacewing",
            "p08080.voting.emojivoto.lacewing",
            "p+80.voting.emojivoto.lacewing",
            "p65536.voting.emojivoto.lacewing",
            "8080.voting.emojivoto.lacewing",
            "p80.voting.lacewing",
            "p80.voting.emojivoto.lacewing.",
            "p80.voting.emojivoto.lacewing.x",
            "p80.Voting.emojivoto.lacewing",
            "p80..emojivoto.lacewing",
            "p80.voting.emojivoto.linkerd",
            "example.com",
        ];
        for name in table {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}

//! Owns the names of workloads: trust domains and SPIFFE IDs, in the single form that the mesh uses,
//! `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`. Refuses every other form, so that two
//! different texts are never the same identity: no upper case, no escapes, no port, no query, no extra path.
//! The names go into certificates (`authority.rs`) and come back out of them (`svid.rs`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Error;

/// Longest trust domain, in bytes (SPIFFE-ID §2.3).
pub const MAX_TRUST_DOMAIN: usize = 255;
/// Longest SPIFFE ID, in bytes (SPIFFE-ID §2.3).
pub const MAX_ID: usize = 2048;
/// Longest DNS label (Kubernetes Namespaces and Services), in bytes (RFC 1123).
pub const MAX_LABEL: usize = 63;
/// Longest DNS subdomain (Kubernetes ServiceAccounts), in bytes (RFC 1123).
pub const MAX_SUBDOMAIN: usize = 253;

const SCHEME: &str = "spiffe://";
const FORM: &str = "the form is spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>";

/// The name under which one trust root issues identities, e.g. `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Takes 1 to [`MAX_TRUST_DOMAIN`] bytes of `a-z 0-9 . - _`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Err(Error::name("trust domain", text, why));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MAX_TRUST_DOMAIN {
            return refuse("it is longer than 255 bytes");
        }
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if !text.bytes().all(allowed) {
            return refuse("only lower-case letters, digits, '.', '-' and '_' are allowed");
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://<trust-domain>`: the name of the domain itself, as signing certificates carry it.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{self}")
    }
}

impl FromStr for TrustDomain {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One workload identity. Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the trust domain ends in `text`; bounded by [`MAX_ID`].
    domain_end: u16,
    /// Where the namespace ends in `text`.
    namespace_end: u16,
}

impl SpiffeId {
    /// The identity of a service account.
    pub fn new(domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, Error> {
        Self::parse(&format!("{SCHEME}{domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// Takes exactly `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`, at most [`MAX_ID`] bytes.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Error::name("SPIFFE ID", text, why);
        if text.len() > MAX_ID {
            return Err(refuse("it is longer than 2048 bytes"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| refuse(FORM))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| refuse(FORM))?;
        TrustDomain::parse(domain)?;
        let (namespace, service_account) =
            path.strip_prefix("ns/").and_then(|p| p.split_once("/sa/")).ok_or_else(|| refuse(FORM))?;
        if !is_label(namespace) {
            return Err(refuse("the namespace is not a DNS label (a-z, 0-9, '-', at most 63)"));
        }
        if !is_subdomain(service_account) {
            return Err(refuse("the service account is not a DNS subdomain (a-z, 0-9, '-', '.', at most 253)"));
        }
        let domain_end = SCHEME.len() + domain.len();
        let namespace_end = domain_end + "/ns/".len() + namespace.len();
        Ok(Self { text: text.into(), domain_end: domain_end as u16, namespace_end: namespace_end as u16 })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.domain_end.into()]
    }

    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.domain_end) + "/ns/".len()..self.namespace_end.into()]
    }

    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.namespace_end) + "/sa/".len()..]
    }

    pub fn is_in(&self, domain: &TrustDomain) -> bool {
        self.trust_domain() == domain.as_str()
    }
}

impl FromStr for SpiffeId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// DNS label of RFC 1123 in lower case.
pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_dns_part(text)
}

/// DNS subdomain as Kubernetes defines it: labels joined by dots, the limit is on the whole.
fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_dns_part)
}

fn is_dns_part(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match text.as_bytes() {
        [] => false,
        bytes @ ([first, .., last] | [first @ last]) => {
            alphanumeric(*first) && alphanumeric(*last) && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for (ns, sa) in [("a", "b"), ("emojivoto", "voting"), ("n-1", "sa.with.dots"), ("0", "9")] {
            let domain = TrustDomain::parse("cluster.local").unwrap();
            let id = SpiffeId::new(&domain, ns, sa).unwrap();
            assert_eq!(id.to_string(), format!("spiffe://cluster.local/ns/{ns}/sa/{sa}"));
            assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id);
            assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", ns, sa));
            assert!(id.is_in(&domain) && !id.is_in(&TrustDomain::parse("cluster").unwrap()));
        }
    }

    #[test]
    fn every_other_form_is_refused() {
        let long = "a".repeat(64);
        let table = [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe:///ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:443/ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local//ns/a/sa/b",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns/a/sa",
            "spiffe://cluster.local/sa/b/ns/a",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/b#x",
            "spiffe://cluster.local/ns/a/sa/%62",
            "spiffe://cluster.local/ns/a/sa/..",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a.b/sa/c",
            "spiffe://cluster.local/ns/A/sa/b",
            "spiffe://cluster.local/ns/a/sa/B",
            "spiffe://cluster.local/ns/-a/sa/b",
            "spiffe://cluster.local/ns/a-/sa/b",
            "spiffe://cluster.local/ns/a/sa/*",
            "spiffe://cluster.local/ns/a/sa/b\0",
            "spiffe://cluster.local/ns/a/sa/b\n",
            "spiffe://cluster.local/ns/a/sa/bücher",
            &format!("spiffe://cluster.local/ns/{long}/sa/b"),
            &format!("spiffe://cluster.local/ns/a/sa/{}", "b".repeat(254)),
            &format!("spiffe://{}/ns/a/sa/b", "d".repeat(256)),
            &format!("spiffe://d/ns/a/sa/{}", "b.".repeat(1200)),
        ];
        for text in table {
            let error = SpiffeId::parse(text).expect_err(text).to_string();
            assert!(error.contains("is not a valid") && error.len() < 1200, "{error}");
        }
    }

    #[test]
    fn longest_names_are_taken() {
        let domain = TrustDomain::parse(&"d".repeat(MAX_TRUST_DOMAIN)).unwrap();
        let id = SpiffeId::new(&domain, &"n".repeat(MAX_LABEL), &"s".repeat(MAX_SUBDOMAIN)).unwrap();
        assert_eq!(id.service_account().len(), MAX_SUBDOMAIN);
    }

    #[test]
    fn trust_domains() {
        for good in ["cluster.local", "a", "x_y-z.1"] {
            assert_eq!(TrustDomain::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Cluster.local", "a/b", "a b", "ü", "a:1", &"a".repeat(256)] {
            TrustDomain::parse(bad).expect_err(bad);
        }
        assert_eq!(TrustDomain::parse("cluster.local").unwrap().uri(), "spiffe://cluster.local");
    }
}

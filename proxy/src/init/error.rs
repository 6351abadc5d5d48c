//! What the kernel can refuse, in words: which step it was, and what to do about it. The kernel answers with a number
//! only, and the same number means another missing module at another step.

use std::io;

use thiserror::Error;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opening the socket.
    Socket,
    /// Everything that is not one of the others: the change as a whole, reading.
    Filter,
    Table,
    Chain,
    Rule,
    /// The rule that redirects.
    Redirect,
}

/// The kernel refused.
#[derive(Debug, Error)]
#[error("cannot {what}: {source}{}", advice(*.step, .source))]
pub struct Error {
    pub step: Step,
    /// As it goes on after "cannot".
    pub what: String,
    pub source: io::Error,
}

impl Error {
    pub fn new(step: Step, what: impl Into<String>, source: io::Error) -> Self {
        Self { step, what: what.into(), source }
    }

    /// Whether it was for lack of `CAP_NET_ADMIN`.
    pub fn is_capability(&self) -> bool {
        self.step != Step::Socket && self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// What to do about it, to be appended.
fn advice(step: Step, error: &io::Error) -> &'static str {
    let number = error.raw_os_error().unwrap_or(0);
    let missing = matches!(
        number,
        libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ENOPROTOOPT
    );
    match step {
        Step::Socket if matches!(number, libc::EPERM | libc::EACCES) => {
            "; a seccomp or security profile forbids netlink sockets: allow them for the init container"
        }
        _ if matches!(number, libc::EPERM | libc::EACCES) => {
            "; the init container needs capability NET_ADMIN: securityContext.capabilities.add: [NET_ADMIN]"
        }
        _ if !missing => "",
        Step::Socket | Step::Filter | Step::Table => {
            "; the node's kernel has no nf_tables: run `modprobe nf_tables` on the node, \
             or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
        }
        Step::Chain => {
            "; the node's kernel has no NAT for nf_tables: run `modprobe -a nft_chain_nat nf_conntrack` on the node, \
             or use a kernel from 5.2 on with CONFIG_NFT_NAT and CONFIG_NF_CONNTRACK"
        }
        Step::Rule => "; the node's kernel is too old for this rule: use Linux 5.2 or later",
        Step::Redirect => {
            "; the node's kernel cannot redirect: run `modprobe -a nft_redir nf_conntrack` on the node, \
             or use a kernel with CONFIG_NFT_REDIR and CONFIG_NF_CONNTRACK"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do() {
        for (step, number, part) in [
            (Step::Filter, libc::EPERM, "capability NET_ADMIN"),
            (Step::Redirect, libc::EPERM, "capability NET_ADMIN"),
            (Step::Socket, libc::EPERM, "seccomp"),
            (Step::Socket, libc::EPROTONOSUPPORT, "modprobe nf_tables"),
            (Step::Filter, libc::EOPNOTSUPP, "modprobe nf_tables"),
            (Step::Table, libc::EAFNOSUPPORT, "CONFIG_NF_TABLES_INET"),
            (Step::Chain, libc::ENOENT, "nft_chain_nat nf_conntrack"),
            (Step::Chain, libc::EOPNOTSUPP, "from 5.2 on"),
            (Step::Rule, libc::ENOENT, "too old"),
            (Step::Redirect, libc::ENOENT, "nft_redir"),
        ] {
            let error = Error::new(step, "do this", io::Error::from_raw_os_error(number));
            let words = error.to_string();
            assert!(words.starts_with("cannot do this: ") && words.contains(part), "{step:?} {number}: {words}");
            assert_eq!(error.is_capability(), part.contains("NET_ADMIN"));
        }
        let error = Error::new(Step::Chain, "do this", io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(!error.contains(';'), "{error}");
    }
}

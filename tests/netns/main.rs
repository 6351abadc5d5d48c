//! The `netns` ring: pods with real redirection, each in a network namespace, with faults and with peers that nobody here
//! wrote. It needs root or a kernel that lets users make namespaces; it fails where it gets neither. What it
//! is built from is `lacewing_tests::net`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod init;
mod smoke;

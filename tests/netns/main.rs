//! The `netns` ring: pods with real redirection, each in a network namespace, with faults and with peers that nobody here
//! wrote. It needs root or a kernel that lets users make namespaces; it fails where it gets neither. What it
//! is built from is `lacewing_tests::net`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod detection;
mod faults;
mod faults_http2;
mod faults_process;
mod history;
mod init;
mod matrix;
mod matrix_h2;
mod matrix_http;
mod matrix_tcp;
mod matrix_tunnel;
mod peers;
mod peers_grpc;
mod peers_mail;
mod peers_sql;
mod peers_stores;
mod peers_web;
mod pod_ip;
mod pod_ip_faults;
mod probes;
mod rollout;
mod smoke;
mod wire;
mod workers;

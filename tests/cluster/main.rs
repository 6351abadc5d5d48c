//! The `cluster` ring: Lacewing on a real Kubernetes with other people's programs in its pods. `tests/run cluster` brings a
//! node up and runs these in it; `--context NAME` runs them, but for `node`, on any cluster. The order of the modules is that of
//! `cluster_tests` in `tests/run`: what one leaves, the next finds.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod bare;
mod faults;
mod gone;
mod install;
mod mesh;
mod node;
mod refusals;
mod replicas;
mod rotation;
mod secret;
mod workloads;

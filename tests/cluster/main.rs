//! The `cluster` ring: Lacewing on a real Kubernetes with other people's programs in its pods. `tests/run cluster` brings a
//! node up and runs these in it; `--context NAME` runs them on any cluster. They run in this order of modules, see
//! `tests/run`: the bare node, then the mesh is installed, what it does for workloads, faults one after the other, its end.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod bare;

const WEB: &str = include_str!("manifests/web.yaml");
const CLIENT: &str = include_str!("manifests/client.yaml");

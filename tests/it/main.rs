//! The `it` ring: everything that one machine and loopback can show, in one binary.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod bad_input;
mod bench;
mod charts;
mod clients;
mod demo;
mod faults;
mod generated;
mod released;
mod resources;
mod rotation;
mod tidy;
mod wire;

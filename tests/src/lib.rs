//! What the rings share: a demo of one's own, a plain HTTP client, and waiting for a condition. Everything is on loopback,
//! bounded in time, and gone when the test is.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod api;
pub mod cluster;
pub mod demo;
pub mod history;
pub mod load;
pub mod net;
pub mod peer;
pub mod pod;
pub mod records;
pub mod solo;
pub mod subnet;
pub mod tee;
pub mod wait;

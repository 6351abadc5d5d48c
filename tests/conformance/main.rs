//! The `conformance` ring: what strangers may do to the HTTP of the mesh. h2spec at every HTTP/2 server of ours, and hostile
//! clients and servers whose bytes are written by hand; each row of the tables says what has to come of it.
//! Loopback only. A suite that is missing fails here; it is never passed over.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod bench;
mod bridge;
mod destinations;
mod downgrade;
mod few;
mod floods;
mod frames;
mod giver;
mod h2spec;
mod pipeline;
mod requests;
mod responses;
mod rows;
mod wire;

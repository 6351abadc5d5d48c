//! What the rings share: a demo of one's own, a plain HTTP client, and waiting for a condition. Everything is on loopback,
//! bounded in time, and gone when the test is.

pub mod demo;
pub mod wait;

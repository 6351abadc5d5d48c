//! The control protocol between proxy and controller, as generated from `proto/control.proto`.
//!
//! Wire types only: they stop at `proxy/src/discovery/`, `proxy/src/certify.rs` and `controller/src/grpc/`,
//! where they are parsed into types that cannot be wrong.

mod codec;

#[allow(clippy::all, clippy::pedantic, missing_docs)]
#[rustfmt::skip]
pub mod control;

//! The controller: cluster state in; routes, endpoints, policy and identities out.

pub mod clock;
pub mod conditions;
pub mod destination;
pub mod endpoints;
mod files;
pub mod grpc;
pub mod identity;
pub mod metrics;
pub mod nearest;
pub mod policy;
pub mod publish;
pub mod source;
pub mod tokens;
pub mod world;

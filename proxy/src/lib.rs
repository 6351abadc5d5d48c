//! The proxy beside each app. Reading order is module order: where a connection comes in, what happens to a request,
//! where its knowledge comes from, what is recorded.
//!
//! The two spines, [`outbound`] and [`inbound`], are plain async functions, read top to bottom; everything else is a
//! phase that they call. `docs/life-of-a-request.md` tells the same story in prose.

pub mod admin;
pub mod app;
pub mod authorize;
pub mod balance;
pub mod breaker;
pub mod certify;
pub mod cidr;
pub mod clock;
pub mod config;
pub mod detect;
pub mod discovery;
pub mod endpoint;
pub mod error;
pub mod first;
pub mod http;
pub mod inbound;
#[cfg(target_os = "linux")]
pub mod init;
pub mod kept;
pub mod listen;
pub mod live;
pub mod metrics;
pub mod outbound;
pub mod record;
pub mod retry;
pub mod route;
pub mod socket;
pub mod sys;
pub mod tcp;
pub mod tls;

pub use app::run;

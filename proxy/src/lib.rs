//! The proxy beside each app. Reading order is module order: where a connection comes in, what happens to a request,
//! where its knowledge comes from, what is recorded.
//!
//! The two spines, [`outbound`] and [`inbound`], are plain async functions, read top to bottom; everything else is a
//! phase that they call. `docs/life-of-a-request.md` tells the same story in prose.

pub mod app;
pub mod config;
pub mod listen;
pub mod outbound;
pub mod inbound;
pub mod detect;
pub mod route;
pub mod authorize;
pub mod balance;
pub mod breaker;
pub mod endpoint;
pub mod retry;
pub mod http;
pub mod tcp;
pub mod tls;
pub mod discovery;
pub mod certify;
pub mod record;
pub mod error;
pub mod metrics;
pub mod live;
pub mod admin;
pub mod clock;
pub mod sys;

pub use app::run;

//! HTTP as the spines need it: serving a connection, a client for one endpoint, the one body type, and what happens to
//! header fields on the way. hyper and h2 do the protocols; decisions are the spines'.

pub mod body;
pub mod client;
pub mod flood;
pub mod headers;
mod multiplexed;
pub mod patience;
pub mod pulse;
mod pump;
pub mod server;
pub mod strict;
pub mod upgrade;

//! HTTP as the spines need it: serving a connection, a client for one endpoint, the one body type, and what happens to
//! header fields on the way. hyper does the protocol; decisions are the spines'.

pub mod body;
pub mod client;
pub mod flood;
pub mod headers;
pub mod patience;
pub mod server;
mod stalled;
pub mod strict;
pub mod upgrade;

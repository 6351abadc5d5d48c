//! Workload identity: who a workload is, how it proves that, and how it checks the other side.
//!
//! Reading order: [`name`] and [`sni`] (names), [`bundle`] (whom we trust), [`csr`] then [`leaf`] (how a workload
//! gets its certificate), [`svid`] (what a certificate must look like), [`tls`] (the two rustls configurations),
//! [`refusal`] (why a handshake failed, in words), and with the feature `issue` [`authority`] (the signing half) and
//! [`server`] (a certificate for a server that is no workload).
//! It refuses to do I/O and to read the clock: bytes and unix seconds come in, values go out. Callers put these
//! configurations under their own sockets.

#[cfg(feature = "issue")]
pub mod authority;
pub mod bundle;
pub mod csr;
mod der;
pub mod error;
pub mod leaf;
pub mod name;
mod pem;
pub mod refusal;
#[cfg(feature = "issue")]
pub mod server;
pub mod sni;
pub mod svid;
#[cfg(test)]
#[cfg(feature = "issue")]
mod testing;
pub mod tls;

#[cfg(feature = "issue")]
pub use authority::{Authority, Issued, SecretParts};
pub use bundle::TrustBundle;
pub use csr::{KeyAndCsr, PendingKey};
pub use error::Error;
pub use leaf::Leaf;
pub use name::{SpiffeId, TrustDomain};
pub use refusal::{IdentityMismatch, Refusal, RefusalKind, identity_mismatch, refusal};
#[cfg(feature = "issue")]
pub use server::ServerCertificate;
pub use svid::peer_id;
pub use tls::ClientAuth;

//! Owns who a caller of `Certify` is: a token in, a namespace, service account and pod out.
//!
//! [`TokenReviewer`] is the seam: Kubernetes answers by TokenReview ([`review`]); with the directory source the
//! controller mints the tokens itself ([`mint`]) and [`DirectoryTokens`] checks them. It refuses rather than falls back:
//! a token that is not exactly right proves nothing.

pub mod jwt;
pub mod mint;
pub mod review;

use std::{future::Future, sync::Arc};

use lacewing_crds::Name;

use crate::publish::Publisher;
pub use review::ReviewedTokens;

/// The audience of every token that the mesh takes.
pub const AUDIENCE: &str = "lacewing.dev/identity";
/// Longest token, in bytes. Kubernetes' are about 1 KiB.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Who a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub namespace: String,
    pub service_account: String,
    pub pod: String,
}

/// Why a token proves nothing. The text is safe to send to the caller: it repeats nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("token refused: {0}")]
    Token(#[from] jwt::Invalid),
    #[error("token refused: {0}")]
    Pod(String),
    #[error("token refused: {0}")]
    Review(String),
    /// Not the token's fault: ask again.
    #[error("tokens cannot be reviewed now: {0}")]
    Unavailable(String),
}

/// Tells who a token belongs to.
pub trait TokenReviewer: Send + Sync + 'static {
    /// Reviews `token` at the time `now`, in unix seconds.
    fn review(&self, token: &str, now: u64) -> impl Future<Output = Result<Caller, Refusal>> + Send;
}

/// The reviewer that fits the source.
pub enum Tokens {
    Directory(DirectoryTokens),
    Kubernetes(ReviewedTokens),
}

impl TokenReviewer for Tokens {
    async fn review(&self, token: &str, now: u64) -> Result<Caller, Refusal> {
        match self {
            Self::Directory(tokens) => tokens.review(token, now).await,
            Self::Kubernetes(tokens) => tokens.review(token, now).await,
        }
    }
}

/// Reviews tokens that this controller minted for the pods of its directory.
pub struct DirectoryTokens {
    key: Arc<jwt::Key>,
    publisher: Arc<Publisher>,
}

impl DirectoryTokens {
    pub fn new(key: Arc<jwt::Key>, publisher: Arc<Publisher>) -> Self {
        Self { key, publisher }
    }

    /// The pod must still be there and run as the account: a token outlives its pod by up to its life.
    fn check(&self, token: &str, now: u64) -> Result<Caller, Refusal> {
        let caller = jwt::verify(&self.key, token, AUDIENCE, now)?;
        let name = Name::new(&caller.namespace, &caller.pod);
        let account = self.publisher.with_world(|world| world.pod(&name).map(|pod| pod.service_account().to_owned()));
        match account {
            Some(account) if account == caller.service_account => Ok(caller),
            Some(_) => Err(Refusal::Pod(format!("Pod {name} does not run as {}", caller.service_account))),
            None => Err(Refusal::Pod(format!("no Pod {name}"))),
        }
    }
}

impl TokenReviewer for DirectoryTokens {
    async fn review(&self, token: &str, now: u64) -> Result<Caller, Refusal> {
        self.check(token, now)
    }
}

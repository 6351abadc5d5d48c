//! Owns where the trust root is kept: a file in the state directory, or a Secret. Making it is the lock: of several
//! controllers that try, one succeeds and the others read what it made. It writes only over what it has read, and
//! decides nothing: what is in force is `trust`'s business, what is written and when is `keeper`'s.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lacewing_identity::{Authority, TrustBundle, TrustDomain};
use tokio::task::spawn_blocking;

use super::{
    secrets::Secrets,
    trust::{Previous, Terms},
};
use crate::files;

/// The signing half: certificates and private keys.
pub(super) const AUTHORITY_FILE: &str = "authority.pem";
/// The public half, for whoever starts proxies.
pub(super) const BUNDLE_FILE: &str = "root.pem";
/// A file of this name asks for a new root; it is removed when the change begins.
const ROTATE_FILE: &str = "rotate";
/// How long a root is published before anything is signed under it where there is one controller only, in seconds: all
/// proxies there are have a stream here, and whoever starts one reads the bundle anew.
const OVERLAP_OF_ONE: u64 = 10;

/// Why what is kept cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {error}; the trust root lives there, see LACEWING_STATE_DIR", path.display())]
    File {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{place}: {error}; {way_out}")]
    Unusable {
        place: String,
        #[source]
        error: lacewing_identity::Error,
        way_out: String,
    },
    /// The API server does not answer, or refuses.
    #[error("{place}: {why}")]
    Api { place: String, why: String },
}

/// What is kept at this moment.
pub enum Found {
    Nothing,
    Kept {
        authority: Box<Authority>,
        /// Somebody asks for a new root.
        wanted: bool,
    },
}

/// Where it is kept.
pub enum Store {
    Directory(Directory),
    Secrets(Secrets),
}

impl Store {
    /// What it is called in messages.
    pub fn place(&self) -> String {
        match self {
            Self::Directory(directory) => directory.authority().display().to_string(),
            Self::Secrets(secrets) => secrets.place(),
        }
    }

    pub fn terms(&self, leaf_lifetime: u64) -> Terms {
        let overlap = match self {
            Self::Directory(_) => OVERLAP_OF_ONE,
            Self::Secrets(_) => leaf_lifetime,
        };
        Terms { leaf_lifetime, overlap }
    }

    /// Reads it at `now` (unix seconds).
    ///
    /// # Errors
    /// It cannot be reached, or not be used.
    pub async fn read(&mut self, trust_domain: &TrustDomain, now: u64) -> Result<Found, StoreError> {
        match self {
            Self::Directory(directory) => {
                let trust_domain = trust_domain.clone();
                directory.beside(move |directory| directory.read(&trust_domain)).await
            }
            Self::Secrets(secrets) => secrets.read(trust_domain, now).await,
        }
    }

    /// Makes it unless it is there. What counts is what is read after that.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn create(&mut self, authority: &Authority) -> Result<bool, StoreError> {
        match self {
            Self::Directory(directory) => {
                let text = authority.to_pem();
                directory.beside(move |directory| directory.create(&text)).await
            }
            Self::Secrets(secrets) => secrets.create(authority).await,
        }
    }

    /// Writes it over what was read last; `answered`: the wish for a new root is fulfilled by it. False: somebody else
    /// has changed it meanwhile, so it is to be read again.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn replace(&mut self, authority: &Authority, answered: bool) -> Result<bool, StoreError> {
        match self {
            Self::Directory(directory) => {
                let text = authority.to_pem();
                directory.beside(move |directory| directory.replace(&text, answered)).await?;
                Ok(true)
            }
            Self::Secrets(secrets) => secrets.replace(authority, answered).await,
        }
    }

    /// The roots that were kept before, and until when they are needed.
    ///
    /// # Errors
    /// They cannot be reached, or not be used.
    pub async fn previous(&self) -> Result<Option<Previous>, StoreError> {
        match self {
            // Nobody swaps the file of a running controller but to see what happens; then a restart forgets.
            Self::Directory(_) => Ok(None),
            Self::Secrets(secrets) => secrets.previous().await,
        }
    }

    /// Keeps them.
    ///
    /// # Errors
    /// They cannot be written.
    pub async fn keep_previous(&self, previous: &Previous) -> Result<(), StoreError> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Secrets(secrets) => secrets.keep_previous(previous).await,
        }
    }

    /// Puts the public half where whoever starts proxies finds it. In a cluster that is the webhook itself.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn publish(&self, bundle: &TrustBundle) -> Result<(), StoreError> {
        match self {
            Self::Directory(directory) => {
                let text = bundle.to_pem();
                directory.beside(move |directory| directory.publish(&text)).await
            }
            Self::Secrets(_) => Ok(()),
        }
    }
}

/// The state directory, readable by the owner only.
#[derive(Clone)]
pub struct Directory(Arc<Path>);

impl Directory {
    /// Takes the directory, or makes it.
    ///
    /// # Errors
    /// It cannot be made, or is not private.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        files::private_directory(path).map_err(failed(path))?;
        Ok(Self(path.into()))
    }

    /// Files are read and written beside the runtime's thread, which proxies wait for.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let directory = self.clone();
        let done = spawn_blocking(move || work(&directory)).await;
        done.unwrap_or_else(|error| Err(failed(&self.0)(io::Error::other(error))))
    }

    fn authority(&self) -> PathBuf {
        self.0.join(AUTHORITY_FILE)
    }

    fn read(&self, trust_domain: &TrustDomain) -> Result<Found, StoreError> {
        let path = self.authority();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(failed(&path)(error)),
        };
        let authority = Authority::from_pem(trust_domain, &text).map_err(|error| StoreError::Unusable {
            place: path.display().to_string(),
            error,
            way_out: "restore it, or remove it for a new root (all proxies must then start anew)".to_owned(),
        })?;
        let wanted = self.0.join(ROTATE_FILE);
        let wanted = wanted.try_exists().map_err(failed(&wanted))?;
        Ok(Found::Kept { authority: Box::new(authority), wanted })
    }

    fn create(&self, text: &str) -> Result<bool, StoreError> {
        let path = self.authority();
        files::create_new(&path, text.as_bytes()).map_err(failed(&path))
    }

    fn replace(&self, text: &str, answered: bool) -> Result<(), StoreError> {
        let path = self.authority();
        files::replace(&path, text.as_bytes()).map_err(failed(&path))?;
        if !answered {
            return Ok(());
        }
        let wish = self.0.join(ROTATE_FILE);
        fs::remove_file(&wish).map_err(failed(&wish))
    }

    fn publish(&self, text: &str) -> Result<(), StoreError> {
        let path = self.0.join(BUNDLE_FILE);
        files::replace_unflushed(&path, text.as_bytes()).map_err(failed(&path))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |error| StoreError::File { path, error }
}

//! Owns the token files of the directory source: one `<namespace>_<pod>.token` for each pod, as a kubelet would project
//! it, written anew by half of its life and removed with its pod. Who may read them is the file system's business:
//! they are for their owner only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lacewing_crds::Name;

use super::{
    AUDIENCE, Caller,
    jwt::{self, KEY_BYTES, Key},
};
use crate::files;

/// Life of a token, in seconds.
pub const LIFETIME: u64 = 3_600;
/// A token is renewed up to this long before half of its life, in seconds, each at another time: those of all pods are
/// first made at once.
pub const RENEW_SPREAD: u64 = LIFETIME / 10;
/// What our files end with; others in the directory are left alone.
const SUFFIX: &str = ".token";
/// The key, in the state directory.
const KEY_FILE: &str = "token.key";

/// The pods that need a token, and their service accounts.
pub type Pods = BTreeMap<Name, String>;

/// Why token files cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("token file {}: {error}; see LACEWING_TOKEN_DIR and LACEWING_STATE_DIR", path.display())]
pub struct MintError {
    path: PathBuf,
    #[source]
    error: io::Error,
}

impl MintError {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads the key from the state directory, or makes it there.
///
/// # Errors
/// The file cannot be read or made, or holds no key.
pub fn load_key(state_dir: &Path) -> Result<Key, MintError> {
    let path = state_dir.join(KEY_FILE);
    let failed = |error| MintError { path: path.clone(), error };
    let fresh = Key::generate().map_err(|e| failed(io::Error::other(e)))?;
    if files::create_new(&path, &fresh).map_err(failed)? {
        return Ok(Key::new(&fresh));
    }
    let bytes = fs::read(&path).map_err(failed)?;
    let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| {
        failed(io::Error::other(format!(
            "does not hold {KEY_BYTES} bytes; remove it and start again: tokens are made anew"
        )))
    })?;
    Ok(Key::new(&bytes))
}

/// Keeps the token files of a directory up to date.
pub struct Minter {
    directory: PathBuf,
    key: Arc<Key>,
    minted: BTreeMap<Name, Minted>,
    swept: bool,
}

struct Minted {
    service_account: String,
    /// Unix seconds, as is the other.
    at: u64,
    renew_at: u64,
}

impl Minter {
    /// # Errors
    /// The directory cannot be made.
    pub fn new(directory: PathBuf, key: Arc<Key>) -> Result<Self, MintError> {
        files::private_directory(&directory).map_err(|error| MintError { path: directory.clone(), error })?;
        Ok(Self { directory, key, minted: BTreeMap::new(), swept: false })
    }

    /// Writes what is missing, changed or half through its life at `now` (unix seconds), and removes what has no pod.
    ///
    /// # Errors
    /// The first file that could not be written or removed; the others are kept up all the same.
    pub fn sync(&mut self, pods: &Pods, now: u64) -> Result<(), MintError> {
        let mut outcome = self.remove_others(pods);
        for (name, account) in pods {
            let fresh =
                self.minted.get(name).is_some_and(|minted| minted.service_account == *account && is_fresh(minted, now));
            if !fresh {
                outcome = outcome.and(self.mint(name, account, now));
            }
        }
        outcome
    }

    fn mint(&mut self, name: &Name, service_account: &str, now: u64) -> Result<(), MintError> {
        let caller = Caller {
            namespace: name.namespace.clone(),
            service_account: service_account.to_owned(),
            pod: name.name.clone(),
        };
        let token = jwt::mint(&self.key, &caller, AUDIENCE, now, LIFETIME);
        let path = self.directory.join(file_name(name));
        files::replace_unflushed(&path, token.as_bytes()).map_err(|error| MintError { path, error })?;
        let renew_at = now + LIFETIME / 2 - spread(name, now);
        self.minted.insert(name.clone(), Minted { service_account: caller.service_account, at: now, renew_at });
        Ok(())
    }

    fn remove_others(&mut self, pods: &Pods) -> Result<(), MintError> {
        let gone: Vec<Name> = self.minted.keys().filter(|name| !pods.contains_key(*name)).cloned().collect();
        let mut outcome = Ok(());
        for name in gone {
            let path = self.directory.join(file_name(&name));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => outcome = Err(MintError { path, error }),
                _ => drop(self.minted.remove(&name)),
            }
        }
        if !self.swept {
            outcome = outcome.and(self.sweep(pods));
            self.swept = outcome.is_ok();
        }
        outcome
    }

    /// Removes the tokens of pods that went away while no controller ran.
    fn sweep(&self, pods: &Pods) -> Result<(), MintError> {
        let failed = |error| MintError { path: self.directory.clone(), error };
        let wanted: BTreeSet<String> = pods.keys().map(file_name).collect();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(SUFFIX) && name.contains('_')) else {
                continue;
            };
            if !wanted.contains(name) {
                fs::remove_file(self.directory.join(name)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn is_fresh(minted: &Minted, now: u64) -> bool {
    // A clock that was set back makes `at` lie in the future: mint anew then, too.
    minted.at <= now && now < minted.renew_at
}

/// From 0 to [`RENEW_SPREAD`], even over pods and times.
fn spread(name: &Name, now: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&name.namespace, &name.name, now).hash(&mut hasher);
    hasher.finish() % (RENEW_SPREAD + 1)
}

/// Names of Kubernetes hold no underscore, so two pods never share a file.
fn file_name(name: &Name) -> String {
    format!("{}_{}{SUFFIX}", name.namespace, name.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::source::directory::tests::TempDir;

    const NOW: u64 = 1_795_300_000;

    fn pods(names: &[&str]) -> Pods {
        names.iter().map(|name| (Name::new("a", *name), "web".to_owned())).collect()
    }

    #[test]
    fn files_follow_the_pods() {
        let temp = TempDir::new();
        let state = temp.0.join("state");
        files::private_directory(&state).unwrap();
        let key = Arc::new(load_key(&state).unwrap());
        let directory = temp.0.join("tokens");
        files::private_directory(&directory).unwrap();
        fs::write(directory.join("a_stale.token"), "x").unwrap();
        fs::write(directory.join("notes.txt"), "x").unwrap();
        let mut minter = Minter::new(directory.clone(), key.clone()).unwrap();
        minter.sync(&pods(&["one", "two"]), NOW).unwrap();
        assert!(!directory.join("a_stale.token").exists() && directory.join("notes.txt").exists());
        let path = directory.join("a_one.token");
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let caller = jwt::verify(&key, &first, AUDIENCE, NOW + LIFETIME - 1).unwrap();
        assert_eq!((caller.pod.as_str(), caller.service_account.as_str()), ("one", "web"));

        minter.sync(&pods(&["one"]), NOW + LIFETIME / 2 - RENEW_SPREAD - 1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first, "still fresh");
        assert!(!directory.join("a_two.token").exists());
        minter.sync(&pods(&["one"]), NOW + LIFETIME / 2).unwrap();
        assert_ne!(fs::read_to_string(&path).unwrap(), first, "half of its life is over");
        // The key outlives the controller: tokens that are out stay good.
        assert!(jwt::verify(&load_key(&state).unwrap(), &first, AUDIENCE, NOW).is_ok());
    }

    #[test]
    fn a_changed_account_gets_a_new_token() {
        let temp = TempDir::new();
        let key = Arc::new(Key::new(&[7; KEY_BYTES]));
        let mut minter = Minter::new(temp.0.join("tokens"), key.clone()).unwrap();
        minter.sync(&pods(&["one"]), NOW).unwrap();
        minter.sync(&Pods::from([(Name::new("a", "one"), "other".to_owned())]), NOW).unwrap();
        let token = fs::read_to_string(temp.0.join("tokens/a_one.token")).unwrap();
        assert_eq!(jwt::verify(&key, &token, AUDIENCE, NOW).unwrap().service_account, "other");
    }

    #[test]
    fn tokens_made_at_once_are_renewed_one_after_the_other() {
        let temp = TempDir::new();
        let mut minter = Minter::new(temp.0.join("tokens"), Arc::new(Key::new(&[7; KEY_BYTES]))).unwrap();
        let pods: Pods = (0..100).map(|n| (Name::new("a", format!("p{n}")), "web".to_owned())).collect();
        minter.sync(&pods, NOW).unwrap();
        let mut times: Vec<u64> = minter.minted.values().map(|minted| minted.renew_at).collect();
        times.sort_unstable();
        let half = NOW + LIFETIME / 2;
        assert!(times[0] >= half - RENEW_SPREAD && times[99] <= half, "{times:?}");
        assert!(times[75] - times[25] > RENEW_SPREAD / 4, "{times:?}");
    }

    #[test]
    fn a_damaged_key_is_named() {
        let temp = TempDir::new();
        fs::write(temp.0.join(KEY_FILE), "short").unwrap();
        let error = load_key(&temp.0).err().unwrap().to_string();
        assert!(error.contains("token.key") && error.contains("32 bytes"), "{error}");
    }
}

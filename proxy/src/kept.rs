//! Owns the last trust bundle as a file, for a restart of the container: what the pod was created with may be older than
//! any root that is left by then. The file's folder lives and dies with the pod, so what is in it is newer. It is public;
//! keys and certificates never go there. A file that cannot be read or written is said, and costs nothing else.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use lacewing_identity::TrustBundle;

use crate::{config::BUNDLE_FILE_MAX, tls::Identity};

const FILE: &str = "trust.pem";
/// What is not whole yet.
const DRAFT: &str = ".trust.pem.draft";

/// The bundle that was in force when the container ended, if one was.
pub fn read(dir: &Path) -> Option<TrustBundle> {
    let path = dir.join(FILE);
    let mut text = String::new();
    match fs::File::open(&path).and_then(|file| file.take(BUNDLE_FILE_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the kept trust bundle is not readable; using the pod's");
            return None;
        }
    }
    let bundle = TrustBundle::from_pem(&text);
    bundle
        .inspect_err(
            |error| tracing::warn!(file = %path.display(), %error, "the kept bundle is damaged; using the pod's"),
        )
        .ok()
}

/// Keeps the bundle that is in force, for as long as the process lives. Files are written as they are read: a few
/// kilobytes in memory, when a root changes.
pub async fn run(dir: PathBuf, identity: Arc<Identity>) {
    let mut changed = identity.subscribe();
    let mut kept = None;
    loop {
        changed.borrow_and_update();
        if let Ok(current) = identity.current()
            && kept.as_ref() != Some(&current.bundle)
        {
            match write(&dir, &current.bundle) {
                Ok(()) => kept = Some(current.bundle.clone()),
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "the trust bundle cannot be kept for a restart");
                }
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

fn write(dir: &Path, bundle: &TrustBundle) -> io::Result<()> {
    let draft = dir.join(DRAFT);
    fs::write(&draft, bundle.to_pem())?;
    fs::rename(draft, dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use lacewing_identity::{Authority, SpiffeId, TrustDomain, authority::rotation::Step};

    use super::*;
    use crate::clock;

    /// A folder of its own that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lacewing-kept-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_bundle_is_kept_whole_or_not_at_all() {
        let folder = Folder::new("whole");
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = Authority::generate(&domain, clock::unix_now()).unwrap();
        assert_eq!(read(&folder.0), None);
        write(&folder.0, authority.bundle()).unwrap();
        assert_eq!(read(&folder.0).as_ref(), Some(authority.bundle()));
        let long = "x".repeat(BUNDLE_FILE_MAX as usize * 2);
        for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n", &authority.to_pem(), &long] {
            fs::write(folder.0.join(FILE), bad).unwrap();
            assert_eq!(read(&folder.0), None, "{bad:.40}");
        }
        fs::write(folder.0.join(FILE), [0xff]).unwrap();
        assert_eq!(read(&folder.0), None);
        assert!(write(&folder.0.join("missing"), authority.bundle()).is_err());
    }

    #[tokio::test]
    async fn what_is_in_force_is_kept() {
        let folder = Folder::new("force");
        let (now, domain) = (clock::unix_now(), TrustDomain::parse("cluster.local").unwrap());
        let authority = Authority::generate(&domain, now).unwrap();
        let rotating = authority.step(Step::AddRoot, now).unwrap();
        let leaf = authority.issue_own(&SpiffeId::new(&domain, "shop", "web").unwrap(), now, 60).unwrap();
        let identity = Arc::new(Identity::default());
        let task = tokio::spawn(run(folder.0.clone(), identity.clone()));
        for bundle in [authority.bundle(), rotating.bundle()] {
            identity.set(leaf.clone(), bundle.clone()).unwrap();
            while read(&folder.0).as_ref() != Some(bundle) {
                tokio::task::yield_now().await;
            }
        }
        task.abort();
    }
}

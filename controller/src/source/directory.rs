//! Owns the directory source: every `*.yaml` and `*.yml` of one directory (not below it), looked at again and again.
//!
//! A file that cannot be honoured keeps its own last good objects in force and is reported once per change of its
//! content; a directory that cannot be listed keeps everything. Hidden files are not looked at: editors and mounted
//! ConfigMaps keep their own business there. Whoever writes here should write beside and rename: half a file may be a
//! good one. Changes go to `publish`, as one batch per look.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use lacewing_crds::{Object, ObjectKey};

use super::{
    Change, SourceError,
    manifest::{self, ManifestError, Parsed},
};

/// Time between two looks at the directory.
pub const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Largest manifest file, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most manifest files in the directory.
pub const FILES_MAX: usize = 4_096;

/// A directory of manifests, and what of it is in force.
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<String, File>,
    in_force: BTreeMap<ObjectKey, Definition>,
    /// Why the directory itself cannot be read.
    error: Option<SourceError>,
    loaded: bool,
}

/// An object in force, and where it is defined.
struct Definition {
    object: Object,
    file: String,
    line: u64,
}

#[derive(Default)]
struct File {
    stamp: Option<Stamp>,
    /// The objects of this file that are in force.
    keys: Vec<ObjectKey>,
    /// Read and well formed, but not in force yet: it defines an object that another file defines.
    candidate: Option<Vec<Parsed>>,
    error: Option<SourceError>,
}

/// Tells two contents of a file apart without reading it: inode, change time, modification time, length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    modified: (i64, i64),
    bytes: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            bytes: metadata.len(),
        }
    }
}

impl Directory {
    pub fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new(), in_force: BTreeMap::new(), error: None, loaded: false }
    }

    /// Whether the directory has been read as a whole at least once.
    pub fn loaded(&self) -> bool {
        self.loaded
    }

    /// Everything that is wrong now.
    pub fn errors(&self) -> Vec<SourceError> {
        self.error.iter().chain(self.files.values().filter_map(|file| file.error.as_ref())).cloned().collect()
    }

    /// Looks at the directory: what changed since the last look, or nothing if no file did. The first look that
    /// succeeds always answers, with what may be an empty batch.
    pub fn poll(&mut self) -> Option<Vec<Change>> {
        let listed = match list(&self.path) {
            Ok(listed) => listed,
            Err(cause) => {
                self.directory_broken(cause);
                return None;
            }
        };
        let mended = self.error.take().is_some();
        let mut changes = Vec::new();
        let mut changed = self.forget_missing(&listed, &mut changes);
        for (name, stamp) in &listed {
            match stamp {
                Ok(stamp) if self.files.get(name).is_none_or(|file| file.stamp != Some(*stamp)) => {
                    changed |= self.read(name, *stamp);
                }
                Ok(_) => {}
                Err(cause) => self.unreadable(name, cause),
            }
        }
        if !changed && self.loaded && !mended {
            return None;
        }
        self.settle(&mut changes);
        self.loaded = true;
        Some(changes)
    }

    fn directory_broken(&mut self, cause: String) {
        let in_force = format!("what was last read ({} objects) stays in force", self.in_force.len());
        let error = SourceError { file: self.path.display().to_string(), line: None, column: None, cause, in_force };
        report(&mut self.error, error);
    }

    /// Takes the objects of files that are gone out of force.
    fn forget_missing(&mut self, listed: &Listed, changes: &mut Vec<Change>) -> bool {
        let gone: Vec<String> = self.files.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
        for file in gone.iter().filter_map(|name| self.files.remove(name)) {
            for key in file.keys {
                self.in_force.remove(&key);
                changes.push(Change::Remove(key));
            }
        }
        !gone.is_empty()
    }

    /// Notes that a file cannot be read; it is tried again at each look, as its stamp need not change when it can.
    fn unreadable(&mut self, name: &str, cause: &str) {
        let path = self.path.join(name);
        let file = self.files.entry(name.to_owned()).or_default();
        file.stamp = None;
        file.candidate = None;
        refuse(file, &path, ManifestError { line: None, column: None, cause: format!("cannot be read: {cause}") });
    }

    /// Reads a new or changed file into a candidate, or notes why it cannot be. Says whether it could be read.
    fn read(&mut self, name: &str, stamp: Stamp) -> bool {
        let path = self.path.join(name);
        let file = self.files.entry(name.to_owned()).or_default();
        file.stamp = Some(stamp);
        file.candidate = None;
        let text = match read_text(&path, stamp) {
            Ok(text) => text,
            Err(error) => {
                self.unreadable(name, &error.to_string());
                return false;
            }
        };
        match text.and_then(|text| manifest::parse(&text)) {
            Ok(parsed) => file.candidate = Some(parsed),
            Err(error) => refuse(file, &path, error),
        }
        true
    }

    /// Puts candidates in force, as long as one can be. An object that moves from file to file is taken out of the one
    /// before it is put into the other, whatever their order.
    fn settle(&mut self, changes: &mut Vec<Change>) {
        loop {
            let waiting: Vec<String> =
                self.files.iter().filter(|(_, file)| file.candidate.is_some()).map(|(name, _)| name.clone()).collect();
            let before = waiting.len();
            let refused: Vec<(String, ManifestError)> =
                waiting.into_iter().filter_map(|name| self.accept(&name, changes).map(|error| (name, error))).collect();
            if !refused.is_empty() && (refused.len() < before || self.accept_together(changes)) {
                continue;
            }
            for (name, error) in refused {
                let path = self.path.join(&name);
                if let Some(file) = self.files.get_mut(&name) {
                    refuse(file, &path, error);
                }
            }
            return;
        }
    }

    /// Puts those candidates in force that wait for one another, as after two files swapped objects. Says whether any.
    fn accept_together(&mut self, changes: &mut Vec<Change>) -> bool {
        let group = self.good_together();
        let mut left = Vec::new();
        for name in &group {
            let keys = self.files.get_mut(name).map(|file| std::mem::take(&mut file.keys)).unwrap_or_default();
            for key in &keys {
                self.in_force.remove(key);
            }
            left.extend(keys);
        }
        for name in &group {
            self.accept(name, changes);
        }
        changes.extend(left.into_iter().filter(|key| !self.in_force.contains_key(key)).map(Change::Remove));
        !group.is_empty()
    }

    /// The largest set of waiting files in whose objects nobody outside has a part; none if they share one themselves.
    fn good_together(&self) -> BTreeSet<String> {
        let mut group: BTreeMap<&String, Vec<ObjectKey>> = self
            .files
            .iter()
            .filter_map(|(name, file)| Some((name, file.candidate.as_ref()?.iter().map(|p| p.object.key()).collect())))
            .collect();
        loop {
            let members: BTreeSet<&String> = group.keys().copied().collect();
            let free = |key: &ObjectKey| self.in_force.get(key).is_none_or(|there| members.contains(&there.file));
            group.retain(|_, keys| keys.iter().all(free));
            if group.len() == members.len() {
                break;
            }
        }
        let mut seen = BTreeSet::new();
        let unique = group.values().flatten().all(|key| seen.insert(key));
        if unique { group.into_keys().cloned().collect() } else { BTreeSet::new() }
    }

    /// Puts one file's candidate in force, unless it defines what is defined already.
    fn accept(&mut self, name: &str, changes: &mut Vec<Change>) -> Option<ManifestError> {
        let file = self.files.get_mut(name)?;
        let candidate = file.candidate.take()?;
        if let Some(error) = defined_twice(&candidate, name, &self.in_force, &self.path) {
            file.candidate = Some(candidate);
            return Some(error);
        }
        if file.error.take().is_some() {
            tracing::info!(file = %self.path.join(name).display(), "manifest is good again and in force");
        }
        let keys: Vec<ObjectKey> = candidate.iter().map(|parsed| parsed.object.key()).collect();
        for key in std::mem::replace(&mut file.keys, keys) {
            if !file.keys.contains(&key) {
                self.in_force.remove(&key);
                changes.push(Change::Remove(key));
            }
        }
        for Parsed { object, line } in candidate {
            let key = object.key();
            if self.in_force.get(&key).is_none_or(|definition| definition.object != object) {
                changes.push(Change::Apply(object.clone()));
            }
            self.in_force.insert(key, Definition { object, file: name.to_owned(), line });
        }
        None
    }
}

/// Files by name, with their stamp or why there is none.
type Listed = BTreeMap<String, Result<Stamp, String>>;

/// The manifest files of the directory.
fn list(path: &Path) -> Result<Listed, String> {
    let entries = fs::read_dir(path).map_err(|e| format!("cannot list the directory: {e}; see LACEWING_MANIFESTS"))?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|e| format!("cannot list the directory: {e}"))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_manifest(name)) else { continue };
        match fs::metadata(entry.path()) {
            Ok(metadata) => files.insert(name.to_owned(), Ok(Stamp::of(&metadata))),
            // Deleted since it was listed; a link to nowhere is the same as no file.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            // Only that file's trouble, as when a link points to itself.
            Err(e) => files.insert(name.to_owned(), Err(e.to_string())),
        };
        if files.len() > FILES_MAX {
            return Err(format!("more than {FILES_MAX} manifest files: put several documents into one file"));
        }
    }
    Ok(files)
}

fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml"))
}

/// The text of a file, or what is wrong with it; an error outside if that could not be found out.
fn read_text(path: &Path, stamp: Stamp) -> io::Result<Result<String, ManifestError>> {
    let whole = |cause: String| ManifestError { line: None, column: None, cause };
    let too_large = || whole(format!("larger than {FILE_BYTES_MAX} bytes: split the file"));
    // A pipe would block us: only what is a file is opened.
    if !fs::metadata(path)?.is_file() {
        return Ok(Err(whole("is no file".to_owned())));
    }
    if stamp.bytes > FILE_BYTES_MAX {
        return Ok(Err(too_large()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Ok(Err(too_large()));
    }
    Ok(String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.split(|byte| *byte == b'\n').count() as u64;
        ManifestError { line: Some(line), column: None, cause: "not UTF-8: save the file as UTF-8".to_owned() }
    }))
}

/// The first object of `candidate` that it defines twice, or that another file defines.
fn defined_twice(
    candidate: &[Parsed],
    name: &str,
    in_force: &BTreeMap<ObjectKey, Definition>,
    directory: &Path,
) -> Option<ManifestError> {
    let mut own: BTreeMap<ObjectKey, u64> = BTreeMap::new();
    for Parsed { object, line } in candidate {
        let key = object.key();
        let other = in_force.get(&key).filter(|definition| definition.file != name);
        let place = match (own.get(&key), other) {
            (Some(first), _) => format!("in this file, line {first}"),
            (None, Some(other)) => format!("in {}, line {}", directory.join(&other.file).display(), other.line),
            (None, None) => {
                own.insert(key, *line);
                continue;
            }
        };
        let cause = format!("{key} is defined already {place}: keep one of the two");
        return Some(ManifestError { line: Some(*line), column: Some(1), cause });
    }
    None
}

fn refuse(file: &mut File, path: &Path, error: ManifestError) {
    let in_force = match file.keys.len() {
        0 => "nothing of this file is in force".to_owned(),
        objects => format!("the last good version of this file stays in force (objects: {objects})"),
    };
    let ManifestError { line, column, cause } = error;
    report(&mut file.error, SourceError { file: path.display().to_string(), line, column, cause, in_force });
}

/// Keeps the error, and logs it if it was not known yet.
fn report(slot: &mut Option<SourceError>, error: SourceError) {
    if slot.as_ref() != Some(&error) {
        tracing::error!("{error}");
    }
    *slot = Some(error);
}

#[cfg(test)]
pub(crate) mod tests;

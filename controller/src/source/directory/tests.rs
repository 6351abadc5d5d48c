//! Real directories, changed as people change them; what is in force must follow, and what is wrong must be named.

use std::sync::atomic::{AtomicU32, Ordering};

use lacewing_crds::{Kind, Name};

use super::*;

/// A directory of its own for each test, removed at the end.
pub(crate) struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lacewing-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) {
        // A new inode each time, so that no two contents can look alike however fast the test is.
        let draft = self.0.join(format!(".{name}.new"));
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.0.join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n---\n")
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Pod, name: Name::new("default", name) }
}

fn in_force(directory: &Directory) -> Vec<&str> {
    directory.in_force.keys().map(|key| key.name.name.as_str()).collect()
}

#[test]
fn the_first_look_answers_and_later_ones_only_when_something_changed() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    assert!(!source.loaded());
    assert_eq!(source.poll(), Some(vec![]), "an empty directory is a full answer");
    assert!(source.loaded());
    assert_eq!(source.poll(), None);
    dir.write("a.yaml", &pod("one"));
    dir.write(".hidden.yaml", "nonsense");
    dir.write("readme.txt", "nonsense");
    assert!(matches!(source.poll().unwrap()[..], [Change::Apply(_)]));
    assert_eq!(source.poll(), None);
    dir.write("a.yaml", &format!("{}# comment\n", pod("one")));
    assert_eq!(source.poll(), Some(vec![]), "the same object again changes nothing");
    dir.write("a.yaml", &(pod("one") + &pod("two")));
    assert_eq!(source.poll().unwrap().len(), 1);
    dir.remove("a.yaml");
    assert_eq!(source.poll().unwrap(), [Change::Remove(key("one")), Change::Remove(key("two"))]);
    assert!(source.errors().is_empty());
}

#[test]
fn a_malformed_file_keeps_its_last_good_objects_and_only_its_own() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    dir.write("a.yaml", &pod("one"));
    dir.write("b.yaml", &pod("two"));
    source.poll();
    dir.write("a.yaml", &format!("{}spce: 1\n", pod("one").trim_end_matches("---\n")));
    dir.write("b.yaml", &pod("three"));
    source.poll();
    assert_eq!(in_force(&source), ["one", "three"]);
    let errors = source.errors();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert!(error.file.ends_with("/a.yaml") && error.line == Some(5), "{error}");
    assert!(error.cause.contains("did you mean spec?"), "{error}");
    assert!(error.in_force.contains("last good version") && error.in_force.contains("objects: 1"), "{error}");
    let text = error.to_string();
    assert!(text.contains("a.yaml:5:1: unknown field \"spce\""), "{text}");

    dir.write("a.yaml", &pod("four"));
    source.poll();
    assert_eq!((in_force(&source), source.errors()), (vec!["four", "three"], vec![]));
}

#[test]
fn a_file_that_was_never_good_puts_nothing_in_force() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    dir.write("a.yaml", &(pod("one") + "kind: Nonsense\n"));
    assert_eq!(source.poll(), Some(vec![]));
    assert!(source.errors()[0].in_force.contains("nothing of this file"));
    dir.remove("a.yaml");
    source.poll();
    assert!(source.errors().is_empty());
}

#[test]
fn an_object_defined_twice_names_both_files_and_the_first_stays() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    dir.write("b.yaml", &pod("one"));
    source.poll();
    dir.write("a.yaml", &(pod("two") + &pod("one")));
    source.poll();
    assert_eq!(in_force(&source), ["one"], "the file that came second is refused whole");
    let error = source.errors().remove(0);
    assert!(error.file.ends_with("/a.yaml") && error.line == Some(5), "{error}");
    assert!(error.cause.contains("Pod default/one") && error.cause.contains("/b.yaml, line 1"), "{error}");

    // Once the other file gives it up, the refused one is in force without being touched.
    dir.remove("b.yaml");
    source.poll();
    assert_eq!((in_force(&source), source.errors()), (vec!["one", "two"], vec![]));

    dir.write("c.yaml", &(pod("x") + &pod("x")));
    source.poll();
    assert!(source.errors()[0].cause.contains("in this file, line 1"), "{:?}", source.errors());
}

#[test]
fn an_object_may_move_between_files_in_either_direction() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    dir.write("a.yaml", &pod("one"));
    dir.write("b.yaml", &pod("two"));
    source.poll();
    for (a, b) in [(String::new(), pod("two") + &pod("one")), (pod("two") + &pod("one"), String::new())] {
        dir.write("a.yaml", &a);
        dir.write("b.yaml", &b);
        source.poll();
        assert_eq!((in_force(&source), source.errors()), (vec!["one", "two"], vec![]));
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    fs::create_dir(dir.0.join("folder.yaml")).unwrap();
    fs::write(dir.0.join("latin.yml"), b"# ok\n# caf\xe9\n").unwrap();
    fs::File::create(dir.0.join("large.yaml")).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    source.poll();
    let errors = source.errors();
    for (error, part) in errors.iter().zip(["is no file", "larger than", "not UTF-8"]) {
        assert!(error.cause.contains(part), "{error}");
    }
    assert_eq!((errors.len(), errors[2].line), (3, Some(2)));
}

#[test]
fn a_directory_that_goes_away_changes_nothing_and_comes_back() {
    let dir = TempDir::new();
    let path = dir.0.join("manifests");
    let mut source = Directory::new(path.clone());
    assert_eq!(source.poll(), None);
    assert!(!source.loaded(), "nothing may be answered from a directory that was never read");
    assert!(source.errors()[0].cause.contains("LACEWING_MANIFESTS"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), pod("one")).unwrap();
    source.poll();
    let away = dir.0.join("away");
    fs::rename(&path, &away).unwrap();
    assert_eq!(source.poll(), None);
    assert_eq!((in_force(&source), source.errors().len()), (vec!["one"], 1));
    fs::rename(&away, &path).unwrap();
    source.poll();
    assert_eq!((in_force(&source), source.errors()), (vec!["one"], vec![]));
}

#[test]
fn too_many_files_change_nothing() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    for number in 0..=FILES_MAX {
        fs::File::create(dir.0.join(format!("{number}.yaml"))).unwrap();
    }
    assert_eq!(source.poll(), None);
    assert!(source.errors()[0].cause.contains("more than 4096"), "{:?}", source.errors());
}

#[test]
fn a_link_to_itself_is_an_error_of_that_file_only() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    std::os::unix::fs::symlink(dir.0.join("loop.yaml"), dir.0.join("loop.yaml")).unwrap();
    dir.write("a.yaml", &pod("one"));
    assert_eq!(source.poll().unwrap().len(), 1);
    let errors = source.errors();
    assert!(errors.len() == 1 && errors[0].file.ends_with("loop.yaml"), "{errors:?}");
    assert_eq!(source.poll(), None, "what stays broken is no change");
    dir.write("a.yaml", &pod("two"));
    source.poll();
    assert_eq!(in_force(&source), ["two"]);
    dir.remove("loop.yaml");
    source.poll();
    assert!(source.errors().is_empty());
}

#[test]
fn a_file_that_could_not_be_read_is_tried_again_with_the_same_stamp() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    dir.write("a.yaml", &pod("one"));
    let stamp = Stamp::of(&fs::metadata(dir.0.join("a.yaml")).unwrap());
    // It is not there for the read, and there again, the very same, for the next look.
    fs::rename(dir.0.join("a.yaml"), dir.0.join("away")).unwrap();
    assert!(!source.read("a.yaml", stamp));
    assert!(source.errors()[0].cause.contains("cannot be read"));
    assert_eq!(source.files["a.yaml"].stamp, None);
    fs::rename(dir.0.join("away"), dir.0.join("a.yaml")).unwrap();
    source.poll();
    assert_eq!((in_force(&source), source.errors()), (vec!["one"], vec![]));
}

#[test]
fn files_may_swap_their_objects() {
    let dir = TempDir::new();
    let mut source = Directory::new(dir.0.clone());
    dir.write("a.yaml", &(pod("one") + &pod("gone")));
    dir.write("b.yaml", &pod("two"));
    dir.write("c.yaml", &pod("three"));
    source.poll();
    dir.write("a.yaml", &pod("two"));
    dir.write("b.yaml", &pod("one"));
    // Waits too, but for a file that does not change: it must not stop the others.
    dir.write("d.yaml", &pod("three"));
    let changes = source.poll().unwrap();
    let removed: Vec<&Change> = changes.iter().filter(|change| matches!(change, Change::Remove(_))).collect();
    assert_eq!(removed, [&Change::Remove(key("gone"))]);
    assert_eq!(in_force(&source), ["one", "three", "two"]);
    let errors = source.errors();
    assert!(errors.len() == 1 && errors[0].file.ends_with("d.yaml"), "{errors:?}");
    // Objects that are in two files after the swap stay where they were.
    dir.remove("d.yaml");
    dir.write("a.yaml", &(pod("one") + &pod("new")));
    dir.write("b.yaml", &(pod("two") + &pod("new")));
    source.poll();
    assert_eq!((in_force(&source), source.errors().len()), (vec!["one", "three", "two"], 2));
}

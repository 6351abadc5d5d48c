//! Owns finding where in a YAML document a field stands, by its path. Only used once something is wrong: it reads the
//! document again, because the typed readers do not keep positions.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_yaml::Spanned;

/// A step of a path into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Writes a path as people write it: `spec.containers[0].image`.
pub fn display(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.extend(["[", &index.to_string(), "]"]),
        }
    }
    text
}

/// Line and column, from 1, of the field at `path`, or of the deepest part of the path that is there.
pub fn locate(document: &str, path: &[Step]) -> Option<(u64, u64)> {
    let mut found = None;
    let seek = Seek { path, found: &mut found };
    let read = serde_yaml::with_deserializer_from_str(document, |deserializer| seek.deserialize(deserializer));
    // A document that breaks off after the place is still good enough to name the place.
    drop(read);
    found
}

struct Seek<'p> {
    path: &'p [Step],
    found: &'p mut Option<(u64, u64)>,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            match self.path.split_first() {
                Some((Step::Key(wanted), rest)) if *wanted == key.value => {
                    *self.found = Some((key.referenced.line(), key.referenced.column()));
                    map.next_value_seed(Seek { path: rest, found: &mut *self.found })?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0.. {
            let rest = match self.path.split_first() {
                Some((Step::Index(wanted), rest)) if *wanted == index => Some(rest),
                _ => None,
            };
            let next = match rest {
                Some(path) => seq.next_element_seed(Seek { path, found: &mut *self.found })?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !next {
                break;
            }
        }
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str =
        "kind: Pod\nspec:\n  containers:\n  - name: a\n    image: b\n  - {name: c, imgae: d}\nlast: 1\n";

    #[test]
    fn finds_fields_by_path() {
        for (path, at) in [
            (vec!["kind".into()], Some((1, 1))),
            (vec!["spec".into(), "containers".into()], Some((3, 3))),
            (vec!["spec".into(), "containers".into(), 0.into(), "image".into()], Some((5, 5))),
            (vec!["spec".into(), "containers".into(), 1.into(), "imgae".into()], Some((6, 15))),
            (vec!["last".into()], Some((7, 1))),
            // Not there: the deepest part that is.
            (vec!["spec".into(), "containers".into(), 7.into(), "x".into()], Some((3, 3))),
            (vec!["kind".into(), "x".into()], Some((1, 1))),
            (vec!["nothing".into()], None),
        ] {
            assert_eq!(locate(DOCUMENT, &path), at, "{}", display(&path));
        }
    }

    #[test]
    fn writes_paths_as_people_do() {
        assert_eq!(display(&["spec".into(), "ports".into(), 0.into(), "name".into()]), "spec.ports[0].name");
    }
}

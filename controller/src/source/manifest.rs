//! Owns reading one manifest file: YAML documents in, checked objects out, or the one error that matters most with its
//! line and column. Nothing in a file is skipped in silence: unknown kinds, unknown fields and bad values are errors.
//! Which file it is, and what stays in force after an error, is `directory`'s business.

mod typed;

use lacewing_crds::{Kind, Object};
use lacewing_ops::nearest::nearest;
use serde::{Deserialize, de::DeserializeSeed};
use serde_yaml::Spanned;

use super::{
    fields,
    locate::{self, Step},
    validate::validate,
};
use typed::Shape;

/// Most documents in one file, and most items in one `List`.
pub const DOCUMENTS_MAX: usize = 10_000;
/// The kind of a document that holds other objects, as `kubectl get -o yaml` writes it.
const LIST: &str = "List";
/// Longest value from a file, in bytes, that an error repeats.
const QUOTED_MAX: usize = 120;

/// An object and the line, from 1, on which its document (in a `List`: the item's `apiVersion` or `kind`) starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub object: Object,
    pub line: u64,
}

/// Why a file is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// From 1; absent only where the error concerns the whole file.
    pub line: Option<u64>,
    pub column: Option<u64>,
    pub cause: String,
}

/// Reads every document of a file.
///
/// # Errors
/// The first error in the file.
pub fn parse(text: &str) -> Result<Vec<Parsed>, ManifestError> {
    let mut objects: Vec<Parsed> = Vec::new();
    for (count, document) in documents(text).enumerate() {
        if count == DOCUMENTS_MAX {
            let cause = format!("more than {DOCUMENTS_MAX} documents: split the file");
            return Err(document.error(None, cause));
        }
        objects.extend(document.read()?);
    }
    Ok(objects)
}

/// The documents of a file that hold more than comments. A marker can stand nowhere but at the start of a line
/// (YAML 1.2.2 §9.1.2), so lines are enough to find them.
fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let mut rest = Some((0, text));
    std::iter::from_fn(move || {
        let (first_line, text) = rest?;
        let mut at = 0;
        for (number, line) in text.split_inclusive('\n').enumerate() {
            if number > 0 && is_marker(line) {
                rest = Some((first_line + number as u64, &text[at..]));
                return Some(Document { first_line, text: &text[..at] });
            }
            at += line.len();
        }
        rest = None;
        Some(Document { first_line, text })
    })
    .filter(|document| !document.is_blank())
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// One document of a file.
struct Document<'a> {
    /// Lines of the file before this document.
    first_line: u64,
    text: &'a str,
}

/// What every object says about itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
}

/// The part of a `List` that says what is in it.
#[derive(Deserialize)]
struct ListHead {
    items: Option<Vec<Head>>,
}

impl Document<'_> {
    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
        })
    }

    /// The document's objects; none for an explicit `null`.
    fn read(&self) -> Result<Vec<Parsed>, ManifestError> {
        let head: Option<Head> = serde_yaml::from_str(self.text).map_err(|e| self.broken(&e))?;
        let Some(head) = head else { return Ok(Vec::new()) };
        if head.kind.as_ref().is_some_and(|kind| kind.value == LIST) {
            return self.list();
        }
        let objects = self.objects(Shape::One(self.kind(&head)?))?;
        Ok(objects.into_iter().map(|object| Parsed { object, line: self.first_line + 1 }).collect())
    }

    fn list(&self) -> Result<Vec<Parsed>, ManifestError> {
        let head: ListHead = serde_yaml::from_str(self.text).map_err(|e| self.broken(&e))?;
        let heads = head.items.unwrap_or_default();
        if heads.len() > DOCUMENTS_MAX {
            return Err(self.error(None, format!("more than {DOCUMENTS_MAX} items: split the list")));
        }
        let kinds = heads.iter().map(|head| self.kind(head)).collect::<Result<Vec<_>, _>>()?;
        let line = |head: &Head| {
            let said = head.kind.iter().chain(&head.api_version).map(|value| value.referenced.line());
            self.first_line + said.min().unwrap_or(1)
        };
        let objects = self.objects(Shape::List(&kinds))?.into_iter();
        Ok(objects.zip(&heads).map(|(object, head)| Parsed { object, line: line(head) }).collect())
    }

    fn kind(&self, head: &Head) -> Result<Kind, ManifestError> {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        let Some(name) = &head.kind else {
            return Err(self.error(None, format!("`kind` is missing: one of {kinds}")));
        };
        let at = |value: &Spanned<String>| Some((value.referenced.line(), value.referenced.column()));
        let Some(kind) = Kind::from_name(&name.value) else {
            let cause = format!("the mesh reads no objects of kind {:?}, only {kinds}", clip(&name.value));
            return Err(self.error(at(name), cause));
        };
        match &head.api_version {
            Some(version) if version.value == kind.api_version() => Ok(kind),
            Some(version) => {
                let cause = format!("{kind} is read as {}, not {:?}", kind.api_version(), clip(&version.value));
                Err(self.error(at(version), cause))
            }
            None => Err(self.error(None, format!("`apiVersion` is missing: {} for a {kind}", kind.api_version()))),
        }
    }

    /// Reads what is in the document, and refuses fields that neither we nor Kubernetes know, and bad values.
    fn objects(&self, shape: Shape<'_>) -> Result<Vec<Object>, ManifestError> {
        let mut ignored = Vec::new();
        let read = serde_yaml::with_deserializer_from_str(self.text, |deserializer| {
            let mut note = |path: serde_ignored::Path<'_>| ignored.push(steps(&path));
            shape.deserialize(serde_ignored::Deserializer::new(deserializer, &mut note))
        });
        let objects = read.map_err(|e| self.broken(&e))?;
        if let Some((cause, path)) = ignored.into_iter().find_map(|path| Some((unknown_field(shape, &path)?, path))) {
            return Err(self.error(locate::locate(self.text, &path), cause));
        }
        for (number, object) in objects.iter().enumerate() {
            validate(object).map_err(|(below, why)| {
                let mut path = match shape {
                    Shape::One(_) => Vec::new(),
                    Shape::List(_) => vec![Step::from("items"), Step::from(number)],
                };
                path.extend(below);
                self.error(locate::locate(self.text, &path), why)
            })?;
        }
        Ok(objects)
    }

    /// An error of the YAML reader.
    fn broken(&self, error: &serde_yaml::Error) -> ManifestError {
        let at = error.location().filter(|at| at.line() > 0).map(|at| (at.line(), at.column()));
        self.error(at, plain(&error.without_snippet().to_string()))
    }

    /// An error at a place in this document; at the document's first line if no place is known.
    fn error(&self, at: Option<(u64, u64)>, cause: String) -> ManifestError {
        let (line, column) = at.unwrap_or((1, 1));
        ManifestError { line: Some(self.first_line + line), column: Some(column), cause }
    }
}

/// Why the field at `path`, which no slim type reads, is a mistake; none if Kubernetes knows it.
fn unknown_field(shape: Shape<'_>, path: &[Step]) -> Option<String> {
    let (kind, below) = match (shape, path) {
        (Shape::One(kind), _) => (Some(kind), path),
        (Shape::List(kinds), [Step::Key(_), Step::Index(number), below @ ..]) => (kinds.get(*number).copied(), below),
        (Shape::List(_), _) => (None, path),
    };
    let names: Vec<&str> =
        below.iter().filter_map(|step| if let Step::Key(key) = step { Some(&**key) } else { None }).collect();
    let (leaf, parent) = names.split_last()?;
    let known = kind.map_or(fields::LIST, |kind| fields::below(kind, parent));
    if known.contains(leaf) {
        return None;
    }
    let meant = nearest(leaf, known.iter().copied()).map(|name| format!("; did you mean {name}?"));
    Some(format!("unknown field {:?}{}", clip(&locate::display(path)), meant.unwrap_or_default()))
}

fn steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (mut steps, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (self::steps(parent), Step::Index(*index)),
        Path::Map { parent, key } => (self::steps(parent), Step::Key(key.clone())),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            return self::steps(parent);
        }
    };
    steps.push(step);
    steps
}

/// The YAML reader's words for common mistakes, and ours for people who write manifests.
const PLAIN_WORDS: [(&str, &str); 7] = [
    ("expected mapping start", "expected `key: value` pairs here"),
    ("expected sequence start", "expected a list here"),
    ("expected string scalar", "expected a text here"),
    ("invalid u16", "expected a number from 0 to 65535"),
    ("invalid u64", "expected a whole number"),
    ("invalid boolean", "expected true or false"),
    ("multiple YAML documents detected", "there is text after the end of the document: start another one with ---"),
];

/// What the YAML reader says, in one line, without the position (which we say once, counted in the whole file) and
/// without advice to programmers.
fn plain(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.rsplit_once(" at line ").map_or(line, |(before, _)| before);
    let line = line.split_once(", set ").map_or(line, |(before, _)| before);
    let known = PLAIN_WORDS.iter().find(|(theirs, _)| line.starts_with(theirs));
    known.map_or(line, |(_, ours)| ours).to_owned()
}

fn clip(value: &str) -> &str {
    let mut end = value.len().min(QUOTED_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

#[cfg(test)]
mod tests;

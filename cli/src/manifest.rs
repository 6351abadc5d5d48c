//! Owns files of Kubernetes objects as text that people keep: read, edited, written again. Order, spelling and fields that
//! nobody knows here survive; a document that is not edited is given back byte by byte, but that its last line ends.
//! `tree.rs` is one document, `splice.rs` puts what was edited into its text.
//!
//! It refuses what it could not write back faithfully (tags, merge keys, several anchors deep), with file and line.

mod splice;
pub mod tree;

use std::{
    fs::{self, File},
    io::{self, Read},
    mem,
    path::{Path, PathBuf},
};

use crate::failure::Failure;
use tree::Node;

/// Largest file, in bytes.
pub const FILE_MAX: u64 = 32 * 1024 * 1024;
/// Ends of names of files that a directory is searched for.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// One document of a file.
pub struct Document {
    /// The file, as it was named.
    pub file: String,
    /// Lines of the file before it.
    first_line: usize,
    /// Documents with nothing but comments that stand between the one before and this.
    before: String,
    /// With the line of its marker, if it has one.
    text: String,
    /// The same as `before`, at the end of the file.
    after: String,
    pub root: Node,
    /// The text does not say any more what `root` is.
    pub changed: bool,
}

/// Reads all documents of files, directories (their manifests, not those in folders below) and standard input (`-`).
///
/// # Errors
/// The first file that cannot be read or understood, with the line.
pub fn read(from: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in from {
        if path == Path::new("-") {
            documents.extend(parse("standard input", &text(path, FILE_MAX)?)?);
            continue;
        }
        for file in files(path)? {
            documents.extend(parse(&file.display().to_string(), &text(&file, FILE_MAX)?)?);
        }
    }
    Ok(documents)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = paths.map_err(|error| unreadable(path, &error))?;
    let named = |file: &PathBuf| ENDINGS.iter().any(|end| file.extension().is_some_and(|found| found == *end));
    files.retain(|file| named(file) && file.is_file());
    files.sort();
    if files.is_empty() {
        return Err(Failure::error(format!("{} holds no file that ends with .yaml, .yml or .json", path.display())));
    }
    Ok(files)
}

/// The text of a file of at most `max` bytes; `-` is standard input.
///
/// # Errors
/// It cannot be read, is too large, or is no text.
pub fn text(path: &Path, max: u64) -> Result<String, Failure> {
    let from: io::Result<Box<dyn Read>> = if path == Path::new("-") {
        Ok(Box::new(io::stdin()))
    } else {
        File::open(path).map(|file| Box::new(file) as _)
    };
    let mut text = String::new();
    let read = from.and_then(|from| from.take(max + 1).read_to_string(&mut text));
    read.map_err(|error| unreadable(path, &error))?;
    if text.len() as u64 > max {
        return Err(Failure::error(format!("{} is larger than {max} bytes", path.display())));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let why = if error.kind() == io::ErrorKind::InvalidData {
        "it is no text in UTF-8".to_owned()
    } else {
        error.to_string()
    };
    Failure::error(format!("cannot read {}: {why}", path.display()))
}

/// Reads the documents of one file.
///
/// # Errors
/// It is no YAML, or has what could not be written back.
pub fn parse(file: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let mut parts = Vec::new();
    let (mut start, mut first_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if number > 0 && is_marker(line) {
            parts.push((first_line, &text[start..at]));
            (start, first_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((first_line, &text[start..]));
    let (mut documents, mut blank) = (Vec::<Document>::new(), String::new());
    for (first_line, text) in parts {
        if is_blank(text) {
            blank.push_str(text);
        } else {
            documents.push(Document::parse(file, first_line, mem::take(&mut blank), text)?);
        }
    }
    if let Some(last) = documents.last_mut() {
        last.after = blank;
    }
    Ok(documents)
}

/// A marker stands nowhere but at the start of a line (YAML 1.2.2, 9.1.2).
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
}

impl Document {
    fn parse(file: &str, first_line: usize, before: String, text: &str) -> Result<Self, Failure> {
        let root = tree::parse(text).map_err(|error| {
            let line = first_line + error.line.max(1);
            Failure::error(format!("{file}:{line}: {}", error.why))
                .hint("nothing was printed; mend the file and try again")
        })?;
        let (file, text, after) = (file.to_owned(), text.to_owned(), String::new());
        Ok(Self { file, first_line, before, text, after, root, changed: false })
    }

    /// `file:line`, for people.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.first_line + 1)
    }

    /// Puts what was edited into the text; false if the text had to be written anew, without its comments.
    pub fn settle(&mut self) -> bool {
        if !mem::take(&mut self.changed) {
            return true;
        }
        let spliced = splice::splice(&self.text, &self.root);
        let is_spliced = spliced.is_some();
        self.text = spliced.unwrap_or_else(|| {
            let marker = self.text.lines().next().filter(|line| is_marker(line)).map_or("", |_| "---\n");
            format!("{marker}{}", self.root)
        });
        is_spliced
    }
}

/// All documents, which are settled, as one text.
pub fn write(documents: &[Document]) -> String {
    let mut all = String::new();
    for Document { before, text, after, .. } in documents {
        if !all.is_empty() && !all.ends_with('\n') {
            all.push('\n');
        }
        let is_marked = [before, text]
            .iter()
            .any(|part| part.lines().find(|line| !is_blank(line) || is_marker(line)).is_some_and(is_marker));
        if !all.is_empty() && !is_marked {
            all.push_str("---\n");
        }
        all.extend([before.as_str(), text, after]);
    }
    all
}

#[cfg(test)]
mod tests;

//! Owns files of Kubernetes objects as text that people keep: read, edited, written again. Order, spelling and fields that
//! nobody knows here survive; a document that is not edited is given back byte by byte. `tree.rs` is one document,
//! `splice.rs` puts what was edited into its text.
//!
//! It refuses what it could not write back faithfully (tags, merge keys, several anchors deep), with file and line.

mod splice;
pub mod tree;

use std::{
    fs::{self, File},
    io::{self, Read},
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
    text: String,
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
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if number > 0 && is_marker(line) {
            documents.push((first_line, &text[start..at]));
            (start, first_line) = (at, number);
        }
        at += line.len();
    }
    documents.push((first_line, &text[start..]));
    let held = documents.into_iter().filter(|(_, text)| !is_blank(text));
    held.map(|(first_line, text)| Document::parse(file, first_line, text)).collect()
}

/// A marker stands nowhere but at the start of a line (YAML 1.2.2, 9.1.2).
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
}

impl Document {
    fn parse(file: &str, first_line: usize, text: &str) -> Result<Self, Failure> {
        let root = tree::parse(text).map_err(|error| {
            let line = first_line + error.line.max(1);
            Failure::error(format!("{file}:{line}: {}", error.why))
                .hint("nothing was printed; mend the file and try again")
        })?;
        Ok(Self { file: file.to_owned(), first_line, text: text.to_owned(), root, changed: false })
    }

    /// `file:line`, for people.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.first_line + 1)
    }

    /// The document as text that ends with a line's end.
    fn written(&self) -> String {
        let spliced =
            self.changed.then(|| splice::splice(&self.text, &self.root).unwrap_or_else(|| self.root.to_string()));
        let text = spliced.as_ref().unwrap_or(&self.text).trim_end();
        let rest = text.lines().next().filter(|line| is_marker(line)).map_or(text, |line| &text[line.len()..]);
        format!("{}\n", rest.trim_start_matches(['\r', '\n']))
    }
}

/// All documents as one text.
pub fn write(documents: &[Document]) -> String {
    documents.iter().map(Document::written).collect::<Vec<_>>().join("---\n")
}

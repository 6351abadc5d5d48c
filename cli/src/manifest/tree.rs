//! Owns one YAML document as a tree that remembers how its values were spelled: `0644`, `yes` and `"1"` come out as they went
//! in, whatever a reader makes of them. Edited by JSON patches, written in kubectl's block style.

use std::{collections::HashMap, fmt, ops::Range};

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};
use json_patch::{PatchOperation, jsonptr::Pointer};
use serde_json::{Map, Number, Value};

/// Most nodes of a document, aliases followed: a small text can mean a huge one.
const NODES_MAX: usize = 1_000_000;
/// Deepest nesting.
const DEPTH_MAX: usize = 100;

/// A value of YAML.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A text without quotes: what it is follows from its letters.
    Plain(String),
    /// A text, whatever its letters.
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// Why a text is refused, and the line from 1.
#[derive(Debug)]
pub struct Bad {
    pub line: usize,
    pub why: String,
}

/// Where in the text a value stands, in bytes.
#[derive(Debug, Default)]
pub struct Place {
    /// Of a list or map without brackets, it means nothing.
    pub start: usize,
    pub end: usize,
    /// A list or map without brackets.
    pub block: bool,
    /// Its entries or items: where the key or item begins, and the value.
    pub parts: Vec<(usize, Place)>,
}

/// What is open while a document is read.
enum Open {
    List(Vec<Node>, usize),
    /// Entries so far, and a key that waits for its value.
    Map(Vec<(Node, Node)>, Option<Node>, usize),
}

/// Reads one document.
///
/// # Errors
/// It is no YAML, not one document, or has what could not be written back.
pub fn parse(text: &str) -> Result<Node, Bad> {
    parse_placed(text).map(|(node, _)| node)
}

/// As [`parse`], and where each value stands.
pub fn parse_placed(text: &str) -> Result<(Node, Place), Bad> {
    let mut reader = Reader { open: Vec::new(), places: Vec::new(), anchors: HashMap::new(), root: None, nodes: 0 };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Bad { line: error.marker().line(), why: error.info().clone() })?;
        let line = span.start.line();
        reader.take(event, span.byte_range().unwrap_or_default()).map_err(|why| Bad { line, why })?;
    }
    reader.root.ok_or_else(|| Bad { line: 1, why: "there is nothing in it".to_owned() })
}

struct Reader {
    open: Vec<Open>,
    /// Of what is open.
    places: Vec<Place>,
    anchors: HashMap<usize, Node>,
    root: Option<(Node, Place)>,
    nodes: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, at: Range<usize>) -> Result<(), String> {
        if event.tag().is_some() {
            return Err("tags (!…) are not understood here: write the value without".to_owned());
        }
        let place = Place { start: at.start, end: at.end, ..Place::default() };
        let begin = |style| Place { block: style == StructureStyle::Block, start: at.start, ..Place::default() };
        match event {
            Event::Scalar(text, ScalarStyle::Plain, anchor, _) => {
                // One that is not there is told as `~`.
                let text = if at.is_empty() { String::new() } else { text.into_owned() };
                self.add(Node::Plain(text), place, anchor)
            }
            Event::Scalar(text, _, anchor, _) => self.add(Node::Text(text.into_owned()), place, anchor),
            Event::SequenceStart(style, anchor, _) => self.begin(Open::List(Vec::new(), anchor), begin(style)),
            Event::MappingStart(style, anchor, _) => self.begin(Open::Map(Vec::new(), None, anchor), begin(style)),
            Event::SequenceEnd | Event::MappingEnd => {
                let (open, mut place) = self.open.pop().zip(self.places.pop()).ok_or("an end without a beginning")?;
                // Without brackets it ends with its last value, not where the next begins.
                let last = place.parts.last().filter(|_| place.block);
                place.end = last.map_or(at.end, |(_, last)| last.end);
                match open {
                    Open::List(list, anchor) => self.add(Node::List(list), place, anchor),
                    Open::Map(map, _, anchor) => self.add(Node::Map(map), place, anchor),
                }
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("an alias (*…) of something that is not there")?;
                self.count(node.size())?;
                self.add(node, place, 0)
            }
            Event::DocumentStart(..) if self.root.is_some() => Err("there is text after the document's end".to_owned()),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, open: Open, place: Place) -> Result<(), String> {
        if self.open.len() == DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX}"));
        }
        self.open.push(open);
        self.places.push(place);
        Ok(())
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX { Err(format!("more than {NODES_MAX} values")) } else { Ok(()) }
    }

    fn add(&mut self, node: Node, place: Place, anchor: usize) -> Result<(), String> {
        self.count(1)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let parts = self.places.last_mut().map(|place| &mut place.parts);
        match (self.open.last_mut(), parts) {
            (Some(Open::List(list, _)), Some(parts)) => {
                list.push(node);
                parts.push((place.start, place));
            }
            (Some(Open::Map(map, key, _)), Some(parts)) => {
                if let Some(key) = key.take() {
                    map.push((key, node));
                    if let Some((_, value)) = parts.last_mut() {
                        *value = place;
                    }
                } else {
                    let name = node.as_text().ok_or("a list or map cannot be a key")?;
                    if name == "<<" {
                        return Err("merge keys (<<) are not understood here: write the fields out".to_owned());
                    }
                    if map.iter().any(|(other, _)| other.as_text() == Some(name)) {
                        return Err(format!("the key {name:?} is there twice"));
                    }
                    *key = Some(node);
                    parts.push((place.start, place));
                }
            }
            _ => self.root = Some((node, place)),
        }
        Ok(())
    }
}

impl Node {
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Plain(text) | Self::Text(text) => Some(text),
            Self::List(_) | Self::Map(_) => None,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Text(_) => 1,
            Self::List(list) => 1 + list.iter().map(Self::size).sum::<usize>(),
            Self::Map(map) => 1 + map.iter().map(|(_, value)| 1 + value.size()).sum::<usize>(),
        }
    }

    /// What is at `path`.
    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, step| node.child(step))
    }

    fn child(&mut self, step: &str) -> Option<&mut Self> {
        match self {
            Self::Map(map) => map.iter_mut().find(|(key, _)| key.as_text() == Some(step)).map(|(_, value)| value),
            Self::List(list) => list.get_mut(step.parse::<usize>().ok()?),
            Self::Plain(_) | Self::Text(_) => None,
        }
    }

    /// What kubectl would send.
    pub fn value(&self) -> Value {
        match self {
            Self::Plain(text) => plain(text),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(list) => list.iter().map(Self::value).collect(),
            Self::Map(map) => {
                let entries =
                    map.iter().map(|(key, value)| (key.as_text().unwrap_or_default().to_owned(), value.value()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// Edits the tree as a patch says that was made for [`Node::value`].
    ///
    /// # Errors
    /// The patch does not fit.
    pub fn apply(&mut self, operations: &[PatchOperation]) -> Result<(), String> {
        operations.iter().try_for_each(|operation| {
            match operation {
                PatchOperation::Add(add) => self.change(&add.path, Some(Self::from(&add.value))),
                PatchOperation::Remove(remove) => self.change(&remove.path, None),
                _ => None,
            }
            .ok_or_else(|| format!("cannot apply {operation}"))
        })
    }

    fn change(&mut self, path: &Pointer, new: Option<Self>) -> Option<()> {
        let tokens: Vec<String> = path.tokens().map(|token| token.decoded().into_owned()).collect();
        let (last, parents) = tokens.split_last()?;
        let parent = parents.iter().try_fold(self, |node, step| node.child(step))?;
        match (parent, new) {
            (Self::Map(map), Some(new)) => match map.iter_mut().find(|(key, _)| key.as_text() == Some(last)) {
                Some((_, value)) => *value = new,
                None => map.push((text(last), new)),
            },
            (Self::Map(map), None) => {
                let at = map.iter().position(|(key, _)| key.as_text() == Some(last))?;
                map.remove(at);
            }
            (Self::List(list), Some(new)) => {
                let at = if last == "-" { list.len() } else { last.parse().ok().filter(|at| *at <= list.len())? };
                list.insert(at, new);
            }
            (Self::List(list), None) => {
                let at = last.parse().ok().filter(|at| *at < list.len())?;
                list.remove(at);
            }
            (Self::Plain(_) | Self::Text(_), _) => return None,
        }
        Some(())
    }

    /// In block style, each line behind `indent` blanks.
    pub fn write(&self, indent: usize, out: &mut String) {
        let margin = " ".repeat(indent);
        match self {
            Self::Map(map) if !map.is_empty() => {
                for (key, value) in map {
                    out.push_str(&margin);
                    key.write_inline(indent, out);
                    out.push(':');
                    match value {
                        Self::Map(map) if !map.is_empty() => {
                            out.push('\n');
                            value.write(indent + 2, out);
                        }
                        // As kubectl does: a list stands below its key.
                        Self::List(list) if !list.is_empty() => {
                            out.push('\n');
                            value.write(indent, out);
                        }
                        other => other.write_value(indent, out),
                    }
                }
            }
            Self::List(list) if !list.is_empty() => {
                for item in list {
                    out.push_str(&margin);
                    out.push('-');
                    match item {
                        Self::Map(map) if map.is_empty() => item.write_value(indent, out),
                        Self::List(list) if list.is_empty() => item.write_value(indent, out),
                        Self::Map(_) | Self::List(_) => {
                            let mut below = String::new();
                            item.write(indent + 2, &mut below);
                            out.push(' ');
                            out.push_str(&below[indent + 2..]);
                        }
                        scalar => scalar.write_value(indent, out),
                    }
                }
            }
            other => {
                other.write_inline(indent, out);
                out.push('\n');
            }
        }
    }

    /// Behind a key or a dash, to the end of the line.
    fn write_value(&self, indent: usize, out: &mut String) {
        match self {
            Self::Plain(text) if text.is_empty() => {}
            Self::Text(text) if is_block(text) => {
                let lines = text.strip_suffix('\n').unwrap_or(text);
                out.push_str(if text.ends_with('\n') { " |" } else { " |-" });
                for line in lines.split('\n') {
                    out.push('\n');
                    if !line.is_empty() {
                        out.push_str(&" ".repeat(indent + 2));
                        out.push_str(line);
                    }
                }
            }
            other => {
                out.push(' ');
                other.write_inline(indent, out);
            }
        }
        out.push('\n');
    }

    fn write_inline(&self, _indent: usize, out: &mut String) {
        match self {
            Self::Plain(text) if !text.contains('\n') => out.push_str(text),
            // JSON's texts are YAML's in double quotes.
            Self::Plain(text) | Self::Text(text) if is_bare(text) && matches!(self, Self::Text(_)) => {
                out.push_str(text);
            }
            Self::Plain(text) | Self::Text(text) => out.push_str(&quoted(text)),
            Self::List(_) => out.push_str("[]"),
            Self::Map(_) => out.push_str("{}"),
        }
    }

    /// On one line; as JSON if it is to be.
    pub fn flow(&self, json: bool) -> String {
        match self {
            Self::Plain(text) if text.is_empty() => "null".to_owned(),
            Self::Plain(text) if !text.contains('\n') => text.clone(),
            // Not everybody reads a colon within brackets the same.
            Self::Text(text) if !json && is_bare(text) && !text.contains(':') => text.clone(),
            Self::Plain(text) | Self::Text(text) => quoted(text),
            Self::List(list) => {
                format!("[{}]", list.iter().map(|item| item.flow(json)).collect::<Vec<_>>().join(", "))
            }
            Self::Map(map) => format!("{{{}}}", entries(map, json)),
        }
    }
}

impl fmt::Display for Node {
    /// The document in block style.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(0, &mut out);
        f.write_str(&out)
    }
}

impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Plain("null".to_owned()),
            Value::Bool(_) | Value::Number(_) => Self::Plain(value.to_string()),
            Value::String(given) => text(given),
            Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            Value::Object(map) => Self::Map(map.iter().map(|(key, value)| (text(key), Self::from(value))).collect()),
        }
    }
}

/// The entries of a map on one line.
pub fn entries(map: &[(Node, Node)], json: bool) -> String {
    let entry = |(key, value): &(Node, Node)| format!("{}: {}", key.flow(json), value.flow(json));
    map.iter().map(entry).collect::<Vec<_>>().join(", ")
}

/// A text in double quotes. What older readers, kubectl's among them, take for the end of a line is escaped, too.
fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    json.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn text(text: &str) -> Node {
    Node::Text(text.to_owned())
}

/// A text that needs no quotes: nothing in it means anything in YAML, and it reads as a text.
fn is_bare(text: &str) -> bool {
    let quiet = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    // A colon is quiet only before a letter, as in the name of an image.
    let colons = text.match_indices(':').all(|(at, _)| text[at + 1..].bytes().next().is_some_and(quiet));
    first && colons && text.bytes().all(|byte| quiet(byte) || byte == b':') && plain(text).is_string()
}

/// Several lines that can stand as they are.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let printable = |c: char| c == '\n' || (!c.is_control() && c != '\u{feff}' && !('\u{80}'..'\u{a0}').contains(&c));
    text.contains('\n')
        && !body.is_empty()
        && !body.starts_with([' ', '\t', '\n'])
        && !body.ends_with('\n')
        && text.chars().all(|c| printable(c) && c != '\u{2028}' && c != '\u{2029}')
}

/// What a text without quotes is, as kubectl reads it: YAML 1.1.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    if let Some(number) = integer(text) {
        return number;
    }
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let digit = text.bytes().any(|byte| byte.is_ascii_digit());
    let float = text.parse::<f64>().ok().filter(|_| numeric && digit).and_then(Number::from_f64);
    float.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o', ..] => (8, &digits[2..]),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let number = u64::from_str_radix(digits, radix).ok().filter(|_| valid)?;
    if negative { i64::try_from(number).ok().map(|number| Value::from(-number)) } else { Some(Value::from(number)) }
}

#[cfg(test)]
mod tests;

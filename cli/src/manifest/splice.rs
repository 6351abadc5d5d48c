//! Owns writing an edited document into the text that it was read from: what was not edited stays as it is, comments
//! and all. Pure.
//!
//! It refuses (gives none) where it does not know where to cut; the caller then writes the whole document anew. What it
//! gives has been read again and means the same.

use std::{borrow::Cow, ops::Range};

use super::tree::{self, Node, Place};

/// `text` with the values of `new`; none where that cannot be done.
pub fn splice(text: &str, new: &Node) -> Option<String> {
    let (old, place) = tree::parse_placed(text).ok()?;
    let mut edits = Edits { text, json: text.trim_start().starts_with(['{', '[']), made: Vec::new() };
    edits.node(&place, &old, new)?;
    // Stable: of two at one place the inner one was made first.
    edits.made.sort_by_key(|(range, _)| range.start);
    let (mut spliced, mut at) = (String::new(), 0);
    let crlf = text.contains("\r\n");
    for (range, put) in &edits.made {
        spliced.push_str(text.get(at..range.start)?);
        // Lines end as the others do.
        let put = if crlf { Cow::Owned(put.replace('\n', "\r\n")) } else { Cow::Borrowed(put.as_str()) };
        spliced.push_str(&put);
        at = range.end;
    }
    spliced.push_str(text.get(at..)?);
    (tree::parse(&spliced).ok()?.value() == new.value()).then_some(spliced)
}

struct Edits<'a> {
    text: &'a str,
    /// It is, and stays, JSON.
    json: bool,
    made: Vec<(Range<usize>, String)>,
}

impl Edits<'_> {
    fn node(&mut self, place: &Place, old: &Node, new: &Node) -> Option<()> {
        match (old, new) {
            _ if old == new => Some(()),
            (Node::Map(was), Node::Map(will)) if place.block && !will.is_empty() || keeps(was, will) => {
                self.map(place, was, will)
            }
            (Node::Map(was), Node::Map(will)) if !place.block && was.len() == will.len() + 1 && keeps(will, was) => {
                self.take_out(place, was, will)
            }
            (Node::List(was), Node::List(will)) if place.block && !will.is_empty() => self.list(place, was, will),
            _ => self.replace(place, old, new),
        }
    }

    fn map(&mut self, place: &Place, old: &[(Node, Node)], new: &[(Node, Node)]) -> Option<()> {
        for ((key, value), (start, part)) in old.iter().zip(&place.parts) {
            match find(new, key) {
                Some(new) => self.node(part, value, new)?,
                None => self.delete(*start, part.end)?,
            }
        }
        let added: Vec<_> = new.iter().filter(|(key, _)| find(old, key).is_none()).cloned().collect();
        match place.parts.as_slice() {
            _ if added.is_empty() => {}
            [(first, _), ..] if place.block => self.insert_lines(place.end, &Node::Map(added), self.column(*first)),
            [.., (_, last)] => self.made.push((last.end..last.end, format!(", {}", tree::entries(&added, self.json)))),
            [] => self.made.push((place.start + 1..place.start + 1, tree::entries(&added, self.json))),
        }
        Some(())
    }

    /// One entry between brackets goes, with the comma before or behind it.
    fn take_out(&mut self, place: &Place, old: &[(Node, Node)], new: &[(Node, Node)]) -> Option<()> {
        for (at, ((key, value), (start, part))) in old.iter().zip(&place.parts).enumerate() {
            if let Some(new) = find(new, key) {
                self.node(part, value, new)?;
            } else {
                let before = at.checked_sub(1).and_then(|before| place.parts.get(before));
                let gone = match (before, place.parts.get(at + 1)) {
                    (Some((_, before)), _) => before.end..part.end,
                    (None, Some((next, _))) => *start..*next,
                    (None, None) => *start..part.end,
                };
                self.made.push((gone, String::new()));
            }
        }
        Some(())
    }

    fn list(&mut self, place: &Place, old: &[Node], new: &[Node]) -> Option<()> {
        let shorter = old.len().min(new.len());
        let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let alike = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
        let tail = alike.min(shorter - head);
        let (gone, came) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
        let mut parts = place.parts.iter().map(|(_, part)| part).zip(old).skip(head);
        if gone.len() == came.len() {
            return parts.zip(came).try_for_each(|((part, old), new)| self.node(part, old, new));
        }
        if came.is_empty() {
            return parts.take(gone.len()).try_for_each(|(part, old)| self.delete(self.dash(part, old)?, part.end));
        }
        let came = Node::List(came.to_vec());
        let column = self.column(self.dash(&place.parts.first()?.1, old.first()?)?);
        match parts.next() {
            _ if !gone.is_empty() => return None,
            Some((next, node)) => {
                let mut lines = String::new();
                came.write(column, &mut lines);
                let start = self.line_of(self.dash(next, node)?)?;
                self.made.push((start..start, lines));
            }
            None => self.insert_lines(place.end, &came, column),
        }
        Some(())
    }

    /// Puts `new` where a value stands.
    fn replace(&mut self, place: &Place, old: &Node, new: &Node) -> Option<()> {
        let start = self.begin(place, old)?;
        if start == place.end {
            // There was none: it goes behind the colon.
            self.text.get(start..)?.strip_prefix(':')?;
            self.made.push((start + 1..start + 1, format!(" {}", new.flow(self.json))));
        } else {
            self.made.push((start..place.end, new.flow(self.json)));
        }
        Some(())
    }

    /// Where a value begins: without brackets, with its first key or dash.
    fn begin(&self, place: &Place, node: &Node) -> Option<usize> {
        match (place.parts.first(), node) {
            (Some((_, item)), Node::List(list)) if place.block => self.dash(item, list.first()?),
            (Some((key, _)), _) if place.block => Some(*key),
            _ => Some(place.start),
        }
    }

    /// The dash before an item.
    fn dash(&self, item: &Place, node: &Node) -> Option<usize> {
        let before = self.text.get(..self.begin(item, node)?)?.trim_end_matches([' ', '\n', '\r']);
        before.strip_suffix('-').map(str::len)
    }

    /// Puts whole lines below the line in which `end` is.
    fn insert_lines(&mut self, end: usize, node: &Node, column: usize) {
        let at = self.line_end(end);
        let mut lines = if at > 0 && !self.text[..at].ends_with('\n') { "\n".to_owned() } else { String::new() };
        node.write(column, &mut lines);
        self.made.push((at..at, lines));
    }

    /// Takes away the lines of an entry or item.
    fn delete(&mut self, start: usize, end: usize) -> Option<()> {
        self.made.push((self.line_of(start)?..self.line_end(end), String::new()));
        Some(())
    }

    /// Where the line begins in which nothing but blanks stand before `at`.
    fn line_of(&self, at: usize) -> Option<usize> {
        let start = at - self.column(at);
        self.text.get(start..at)?.trim().is_empty().then_some(start)
    }

    fn column(&self, at: usize) -> usize {
        at - self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn line_end(&self, at: usize) -> usize {
        if self.text[..at].ends_with('\n') {
            return at;
        }
        self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline + 1)
    }
}

fn find<'a>(map: &'a [(Node, Node)], key: &Node) -> Option<&'a Node> {
    map.iter().find(|(other, _)| other.as_text() == key.as_text()).map(|(_, value)| value)
}

/// Nothing is taken away.
fn keeps(old: &[(Node, Node)], new: &[(Node, Node)]) -> bool {
    old.iter().all(|(key, _)| find(new, key).is_some())
}

#[cfg(test)]
mod tests;

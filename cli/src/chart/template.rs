//! Owns reading the charts' templates: the part of Go's template language that our charts use, as a tree with lines.
//! Anything else is an error with file and line, so that a chart that Helm could render and we could not never ships.
//! What the tree means is `evaluate.rs`' business.
//!
//! There are: text, `{{- -}}` trimming, comments, `define`, `if … else if … else`, `range $key, $value := MAP`, and
//! pipelines of paths (`.Values.a`), strings, whole numbers, variables, parentheses and calls of functions.

use super::ChartError;

/// One thing to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Text(String),
    Print(Pipe),
    /// The first branch whose condition holds; the last one may have none.
    If(Vec<(Option<Pipe>, Vec<Node>)>),
    Range {
        key: String,
        value: String,
        over: Pipe,
        body: Vec<Node>,
    },
    Define {
        name: String,
        body: Vec<Node>,
    },
}

/// Calls, each with the result of the one before as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipe {
    /// In its file, from 1.
    pub line: usize,
    /// In each, a function and its arguments, or one term.
    pub calls: Vec<Vec<Term>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// `.` has no steps, `.Values.proxy` two.
    Path(Vec<String>),
    /// `$key`, without the sign.
    Variable(String),
    Text(String),
    Number(i64),
    Function(String),
    Group(Pipe),
}

/// Reads one file.
///
/// # Errors
/// The first thing that is not in the subset, with `file` and line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Node>, ChartError> {
    let mut parser = Parser { file, text, at: 0, trim: false };
    let (nodes, end) = parser.block()?;
    match end {
        End::File => Ok(nodes),
        End::Here | End::Else(_) => Err(parser.error("`end` or `else` without a beginning")),
    }
}

/// What ended a block.
enum End {
    File,
    Here,
    /// `else`, or `else if` with its condition.
    Else(Option<Pipe>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Path(Vec<String>),
    Variable(String),
    Text(String),
    Number(i64),
    Bar,
    Comma,
    Assign,
    Open,
    Shut,
}

struct Parser<'a> {
    file: &'a str,
    text: &'a str,
    /// Bytes that have been read.
    at: usize,
    /// The last action ended in `-}}`.
    trim: bool,
}

impl Parser<'_> {
    fn error(&self, what: impl Into<String>) -> ChartError {
        ChartError::at(self.file, self.line(), what)
    }

    fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    /// Reads up to `end`, `else` or the end of the file.
    fn block(&mut self) -> Result<(Vec<Node>, End), ChartError> {
        let mut nodes = Vec::new();
        loop {
            if let Some(text) = self.plain() {
                nodes.push(Node::Text(text));
            }
            if self.at == self.text.len() {
                return Ok((nodes, End::File));
            }
            let line = self.line();
            let tokens = self.action()?;
            let first = if let Some(Token::Word(word)) = tokens.first() { word.as_str() } else { "" };
            let rest = tokens.get(1..).unwrap_or_default();
            match (first, rest) {
                _ if tokens.is_empty() => {}
                ("end", []) => return Ok((nodes, End::Here)),
                ("else", []) => return Ok((nodes, End::Else(None))),
                ("else", [Token::Word(word), condition @ ..]) if word == "if" => {
                    return Ok((nodes, End::Else(Some(self.pipe(line, condition)?))));
                }
                ("if", condition) => {
                    let condition = self.pipe(line, condition)?;
                    nodes.push(self.branches(condition)?);
                }
                ("range", [Token::Variable(key), Token::Comma, Token::Variable(value), Token::Assign, over @ ..]) => {
                    let (key, value, over) = (key.clone(), value.clone(), self.pipe(line, over)?);
                    nodes.push(Node::Range { key, value, over, body: self.body()? });
                }
                ("define", [Token::Text(name)]) => {
                    let name = name.clone();
                    nodes.push(Node::Define { name, body: self.body()? });
                }
                ("end" | "else" | "range" | "define" | "with" | "template" | "block" | "break" | "continue", _) => {
                    let what = format!("this form of `{first}` is not in the subset that the mesh command renders");
                    return Err(ChartError::at(self.file, line, what));
                }
                _ => nodes.push(Node::Print(self.pipe(line, &tokens)?)),
            }
        }
    }

    /// The block of something that has no `else`.
    fn body(&mut self) -> Result<Vec<Node>, ChartError> {
        let (body, end) = self.block()?;
        if matches!(end, End::Here) { Ok(body) } else { Err(self.error("`end` is missing")) }
    }

    fn branches(&mut self, condition: Pipe) -> Result<Node, ChartError> {
        let mut branches = Vec::new();
        let mut condition = Some(condition);
        loop {
            let last = condition.is_none();
            let (body, end) = self.block()?;
            branches.push((condition, body));
            match end {
                End::Here => return Ok(Node::If(branches)),
                End::Else(next) if !last => condition = next,
                End::Else(_) => return Err(self.error("`else` after the last `else`")),
                End::File => return Err(self.error("`end` is missing")),
            }
        }
    }

    /// The text up to the next action, with what the actions around it trim.
    fn plain(&mut self) -> Option<String> {
        let rest = &self.text[self.at..];
        let mut text = &rest[..rest.find("{{").unwrap_or(rest.len())];
        self.at += text.len();
        if self.trim {
            text = text.trim_start();
        }
        if trims(&self.text[self.at..], "{{-") {
            text = text.trim_end();
        }
        self.trim = false;
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The tokens of the action that starts here; none for a comment.
    fn action(&mut self) -> Result<Vec<Token>, ChartError> {
        self.at += if trims(&self.text[self.at..], "{{-") { 3 } else { 2 };
        let mut tokens = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            let blank = rest.len() - rest.trim_start().len();
            let trimmed = &rest[blank..];
            self.at += blank;
            if trimmed.starts_with("/*") && tokens.is_empty() {
                let end = trimmed.find("*/").ok_or_else(|| self.error("a comment without its end"))?;
                self.at += end + 2;
            } else if trimmed.starts_with("-}}") && blank > 0 {
                (self.at, self.trim) = (self.at + 3, true);
                return Ok(tokens);
            } else if trimmed.starts_with("}}") {
                self.at += 2;
                return Ok(tokens);
            } else {
                let (token, length) = token(trimmed).map_err(|what| self.error(what))?;
                tokens.push(token);
                self.at += length;
            }
        }
    }

    fn pipe(&self, line: usize, tokens: &[Token]) -> Result<Pipe, ChartError> {
        let mut rest = tokens;
        let pipe = self.calls(line, &mut rest)?;
        if rest.is_empty() { Ok(pipe) } else { Err(ChartError::at(self.file, line, "`)` without `(`")) }
    }

    /// Reads calls up to the end or a `)`, which is left.
    fn calls(&self, line: usize, rest: &mut &[Token]) -> Result<Pipe, ChartError> {
        let error = |what: &str| Err(ChartError::at(self.file, line, what));
        let mut calls = vec![Vec::new()];
        while let Some((token, after)) = rest.split_first() {
            if *token == Token::Shut {
                break;
            }
            *rest = after;
            let term = match token {
                Token::Bar => {
                    calls.push(Vec::new());
                    continue;
                }
                Token::Open => {
                    let group = self.calls(line, rest)?;
                    let Some((Token::Shut, after)) = rest.split_first() else { return error("`(` without `)`") };
                    *rest = after;
                    Term::Group(group)
                }
                Token::Word(word) => Term::Function(word.clone()),
                Token::Path(path) => Term::Path(path.clone()),
                Token::Variable(name) => Term::Variable(name.clone()),
                Token::Text(text) => Term::Text(text.clone()),
                Token::Number(number) => Term::Number(*number),
                Token::Comma | Token::Assign | Token::Shut => return error("`,` and `:=` stand in `range` only"),
            };
            if let Some(call) = calls.last_mut() {
                call.push(term);
            }
        }
        if calls.iter().any(Vec::is_empty) { error("an expression is missing") } else { Ok(Pipe { line, calls }) }
    }
}

/// Whether an action that trims starts here: the sign needs a blank after it.
fn trims(text: &str, sign: &str) -> bool {
    text.strip_prefix(sign).is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

/// The first token of `text`, and its length in bytes.
fn token(text: &str) -> Result<(Token, usize), String> {
    let word = |from: usize| {
        from + text[from..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text[from..].len())
    };
    let first = text.chars().next().ok_or("`}}` is missing")?;
    Ok(match first {
        '|' => (Token::Bar, 1),
        ',' => (Token::Comma, 1),
        '(' => (Token::Open, 1),
        ')' => (Token::Shut, 1),
        ':' if text.starts_with(":=") => (Token::Assign, 2),
        '"' => {
            let end = text[1..].find(['"', '\\', '\n']).map(|end| end + 1);
            match end.filter(|&end| text[end..].starts_with('"')) {
                Some(end) => (Token::Text(text[1..end].to_owned()), end + 1),
                None => {
                    return Err("a string without its end, or with an escape, which is not in the subset".to_owned());
                }
            }
        }
        '$' if word(1) > 1 => (Token::Variable(text[1..word(1)].to_owned()), word(1)),
        '.' => {
            let mut path = Vec::new();
            let mut at = 0;
            while text[at..].starts_with('.') && word(at + 1) > at + 1 {
                path.push(text[at + 1..word(at + 1)].to_owned());
                at = word(at + 1);
            }
            (Token::Path(path), at.max(1))
        }
        '0'..='9' => {
            let number = text[..word(0)].parse().map_err(|_| format!("{:?} is no whole number", &text[..word(0)]))?;
            (Token::Number(number), word(0))
        }
        _ if first.is_alphabetic() => (Token::Word(text[..word(0)].to_owned()), word(0)),
        _ => return Err(format!("{first:?} is not in the subset that the mesh command renders")),
    })
}

#[cfg(test)]
mod tests;

//! Owns what a template's tree means: text out of values. The functions are those that our charts use, and mean what
//! they mean to Helm; a missing value, another function or another type is an error with file and line, where Helm
//! would often print `<no value>`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    ChartError,
    template::{Node, Pipe, Term},
};

/// How deep `include` may go: deeper is a template that includes itself.
const INCLUDE_MAX: usize = 16;

/// All that the files define, by name: the file, and what to do.
#[derive(Default)]
pub struct Defined(BTreeMap<String, (String, Vec<Node>)>);

impl Defined {
    /// Takes the definitions out of a file's nodes.
    pub fn take(&mut self, file: &str, nodes: Vec<Node>) -> Vec<Node> {
        let mut rest = Vec::new();
        for node in nodes {
            match node {
                Node::Define { name, body } => _ = self.0.insert(name, (file.to_owned(), body)),
                node => rest.push(node),
            }
        }
        rest
    }
}

/// Renders a file's nodes with `dot` as the dot.
///
/// # Errors
/// The first thing that cannot be done, with file and line; or what the template itself `fail`s with.
pub fn render(file: &str, nodes: &[Node], dot: &Value, defined: &Defined) -> Result<String, ChartError> {
    let mut out = String::new();
    Scope { file, dot, defined, variables: Vec::new(), depth: 0 }.nodes(nodes, &mut out)?;
    Ok(out)
}

struct Scope<'a> {
    file: &'a str,
    dot: &'a Value,
    defined: &'a Defined,
    /// The last one of a name counts.
    variables: Vec<(&'a str, Value)>,
    /// Of includes.
    depth: usize,
}

impl<'a> Scope<'a> {
    fn nodes(&mut self, nodes: &'a [Node], out: &mut String) -> Result<(), ChartError> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipe) => out.push_str(&self.printed(pipe)?),
                Node::If(branches) => {
                    for (condition, body) in branches {
                        if condition.as_ref().map_or(Ok(true), |pipe| self.pipe(pipe).map(|value| truth(&value)))? {
                            self.nodes(body, out)?;
                            break;
                        }
                    }
                }
                Node::Range { key, value, over, body } => {
                    let Value::Object(map) = self.pipe(over)? else {
                        return Err(self.error(over.line, "only a map can be ranged over"));
                    };
                    let outer = self.variables.len();
                    for (name, item) in map {
                        self.variables.push((key, Value::from(name)));
                        self.variables.push((value, item));
                        self.nodes(body, out)?;
                        self.variables.truncate(outer);
                    }
                }
                Node::Define { name, .. } => {
                    return Err(self.error(0, format!("{name:?} is defined within something else")));
                }
            }
        }
        Ok(())
    }

    fn error(&self, line: usize, what: impl Into<String>) -> ChartError {
        ChartError::at(self.file, line, what)
    }

    fn printed(&self, pipe: &'a Pipe) -> Result<String, ChartError> {
        match self.pipe(pipe)? {
            Value::String(text) => Ok(text),
            Value::Number(number) if number.is_i64() => Ok(number.to_string()),
            other => Err(self.error(pipe.line, format!("{other} has no one form as text: use `toJson`"))),
        }
    }

    fn pipe(&self, pipe: &'a Pipe) -> Result<Value, ChartError> {
        let mut last = None;
        for call in &pipe.calls {
            last = Some(match call.split_first() {
                Some((Term::Function(name), arguments)) => {
                    let mut values: Vec<Value> =
                        arguments.iter().map(|term| self.term(pipe.line, term)).collect::<Result<_, _>>()?;
                    values.extend(last);
                    self.call(pipe.line, name, &values)?
                }
                Some((term, [])) if last.is_none() => self.term(pipe.line, term)?,
                _ => return Err(self.error(pipe.line, "this is no function, so it takes nothing")),
            });
        }
        Ok(last.unwrap_or_default())
    }

    fn term(&self, line: usize, term: &'a Term) -> Result<Value, ChartError> {
        match term {
            Term::Text(text) => Ok(Value::from(text.as_str())),
            Term::Number(number) => Ok(Value::from(*number)),
            Term::Group(pipe) => self.pipe(pipe),
            Term::Function(name) => self.call(line, name, &[]),
            Term::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone()).ok_or_else(|| self.error(line, format!("${name} is not set")))
            }
            Term::Path(path) => {
                let mut value = self.dot;
                for key in path {
                    let missing = || self.error(line, format!(".{} is not there: {key:?} is missing", path.join(".")));
                    value = value.get(key).ok_or_else(missing)?;
                }
                Ok(value.clone())
            }
        }
    }

    fn call(&self, line: usize, name: &str, arguments: &[Value]) -> Result<Value, ChartError> {
        match (name, arguments) {
            ("include", [Value::String(name), dot]) => self.include(line, name, dot).map(Value::from),
            ("toJson", [value]) => Ok(Value::from(to_json(value))),
            ("nindent", [width, Value::String(text)]) if width.is_u64() => {
                let blank =
                    " ".repeat(width.as_u64().and_then(|width| usize::try_from(width).ok()).unwrap_or_default());
                Ok(Value::from(text.split('\n').fold(String::new(), |all, line| all + "\n" + &blank + line)))
            }
            ("int", [value]) if value.is_i64() => Ok(value.clone()),
            ("gt", [a, b]) if a.is_i64() && b.is_i64() => Ok(Value::from(a.as_i64() > b.as_i64())),
            ("eq", [a, b]) if alike(a, b) => Ok(Value::from(a == b)),
            ("ne", [a, b]) if alike(a, b) => Ok(Value::from(a != b)),
            ("fail", [Value::String(why)]) => Err(self.error(line, why.as_str())),
            ("include" | "toJson" | "nindent" | "int" | "gt" | "eq" | "ne" | "fail", _) => {
                let given: Vec<String> = arguments.iter().map(Value::to_string).collect();
                Err(self.error(line, format!("`{name}` cannot be called with {}", given.join(" "))))
            }
            _ => {
                Err(self
                    .error(line, format!("the function `{name}` is not in the subset that the mesh command renders")))
            }
        }
    }

    fn include(&self, line: usize, name: &str, dot: &Value) -> Result<String, ChartError> {
        let Some((file, body)) = self.defined.0.get(name) else {
            return Err(self.error(line, format!("no file defines {name:?}")));
        };
        if self.depth == INCLUDE_MAX {
            return Err(self.error(line, format!("{name:?} includes itself")));
        }
        let mut out = String::new();
        let mut inner = Scope { file, dot, defined: self.defined, variables: Vec::new(), depth: self.depth + 1 };
        inner.nodes(body, &mut out)?;
        Ok(out)
    }
}

/// Go compares like with like only.
fn alike(a: &Value, b: &Value) -> bool {
    (a.is_string() && b.is_string()) || (a.is_i64() && b.is_i64()) || (a.is_boolean() && b.is_boolean())
}

/// What `if` takes for true: anything but nothing.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !Map::is_empty(map),
    }
}

/// JSON as Go writes it: keys sorted, and what means something to HTML escaped.
fn to_json(value: &Value) -> String {
    let escapes =
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    // Outside of strings JSON has none of these.
    escapes.iter().fold(value.to_string(), |json, (sign, escaped)| json.replace(*sign, escaped))
}

#[cfg(test)]
mod tests;

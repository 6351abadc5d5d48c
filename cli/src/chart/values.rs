//! Owns what people give to a chart: files of values and `--set`, read and laid over each other as Helm does it, so that
//! the same words mean the same in both. What Helm drops in silence (`--set =x`, a list in place of a map) is an error.

use serde_json::{Map, Value};

/// Longest file of values, in bytes.
pub const FILE_MAX: u64 = 1 << 20;
/// Deepest key of `--set`, as Helm has it.
const DEPTH_MAX: usize = 30;
/// Highest index of `--set`: a gap before it is filled with nothing, which must not cost memory.
const INDEX_MAX: usize = 1_000;

/// Reads a file of values.
///
/// # Errors
/// It is no YAML, or no map.
pub fn read(text: &str) -> Result<Value, String> {
    let value: Value = serde_yaml::from_str(text).map_err(|error| {
        let words = error.without_snippet().to_string();
        words.lines().next().unwrap_or_default().to_owned()
    })?;
    match value {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(_) => Ok(value),
        _ => Err("this is no map of values, as in `proxy: {…}`".to_owned()),
    }
}

/// Lays `over` on `base`: maps are merged, anything else is replaced.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// Lays what was given on the chart's defaults: as [`merge`], but nothing (`null`) takes a default away.
pub fn over_defaults(defaults: &mut Value, given: Value) {
    match (defaults, given) {
        (Value::Object(defaults), Value::Object(given)) => {
            for (key, value) in given {
                match defaults.get_mut(&key) {
                    Some(_) if value.is_null() => _ = defaults.remove(&key),
                    Some(default) => over_defaults(default, value),
                    None => _ = defaults.insert(key, value),
                }
            }
        }
        (defaults, given) => *defaults = given,
    }
}

/// Applies one `--set a.b=c,d[0]=e,f={g,h}`; `\` takes the meaning from the sign after it. `true`, `false`, `null` and whole
/// numbers are what they look like, unless `text` says that everything is text.
///
/// # Errors
/// Says what cannot be read.
pub fn set(given: &mut Value, assignments: &str, text: bool) -> Result<(), String> {
    let mut reader = Reader { rest: assignments };
    while !reader.rest.is_empty() {
        let path = reader.path()?;
        let value = if reader.rest.starts_with('{') { reader.list(text)? } else { typed(&reader.until(","), text) };
        reader.rest = reader.rest.strip_prefix(',').unwrap_or(reader.rest);
        assign(given, &path, value)?;
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// What is before the first of `stops`, which is left; escapes are resolved.
    fn until(&mut self, stops: &str) -> String {
        let mut read = String::new();
        let mut chars = self.rest.chars();
        loop {
            self.rest = chars.as_str();
            match chars.next() {
                Some('\\') => read.extend(chars.next()),
                Some(c) if !stops.contains(c) => read.push(c),
                _ => return read,
            }
        }
    }

    fn path(&mut self) -> Result<Vec<Step>, String> {
        let mut path = Vec::new();
        loop {
            if path.len() >= DEPTH_MAX {
                return Err(format!("a key has at most {DEPTH_MAX} parts"));
            }
            let key = self.until(".[=,");
            if key.is_empty() {
                return Err(format!("a key is missing before {:?}", self.rest));
            }
            path.push(Step::Key(key.clone()));
            while let Some(rest) = self.rest.strip_prefix('[') {
                let (index, rest) = rest.split_once(']').ok_or("`]` is missing")?;
                let index = index.parse().ok().filter(|index| *index <= INDEX_MAX);
                path.push(Step::Index(index.ok_or_else(|| format!("an index is a number up to {INDEX_MAX}"))?));
                self.rest = rest;
            }
            if let Some(rest) = self.rest.strip_prefix('=') {
                self.rest = rest;
                return Ok(path);
            }
            self.rest =
                self.rest.strip_prefix('.').ok_or_else(|| format!("{key:?} has no value: write `{key}=VALUE`"))?;
        }
    }

    fn list(&mut self, text: bool) -> Result<Value, String> {
        let mut items = Vec::new();
        while let Some(rest) = self.rest.strip_prefix(if items.is_empty() { '{' } else { ',' }) {
            self.rest = rest;
            items.push(typed(&self.until(",}"), text));
        }
        let rest = self.rest.strip_prefix('}').ok_or("a list ends with `}`")?;
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(format!("{rest:?} stands behind a list"));
        }
        self.rest = rest;
        // Helm takes `{}` for a list with an empty text in it; nobody means that.
        Ok(if items == [Value::from("")] { Value::Array(Vec::new()) } else { Value::Array(items) })
    }
}

fn typed(word: &str, text: bool) -> Value {
    if text {
        return Value::from(word);
    }
    match word.to_ascii_lowercase().as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        "0" => Value::from(0),
        // What looks octal is text.
        _ if word.starts_with('0') => Value::from(word),
        _ => word.parse::<i64>().map_or_else(|_| Value::from(word), Value::from),
    }
}

fn assign(root: &mut Value, path: &[Step], value: Value) -> Result<(), String> {
    let mut place = root;
    for step in path {
        place = match (step, place) {
            (Step::Key(key), place @ Value::Null) => {
                *place = Value::Object(Map::new());
                &mut place[key.as_str()]
            }
            (Step::Key(key), Value::Object(map)) => map.entry(key.clone()).or_insert(Value::Null),
            (Step::Index(index), place @ Value::Null) => {
                *place = Value::Array(vec![Value::Null; index + 1]);
                &mut place[*index]
            }
            (Step::Index(index), Value::Array(list)) => {
                if list.len() <= *index {
                    list.resize(index + 1, Value::Null);
                }
                &mut list[*index]
            }
            (Step::Key(key), other) => return Err(format!("{key:?} is set within {other}, which is no map")),
            (Step::Index(index), other) => return Err(format!("item {index} is set within {other}, which is no list")),
        };
    }
    *place = value;
    Ok(())
}

#[cfg(test)]
mod tests;

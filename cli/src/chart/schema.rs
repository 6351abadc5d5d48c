//! Owns the check of values against the chart's schema: the words of JSON Schema that ours uses. A word that is not among
//! them is an error, so that a rule is never taken for kept when nobody looks at it. All mistakes are told at once.

use lacewing_ops::nearest::nearest;
use regex::Regex;
use serde_json::{Map, Value};

/// Longest value, in bytes, that a message repeats.
const QUOTED_MAX: usize = 60;

/// Everything in `values` that `schema` does not allow, each in one line.
pub fn violations(schema: &Value, values: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { root: schema, found: &mut found }.value(schema, "", values);
    found
}

struct Check<'a> {
    root: &'a Value,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    fn says(&mut self, path: &str, what: &str) {
        self.found.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
    }

    fn value(&mut self, rules: &Value, path: &str, value: &Value) {
        for (word, rule) in rules.as_object().into_iter().flatten() {
            let broken = match word.as_str() {
                "$ref" => match rule.as_str().and_then(|at| self.root.pointer(at.strip_prefix('#')?)) {
                    Some(rules) => {
                        self.value(rules, path, value);
                        None
                    }
                    None => Some(format!("the schema has no {rule}")),
                },
                "type" => wrong_type(rule, value),
                "enum" => not_one_of(rule, value),
                "minimum" => {
                    value.as_i64().filter(|n| Some(*n) < rule.as_i64()).map(|n| format!("{n} is less than {rule}"))
                }
                "maximum" => {
                    value.as_i64().filter(|n| Some(*n) > rule.as_i64()).map(|n| format!("{n} is more than {rule}"))
                }
                "minLength" => {
                    value.as_str().filter(|s| count(s) < rule.as_u64()).map(|_| format!("{value} is too short"))
                }
                "maxLength" => value
                    .as_str()
                    .filter(|s| count(s) > rule.as_u64())
                    .map(|_| format!("it has more than {rule} letters")),
                "pattern" => no_match(rule, rules, value),
                "required" => {
                    self.required(rule, path, value);
                    None
                }
                "properties" => {
                    for (name, rules) in rule.as_object().into_iter().flatten() {
                        if let Some(value) = value.get(name) {
                            self.value(rules, &below(path, name), value);
                        }
                    }
                    None
                }
                "additionalProperties" => {
                    self.others(rules, rule, path, value);
                    None
                }
                "items" => {
                    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                        self.value(rule, &format!("{path}[{index}]"), value);
                    }
                    None
                }
                "$schema" | "title" | "description" | "definitions" => None,
                _ => Some(format!("the schema's word {word:?} is not understood")),
            };
            if let Some(broken) = broken {
                self.says(path, &broken);
            }
        }
    }

    fn required(&mut self, rule: &Value, path: &str, value: &Value) {
        let Value::Object(map) = value else { return };
        let names = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in names.filter(|name| !map.contains_key(*name)) {
            self.says(&below(path, name), "it must have a value; leave it out to have the default");
        }
    }

    /// What stands in a map beside the properties that have a name.
    fn others(&mut self, rules: &Value, rule: &Value, path: &str, value: &Value) {
        let none = Map::new();
        let known = rules.get("properties").and_then(Value::as_object).unwrap_or(&none);
        for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| !known.contains_key(*name)) {
            if rule.as_bool() == Some(false) {
                let meant = nearest(name, known.keys().map(String::as_str));
                let meant = meant.map_or_else(|| ".".to_owned(), |name| format!("; did you mean {name}?"));
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let what = format!("there is no such value{meant} What there is: {}", names.join(", "));
                self.says(&below(path, name), &what);
            } else {
                self.value(rule, &below(path, name), value);
            }
        }
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn count(text: &str) -> Option<u64> {
    u64::try_from(text.chars().count()).ok()
}

fn wrong_type(rule: &Value, value: &Value) -> Option<String> {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        _ => false,
    };
    let wanted: Vec<&str> = match rule {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        rule => rule.as_str().into_iter().collect(),
    };
    if wanted.iter().any(|name| is(name)) {
        return None;
    }
    let words: Vec<&str> = wanted
        .iter()
        .map(|name| match *name {
            "object" => "a map",
            "array" => "a list",
            "string" => "a text",
            "integer" => "a whole number",
            "boolean" => "true or false",
            other => other,
        })
        .collect();
    let is_text_unquoted = wanted == ["string"] && !value.is_object() && !value.is_array();
    let hint = if is_text_unquoted || wanted.contains(&"string") && value.is_number() {
        "; put it in quotes in a file, or use --set-string"
    } else {
        ""
    };
    Some(format!("{} is not {}{hint}", clip(value), words.join(" or ")))
}

fn not_one_of(rule: &Value, value: &Value) -> Option<String> {
    let allowed = rule.as_array()?;
    if allowed.contains(value) {
        return None;
    }
    let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
    let meant = value.as_str().and_then(|text| nearest(text, names.iter().copied()));
    let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Some(format!("{} is not one of {}{meant}", clip(value), names.join(", ")))
}

/// Helm reads patterns as Go does, and ours mean the same to both (`tests/it/charts.rs`). What is meant says the description.
fn no_match(rule: &Value, rules: &Value, value: &Value) -> Option<String> {
    let (pattern, text) = (rule.as_str().unwrap_or_default(), value.as_str()?);
    match Regex::new(pattern) {
        Ok(regex) if regex.is_match(text) => None,
        Ok(_) => {
            let meant = rules["description"].as_str().map(|meant| format!(": {meant}")).unwrap_or_default();
            Some(format!("{} does not match pattern '{pattern}'{meant}", clip(value)))
        }
        Err(_) => Some(format!("the schema's pattern {rule} is not understood")),
    }
}

fn clip(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;

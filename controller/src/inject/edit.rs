//! Owns writing a JSON patch (RFC 6902): each operation is applied at once, so that the patch and the object that it makes
//! cannot differ. Fields that no type of ours knows survive, because nothing is read and written back whole.

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, jsonptr::PointerBuf, patch_unsafe};
use serde::Serialize;
use serde_json::Value;

/// An object under change.
pub struct Edit {
    value: Value,
    patch: Patch,
}

impl Edit {
    pub fn new(value: Value) -> Self {
        Self { value, patch: Patch::default() }
    }

    /// The object as it is by now.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The changed object, and what leads to it.
    pub fn finish(self) -> (Value, Patch) {
        (self.value, self.patch)
    }

    /// What is at `path`; nothing where it is missing or `null`.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.value, |value, step| step_into(value, step)).filter(|value| !value.is_null())
    }

    /// Sets the member, or inserts before the element, that `path` names (`-`: behind the last).
    ///
    /// # Errors
    /// There is nothing that could hold it.
    pub fn add(&mut self, path: &[&str], value: impl Serialize) -> Result<(), String> {
        let value = serde_json::to_value(value).map_err(|error| error.to_string())?;
        self.apply(PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value }))
    }

    /// The same, first making sure that the parent is there (`empty` where it is not).
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub fn add_below(&mut self, path: &[&str], empty: Value, value: impl Serialize) -> Result<(), String> {
        let (_, parent) = path.split_last().ok_or("the whole object cannot be added to itself")?;
        if self.get(parent).is_none() {
            self.add(parent, empty)?;
        }
        self.add(path, value)
    }

    /// Takes out what `path` names, and its parent if that is empty then.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&mut self, path: &[&str]) -> Result<(), String> {
        let parent = path.split_last().map_or(path, |(_, parent)| parent);
        let last = match self.get(parent) {
            Some(Value::Array(list)) => list.len() == 1,
            Some(Value::Object(map)) => map.len() == 1,
            _ => false,
        };
        let path = if last { parent } else { path };
        self.apply(PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path.iter().copied()) }))
    }

    fn apply(&mut self, operation: PatchOperation) -> Result<(), String> {
        patch_unsafe(&mut self.value, std::slice::from_ref(&operation))
            .map_err(|error| format!("the object has not the shape of a pod: {error}"))?;
        self.patch.0.push(operation);
        Ok(())
    }
}

fn step_into<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(step),
        Value::Array(list) => list.get(step.parse::<usize>().ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_patch_leads_to_the_object() {
        let before = json!({"a": null, "list": [1], "odd/~key": {"x": 1}, "keep": {"x": 1.5}});
        let mut edit = Edit::new(before.clone());
        edit.add_below(&["a", "b/c"], json!({}), "value").unwrap();
        edit.add_below(&["list", "0"], json!([]), 0).unwrap();
        edit.remove(&["odd/~key", "x"]).unwrap();
        let (after, patch) = edit.finish();
        assert_eq!(after, json!({"a": {"b/c": "value"}, "list": [0, 1], "keep": {"x": 1.5}}));
        let mut again = before;
        json_patch::patch(&mut again, &patch).unwrap();
        assert_eq!(again, after);
    }

    #[test]
    fn what_has_another_shape_is_an_error() {
        let mut edit = Edit::new(json!({"spec": "text"}));
        assert!(edit.add_below(&["spec", "volumes", "-"], json!([]), 1).unwrap_err().contains("shape"));
        assert!(edit.remove(&["spec", "volumes"]).is_err());
        assert_eq!(edit.finish().0, json!({"spec": "text"}));
    }
}

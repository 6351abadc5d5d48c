//! Owns the double's objects: what is where, in which version, and what changed since. No I/O. Answers are those of the
//! API's conventions: an object or a list, or else a `Status` with its code.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value, json};

/// Resources that there are: name, kind, whether they are in namespaces.
const RESOURCES: [(&str, &str, bool); 9] = [
    ("namespaces", "Namespace", false),
    ("pods", "Pod", true),
    ("services", "Service", true),
    ("secrets", "Secret", true),
    ("events", "Event", true),
    ("endpointslices", "EndpointSlice", true),
    ("leases", "Lease", true),
    ("deployments", "Deployment", true),
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", false),
];

/// A `Status`: its code and its text.
pub type Refusal = (u16, Value);

/// Objects by group and version, resource, namespace and name.
#[derive(Default)]
pub struct Store {
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// Nothing is known of what changed up to here.
    oldest: u64,
    log: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// As `/api/v1/pods`.
    collection: String,
    namespace: String,
    name: String,
}

/// One step from a version to the next.
struct Change {
    version: u64,
    key: Key,
    before: Option<Value>,
    after: Option<Value>,
}

/// What a path names, and what a query asks of it.
#[derive(Debug, Clone)]
pub struct Target {
    collection: String,
    kind: &'static str,
    /// Empty for all of them.
    namespace: String,
    name: Option<String>,
    /// Pairs of the query, decoded.
    pub query: BTreeMap<String, String>,
}

impl Target {
    /// Reads a path with its query.
    ///
    /// # Errors
    /// There is nothing like that.
    pub fn parse(path: &str) -> Result<Self, Refusal> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(key, value)| (decoded(key), decoded(value))).collect();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (group, rest) = match parts[..] {
            ["api", version, ..] => (format!("/api/{version}"), &parts[2..]),
            ["apis", group, version, ..] => (format!("/apis/{group}/{version}"), &parts[3..]),
            _ => return Err(not_found(path)),
        };
        let (namespace, resource, name) = match *rest {
            ["namespaces", namespace, resource] => (namespace, resource, None),
            ["namespaces", namespace, resource, name] => (namespace, resource, Some(name.to_owned())),
            [resource] => ("", resource, None),
            [resource, name] => ("", resource, Some(name.to_owned())),
            _ => return Err(not_found(path)),
        };
        let known = RESOURCES.iter().find(|(known, ..)| *known == resource).ok_or_else(|| not_found(path))?;
        Ok(Self {
            collection: format!("{group}/{resource}"),
            kind: known.1,
            namespace: namespace.to_owned(),
            name,
            query,
        })
    }

    pub fn is_collection(&self) -> bool {
        self.name.is_none()
    }

    fn key(&self, name: &str) -> Key {
        Key { collection: self.collection.clone(), namespace: self.namespace.clone(), name: name.to_owned() }
    }

    fn holds(&self, key: &Key) -> bool {
        key.collection == self.collection && (self.namespace.is_empty() || key.namespace == self.namespace)
    }

    /// Whether the object fits the field selector. Only those are known that somebody here uses.
    fn selects(&self, object: &Value) -> bool {
        let selector = self.query.get("fieldSelector").map_or("", String::as_str);
        selector.split(',').filter(|term| !term.is_empty()).all(|term| {
            let (path, value, wanted) = match term.split_once("!=") {
                Some((path, value)) => (path, value, false),
                None => term.split_once('=').map(|(path, value)| (path, value, true)).expect("a field selector"),
            };
            let found = path.split('.').fold(object, |object, step| &object[step]).as_str().unwrap_or_default();
            (found == value) == wanted
        })
    }
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn compact(&mut self) {
        self.oldest = self.version;
        self.log.clear();
    }

    /// Creates or replaces an object by what it says of itself.
    pub fn put(&mut self, object: &Value) {
        let kind = object["kind"].as_str().expect("a kind");
        let (resource, _, namespaced) = RESOURCES.iter().find(|(_, known, _)| *known == kind).expect("a known kind");
        let group = match object["apiVersion"].as_str().expect("an apiVersion") {
            "v1" => "/api/v1".to_owned(),
            group => format!("/apis/{group}"),
        };
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let namespace = if *namespaced { text("namespace") } else { String::new() };
        let key = Key { collection: format!("{group}/{resource}"), namespace, name: text("name") };
        self.write(key, object.clone());
    }

    /// What changes nothing makes no version.
    fn write(&mut self, key: Key, mut object: Value) -> Value {
        let before = self.objects.get(&key).cloned();
        let next = self.version + 1;
        let metadata = &mut object["metadata"];
        metadata["name"] = key.name.clone().into();
        if !key.namespace.is_empty() {
            metadata["namespace"] = key.namespace.clone().into();
        }
        if let Some(before) = &before {
            for kept in ["uid", "creationTimestamp", "resourceVersion"] {
                metadata[kept] = before["metadata"][kept].clone();
            }
        } else {
            metadata["uid"] = format!("00000000-0000-0000-0000-{next:012}").into();
            metadata["creationTimestamp"] = "2026-11-22T10:00:00Z".into();
        }
        if before.as_ref() == Some(&object) {
            return object;
        }
        self.version = next;
        object["metadata"]["resourceVersion"] = next.to_string().into();
        self.objects.insert(key.clone(), object.clone());
        self.log.push(Change { version: next, key, before, after: Some(object.clone()) });
        object
    }

    /// # Errors
    /// There is no such object.
    pub fn get(&self, path: &str) -> Result<Value, Refusal> {
        let target = Target::parse(path)?;
        let name = target.name.clone().ok_or_else(|| not_found(path))?;
        self.objects.get(&target.key(&name)).cloned().ok_or_else(|| missing(&target, &name))
    }

    /// # Errors
    /// There is no such object.
    pub fn delete(&mut self, path: &str) -> Result<Value, Refusal> {
        let target = Target::parse(path)?;
        let name = target.name.clone().ok_or_else(|| not_found(path))?;
        let key = target.key(&name);
        let before = self.objects.remove(&key).ok_or_else(|| missing(&target, &name))?;
        self.version += 1;
        // What a watch shows of it has the version of its end.
        let mut last = before.clone();
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.push(Change { version: self.version, key, before: Some(last), after: None });
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    /// # Errors
    /// It is there already, or has no name.
    pub fn create(&mut self, target: &Target, object: &Value) -> Result<Value, Refusal> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let name = match (text("name"), text("generateName")) {
            ("", "") => return Err(status(422, "Invalid", "name or generateName is required")),
            ("", prefix) => format!("{prefix}{:05}", self.version + 1),
            (name, _) => name.to_owned(),
        };
        let key = target.key(&name);
        if self.objects.contains_key(&key) {
            return Err(status(409, "AlreadyExists", &format!("{} {name:?} already exists", target.collection)));
        }
        Ok(self.write(key, object.clone()))
    }

    /// # Errors
    /// There is none, or it is not the version that should be replaced.
    pub fn replace(&mut self, target: &Target, object: &Value) -> Result<Value, Refusal> {
        let name = target.name.clone().unwrap_or_default();
        let key = target.key(&name);
        let current = self.objects.get(&key).ok_or_else(|| missing(target, &name))?;
        let (given, found) = (&object["metadata"]["resourceVersion"], &current["metadata"]["resourceVersion"]);
        let unconditional = given.as_str().is_none_or(str::is_empty);
        // Each kind has its own mind about that: what is older, such as Secrets, may be replaced whatever its version is.
        if unconditional && target.kind == "Lease" {
            return Err(status(422, "Invalid", "metadata.resourceVersion: must be specified for an update"));
        }
        if !unconditional && given != found {
            return Err(status(
                409,
                "Conflict",
                "the object has been modified; please apply your changes to the latest",
            ));
        }
        Ok(self.write(key, object.clone()))
    }

    /// Merges a patch in; a server-side apply also makes what is not there.
    ///
    /// # Errors
    /// There is none, or the patch lacks what its kind needs.
    pub fn patch(&mut self, target: &Target, content_type: &str, patch: &Value) -> Result<Value, Refusal> {
        let name = target.name.clone().unwrap_or_default();
        let key = target.key(&name);
        let apply = match content_type {
            "application/apply-patch+yaml" if !target.query.contains_key("fieldManager") => {
                return Err(status(422, "Invalid", "fieldManager: Required value: is required for apply patch"));
            }
            "application/apply-patch+yaml" => true,
            "application/merge-patch+json" => false,
            other => return Err(status(415, "UnsupportedMediaType", other)),
        };
        let mut object = match self.objects.get(&key) {
            Some(object) => object.clone(),
            None if apply => json!({}),
            None => return Err(missing(target, &name)),
        };
        merge(&mut object, patch, apply);
        Ok(self.write(key, object))
    }

    /// # Errors
    /// The page after an old one is asked for.
    pub fn list(&self, target: &Target) -> Result<Value, Refusal> {
        let limit = target.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(0);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let (version, from) = match target.query.get("continue").filter(|token| !token.is_empty()) {
            Some(token) => {
                let (version, from) = token.split_once('-').expect("a token of ours");
                (version.parse::<u64>().expect("a token of ours"), from.parse::<usize>().expect("a token of ours"))
            }
            None => (self.version, 0),
        };
        if version < self.oldest {
            return Err(status(410, "Expired", "The provided continue parameter is too old"));
        }
        let all: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, object)| target.holds(key) && target.selects(object))
            .map(|(_, object)| object)
            .collect();
        let page: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
        let left = all.len().saturating_sub(from + page.len());
        let next = if left > 0 { format!("{version}-{}", from + page.len()) } else { String::new() };
        let group = target.collection.rsplit_once('/').map_or("", |(group, _)| group);
        let group = group.trim_start_matches("/apis/").trim_start_matches("/api/");
        Ok(json!({
            "kind": format!("{}List", target.kind),
            "apiVersion": group,
            "metadata": { "resourceVersion": version.to_string(), "continue": next },
            "items": page,
        }))
    }

    /// The lines of a watch after `from`, and the version after them; nothing if that is too old.
    pub fn since(&self, target: &Target, from: u64) -> Option<(Vec<Value>, u64)> {
        if from < self.oldest {
            return None;
        }
        let changes = self.log.iter().filter(|change| change.version > from && target.holds(&change.key));
        let lines = changes.filter_map(|change| {
            let selected = |object: &Option<Value>| object.as_ref().is_some_and(|object| target.selects(object));
            let (what, object) = match (selected(&change.before), selected(&change.after)) {
                (false, true) => ("ADDED", change.after.clone()?),
                (true, true) => ("MODIFIED", change.after.clone()?),
                (true, false) => ("DELETED", change.after.clone().or_else(|| change.before.clone())?),
                (false, false) => return None,
            };
            Some(json!({"type": what, "object": object}))
        });
        Some((lines.collect(), self.version))
    }
}

/// Merges as JSON merge patch does (RFC 7396); as an apply, lists of named things are merged by name.
fn merge(into: &mut Value, patch: &Value, apply: bool) {
    let named = |list: &[Value]| !list.is_empty() && list.iter().all(|item| item["name"].is_string());
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value, apply);
                }
            }
        }
        (Value::Array(into), Value::Array(patch)) if apply && named(into) && named(patch) => {
            for item in patch {
                match into.iter_mut().find(|there| there["name"] == item["name"]) {
                    Some(there) => merge(there, item, apply),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, Value::Object(patch)) => {
            *into = Value::Object(Map::new());
            merge(into, &Value::Object(patch.clone()), apply);
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// A refusal in the API's form.
pub fn status(code: u16, reason: &str, message: &str) -> Refusal {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code}),
    )
}

fn not_found(path: &str) -> Refusal {
    status(404, "NotFound", &format!("the server could not find the requested resource: {path}"))
}

fn missing(target: &Target, name: &str) -> Refusal {
    status(404, "NotFound", &format!("{} {name:?} not found", target.collection))
}

/// Undoes the percent-encoding of a query (RFC 3986, 2.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        if let (b'%', Some(byte)) = (byte, hex) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*byte);
            rest = after;
        }
    }
    let mut text = String::new();
    let _ = write!(text, "{}", String::from_utf8_lossy(&bytes));
    text
}

//! Owns reading what the API server sends: pages of a list, and lines of a watch. Pure. An object that cannot be read
//! costs nobody else anything; of the others only what the mesh uses is kept.

use std::borrow::Cow;

use lacewing_crds::{Kind, Name, Object, ObjectKey, ObjectMeta, Pod, labels::OWN_PREFIXES};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::cluster::quoted;

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and nearly all of them are objects")]
pub enum Read {
    Object(Object),
    Gone(ObjectKey),
    /// It has a name, but not the shape that it should have: why.
    Unreadable(ObjectKey, String),
}

impl Read {
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Object(object) => object.key(),
            Self::Gone(key) | Self::Unreadable(key, _) => key.clone(),
        }
    }
}

/// A page of a list.
#[derive(Debug, PartialEq)]
pub struct Page {
    pub objects: Vec<Read>,
    /// Of the list as a whole.
    pub version: String,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// What a line of a watch says.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and nearly all of them are objects")]
pub enum Event {
    Change(Read),
    /// Nothing changed; only the version goes on.
    Bookmark,
    /// The watch is over: an HTTP status, and why.
    Error(u16, String),
}

/// Reads a page.
///
/// # Errors
/// It is no list, or holds something without a name.
pub fn page(kind: Kind, bytes: &[u8]) -> Result<Page, String> {
    match kind {
        Kind::Namespace => page_of(kind, bytes, Object::Namespace),
        Kind::Pod => page_of(kind, bytes, Object::Pod),
        Kind::Service => page_of(kind, bytes, Object::Service),
        Kind::EndpointSlice => page_of(kind, bytes, Object::EndpointSlice),
    }
}

#[derive(Deserialize)]
struct RawPage<T> {
    metadata: PageMeta,
    #[serde(default = "none")]
    items: Option<Vec<T>>,
}

fn none<T>() -> Option<T> {
    None
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

fn page_of<T: DeserializeOwned>(kind: Kind, bytes: &[u8], wrap: fn(T) -> Object) -> Result<Page, String> {
    let (metadata, objects) = if let Ok(page) = serde_json::from_slice::<RawPage<T>>(bytes) {
        (page.metadata, page.items.into_iter().flatten().map(|object| good(wrap(object))).collect())
    } else {
        // Something in it is not as it should be: read again, each object by itself.
        let page: RawPage<Value> =
            serde_json::from_slice(bytes).map_err(|error| format!("a list that cannot be read: {error}"))?;
        let items = page.items.into_iter().flatten();
        (page.metadata, items.map(|item| one(kind, item, wrap)).collect::<Result<_, _>>()?)
    };
    let next = metadata.next.filter(|token| !token.is_empty());
    Ok(Page { objects, version: metadata.resource_version, next })
}

/// One object of a page that is not as it should be.
fn one<T: DeserializeOwned>(kind: Kind, item: Value, wrap: fn(T) -> Object) -> Result<Read, String> {
    let head: Headed = Headed::deserialize(&item).map_err(|error| format!("an object without a name: {error}"))?;
    Ok(match serde_json::from_value(item) {
        Ok(object) => good(wrap(object)),
        Err(error) => Read::Unreadable(head.metadata.key(kind), quoted(&error.to_string())),
    })
}

/// A line of a watch.
#[derive(Deserialize)]
struct RawEvent<'a, T> {
    #[serde(rename = "type", borrow)]
    what: Cow<'a, str>,
    object: T,
}

/// As much of an object as the way of reading it needs.
#[derive(Deserialize)]
struct Headed {
    metadata: Head,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    /// Not there in a bookmark.
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource_version: String,
}

impl Head {
    fn key(self, kind: Kind) -> ObjectKey {
        ObjectKey { kind, name: Name::new(self.namespace, self.name) }
    }
}

/// The object of an `ERROR` event.
#[derive(Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

impl Default for Status {
    fn default() -> Self {
        Self { code: 500, message: "no reason given".to_owned() }
    }
}

/// Reads a line: what it says, and the version after it, which is empty after an error.
///
/// # Errors
/// It is no event.
pub fn line(kind: Kind, bytes: &[u8]) -> Result<(Event, String), String> {
    let bad = |error: serde_json::Error| format!("a watch event that cannot be read: {error}");
    let RawEvent { what, object } = serde_json::from_slice::<RawEvent<'_, Option<Headed>>>(bytes)
        .or_else(|_| serde_json::from_slice::<RawEvent<'_, serde::de::IgnoredAny>>(bytes).map(headless))
        .map_err(bad)?;
    if what == "ERROR" {
        let status = serde_json::from_slice::<RawEvent<'_, Status>>(bytes).map(|event| event.object);
        let Status { code, message } = status.unwrap_or_default();
        return Ok((Event::Error(code, quoted(&message)), String::new()));
    }
    let Some(Headed { mut metadata }) = object else { return Err(format!("a watch event {what:?} of nothing")) };
    let version = std::mem::take(&mut metadata.resource_version);
    let event = match &*what {
        "ADDED" | "MODIFIED" => Event::Change(object_of(kind, bytes, metadata)),
        "DELETED" => Event::Change(Read::Gone(metadata.key(kind))),
        "BOOKMARK" => Event::Bookmark,
        other => return Err(format!("a watch event of the unknown type {:?}", quoted(other))),
    };
    Ok((event, version))
}

fn headless<T>(RawEvent { what, .. }: RawEvent<'_, T>) -> RawEvent<'_, Option<Headed>> {
    RawEvent { what, object: None }
}

fn object_of(kind: Kind, bytes: &[u8], head: Head) -> Read {
    let object = match kind {
        Kind::Namespace => parse(bytes).map(Object::Namespace),
        Kind::Pod => parse(bytes).map(Object::Pod),
        Kind::Service => parse(bytes).map(Object::Service),
        Kind::EndpointSlice => parse(bytes).map(Object::EndpointSlice),
    };
    match object {
        Ok(object) => good(object),
        Err(error) => Read::Unreadable(head.key(kind), quoted(&error.to_string())),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice::<RawEvent<'_, T>>(bytes).map(|event| event.object)
}

/// Other people's annotations can be long (`last-applied-configuration` holds the whole object), and nobody reads them;
/// nor the old name of a field whose new one is there.
fn good(mut object: Object) -> Read {
    if let Object::Pod(Pod { spec, .. }) = &mut object
        && spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty())
    {
        spec.service_account = None;
    }
    metadata(&mut object).annotations.retain(|key| OWN_PREFIXES.iter().any(|prefix| key.starts_with(prefix)));
    Read::Object(object)
}

fn metadata(object: &mut Object) -> &mut ObjectMeta {
    match object {
        Object::Namespace(object) => &mut object.metadata,
        Object::Pod(object) => &mut object.metadata,
        Object::Service(object) => &mut object.metadata,
        Object::EndpointSlice(object) => &mut object.metadata,
    }
}

#[cfg(test)]
mod tests;

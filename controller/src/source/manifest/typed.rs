//! Owns reading the objects of one document whose kinds are known: a single object, or the items of a `List`. Fields
//! that no slim type reads are left to the deserializer that is handed in to notice.

use std::fmt;

use lacewing_crds::{EndpointSlice, Kind, Namespace, Object, Pod, Service};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// What is in a document.
#[derive(Clone, Copy)]
pub enum Shape<'k> {
    One(Kind),
    /// A `List` with items of these kinds.
    List(&'k [Kind]),
}

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Object>, D::Error> {
        match self {
            Self::One(kind) => Ok(vec![One(kind).deserialize(deserializer)?]),
            Self::List(kinds) => deserializer.deserialize_map(List(kinds)),
        }
    }
}

struct One(Kind);

impl<'de> DeserializeSeed<'de> for One {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        match self.0 {
            Kind::Namespace => Namespace::deserialize(deserializer).map(Object::Namespace),
            Kind::Pod => Pod::deserialize(deserializer).map(Object::Pod),
            Kind::Service => Service::deserialize(deserializer).map(Object::Service),
            Kind::EndpointSlice => EndpointSlice::deserialize(deserializer).map(Object::EndpointSlice),
        }
    }
}

struct List<'k>(&'k [Kind]);

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a List")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Object>, A::Error> {
        let mut objects = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // Without items there may be an explicit null.
            if key == "items" && !self.0.is_empty() {
                objects = map.next_value_seed(Items(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

struct Items<'k>(&'k [Kind]);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Object>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Object>, A::Error> {
        let mut objects = Vec::with_capacity(self.0.len());
        for kind in self.0 {
            objects.extend(seq.next_element_seed(One(*kind))?);
        }
        // A visitor reads to the end.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(objects)
    }
}

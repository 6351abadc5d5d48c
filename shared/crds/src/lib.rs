//! Kubernetes objects as the mesh reads them: slim types with only the fields it uses, under their own names.
//!
//! Nothing is written back to a cluster in these types, so they only deserialize. Every collection takes `null` for
//! empty, as Kubernetes does, and those of objects that come in tens of thousands take no more room than they need. Label and annotation names, with their parsed values, are in [`labels`].

pub mod labels;
mod meta;
mod object;
mod pod;
mod service;
mod slice;

pub use meta::{ObjectMeta, OwnerReference, Texts};
pub use object::{Kind, Name, Namespace, Object, ObjectKey};
pub use pod::{Container, ContainerPort, Pod, PodIp, PodSpec, PodStatus};
pub use service::{ClusterIp, PortTarget, Service, ServicePort, ServiceSpec, Transport};
pub use slice::{
    AddressType, Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Hint, TargetRef,
};

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

/// `null` reads as the default: what `kubectl` does with a key that has no value.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether a text is one of these: of most texts that say one of a few things, nobody needs more.
pub(crate) fn one_of<'de, D: Deserializer<'de>>(deserializer: D, wanted: &[&str]) -> Result<bool, D::Error> {
    let text = Option::<Cow<'_, str>>::deserialize(deserializer)?;
    Ok(text.is_some_and(|text| wanted.contains(&&*text)))
}

#[cfg(test)]
mod tests;

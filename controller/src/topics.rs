//! Owns what a change of the world touches and what an answer rests on, as topics: an answer is made again only if it
//! rests on one that was touched. Pure.
//!
//! A topic too many costs time; one too few leaves somebody with an old answer. So the two halves stand here side by
//! side, and the tests of `publish` compare with answers made from nothing after thousands of random changes.

use std::{collections::HashSet, net::IpAddr};

use lacewing_crds::{Endpoint as SliceEndpoint, EndpointSlice, Kind, Name, Object, Pod, Service};

use crate::{
    destination::{self, Subject},
    endpoints::addresses,
    publish::{Answer, Query},
    source::Change,
    world::{Listed, World},
};

/// Something that changes and that answers rest on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The Service itself.
    Service(Name),
    /// What is behind a Service: its ports, its slices and the pods in them.
    Endpoints(Name),
    /// Which Services there are: who asks for one that is not there is told what was probably meant.
    ServiceNames,
    /// What pods have in common: the annotations of their Namespace, and the Services that may select them.
    Namespace(String),
    Pod(Name),
    /// Who has the address, and what slices say about it.
    Address(IpAddr),
    /// The zone of a node.
    Node(String),
    /// The roots to trust.
    Trust,
}

/// Notes what `change` touches in a `world` that it has not reached yet. Nothing, if it changes nothing.
pub(crate) fn of_change(world: &World, change: &Change, touched: &mut HashSet<Topic>) {
    let (key, new) = match change {
        Change::Apply(object) => (object.key(), Some(object)),
        Change::Remove(key) => (key.clone(), None),
    };
    let name = &key.name;
    match (key.kind, new) {
        (Kind::Namespace, Some(Object::Namespace(new))) if world.namespace(&name.name) == Some(new) => {}
        (Kind::Namespace, _) => drop(touched.insert(Topic::Namespace(name.name.clone()))),
        (Kind::Pod, Some(Object::Pod(new))) => pod(world, name, Some(new), touched),
        (Kind::Pod, _) => pod(world, name, None, touched),
        (Kind::Service, Some(Object::Service(new))) => service(world, name, Some(new), touched),
        (Kind::Service, _) => service(world, name, None, touched),
        (Kind::EndpointSlice, Some(Object::EndpointSlice(new))) => slice(world, name, Some(new), touched),
        (Kind::EndpointSlice, _) => slice(world, name, None, touched),
    }
}

fn pod(world: &World, name: &Name, new: Option<&Pod>, touched: &mut HashSet<Topic>) {
    let old = world.pod(name);
    if old == new {
        return;
    }
    touched.insert(Topic::Pod(name.clone()));
    touched.extend(world.services_listing(&Listed::Pod(name.clone())).map(Topic::Endpoints));
    for ip in old.into_iter().chain(new).flat_map(Pod::own_ips) {
        touched.insert(Topic::Address(ip));
        touched.extend(world.services_listing(&Listed::Address(ip)).map(Topic::Endpoints));
    }
}

fn service(world: &World, name: &Name, new: Option<&Service>, touched: &mut HashSet<Topic>) {
    let old = world.service(name);
    if old == new {
        return;
    }
    touched.insert(Topic::Service(name.clone()));
    touched.insert(Topic::Endpoints(name.clone()));
    touched.insert(Topic::Namespace(name.namespace.clone()));
    touched.extend(old.into_iter().chain(new).flat_map(Service::cluster_ips).map(Topic::Address));
    if old.is_some() != new.is_some() {
        touched.insert(Topic::ServiceNames);
    }
}

fn slice(world: &World, name: &Name, new: Option<&EndpointSlice>, touched: &mut HashSet<Topic>) {
    let old = world.slice(name);
    if old == new {
        return;
    }
    let service = |slice: &EndpointSlice| Some(Name::new(&name.namespace, slice.service()?));
    let (before, after) = (old.and_then(service), new.and_then(service));
    let moved = before != after;
    touched.extend([before, after].into_iter().flatten().map(Topic::Endpoints));
    let (old, new) = (entries(old), entries(new));
    // Slices are rewritten whole for one endpoint: only what differs is news about an address.
    let (had, has): (HashSet<_>, HashSet<_>) = (old.iter().collect(), new.iter().collect());
    let news = had.symmetric_difference(&has).copied();
    // All of it is, where the slice goes to another Service.
    for listed in news.chain(if moved { old } else { &[] }) {
        entry(world, listed, touched);
    }
}

fn entries(slice: Option<&EndpointSlice>) -> &[SliceEndpoint] {
    slice.map(|slice| &*slice.endpoints).unwrap_or_default()
}

/// An endpoint that a slice says something new about.
fn entry(world: &World, listed: &SliceEndpoint, touched: &mut HashSet<Topic>) {
    touched.extend(addresses(listed).map(Topic::Address));
    // Nearly always the node's zone is known and stays.
    if let (Some(node), Some(zone)) = (&listed.node_name, &listed.zone)
        && !world.says_twice(node, zone)
    {
        touched.insert(Topic::Node(node.clone()));
    }
}

/// What the answer to a question rests on, right after it was made from this `world`.
pub fn of_answer(world: &World, query: &Query, answer: Option<&Answer>) -> Vec<Topic> {
    match query {
        Query::Trust => vec![Topic::Trust],
        Query::Endpoints(backend) => vec![Topic::Endpoints(backend.service_name())],
        Query::Inbound { pod, .. } => {
            let mut topics = vec![Topic::Pod(pod.clone()), Topic::Namespace(pod.namespace.clone())];
            if let Some(Answer::Inbound(_, place)) = answer {
                topics.push(Topic::Node(place.node.clone()));
            }
            topics
        }
        Query::Target { namespace, target } => match destination::subject(namespace, target) {
            Some(Subject::Service(name)) if world.service(&name).is_some() => vec![Topic::Service(name)],
            Some(Subject::Service(name)) => vec![Topic::Service(name), Topic::ServiceNames],
            Some(Subject::Address(ip)) => {
                let namespaces = world.pods_by_ip(ip).map(|(name, _)| Topic::Namespace(name.namespace.clone()));
                std::iter::once(Topic::Address(ip)).chain(namespaces).collect()
            }
            // It means nothing whatever there is.
            None => Vec::new(),
        },
    }
}

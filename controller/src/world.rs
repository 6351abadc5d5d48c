//! Owns the cluster in memory: typed stores keyed by (namespace, name), and the lookups that resolution needs.
//!
//! It does no I/O, knows no time and runs no task: a source applies and removes objects, everything after it reads.
//! What an object *means* is decided in `pods`, `selection`, `destination`, `endpoints` and `policy`.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap, btree_map, hash_map},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use lacewing_crds::{
    EndpointSlice, Kind, Name, Namespace, Object, ObjectKey, Pod, Service, TargetRef, labels::InboundMode,
};

use crate::endpoints::addresses;

/// The cluster, as the source last reported it.
#[derive(Default)]
pub struct World {
    namespaces: BTreeMap<Arc<Name>, Namespace>,
    /// In boxes: most of these objects are pods, and a tree has room for half as many again.
    pods: BTreeMap<Arc<Name>, Box<Pod>>,
    services: BTreeMap<Arc<Name>, Service>,
    slices: BTreeMap<Arc<Name>, EndpointSlice>,
    slices_by_service: Lookup<Name>,
    slices_by_listed: Lookup<Listed>,
    services_by_name: Lookup<String>,
    services_by_ip: Lookup<IpAddr>,
    pods_by_ip: Lookup<IpAddr>,
    /// How many endpoints say that a node is in a zone.
    zones: BTreeMap<(String, String), usize>,
    inbound: InboundMode,
}

impl World {
    /// Whom pods serve where nothing is annotated.
    pub fn default_inbound(&self) -> InboundMode {
        self.inbound
    }

    pub fn set_default_inbound(&mut self, mode: InboundMode) {
        self.inbound = mode;
    }

    /// Adds the object, or replaces the one of the same key.
    pub fn apply(&mut self, object: Object) {
        let ObjectKey { kind, name } = object.key();
        self.remove(&ObjectKey { kind, name: name.clone() });
        let name = Arc::new(name);
        match object {
            Object::Namespace(namespace) => {
                self.namespaces.insert(name, namespace);
            }
            Object::Pod(pod) => {
                pod.own_ips().for_each(|ip| self.pods_by_ip.insert(ip, &name));
                self.pods.insert(name, Box::new(pod));
            }
            Object::Service(service) => {
                service.cluster_ips().for_each(|ip| self.services_by_ip.insert(ip, &name));
                self.services_by_name.insert(name.name.clone(), &name);
                self.services.insert(name, service);
            }
            Object::EndpointSlice(slice) => {
                if let Some(service) = slice.service() {
                    self.slices_by_service.insert(Name::new(&name.namespace, service), &name);
                }
                node_zones(&slice).for_each(|at| *self.zones.entry(at).or_default() += 1);
                listed(&slice).for_each(|what| self.slices_by_listed.insert(what, &name));
                self.slices.insert(name, slice);
            }
        }
    }

    /// Removes the object, if there is one.
    pub fn remove(&mut self, key: &ObjectKey) {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => {
                self.namespaces.remove(name);
            }
            Kind::Pod => {
                if let Some(pod) = self.pods.remove(name) {
                    pod.own_ips().for_each(|ip| self.pods_by_ip.remove(&ip, name));
                }
            }
            Kind::Service => {
                if let Some(service) = self.services.remove(name) {
                    service.cluster_ips().for_each(|ip| self.services_by_ip.remove(&ip, name));
                    self.services_by_name.remove(&name.name, name);
                }
            }
            Kind::EndpointSlice => {
                let Some(slice) = self.slices.remove(name) else { return };
                if let Some(service) = slice.service() {
                    self.slices_by_service.remove(&Name::new(&name.namespace, service), name);
                }
                listed(&slice).for_each(|what| self.slices_by_listed.remove(&what, name));
                for at in node_zones(&slice) {
                    if let btree_map::Entry::Occupied(mut count) = self.zones.entry(at) {
                        *count.get_mut() -= 1;
                        if *count.get() == 0 {
                            count.remove();
                        }
                    }
                }
            }
        }
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: Kind) -> Box<dyn Iterator<Item = &Name> + '_> {
        match kind {
            Kind::Namespace => Box::new(self.namespaces.keys().map(|name| &**name)),
            Kind::Pod => Box::new(self.pods.keys().map(|name| &**name)),
            Kind::Service => Box::new(self.services.keys().map(|name| &**name)),
            Kind::EndpointSlice => Box::new(self.slices.keys().map(|name| &**name)),
        }
    }

    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(&Name::new("", name))
    }

    pub fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name).map(|pod| &**pod)
    }

    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    /// The Service with the name under which it is kept.
    pub fn service_entry(&self, name: &Name) -> Option<(&Name, &Service)> {
        self.services.get_key_value(name).map(entry)
    }

    pub fn pods(&self) -> impl Iterator<Item = (&Name, &Pod)> {
        self.pods.iter().map(pod_entry)
    }

    pub fn services(&self) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter().map(entry)
    }

    /// The Services of one namespace.
    pub fn services_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Name, &'a Service)> {
        let from = self.services.range::<Name, _>(Name::new(namespace, "")..).map(entry);
        from.take_while(move |(name, _)| name.namespace == namespace)
    }

    /// The namespaces that have a Service of this name.
    pub fn namespaces_with_service(&self, name: &str) -> impl Iterator<Item = &str> {
        self.services_by_name.get(name).iter().map(|name| name.namespace.as_str())
    }

    /// The namespaces that have Services, each once.
    pub fn namespaces_with_services(&self) -> impl Iterator<Item = &str> {
        let mut from = Name::new("", "");
        std::iter::from_fn(move || {
            let (name, _) = self.services.range::<Name, _>(&from..).next()?;
            // No text is between one and the same with the least character after it.
            from = Name::new(format!("{}\0", name.namespace), "");
            Some(name.namespace.as_str())
        })
    }

    pub fn slices(&self) -> impl Iterator<Item = (&Name, &EndpointSlice)> {
        self.slices.iter().map(entry)
    }

    pub fn slice(&self, name: &Name) -> Option<&EndpointSlice> {
        self.slices.get(name)
    }

    /// The Services whose slices list this pod or address; one that several slices list is there several times.
    pub fn services_listing(&self, what: &Listed) -> impl Iterator<Item = Name> {
        let slices = self.slices_by_listed.get(what).iter().filter_map(|name| self.slices.get_key_value(name));
        slices.filter_map(|(name, slice)| Some(Name::new(&name.namespace, slice.service()?)))
    }

    /// The slices of one Service, in the order of their names.
    pub fn slices_of<'a>(&'a self, service: &Name) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        self.slices_by_service.get(service).iter().filter_map(|name| self.slices.get(name))
    }

    /// The Service that has this cluster address; the first by name if, for a moment, two have it.
    pub fn service_by_ip(&self, ip: IpAddr) -> Option<(&Name, &Service)> {
        self.services_by_ip.get(&ip).iter().find_map(|name| self.service_entry(name))
    }

    /// The pods whose status has this address as their own, in the order of their names. For a moment there may be
    /// several, as an address is used again before the object of its last owner is gone; who has it is `pods`' business.
    pub fn pods_by_ip(&self, ip: IpAddr) -> impl Iterator<Item = (&Name, &Pod)> {
        self.pods_by_ip.get(&ip).iter().filter_map(|name| self.pods.get_key_value(name).map(pod_entry))
    }

    /// The pod that an endpoint of a slice in `namespace` points at. One that was deleted and made again under the
    /// same name is another pod.
    pub fn pod_of(&self, target: &TargetRef, namespace: &str) -> Option<(&Name, &Pod)> {
        let (name, pod) = self.pods.get_key_value(&target.pod(namespace)?).map(pod_entry)?;
        let same = match (&target.uid, &pod.metadata.uid) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        same.then_some((name, pod))
    }

    /// The zone of a node, as slices say that list something there; the first by name if, for a moment, they disagree.
    pub fn zone_of(&self, node: &str) -> Option<&str> {
        let ((found, zone), _) = self.zones.range((node.to_owned(), String::new())..).next()?;
        (found == node).then_some(zone)
    }

    /// Whether several slices say that the node is in this zone, and none says otherwise: one more or less is no news.
    pub fn says_twice(&self, node: &str, zone: &str) -> bool {
        let mut said = self.zones.range((node.to_owned(), String::new())..).take_while(|((at, _), _)| at == node);
        said.next().is_some_and(|((_, found), count)| found == zone && *count > 1) && said.next().is_none()
    }

    /// How many objects of the kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Pod => self.pods.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
        }
    }
}

/// A name and what has it.
fn entry<'a, T>((name, object): (&'a Arc<Name>, &'a T)) -> (&'a Name, &'a T) {
    (name, object)
}

#[expect(clippy::borrowed_box, reason = "it is what the tree gives")]
fn pod_entry<'a>((name, pod): (&'a Arc<Name>, &'a Box<Pod>)) -> (&'a Name, &'a Pod) {
    (name, pod)
}

/// What slices list: a pod by its name, or an address of whoever has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listed {
    Pod(Name),
    Address(IpAddr),
}

/// The pods and addresses that a slice lists, each once.
fn listed(slice: &EndpointSlice) -> impl Iterator<Item = Listed> {
    let namespace = slice.metadata.namespace.as_deref().filter(|given| !given.is_empty());
    let namespace = namespace.unwrap_or(Name::DEFAULT_NAMESPACE);
    let pods = slice.endpoints.iter().filter_map(|entry| entry.target_ref.as_ref()?.pod(namespace));
    let addresses = slice.endpoints.iter().flat_map(addresses).map(Listed::Address);
    pods.map(Listed::Pod).chain(addresses).collect::<BTreeSet<_>>().into_iter()
}

/// The nodes and zones that a slice names together, each pair once.
fn node_zones(slice: &EndpointSlice) -> impl Iterator<Item = (String, String)> {
    let pairs = slice.endpoints.iter().filter_map(|listed| Some((listed.node_name.clone()?, listed.zone.clone()?)));
    pairs.collect::<BTreeSet<_>>().into_iter()
}

/// A secondary lookup: from a value that an object has to the names of all objects that have it, in their order.
struct Lookup<K>(HashMap<K, Names>);

/// Nearly always one name, which then needs no list: there are as many of these as endpoints.
enum Names {
    One(Arc<Name>),
    /// Sorted, at least two.
    Several(Vec<Arc<Name>>),
}

impl<K> Default for Lookup<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Lookup<K> {
    fn insert(&mut self, key: K, name: &Arc<Name>) {
        match self.0.entry(key) {
            hash_map::Entry::Vacant(place) => drop(place.insert(Names::One(name.clone()))),
            hash_map::Entry::Occupied(mut names) => names.get_mut().insert(name),
        }
    }

    fn remove(&mut self, key: &K, name: &Name) {
        if self.0.get_mut(key).is_some_and(|names| names.remove(name)) {
            self.0.remove(key);
        }
    }

    fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> &[Arc<Name>]
    where
        K: Borrow<Q>,
    {
        match self.0.get(key) {
            None => &[],
            Some(Names::One(name)) => std::slice::from_ref(name),
            Some(Names::Several(names)) => names,
        }
    }
}

impl Names {
    fn insert(&mut self, name: &Arc<Name>) {
        if let Self::One(only) = self {
            *self = Self::Several(vec![only.clone()]);
        }
        if let Self::Several(names) = self
            && let Err(at) = names.binary_search(name)
        {
            names.insert(at, name.clone());
        }
    }

    /// Removes a name; says whether it is the last, which stays.
    fn remove(&mut self, name: &Name) -> bool {
        let Self::Several(names) = self else { return matches!(self, Self::One(only) if **only == *name) };
        names.retain(|other| **other != *name);
        if let [only] = &names[..] {
            *self = Self::One(only.clone());
        }
        false
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! Owns what is in force but not quite as written: values that the mesh does not know, and what it does instead.
//! Pure: a [`World`] in, sentences for the operator out. Served at the admin port's `/errors`.

use lacewing_crds::{
    AddressType, Kind, ObjectKey, Service,
    labels::{INJECT, PROXY_VERSION, SERVICE_NAME},
};
use lacewing_identity::TrustDomain;
use serde::Serialize;

use crate::{destination::Protocol, endpoints, pods, policy, world::World};

/// Most warnings that are listed at a time.
pub const WARNINGS_MAX: usize = 1_000;

/// Something that the mesh cannot honour as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// `Service emojivoto/voting`.
    pub object: String,
    pub message: String,
}

/// Everything that cannot be honoured as written, at most [`WARNINGS_MAX`].
pub fn warnings(world: &World, trust_domain: &TrustDomain) -> Vec<Warning> {
    let pods = pod_warnings(world, trust_domain).chain(unmeshed(world));
    services(world).chain(pods).chain(slices(world)).take(WARNINGS_MAX).collect()
}

fn unmeshed(world: &World) -> impl Iterator<Item = Warning> {
    pods::unmeshed(world).map(|name| Warning {
        object: ObjectKey { kind: Kind::Pod, name: name.clone() }.to_string(),
        message: format!(
            "{} is enabled, but the pod has no proxy: it is older than that, or was made while the webhook could not be \
             reached or refused it (see `kubectl -n {} get events`); restart its workload",
            INJECT, name.namespace
        ),
    })
}

fn services(world: &World) -> impl Iterator<Item = Warning> {
    world.services().flat_map(|(name, service)| {
        let object = ObjectKey { kind: Kind::Service, name: name.clone() }.to_string();
        let ports = service.tcp_ports().filter_map(|port| {
            let unknown = port.app_protocol.as_deref().filter(|given| Protocol::declared(Some(given)).is_none())?;
            Some(format!(
                "port {}: the mesh does not know the appProtocol {unknown:?} and detects what is spoken; it knows http, \
                 kubernetes.io/h2c, grpc, tcp and lacewing.dev/opaque",
                port.port
            ))
        });
        let messages: Vec<_> = not_honoured(service).into_iter().chain(ports).collect();
        messages.into_iter().map(move |message| Warning { object: object.clone(), message })
    })
}

/// What a Service as a whole asks for in vain.
fn not_honoured(service: &Service) -> Vec<String> {
    let spec = &service.spec;
    if service.is_external_name() {
        let elsewhere = spec.external_name.as_deref().unwrap_or("nothing");
        return vec![format!(
            "type ExternalName: connections to {elsewhere} pass as they are, without the mesh's TLS, unless that is a \
             Service of this cluster"
        )];
    }
    let mut found = Vec::new();
    if let Some(affinity) = spec.session_affinity.as_deref().filter(|given| !matches!(*given, "" | "None")) {
        found.push(format!(
            "sessionAffinity: {affinity} is not honoured by meshed clients, which balance each request; where that \
             breaks the app, let its clients skip the Service's port (config.lacewing.dev/skip-outbound-ports)"
        ));
    }
    if let Some(policy) = spec.internal_traffic_policy.as_deref().filter(|given| !matches!(*given, "Cluster" | "Local"))
    {
        found.push(format!("internalTrafficPolicy: {policy:?} is not known to the mesh, and counts as Cluster"));
    }
    found
}

fn pod_warnings(world: &World, trust_domain: &TrustDomain) -> impl Iterator<Item = Warning> {
    world.pods().flat_map(|(name, pod)| {
        let object = ObjectKey { kind: Kind::Pod, name: name.clone() }.to_string();
        let mode = policy::mode(world, name, pod).err().map(|bad| format!("{bad}; it counts as strict"));
        let left_out = pods::why_left_out(trust_domain, name, pod);
        let skipped = pods::skipped_ports(pod).err().map(|bad| format!("{bad}; no port counts as skipped"));
        let shared = (pod.spec.host_network && pod.metadata.annotation(PROXY_VERSION).is_some())
            .then(|| format!("on the host network, and so without a proxy: {PROXY_VERSION} is not believed"));
        mode.into_iter()
            .chain(left_out)
            .chain(skipped)
            .chain(shared)
            .map(move |message| Warning { object: object.clone(), message })
    })
}

fn slices(world: &World) -> impl Iterator<Item = Warning> {
    world.slices().flat_map(|(name, slice)| {
        let object = ObjectKey { kind: Kind::EndpointSlice, name: name.clone() }.to_string();
        let messages = if slice.service().is_none() {
            vec![format!("without the label {SERVICE_NAME} it belongs to no Service and is not used")]
        } else if slice.address_type == AddressType::Fqdn {
            vec!["not used: the mesh resolves no host names; addressType must be IPv4 or IPv6".to_owned()]
        } else {
            let unnumbered = slice.ports.iter().filter(|port| port.port.is_none());
            let unnumbered = unnumbered.map(|port| {
                format!("port {:?} has no number, and is not used", port.name.as_deref().unwrap_or_default())
            });
            unnumbered.chain(endpoints::why_addresses_left_out(world, &name.namespace, slice)).collect()
        };
        messages.into_iter().map(move |message| Warning { object: object.clone(), message })
    })
}

#[cfg(test)]
mod tests {
    use lacewing_crds::{Name, Object, labels};

    use super::*;
    use crate::world::tests::world;

    const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a}
spec: {ports: [{name: a, port: 80, appProtocol: http}, {name: b, port: 81, appProtocol: soap}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: a}
";

    #[test]
    fn slices_that_are_not_used_as_written_are_named() {
        let slice = |name: &str, label: &str, more: &str| {
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: a, labels: \
                 {{{label}}}}}\n{more}\n---\n"
            )
        };
        let label = "kubernetes.io/service-name: web";
        let yaml = slice("a-good", label, "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]")
            + &slice("b-label", "", "addressType: IPv4")
            + &slice("c-names", label, "addressType: FQDN\nendpoints: [{addresses: [example.com]}]")
            + &slice(
                "d-pod",
                label,
                "addressType: IPv4\nendpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, name: p}}]",
            )
            + &slice("e-port", label, "addressType: IPv4\nports: [{name: x}]");
        let found = warnings(&world(&yaml), &TrustDomain::parse("cluster.local").unwrap());
        let found: Vec<_> = found.iter().map(|warning| (warning.object.as_str(), warning.message.as_str())).collect();
        let parts = [
            ("b-label", "service-name"),
            ("c-names", "host names"),
            ("d-pod", "no Pod p is known"),
            ("e-port", "port \"x\" has no number"),
        ];
        assert_eq!(found.len(), parts.len(), "{found:?}");
        for ((object, message), (name, part)) in found.into_iter().zip(parts) {
            assert!(object == format!("EndpointSlice a/{name}") && message.contains(part), "{object}: {message}");
        }
    }

    #[test]
    fn services_that_ask_in_vain_are_named() {
        let service =
            |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{{spec}}}\n");
        for (spec, part) in [
            ("sessionAffinity: ClientIP", "sessionAffinity: ClientIP is not honoured"),
            ("type: ExternalName, externalName: db.example, sessionAffinity: ClientIP", "db.example pass as they are"),
            ("internalTrafficPolicy: Nearby", "\"Nearby\" is not known"),
            ("sessionAffinity: None, internalTrafficPolicy: Local, trafficDistribution: PreferClose", ""),
            ("type: LoadBalancer, externalTrafficPolicy: Local, publishNotReadyAddresses: true", ""),
        ] {
            let found = warnings(&world(&service(spec)), &TrustDomain::parse("cluster.local").unwrap());
            assert_eq!(found.len(), usize::from(!part.is_empty()), "{spec}: {found:?}");
            assert!(found.iter().all(|warning| warning.message.contains(part)), "{spec}: {found:?}");
        }
    }

    #[test]
    fn pods_that_escaped_the_webhook_are_named() {
        let namespace =
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {lacewing.dev/inject: enabled}}\n";
        let pod = |name: &str, annotation: &str, more: &str| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, annotations: {{{annotation}}}}}\n{more}\n"
            )
        };
        let yaml = namespace.to_owned()
            + &pod("escaped", "", "")
            + &pod("meshed", "lacewing.dev/proxy-version: v1", "")
            + &pod("not-wanted", "lacewing.dev/inject: disabled", "")
            + &pod("of-the-node", "", "spec: {hostNetwork: true}")
            + &pod("over", "", "status: {phase: Succeeded}");
        let found = warnings(&world(&yaml), &TrustDomain::parse("cluster.local").unwrap());
        let found: Vec<_> = found.iter().map(|warning| warning.object.as_str()).collect();
        assert_eq!(found, ["Pod a/escaped"]);
    }

    #[test]
    fn warns_of_what_is_not_honoured_and_of_nothing_else() {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let mut world = world(CLUSTER);
        let found = warnings(&world, &domain);
        assert_eq!((found.len(), found[0].object.as_str()), (1, "Service a/web"));
        assert!(found[0].message.contains("port 81") && found[0].message.contains("\"soap\""), "{found:?}");

        let mut pod = world.pod(&Name::new("a", "web-1")).unwrap().clone();
        pod.metadata.annotations.insert(labels::INBOUND, "closed");
        pod.metadata.annotations.insert(labels::PROXY_VERSION, "v1");
        pod.metadata.annotations.insert(labels::PROXY_ADDRESS, "here");
        world.apply(Object::Pod(pod));
        let found: Vec<String> = warnings(&world, &domain).into_iter().map(|warning| warning.message).collect();
        assert_eq!(found.len(), 3);
        assert!(found[1].contains("counts as strict") && found[2].contains("not ip:port"), "{found:?}");

        let mut pod = world.pod(&Name::new("a", "web-1")).unwrap().clone();
        pod.spec.host_network = true;
        pod.metadata.annotations.retain(|name| name != labels::INBOUND);
        pod.metadata.annotations.insert(labels::SKIP_INBOUND_PORTS, "http");
        world.apply(Object::Pod(pod));
        let found: Vec<String> = warnings(&world, &domain).into_iter().map(|warning| warning.message).collect();
        assert_eq!(found.len(), 3);
        assert!(
            found[1].contains("skip-inbound-ports: \"http\"") && found[2].contains("on the host network"),
            "{found:?}"
        );
    }
}

//! The manifests as the controller's own reader understands them.
//!
//! What it would only warn of fails here: the demo writes nothing that the mesh does not honour.

use lacewing_controller::{
    conditions,
    destination::{Protocol, Target, resolve},
    endpoints::endpoints,
    locality::Place,
    policy,
    source::{Change, directory::Directory},
    world::World,
};
use lacewing_crds::{Name, labels::InboundMode};
use lacewing_identity::TrustDomain;

use super::*;
use crate::demo::{cast::Subnet, state::tests::Scratch};

/// What the controller makes of the directory; nothing in it may be wrong or not honoured.
fn read(source: &mut Directory, world: &mut World) {
    for change in source.poll().expect("something changed") {
        match change {
            Change::Apply(object) => world.apply(object),
            Change::Remove(key) => panic!("{key} is gone"),
        }
    }
    assert_eq!(source.errors(), []);
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").expect("a trust domain")
}

fn addresses(world: &World, target: &str) -> (Protocol, Vec<String>) {
    match resolve(world, &domain(), NAMESPACE, target) {
        Target::Service { backend, protocol } => {
            let found = endpoints(world, &domain(), &backend);
            let found = found.near(&Place::default());
            let text = found.iter().cloned().map(|endpoint| {
                let direct = endpoint.direct.expect("reached through its proxy");
                let identity = endpoint.identity.expect("meshed").to_string();
                let account = identity.rsplit('/').next().unwrap_or_default().to_owned();
                format!("{} {account} {} {} {}", endpoint.workload, endpoint.address, direct.proxy_address, direct.sni)
            });
            (protocol, text.collect())
        }
        other => panic!("{target}: {other:?}"),
    }
}

#[test]
fn the_controller_reads_what_the_demo_writes() {
    let scratch = Scratch::new("manifests");
    let pods = "127.1.9".parse::<Subnet>().expect("a subnet").pods();
    write(&scratch, &pods).expect("written");
    let (mut source, mut world) = (Directory::new(scratch.to_path_buf()), World::default());
    read(&mut source, &mut world);
    assert_eq!(conditions::warnings(&world, &domain()), []);

    let (protocol, web) = addresses(&world, "web.emojivoto:8080");
    assert_eq!(protocol, Protocol::Http);
    let expected = "deployment/web web 127.1.9.10:8080 127.1.9.10:4143 p8080.web.emojivoto.lacewing";
    assert_eq!((web.len(), web[0].as_str()), (2, expected));
    for (target, protocol, replicas) in [
        ("emoji.emojivoto:8080", Protocol::Http2, 2),
        ("voting.emojivoto.svc.cluster.local:8080", Protocol::Detect, 3),
        ("echo:7000", Protocol::Opaque, 1),
    ] {
        let (found, endpoints) = addresses(&world, target);
        assert_eq!((found, endpoints.len()), (protocol, replicas), "{target}");
    }
    for pod in &pods {
        let inbound = policy::inbound(&world, &Name::new(NAMESPACE, &pod.name)).expect("known");
        assert_eq!(inbound.mode, InboundMode::Strict, "{}", pod.name);
        assert_eq!(inbound.ports.keys().copied().collect::<Vec<_>>(), Vec::from_iter(pod.app_port), "{}", pod.name);
    }
}

#[test]
fn an_unready_pod_is_balanced_around() {
    let scratch = Scratch::new("manifests-unready");
    let pods = "127.1.9".parse::<Subnet>().expect("a subnet").pods();
    write(&scratch, &pods).expect("written");
    let (mut source, mut world) = (Directory::new(scratch.to_path_buf()), World::default());
    read(&mut source, &mut world);
    let voting = WORKLOADS.iter().find(|workload| workload.name() == "voting").expect("there");
    for (unready, left) in [(BTreeSet::from(["voting-2".to_owned()]), 2), (BTreeSet::new(), 3)] {
        write_slice(&scratch, voting, &pods, &unready).expect("written");
        read(&mut source, &mut world);
        let (_, endpoints) = addresses(&world, "voting:8080");
        assert_eq!(endpoints.len(), left);
        assert_eq!(endpoints.iter().any(|endpoint| endpoint.contains("127.1.9.15:8080")), left == 3);
    }
}

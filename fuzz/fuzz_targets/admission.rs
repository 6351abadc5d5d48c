//! Admission reviews: whatever the webhook is sent, it is read or refused without a panic; the patch of an injected pod
//! leads to that pod, and injecting that pod again changes nothing.

#![no_main]

use std::{collections::BTreeMap, sync::LazyLock};

use lacewing_controller::{
    inject::{Mesh, Outcome, Skip, Surroundings, inject, settings::ProxySettings},
    webhook::review,
};

static MESH: LazyLock<Mesh> = LazyLock::new(|| Mesh {
    settings: ProxySettings::default(),
    bundle: "ROOTS".to_owned(),
    trust_domain: "cluster.local".to_owned(),
    namespace: "lacewing".to_owned(),
});
static ENABLED: LazyLock<BTreeMap<String, String>> =
    LazyLock::new(|| BTreeMap::from([("lacewing.dev/inject".to_owned(), "enabled".to_owned())]));
static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = review::read(bytes) else { return };
    let namespace = Surroundings { annotations: &ENABLED, labels: &NO_LABELS };
    let outcome = inject(&request.object, namespace, &MESH);
    assert!(review::answer(&request, &outcome)["response"]["uid"].is_string());
    let _ = request.about();
    match outcome {
        Outcome::Injected(injected) => {
            let mut patched = request.object.clone();
            json_patch::patch(&mut patched, &injected.patch).expect("the patch can be applied");
            assert_eq!(patched, injected.pod);
            let again = inject(&injected.pod, namespace, &MESH);
            assert_eq!(again, Outcome::Skipped(Skip::AlreadyInjected));
        }
        Outcome::Skipped(_) => {}
        Outcome::Refused(why) => assert!(!why.is_empty()),
    }
});

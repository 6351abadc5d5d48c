//! What a proxy gets: certify, watch, change, apply; and everything that must be refused.

use super::*;

#[tokio::test]
async fn a_proxy_certifies_watches_and_follows_changes() {
    let controller = Controller::ready(&(CLUSTER.to_owned() + &slice(&["127.1.0.2"]))).await;
    let mut watch = controller.watch("web-1").await;

    let answer = watch.ask(WireKey::Target("voting:80".into())).await;
    let Answer::Target(wire::Target { found: Some(Found::Service(service)) }) = answer else { panic!("{answer:?}") };
    assert_eq!(
        (service.backend.as_ref().unwrap().service.as_str(), service.protocol()),
        ("voting", wire::Protocol::Http2)
    );

    watch.subscribe(endpoints_key());
    let first = watch.next().await;
    let Some(Answer::Snapshot(snapshot)) = &first.answer else { panic!("{first:?}") };
    let [endpoint] = &snapshot.endpoints[..] else { panic!("{snapshot:?}") };
    assert_eq!(endpoint.address, "127.1.0.2:8080");
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/emojivoto/sa/voting");
    assert_eq!(endpoint.direct.as_ref().unwrap().sni, "p8080.voting.emojivoto.lacewing");
    assert!(matches!(watch.ask(WireKey::Trust(wire::Trust {})).await, Answer::Trust(trust) if trust.roots.len() == 1));

    // A manifest changes on disk; only the difference comes.
    let draft = controller.temp.0.join("manifests/.draft");
    fs::write(&draft, CLUSTER.to_owned() + &slice(&["127.1.0.2", "127.1.0.9"])).unwrap();
    fs::rename(draft, controller.temp.0.join("manifests/cluster.yaml")).unwrap();
    let second = watch.next().await;
    let Some(Answer::Delta(delta)) = &second.answer else { panic!("{second:?}") };
    assert_eq!(
        (delta.upserted.len(), delta.upserted[0].address.as_str(), delta.removed.len()),
        (1, "127.1.0.9:8080", 0)
    );
    assert!(second.version.unwrap().counter > first.version.unwrap().counter);
    assert_eq!(second.version.unwrap().epoch, first.version.unwrap().epoch);

    // An answer to what was asked after `applied` proves that it arrived.
    watch.send(Action::Applied(wire::Applied { key: second.key.clone(), version: second.version }));
    watch.ask(WireKey::Target("nothing:80".into())).await;
    let streams = controller.admin("/streams").await;
    let counter = second.version.unwrap().counter;
    let expected = format!("{{\"key\":\"endpoints voting.emojivoto:80\",\"sent\":{counter},\"applied\":{counter}}}");
    assert!(streams.contains(&expected) && streams.contains("/sa/web\""), "{streams}");
    let metrics = controller.admin("/metrics").await;
    for line in [
        "lacewing_controller_streams 1",
        "lacewing_controller_subscriptions 4",
        "lacewing_controller_connections 1",
        "certify_total{result=\"issued\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_workload_can_only_ask_as_itself() {
    let controller = Controller::ready(CLUSTER).await;
    let mut voting = controller.watch("voting-1").await;
    let answer = voting.ask(WireKey::Inbound("voting-1".into())).await;
    let Answer::Inbound(inbound) = answer else { panic!("{answer:?}") };
    assert!(inbound.strict && inbound.ports[0].port == 8080 && inbound.ports.len() == 1);

    let mut web = controller.watch("web-1").await;
    let answer = web.ask(WireKey::Inbound("voting-1".into())).await;
    assert!(
        matches!(&answer, Answer::Refused(why) if why.contains("does not run as the service account web")),
        "{answer:?}"
    );
    // The stream goes on after a refusal.
    assert!(matches!(web.ask(WireKey::Inbound("web-1".into())).await, Answer::Inbound(_)));
}

#[tokio::test]
async fn tokens_that_prove_nothing_get_no_certificate() {
    let controller = Controller::ready(CLUSTER).await;
    let stranger = jwt::Key::new(&[1; jwt::KEY_BYTES]);
    let own = mint::load_key(&controller.temp.0.join("state")).unwrap();
    let caller = |pod: &str| Caller { namespace: "emojivoto".into(), service_account: "web".into(), pod: pod.into() };
    let now = clock::unix_now();
    for (token, why) in [
        (String::new(), "no compact JWT"),
        (jwt::mint(&stranger, &caller("web-1"), AUDIENCE, now, 60), "signature"),
        (jwt::mint(&own, &caller("web-1"), "other", now, 60), "audience"),
        (jwt::mint(&own, &caller("web-1"), AUDIENCE, now - 100, 60), "expired"),
        (jwt::mint(&own, &caller("web-9"), AUDIENCE, now, 60), "no Pod emojivoto/web-9"),
        (jwt::mint(&own, &caller("voting-1"), AUDIENCE, now, 60), "does not run as web"),
    ] {
        let status = controller.certify(token).await.unwrap_err();
        assert!(status.code() == Code::Unauthenticated && status.message().contains(why), "{why}: {status}");
    }
    let mut client = controller.client(None).await;
    let token = controller.token("web-1");
    let status = client.certify(wire::CertifyRequest { token, csr: vec![0; 100] }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let status =
        client.certify(wire::CertifyRequest { token: "x".repeat(REQUEST_BYTES_MAX), csr: vec![] }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let metrics = controller.admin("/metrics").await;
    assert!(metrics.contains("certify_total{result=\"bad_token\"} 6"), "{metrics}");
    assert!(metrics.contains("certify_total{result=\"bad_request\"} 1"), "{metrics}");
}

#[tokio::test]
async fn an_identity_that_asks_too_often_is_told_to_wait() {
    let controller = Controller::ready(CLUSTER).await;
    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(
            controller.certify(controller.token("web-1")).await.map_or_else(|status| status.code(), |_| Code::Ok),
        );
    }
    assert_eq!(codes[..5], [Code::Ok; 5]);
    assert!(codes[5..].contains(&Code::ResourceExhausted), "{codes:?}");
    assert!(controller.certify(controller.token("voting-1")).await.is_ok(), "others are not affected");
}

#[tokio::test]
async fn watching_needs_a_certificate_of_this_mesh() {
    let controller = Controller::ready(CLUSTER).await;
    let status = controller.client(None).await.watch(tokio_stream::empty()).await.unwrap_err();
    assert!(status.code() == Code::Unauthenticated && status.message().contains("Certify"), "{status}");

    let domain = TrustDomain::parse("cluster.local").unwrap();
    let foreign = Authority::generate(&domain, clock::unix_now()).unwrap();
    let id = SpiffeId::new(&domain, "emojivoto", "web").unwrap();
    let forged = foreign.issue_own(&id, clock::unix_now(), 600).unwrap();
    // TLS 1.3 tells a client only after its own side is done, so either step may fail.
    if let Ok(mut client) = controller.try_client(Some(&forged), &controller.bundle()).await {
        client.watch(tokio_stream::empty()).await.unwrap_err();
    }
    let metrics = controller.admin("/metrics").await;
    assert!(metrics.contains("lacewing_controller_connections_refused_total 1"), "{metrics}");
    assert!(
        controller.try_client(None, foreign.bundle()).await.is_err(),
        "a proxy refuses a controller of another root"
    );
}

/// Changes of 400 endpoints each, some 4 MB in all, while nobody reads.
const CHANGES: usize = 100;

#[tokio::test]
async fn a_reader_that_stops_gets_the_latest_value_next() {
    let controller = Controller::ready(CLUSTER).await;
    let mut watch = controller.watch("web-1").await;
    let many = |zone: usize| {
        let one = |n: usize| format!("{{addresses: [10.0.{}.{}], zone: zone-{zone}}}", n / 250, n % 250);
        let list: Vec<String> = (0..400).map(one).collect();
        slice(&[]).replace("endpoints: []", &format!("endpoints: [{}]", list.join(", ")))
    };
    controller.apply(&many(0));
    watch.subscribe(endpoints_key());
    while watch.next().await.more {}
    for zone in 1..=CHANGES {
        controller.apply(&many(zone));
        tokio::task::yield_now().await;
    }
    let last = format!("zone-{CHANGES}");
    let mut read = 0;
    loop {
        let (mut upserted, mut more) = (Vec::new(), true);
        while more {
            let message = watch.next().await;
            more = message.more;
            let Some(Answer::Delta(delta)) = message.answer else { panic!("{message:?}") };
            upserted.extend(delta.upserted);
        }
        read += 1;
        assert_eq!(upserted.len(), 400);
        if upserted.iter().all(|endpoint| endpoint.zone == last) {
            break;
        }
    }
    assert!(read < CHANGES / 10, "{read} of {CHANGES} values were queued");
}

#[tokio::test]
async fn a_pod_is_found_by_its_address_and_told_that_it_is_deleted() {
    let controller = Controller::ready(CLUSTER).await;
    let mut watch = controller.watch("voting-1").await;
    let answer = watch.ask(WireKey::Target("10.255.0.1:80".into())).await;
    assert!(matches!(answer, Answer::Target(wire::Target { found: Some(Found::Unknown(_)) })), "{answer:?}");
    // It is not redirected to, and no Service selects it.
    let answer = watch.ask(WireKey::Target("127.1.0.2:8080".into())).await;
    let Answer::Target(wire::Target { found: Some(Found::NotFound(why)) }) = answer else { panic!("{answer:?}") };
    assert!(why.contains("no Service selects Pod emojivoto/voting-1"), "{why}");
    assert!(matches!(watch.ask(WireKey::Inbound("voting-1".into())).await, Answer::Inbound(side) if !side.terminating));

    let redirected = CLUSTER.replace(", lacewing.dev/proxy-address: '127.1.0.2:4143'", "");
    controller.apply(&redirected);
    let Some(Answer::Target(wire::Target { found: Some(Found::Pod(pod)) })) = watch.next().await.answer else {
        panic!()
    };
    let endpoint = pod.endpoint.unwrap();
    assert_eq!((&*endpoint.address, endpoint.direct), ("127.1.0.2:8080", None));
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/emojivoto/sa/voting");
    assert_eq!((pod.service, &*pod.why_no_service), (None, "no Service selects Pod emojivoto/voting-1"));

    controller
        .apply(&redirected.replace("name: voting-1", "name: voting-1\n  deletionTimestamp: 2026-11-22T04:00:00Z"));
    let answer = watch.next().await.answer;
    assert!(matches!(&answer, Some(Answer::Inbound(side)) if side.terminating), "{answer:?}");
}

//! Starting, reading, failing in parts, and stopping; and what the admin port says meanwhile.

use super::*;

#[tokio::test]
async fn a_malformed_manifest_is_shown_and_changes_nothing() {
    let controller =
        Controller::ready(&(CLUSTER.to_owned() + "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspce: {}\n"))
            .await;
    let errors = controller.admin("/errors").await;
    assert!(
        errors.contains("cluster.yaml") && errors.contains("did you mean spec?") && errors.contains("\"line\":"),
        "{errors}"
    );
    assert!(controller.admin("/metrics").await.contains("lacewing_controller_source_errors 1"));
    assert!(controller.admin("/ready").await.starts_with("HTTP/1.1 200"), "one bad file must not stop the others");
    assert!(controller.admin("/live").await.starts_with("HTTP/1.1 200"));
    assert!(controller.admin("/etc/passwd").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn nothing_is_ready_before_the_manifests_were_read() {
    let controller = Controller::start(None).await;
    let ready = controller.admin("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("cluster has not been read"), "{ready}");
}

#[tokio::test]
async fn stopping_ends_streams_and_takes_no_longer_than_the_drain() {
    let mut controller = Controller::ready(CLUSTER).await;
    let mut watch = controller.watch("web-1").await;
    watch.ask(WireKey::Trust(wire::Trust {})).await;
    // A connection that will never say anything must not hold us up.
    let _silent = TcpStream::connect(controller.grpc).await.unwrap();
    controller.stop.take().unwrap().send(()).unwrap();
    let end = timeout(PATIENCE, watch.answers.message()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    timeout(DRAIN_TIMEOUT * 2, &mut controller.serving).await.expect("drained in time").unwrap().unwrap();
    assert!(TcpStream::connect(controller.grpc).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_setting() {
    let temp = TempDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&temp.0);
    config.grpc_addr = taken.local_addr().unwrap();
    let error = App::start(config).await.err().unwrap().to_string();
    for part in [taken.local_addr().unwrap().to_string().as_str(), config::GRPC_ADDR, "another process listens there"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!temp.0.join("state").exists(), "nothing is left behind");
}

#[tokio::test]
async fn clients_of_both_families_are_served() {
    let temp = TempDir::new();
    let mut config = config(&temp.0);
    (config.grpc_addr, config.admin_addr) = ("[::]:0".parse().unwrap(), "[::]:0".parse().unwrap());
    let mut controller = Controller::of(temp, config).await;
    let (grpc, admin) = (controller.grpc.port(), controller.admin.port());
    for ip in ["127.0.0.1", "::1"] {
        let ip = ip.parse().unwrap();
        (controller.grpc, controller.admin) = (SocketAddr::new(ip, grpc), SocketAddr::new(ip, admin));
        assert!(controller.admin("/live").await.starts_with("HTTP/1.1 200"), "{ip}");
        controller.client(None).await;
    }
}

#[tokio::test]
async fn lists_of_the_admin_port_need_the_header() {
    let controller = Controller::ready(CLUSTER).await;
    for (path, open) in [("/streams", false), ("/errors", false), ("/ready", true), ("/live", true), ("/metrics", true)]
    {
        let without = controller.get(path, "").await;
        let status = if open { "HTTP/1.1 200" } else { "HTTP/1.1 403" };
        assert!(without.starts_with(status) && (open || without.contains("l6g-admin: 1")), "{path}: {without}");
        assert!(controller.admin(path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
}

#[tokio::test]
async fn a_wish_to_stop_that_cannot_be_heard_is_an_error() {
    let temp = TempDir::new();
    let app = App::start(config(&temp.0)).await.unwrap();
    let outcome = timeout(PATIENCE, app.serve(async { Err(anyhow!("no pipe")) })).await.unwrap();
    assert_eq!(outcome.unwrap_err().to_string(), "no pipe");
}

#[tokio::test]
async fn a_part_that_ends_or_panics_ends_the_controller() {
    let temp = TempDir::new();
    let app = App::start(config(&temp.0)).await.unwrap();
    // The gRPC port ends by itself when it is told to stop, which here nobody asked for.
    app.stop.send(true).unwrap();
    let outcome = timeout(PATIENCE, app.serve(pending())).await.expect("not served on without the port");
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("the gRPC port ended by itself"), "{error}");

    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    tasks.spawn(async { panic!("on purpose") });
    let error = ended_early(tasks.join_next().await.unwrap()).to_string();
    assert!(error.contains("on purpose"), "{error}");
}

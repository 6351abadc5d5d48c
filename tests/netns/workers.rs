//! A proxy with two workers: both take connections, a request may use a connection that the other has opened, and a drain
//! waits for what either is at.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use rustix::process::Signal;

use lacewing_tests::{
    net::{Behaviour, Cluster, PodSpec, Process, TcpApp, http_app},
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);
const CLIENTS: usize = 8;

/// Threads of a proxy beside the first.
fn workers(proxy: &Process) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    let name = |thread: std::io::Result<fs::DirEntry>| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap();
    threads.map(name).filter(|name| name == "worker\n").count()
}

#[test]
fn two_workers_serve_and_drain() {
    let cluster = Cluster::new();
    let two = |name: &str| PodSpec::new(name).proxy_env("LACEWING_WORKERS", "2");
    let server = cluster.pod(two("web-1").service("web").port("http", 18_080, "http").port("tcp", 18_081, ""));
    let app = http_app(&server.host, 18_080);
    let echo = TcpApp::start(&server.host, 18_081, Behaviour::Echo);
    let client = cluster.pod(two("client"));
    cluster.published();
    let name = cluster.name("web");
    let (http, tcp) = (cluster.address("web", 18_080), cluster.address("web", 18_081));

    assert_eq!(workers(client.proxy()), 1, "the other one is the first thread");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(client.host.get(http, "/head", &[("host", &name)]).status, 200);
                }
            });
        }
    });
    assert_eq!(app.requests(), CLIENTS * 50);

    let said = vec![7; 3_000_000];
    let mut open: Vec<_> = (0..CLIENTS).map(|_| client.host.connect(tcp).unwrap()).collect();
    for socket in &mut open {
        let mut reader = socket.try_clone().unwrap();
        let mut got = vec![0; said.len()];
        thread::scope(|scope| {
            scope.spawn(|| socket.write_all(&said).unwrap());
            reader.read_exact(&mut got).unwrap();
        });
        assert!(got == said);
    }
    let counted = client.metric("tcp_open_connections", &["direction=\"outbound\""]) as usize;
    assert_eq!(counted, CLIENTS + 1, "and one carries the requests of both workers");

    // Told to stop, it accepts no more, whichever worker a connection would go to, and waits for all that are open.
    client.proxy().signal(Signal::TERM);
    until("nothing more is accepted", SOON, || client.host.connect(tcp).is_err().then_some(()));
    for socket in &mut open {
        socket.write_all(b"still").unwrap();
        let mut got = [0; 5];
        socket.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"still");
        assert!(client.proxy().is_running(), "a connection is still open");
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(socket.read(&mut got).unwrap(), 0);
    }
    assert!(client.proxy().ended(SOON).success(), "it ends when all are gone");
    assert_eq!(echo.connections(), CLIENTS);
}

//! Who is measured, and how each is started: with a configuration that carries the traffic and does nothing else, one
//! worker, TLS 1.3 with AES-128-GCM and both sides verified between the two of a pair. Ours runs as it ships, with every
//! feature on and a real controller.

mod envoy;
mod floors;
mod haproxy;
pub mod nginx;

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use lacewing_tests::net::{Host, Pod, Process, User};

use super::{cpu, load, site::Site};

/// Where proxies accept redirected connections.
const OUT: u16 = 4140;
const IN: u16 = 4143;
/// Pause between looks whether a peer is ready.
const LOOK: Duration = Duration::from_millis(2);
/// The same for one that is slowed down.
const LOOK_UNDER: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Lacewing,
    Envoy,
    HaProxy,
    Nginx,
    /// HTTP messages by hyper.
    Hyper,
    /// Bytes; over rustls in a pair.
    Copy,
    /// Bytes inside the kernel.
    Splice,
    /// No proxy at all.
    Direct,
}

/// What lies between the client and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// Two proxies, mutual TLS between them.
    Pair,
    /// The client's proxy; plain text.
    Single,
    /// Nothing.
    Direct,
}

/// What the client and the server speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    H1,
    H2,
    Tcp,
}

impl Peer {
    pub const ALL: [Self; 8] =
        [Self::Lacewing, Self::Envoy, Self::HaProxy, Self::Nginx, Self::Hyper, Self::Copy, Self::Splice, Self::Direct];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lacewing => "lacewing",
            Self::Envoy => "envoy",
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Hyper => "hyper-floor",
            Self::Copy => "copy-floor",
            Self::Splice => "splice-floor",
            Self::Direct => "direct",
        }
    }

    /// Whether it can stand there. nginx speaks no HTTP/2 to servers; only plain bytes can be spliced.
    pub fn fits(self, shape: Shape, protocol: Protocol) -> bool {
        match self {
            Self::Direct => shape == Shape::Direct,
            _ if shape == Shape::Direct => false,
            Self::Lacewing | Self::Envoy | Self::HaProxy => true,
            Self::Nginx => protocol != Protocol::H2,
            Self::Hyper => protocol != Protocol::Tcp,
            Self::Copy => protocol == Protocol::Tcp,
            Self::Splice => protocol == Protocol::Tcp && shape == Shape::Single,
        }
    }
}

impl Protocol {
    pub const fn port(self) -> u16 {
        match self {
            Self::H1 => 8080,
            Self::H2 => 8081,
            Self::Tcp => 5201,
        }
    }
}

/// One proxy to be started: where it listens and whom it dials.
pub struct Place<'a> {
    host: &'a Host,
    protocol: Protocol,
    listen: u16,
    dial: SocketAddr,
    /// Accepts TLS.
    tls_in: bool,
    /// Dials with TLS.
    tls_out: bool,
    certs: &'a Path,
    /// Words before the program.
    under: &'a [&'a str],
}

impl Place<'_> {
    /// As it is called in names of files.
    fn name(&self, peer: &str) -> String {
        let place = match (self.tls_in, self.tls_out) {
            (true, _) => "in",
            (_, true) => "out",
            _ => "single",
        };
        format!("{peer}-{place}-{:?}", self.protocol).to_lowercase()
    }

    /// Runs a program in the proxy's stead.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some((first, rest)) = self.under.split_first() else { return self.host.command_as(User::Proxy, program) };
        let mut command = self.host.command_as(User::Proxy, first);
        command.args(rest).arg(program);
        command
    }
}

/// Proxies that run; killed on drop.
pub struct Running<'a> {
    /// By role: `out` and `in`, or `single`.
    pub roles: Vec<(&'static str, u32)>,
    pub start_ms: f64,
    _others: Vec<Process>,
    ours: Vec<&'a Pod>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        for pod in self.ours.drain(..).filter(|pod| pod.proxy().is_running()) {
            pod.proxy().kill();
        }
    }
}

/// Starts a peer and waits until traffic passes.
///
/// # Errors
/// It does not pass in time.
pub fn start(site: &Site, peer: Peer, shape: Shape, protocol: Protocol) -> Result<Running<'_>, String> {
    start_on(&[cpu::PROXY], site, peer, shape, protocol)
}

/// The same on these processors.
///
/// # Errors
/// It does not pass in time.
pub fn start_on<'a>(
    processors: &[usize],
    site: &'a Site,
    peer: Peer,
    shape: Shape,
    protocol: Protocol,
) -> Result<Running<'a>, String> {
    let started = Instant::now();
    let mut running = cpu::on(processors, || match peer {
        Peer::Direct => Running { roles: Vec::new(), start_ms: 0.0, _others: Vec::new(), ours: Vec::new() },
        Peer::Lacewing => ours(site, shape),
        _ => {
            let all = others(site, peer, shape, protocol, &[]);
            let roles = all.iter().map(|(role, process)| (*role, process.pid())).collect();
            let others = all.into_iter().map(|(_, process)| process).collect();
            Running { roles, start_ms: 0.0, _others: others, ours: Vec::new() }
        }
    });
    load::until_it_passes(site, shape, protocol, LOOK)
        .map_err(|error| format!("{} {shape:?} {protocol:?} does not get ready: {error}", peer.name()))?;
    running.start_ms = started.elapsed().as_secs_f64() * 1e3;
    Ok(running)
}

/// Starts a pair of ours, or of a floor, under another program, which is in `words`: slow, and to be ended by a signal.
///
/// # Errors
/// It does not pass in time.
pub fn start_under(site: &Site, peer: Peer, words: &[&str]) -> Result<Vec<(&'static str, Process)>, String> {
    let (shape, protocol) = (Shape::Pair, Protocol::H1);
    let all = cpu::on(&[cpu::PROXY], || match peer {
        Peer::Lacewing => pods(site, shape).into_iter().map(|(role, pod)| (role, pod.proxy_under(words))).collect(),
        _ => others(site, peer, shape, protocol, words),
    });
    // Each look costs instructions: seldom.
    load::until_it_passes(site, shape, protocol, LOOK_UNDER)
        .map_err(|error| format!("{} under {} does not get ready: {error}", peer.name(), words[0]))?;
    Ok(all)
}

fn pods(site: &Site, shape: Shape) -> Vec<(&'static str, &Pod)> {
    match shape {
        Shape::Pair => vec![("out", &site.client), ("in", &site.web)],
        _ => vec![("single", &site.client)],
    }
}

fn ours(site: &Site, shape: Shape) -> Running<'_> {
    let pods = pods(site, shape);
    for (_, pod) in &pods {
        // Tokens end after an hour; a kubelet would have put a new one there.
        let minted = site.cluster.dir.join(format!("tokens/{}_{}.token", pod.namespace, pod.name));
        let token = fs::read(minted).expect("the controller minted a token");
        fs::write(pod.host.dir.join("token"), token).expect("the pod's folder is ours");
        pod.proxy().start_again();
    }
    let roles = pods.iter().map(|(role, pod)| (*role, pod.proxy().pid())).collect();
    Running { roles, start_ms: 0.0, _others: Vec::new(), ours: pods.into_iter().map(|(_, pod)| pod).collect() }
}

fn others(site: &Site, peer: Peer, shape: Shape, protocol: Protocol, under: &[&str]) -> Vec<(&'static str, Process)> {
    let (certs, port) = (site.certs.as_path(), protocol.port());
    let place =
        |host, listen, dial, tls_in, tls_out| Place { host, protocol, listen, dial, tls_in, tls_out, certs, under };
    let places = match shape {
        Shape::Pair => vec![
            // Dialled like an app's connection, whose own redirection brings it to the inner one.
            ("out", place(&site.client.host, OUT, site.web.at(port), false, true)),
            ("in", place(&site.web.host, IN, site.web.at(port), true, false)),
        ],
        _ => vec![("single", place(&site.client.host, OUT, site.plain.at(port), false, false))],
    };
    places
        .iter()
        .map(|(role, place)| {
            let command = match peer {
                Peer::Envoy => envoy::command(place),
                Peer::HaProxy => haproxy::command(place),
                Peer::Nginx => nginx::command(place),
                _ => floors::command(place, peer, &site.parts),
            };
            (*role, place.host.start(&place.name(peer.name()), command))
        })
        .collect()
}

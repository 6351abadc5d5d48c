//! Owns what becomes of probes. `httpGet` and gRPC probes come from the kubelet in plain text: the proxy is told which
//! port and path to let through, also where it is strict. A `tcpSocket` probe would be answered by the proxy, and a dead app
//! look alive: it becomes an `httpGet` at the proxy's public admin port, which dials the app. `exec` is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Pod, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::{Value, json};

use super::edit::Edit;

/// The path of the gRPC health check (grpc.health.v1).
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";
/// The proxy's public admin port, and the path there under which it dials the app.
pub const ADMIN_PORT: u16 = 4191;
const PROBE_PATH: &str = "/probe/";
/// The probe's own time less this is what the proxy has for dialling, so that its answer still arrives.
const MARGIN: Duration = Duration::from_millis(100);
const CONTAINER_LISTS: [&str; 2] = ["containers", "initContainers"];
const KINDS: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// What the proxy must know of a pod's probes, and which of them must be written anew.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// Port and path, as they are on the wire.
    paths: BTreeSet<(u16, String)>,
    /// Ports whose probe speaks the app's own TLS.
    tls: BTreeSet<u16>,
    /// Ports to be dialled, and how long that may take.
    dialled: BTreeMap<u16, Duration>,
    rewrites: Vec<Rewrite>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rewrite {
    list: &'static str,
    container: usize,
    kind: &'static str,
    path: String,
}

/// Reads the probes of all containers, and their hooks.
pub fn read(pod: &Pod, warnings: &mut Vec<String>) -> Probes {
    let mut probes = Probes::default();
    let Some(spec) = &pod.spec else { return probes };
    let lists = [spec.containers.as_slice(), spec.init_containers.as_deref().unwrap_or_default()];
    for (list, containers) in CONTAINER_LISTS.into_iter().zip(lists) {
        for (at, container) in containers.iter().enumerate() {
            probes.container(list, at, container, warnings);
        }
    }
    probes
}

impl Probes {
    fn container(&mut self, list: &'static str, at: usize, container: &Container, warnings: &mut Vec<String>) {
        let own = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
        for (kind, probe) in KINDS.into_iter().zip(own) {
            let Some(probe) = probe else { continue };
            let nameless = |what: &IntOrString| {
                let name = &container.name;
                format!(
                    "{kind} of container {name:?}: there is no port {what:?} in it, so the probe fails as without the mesh"
                )
            };
            if let Some(get) = &probe.http_get {
                self.http(container, get).unwrap_or_else(|port| warnings.push(nameless(port)));
            }
            if let Some(port) = probe.grpc.as_ref().and_then(|grpc| u16::try_from(grpc.port).ok()) {
                self.paths.insert((port, GRPC_PATH.to_owned()));
            }
            // One with a host is for somebody else.
            if let Some(socket) = probe.tcp_socket.as_ref().filter(|socket| socket.host.is_none()) {
                let rewrite = Rewrite { list, container: at, kind, path: String::new() };
                self.tcp(container, probe, socket, rewrite).unwrap_or_else(|port| warnings.push(nameless(port)));
            }
        }
        let hooks = container.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]).flatten();
        for get in hooks.filter_map(|hook| hook.http_get.as_ref()) {
            // A hook whose port has no name fails as without the mesh, and Kubernetes says so.
            let _ = self.http(container, get);
        }
    }

    fn http<'a>(&mut self, container: &Container, get: &'a HTTPGetAction) -> Result<(), &'a IntOrString> {
        if get.host.as_ref().is_some_and(|host| !host.is_empty()) {
            return Ok(());
        }
        let port = resolve(container, &get.port).ok_or(&get.port)?;
        if get.scheme.as_deref() == Some("HTTPS") {
            self.tls.insert(port);
        } else {
            self.paths.insert((port, on_the_wire(get.path.as_deref().unwrap_or("/"))));
        }
        Ok(())
    }

    fn tcp<'a>(
        &mut self,
        container: &Container,
        probe: &Probe,
        socket: &'a TCPSocketAction,
        mut rewrite: Rewrite,
    ) -> Result<(), &'a IntOrString> {
        let port = resolve(container, &socket.port).ok_or(&socket.port)?;
        let seconds = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(1).max(1);
        let time = Duration::from_secs(seconds).saturating_sub(MARGIN);
        let longest = self.dialled.entry(port).or_insert(time);
        *longest = time.max(*longest);
        let name = match &socket.port {
            IntOrString::Int(_) => String::new(),
            IntOrString::String(name) => format!("?port={name}"),
        };
        rewrite.path = format!("{PROBE_PATH}{port}{name}");
        self.rewrites.push(rewrite);
        Ok(())
    }

    /// Writes `tcpSocket` probes anew.
    ///
    /// # Errors
    /// The pod has not the shape in which it was read.
    pub fn rewrite(&self, edit: &mut Edit) -> Result<(), String> {
        for Rewrite { list, container, kind, path } in &self.rewrites {
            let probe = ["spec", list, &container.to_string(), kind];
            edit.add(&[&probe[..], &["httpGet"]].concat(), json!({ "path": path, "port": ADMIN_PORT }))?;
            edit.remove(&[&probe[..], &["tcpSocket"]].concat())?;
        }
        Ok(())
    }

    /// `LACEWING_PROBES`: what passes without mesh TLS, as `8080/healthz 8443:tls`.
    pub fn let_through(&self) -> String {
        let paths = self.paths.iter().map(|(port, path)| format!("{port}{path}"));
        paths.chain(self.tls.iter().map(|port| format!("{port}:tls"))).collect::<Vec<_>>().join(" ")
    }

    /// `LACEWING_TCP_PROBES`: what may be dialled for the kubelet and for how long, as `5432=900ms 6379=4900ms`.
    pub fn to_dial(&self) -> String {
        let ports = self.dialled.iter().map(|(port, time)| format!("{port}={}ms", time.as_millis()));
        ports.collect::<Vec<_>>().join(" ")
    }
}

/// The opposite of [`Probes::rewrite`].
///
/// # Errors
/// The object has not the shape of a pod.
pub fn restore(edit: &mut Edit) -> Result<(), String> {
    for list in CONTAINER_LISTS {
        let count = edit.get(&["spec", list]).and_then(Value::as_array).map_or(0, Vec::len);
        for at in (0..count).map(|at| at.to_string()) {
            for kind in KINDS {
                let probe = ["spec", list, &at, kind];
                let Some(port) = edit.get(&[&probe[..], &["httpGet"]].concat()).and_then(original_port) else {
                    continue;
                };
                edit.add(&[&probe[..], &["tcpSocket"]].concat(), json!({ "port": port }))?;
                edit.remove(&[&probe[..], &["httpGet"]].concat())?;
            }
        }
    }
    Ok(())
}

/// The port of the `tcpSocket` probe that this one replaced; none if it replaced none.
fn original_port(get: &Value) -> Option<Value> {
    if get["port"] != json!(ADMIN_PORT) {
        return None;
    }
    let (port, name) =
        get["path"].as_str()?.strip_prefix(PROBE_PATH).map(|rest| rest.split_once("?port=").unwrap_or((rest, "")))?;
    if name.is_empty() { port.parse::<u16>().ok().map(Value::from) } else { Some(name.into()) }
}

/// The number of a port that may be named, as the kubelet finds it.
fn resolve(container: &Container, port: &IntOrString) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
            named.or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// A path as the kubelet sends it: with a slash, without a fragment, and with what a URL cannot hold escaped (RFC 3986).
fn on_the_wire(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut wire = String::from(if path.starts_with('/') { "" } else { "/" });
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte) {
            wire.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(wire, "%{byte:02X}");
        }
    }
    wire
}

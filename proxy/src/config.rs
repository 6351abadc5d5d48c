//! Every setting and every limit of the proxy, each with its name, default and meaning. Settings come from
//! `LACEWING_*`; limits are constants, because nobody should have to choose them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use lacewing_identity::{SpiffeId, TrustBundle, TrustDomain};
use lacewing_ops::settings::{Settings, SettingsError, duration, parsed, switch, text};

use crate::{authorize::Probes, cidr::Cidr, socket::Dialer};

// --- Connections -------------------------------------------------------------------------------------------------

/// Connections accepted at a time, per listener. More wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Pause after a failed accept (usually: no file descriptors), so that the loop cannot spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// TCP connect to an endpoint or to the app.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A TLS handshake, from accept or connect to the end.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed after this; three probes, as far apart, without an answer end it.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(10);
/// Unacknowledged or unread data on a connection: then the kernel gives the peer up (`TCP_USER_TIMEOUT`). An app may
/// pause that long before it reads on.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(300);
/// The same where proxies are at both ends, which read at once: a peer that vanished is noticed sooner.
pub const TCP_USER_TIMEOUT_BETWEEN_PROXIES: Duration = Duration::from_secs(30);
/// Longest TLS `ClientHello` that is read, in bytes: post-quantum key shares and long ALPN lists fit many times over.
pub const CLIENT_HELLO_MAX: usize = 16 * 1024;
/// First bytes by which the protocol is told, at most, in bytes: the longest request line that is served.
pub const DETECT_BYTES_MAX: usize = 64 * 1024;
/// A client that must speak first must say its first bytes within this.
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A client whose first bytes could still become HTTP gets this long to make it clear; then they are opaque.
pub const AMBIGUOUS_TIMEOUT: Duration = Duration::from_secs(1);
/// A client that says nothing for this long may be waiting for the server: it is dialled, and whoever speaks first wins.
pub const SILENCE_GRACE: Duration = Duration::from_millis(20);
/// The same where clients have spoken HTTP so far: a pooled connection may well be silent for a while.
pub const SILENCE_GRACE_CLIENT_FIRST: Duration = Duration::from_secs(1);
/// The same for clients of the app without mesh TLS. Longer, since a meshed client is expected to speak first: one whose
/// first bytes are late must not find the app's greeting in their place.
pub const SILENCE_GRACE_INBOUND: Duration = Duration::from_millis(40);
/// The same for an address from which mesh TLS has come: its proxy speaks first, however late.
pub const SILENCE_GRACE_MESHED: Duration = Duration::from_secs(2);
/// Addresses of meshed peers that are remembered, and for how long.
pub const MESHED_PEERS_MAX: usize = 1_000;
pub const MESHED_PEER_LASTS: Duration = Duration::from_secs(600);
/// A client whose silent connection found no server has this long to say something and be answered.
pub const UNSERVED_GRACE: Duration = Duration::from_secs(1);
/// Room for first bytes, in bytes; it grows with them.
pub const FIRST_BYTES: usize = 1_024;
/// One side of raw TCP is closed and nothing moves for this long (at most twice as long): the rest is closed, too, since
/// a peer that went away without a word looks just like this.
pub const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);
/// The app's ports that clients of this pod have used, with their connections to the app.
pub const APP_PORTS_MAX: usize = 64;
/// Buffer for each direction of raw TCP that has bytes under way and cannot splice them, in bytes: four TLS records.
pub const COPY_BUFFER: usize = 64 * 1024;
/// Such buffers that a thread keeps for the next connection.
pub const COPY_BUFFERS_SPARE: usize = 4;
/// Bytes that one direction of raw TCP moves before other connections have their turn.
pub const COPY_TURN: u64 = 1024 * 1024;
/// Plain text of which so much comes at once, in bytes, goes through a pipe from then on: few bytes are copied sooner.
pub const SPLICE_FROM: usize = 16 * 1024;
/// What a pipe holds, in bytes.
pub const PIPE_SIZE: usize = 256 * 1024;
/// Pipes at a time, each two descriptors of [`FILES_RESERVED`]; where all are in use, bytes are copied.
pub const PIPES_MAX: usize = 32;
/// Pipes that a thread keeps for the next connection.
pub const PIPES_SPARE: usize = 4;

// --- HTTP --------------------------------------------------------------------------------------------------------

/// A client may keep an idle HTTP/1 connection this long.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(90);
/// How often an HTTP/1 connection is looked at: its other times are this precise.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that is idle for this long gives its buffers back. Shorter, and a client with one request a second would
/// have them made anew each time.
pub const PARK_AFTER: Duration = Duration::from_secs(1);
/// What the first read after that takes, in bytes: most heads.
pub const WAKING_BYTES: usize = 1024;
/// A client that has connected this long before the proxy stops may still send its first request.
pub const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);
/// A request's head must arrive within this, from its first byte.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// All header fields of a message together, in bytes (RFC 9113, 6.5.2 counts 32 more for each field).
pub const HEADER_LIST_MAX: u32 = 64 * 1024;
/// Header fields of an HTTP/1 message.
pub const HEADER_FIELDS_MAX: usize = 128;
/// Concurrent streams of an HTTP/2 connection from our app or from a meshed peer.
pub const STREAMS_MAX: u32 = 1_024;
/// Streams that an HTTP/2 client resets before they were looked at; more are an attack.
pub const RESETS_MAX: usize = 20;
/// HTTP/2 flow-control window of a stream, in bytes: what one slow reader can make us hold.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2 flow-control window of a connection, in bytes.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The same towards a peer, whose one connection carries everybody's responses: with the window above, 16 readers that
/// stall would stop all others; here it takes 128.
pub const PEER_CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Unsent bytes held for an HTTP/2 stream.
pub const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of HTTP/2 frames that are gathered until they are sent together: a TLS record takes no more.
pub const GATHERED_MAX: usize = 16 * 1024;
/// Of the room for them, what a connection keeps while it has none.
pub const GATHERED_KEPT: usize = 4 * 1024;
/// HTTP/2 keep-alive: a ping after this much silence…
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// The same to a meshed peer with a request under way: with [`PING_TIMEOUT`], what a peer that vanished holds is sent
/// elsewhere after 5 s. Requests that are answered sooner never cause a ping.
pub const PEER_PING_INTERVAL: Duration = Duration::from_secs(2);
/// …must be answered within this.
pub const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Interim answers (1xx) to one request over HTTP/1, in bytes: more than a thousand, and more than any head.
pub const INTERIM_MAX: usize = 2 * HEADER_LIST_MAX as usize;
/// Idle HTTP/1 connections kept to one endpoint.
pub const IDLE_PER_ENDPOINT_MAX: usize = 64;
/// An idle HTTP/1 connection is not used again after this: shorter than any server's own limit, so that requests seldom
/// meet a connection that is just being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// HTTP/2 control frames that a peer may send in [`CONTROL_FRAMES_WINDOW`] without any other progress.
pub const CONTROL_FRAMES_MAX: u32 = 1_000;
pub const CONTROL_FRAMES_WINDOW: Duration = Duration::from_secs(10);
/// Control frames that a request, or a DATA or HEADERS frame of ours, pays for: a window update for the stream, one for
/// the connection, and a ping or a reset.
pub const CONTROL_CREDIT_FRAME: u32 = 3;
/// Paid ones that a peer can save up: what many small DATA frames in the kernel's buffers may still bring.
pub const CONTROL_CREDIT_MAX: u32 = 100_000;
/// The body of an HTTP/1 request that is being read may be silent for this long.
pub const BODY_IDLE: Duration = Duration::from_secs(60);
/// An HTTP/2 stream's reader may leave what waits for it for this long. A whole connection of such readers ends by
/// [`TCP_USER_TIMEOUT`]: the kernel counts a window that stays closed as data that is not acknowledged.
pub const NO_PROGRESS: Duration = Duration::from_secs(60);
/// Concurrent streams of an HTTP/2 connection whose client has proved no identity.
pub const STREAMS_MAX_UNKNOWN: u32 = 100;
/// File descriptors that accepted connections leave alone: for the control stream, the admin ports, the runtime, pipes.
pub const FILES_RESERVED: u64 = 128;

/// Chunk extensions of one HTTP/1 request, in bytes from each `;` on: nobody uses them but to hide something.
pub const CHUNK_EXTENSIONS_MAX: usize = 1024;
/// Trailers of one HTTP/1 request, in bytes, line ends not counted.
pub const TRAILERS_MAX: usize = 8 * 1024;

// --- Balancing, retries ------------------------------------------------------------------------------------------

/// Latency that an endpoint is assumed to have before the first answer.
pub const EWMA_DEFAULT_RTT: Duration = Duration::from_millis(30);
/// Time in which an old latency loses all but 1/e of its weight.
pub const EWMA_DECAY: Duration = Duration::from_secs(10);
/// Time without a sample in which an estimate loses all but 1/e of its height: a slow endpoint is tried again every few
/// seconds, so that it is found healed soon, and one bad sample does not starve it for long.
pub const EWMA_FORGET: Duration = Duration::from_secs(1);
/// What a failed connection counts as, so that an endpoint that fails fast does not look fast; and an answer that says
/// "too many requests".
pub const FAILURE_PENALTY: Duration = Duration::from_secs(1);
/// Consecutive failures that eject an endpoint.
pub const BREAKER_FAILURES: u32 = 7;
/// First and longest time out for an ejected endpoint; doubled after each failed probe.
pub const BREAKER_PENALTY_MIN: Duration = Duration::from_secs(1);
pub const BREAKER_PENALTY_MAX: Duration = Duration::from_secs(60);
/// The penalty varies by this fraction, so that clients do not probe in step.
pub const BREAKER_JITTER: f64 = 0.5;
/// Wait for an endpoint when none is ready; then 503 with the reason.
pub const NO_ENDPOINT_TIMEOUT: Duration = Duration::from_secs(1);
/// Times a request is sent again after it may have been processed (idempotent methods only).
pub const RETRY_LIMIT: u32 = 1;
/// Times a request is sent elsewhere when it was certainly not processed (any method).
pub const RETRY_UNPROCESSED_LIMIT: u32 = 3;
/// Retry budget: retries per request, and a floor per second, for each backend.
pub const BUDGET_RATIO: f64 = 0.2;
pub const BUDGET_FLOOR_PER_S: f64 = 10.0;
/// The budget saves up at most this many seconds of retries.
pub const BUDGET_TTL_S: f64 = 10.0;
/// A request body is kept for a retry only if its declared length is at most this, in bytes.
pub const REPLAY_BODY_MAX: u64 = 64 * 1024;

// --- Discovery, identity -----------------------------------------------------------------------------------------

/// A new target's answer is awaited this long while the control stream is up.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Targets known at a time. A full cache refuses new ones; it never drops one in use.
pub const TARGETS_MAX: usize = 1_000;
/// Longest name of a target, in bytes: a host name of 253 and a port.
pub const TARGET_NAME_MAX: usize = 260;
/// A target nobody asked for is forgotten after this, while the control stream is up.
pub const TARGET_IDLE: Duration = Duration::from_secs(600);
/// The same where the cache is full and another target is wanted.
pub const TARGET_IDLE_FULL: Duration = Duration::from_secs(10);
/// A destination that was never seen passes as it is after this while the control stream is down (permissive only).
pub const UNRESOLVED_AFTER: Duration = Duration::from_millis(300);
/// Endpoints of one backend. More are refused with a log line.
pub const ENDPOINTS_MAX: usize = 10_000;
/// Reconnecting to the controller: first and longest wait, jittered. The longest stays under 2 s, so that a proxy is
/// up within 2 s of the controller's return.
pub const CONTROL_BACKOFF_MIN: Duration = Duration::from_millis(50);
pub const CONTROL_BACKOFF_MAX: Duration = Duration::from_millis(1_200);
/// Requests on the control stream that are handed to HTTP/2, and those behind them. A controller that is busy reads them
/// later; one that lets more than all that is in use wait, and as much again, is left.
pub const CONTROL_REQUESTS_MAX: usize = 64;
pub const CONTROL_WAITING_MAX: usize = 4 * TARGETS_MAX;
/// One attempt to get a certificate, or to open the control stream.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest message on the control stream, in bytes.
pub const CONTROL_MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// A certificate that does not lie under the first root any more is renewed within this part of its life…
pub const RENEW_EARLY_SHARE: u32 = 10;
/// …and within this: spread, since all proxies hear of a new root at once.
pub const RENEW_EARLY_WITHIN: Duration = Duration::from_secs(60);
/// Largest trust bundle that is read from a file, in bytes: 16 roots are some 16 KiB.
pub const BUNDLE_FILE_MAX: u64 = 256 * 1024;
/// Largest service-account token that is read, in bytes.
pub const TOKEN_MAX: u64 = 16 * 1024;

/// Probes of one pod that are let through or dialled.
pub const PROBES_MAX: usize = 256;
/// Longest wait for the app to take a `tcpSocket` probe's connection.
pub const PROBE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

// --- Stopping, recording -----------------------------------------------------------------------------------------

/// Longest `LACEWING_DRAIN_TIMEOUT`.
pub const DRAIN_MAX: Duration = Duration::from_secs(120);
/// What is left to say to the app's own connections when those to it have used up the time.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// Unused memory goes back to the system this often.
pub const TRIM_INTERVAL: Duration = Duration::from_secs(30);
/// And once for so many connections that were parked meanwhile.
pub const TRIM_AFTER: usize = 100;
/// Series of the live ring.
pub const LIVE_SERIES_MAX: usize = 64;
/// Sketch buckets of the live ring, over all series: 8 bytes each, up to twice that in capacity.
pub const LIVE_BUCKETS_MAX: usize = 48 * 1024;
/// The same kind of error is said in the log once in this time, with the count of those that were not said.
pub const LOG_PAUSE: Duration = Duration::from_secs(10);
/// Time series per metric family; more share one that says `overflow`.
pub const METRIC_SERIES_MAX: usize = 2_000;

// --- Addresses ---------------------------------------------------------------------------------------------------

/// Where redirection sends what the app opens: IPv4 and IPv6.
pub const OUTBOUND_ADDR: &str = "127.0.0.1:4140,[::1]:4140";
/// Where redirection sends what is opened to the app.
pub const INBOUND_ADDR: &str = "0.0.0.0:4143,[::]:4143";
pub const ADMIN_ADDR: &str = "0.0.0.0:4191,[::]:4191";
/// Private networks (RFC 1918, RFC 6598, RFC 4193).
pub const CLUSTER_NETWORKS: &str = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8";

/// Threads that carry connections.
pub const WORKERS: &str = "1";

/// What the proxy was told.
#[derive(Clone, Debug)]
pub struct Config {
    pub log: String,
    pub pod: String,
    pub namespace: String,
    /// The pod's own addresses. At the first the app's ports are dialled when the connection did not arrive by
    /// redirection; what goes to any of them does not leave the pod.
    pub pod_ips: Vec<IpAddr>,
    pub outbound: Vec<SocketAddr>,
    pub inbound: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub private_admin: SocketAddr,
    /// Destinations outside of these are never looked up: they pass as they are.
    pub cluster_networks: Vec<Cidr>,
    /// How connections are opened.
    pub dialer: Dialer,
    /// `CONNECT` to a redirected destination is carried.
    pub allow_connect: bool,
    pub outbound_map: Vec<Mapped>,
    /// What the kubelet may ask without mesh TLS.
    pub probes: Probes,
    /// Ports that are dialled for the kubelet, and how long that may take.
    pub tcp_probes: Vec<(u16, Duration)>,
    /// Threads that carry connections, each with a processor of its own.
    pub workers: usize,
    pub control: Control,
    /// `LACEWING_STATE_DIR`: where the last trust bundle is kept for a restart of the container; not kept without it.
    pub state_dir: Option<PathBuf>,
    /// Open connections may end by themselves for this long after the wish to stop: the pod's grace less two seconds.
    pub drain: Duration,
    /// Stop when standard input ends.
    pub exit_with_parent: bool,
}

/// A listener for raw TCP to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub listen: SocketAddr,
    /// `host:port`.
    pub target: String,
}

/// Where the controller is and how we and it know each other.
#[derive(Clone, Debug)]
pub struct Control {
    /// `host:port`.
    pub addr: String,
    /// The identity that the controller must prove.
    pub identity: SpiffeId,
    pub trust_domain: TrustDomain,
    /// The roots to trust until the stream says otherwise.
    pub bundle: TrustBundle,
    pub token_file: PathBuf,
    pub dialer: Dialer,
}

impl Config {
    /// Reads all settings.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut s = Settings::new(env);
        let log = s.get("LACEWING_LOG", "info", text);
        let pod = s.required("LACEWING_POD_NAME", "the name of the pod that this proxy serves", text);
        let namespace = s.required("LACEWING_POD_NAMESPACE", "the namespace of the pod that this proxy serves", text);
        let pod_ips = s.get("LACEWING_POD_IPS", "127.0.0.1", list);
        let outbound = s.get("LACEWING_OUTBOUND_ADDR", OUTBOUND_ADDR, list);
        let inbound = s.get("LACEWING_INBOUND_ADDR", INBOUND_ADDR, list);
        let admin = s.get("LACEWING_ADMIN_ADDR", ADMIN_ADDR, list);
        let cluster_networks = s.get("LACEWING_CLUSTER_NETWORKS", CLUSTER_NETWORKS, list);
        let mark = s.get("LACEWING_SOCKET_MARK", "", mark);
        let allow_connect = s.get("LACEWING_ALLOW_CONNECT", "0", switch);
        let private_admin = s.get("LACEWING_PRIVATE_ADMIN_ADDR", "127.0.0.1:4192", loopback);
        let outbound_map = s.get("LACEWING_OUTBOUND_MAP", "", outbound_map);
        let probes = s.get("LACEWING_PROBES", "", parsed);
        let tcp_probes = s.get("LACEWING_TCP_PROBES", "", tcp_probes);
        let workers = s.get("LACEWING_WORKERS", WORKERS, |value| workers(value, processors()));
        let control = Control::read(&mut s, Dialer { mark: mark.flatten() });
        let state_dir = s.get("LACEWING_STATE_DIR", "", |dir| Ok((!dir.is_empty()).then(|| PathBuf::from(dir))));
        let drain = s.get("LACEWING_DRAIN_TIMEOUT", "28s", |value| duration(value).map(|drain| drain.min(DRAIN_MAX)));
        let exit_with_parent = s.get("LACEWING_EXIT_WITH_PARENT", "0", switch);
        let built = (|| {
            Some(Self {
                log: log?,
                pod: pod?,
                namespace: namespace?,
                pod_ips: pod_ips?,
                outbound: outbound?,
                inbound: inbound?,
                admin: admin?,
                private_admin: private_admin?,
                cluster_networks: cluster_networks?,
                dialer: Dialer { mark: mark? },
                allow_connect: allow_connect?,
                outbound_map: outbound_map?,
                probes: probes?,
                tcp_probes: tcp_probes?,
                workers: workers?,
                control: control?,
                state_dir: state_dir?,
                drain: drain?,
                exit_with_parent: exit_with_parent?,
            })
        })();
        s.finish(built)
    }
}

impl Control {
    fn read(s: &mut Settings<'_>, dialer: Dialer) -> Option<Self> {
        let addr = s.get("LACEWING_CONTROLLER_ADDR", "lacewing-controller.lacewing:8080", text);
        let token_file = s.get("LACEWING_TOKEN_FILE", "/var/run/secrets/lacewing.dev/token", parsed);
        let bundle = s.required("LACEWING_TRUST_BUNDLE", "the trust roots in PEM", |pem| {
            TrustBundle::from_pem(pem).map_err(|e| e.to_string())
        });
        let trust_domain = s.get("LACEWING_TRUST_DOMAIN", "cluster.local", |name| {
            TrustDomain::parse(name).map_err(|e| e.to_string())
        })?;
        let identity = SpiffeId::new(&trust_domain, "lacewing", "lacewing-controller")
            .map_err(|e| s.error(format!("LACEWING_TRUST_DOMAIN: {e}")))
            .ok();
        Some(Self { addr: addr?, identity: identity?, trust_domain, bundle: bundle?, token_file: token_file?, dialer })
    }
}

/// What the system lets this process use; a limit on processor time counts.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn workers(value: &str, most: usize) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("a number from 1 to {most}, the processors that this process may use"))
}

/// An address on loopback: the private admin port shows what only the pod's own people should see.
fn loopback(value: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr = parsed(value)?;
    if addr.ip().is_loopback() { Ok(addr) } else { Err("the private admin port must be on loopback".to_owned()) }
}

/// One or more, separated by commas.
pub fn list<T: FromStr<Err: fmt::Display>>(value: &str) -> Result<Vec<T>, String> {
    value.split(',').map(|part| part.trim().parse().map_err(|e| format!("{:?}: {e}", part.trim()))).collect()
}

/// A number for `SO_MARK`, also as `0x2102`; nothing: sockets are not marked.
pub fn mark(value: &str) -> Result<Option<u32>, String> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None if value.is_empty() => return Ok(None),
        None => value.parse(),
    };
    parsed.ok().filter(|mark| *mark != 0).map(Some).ok_or_else(|| "a mark is a number from 1 to 0xffffffff".to_owned())
}

fn outbound_map(value: &str) -> Result<Vec<Mapped>, String> {
    let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (listen, target) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not listen=target"))?;
            let listen = listen.parse().map_err(|e| format!("{listen:?}: {e}"))?;
            let port = target.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            port.ok_or_else(|| format!("target {target:?} is not host:port"))?;
            Ok(Mapped { listen, target: target.to_owned() })
        })
        .collect()
}

/// `5432=900ms 6379=4900ms`: ports with how long a connection to them may take.
fn tcp_probes(value: &str) -> Result<Vec<(u16, Duration)>, String> {
    let entries = value.split_ascii_whitespace().map(|entry| {
        let (port, time) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not port=duration"))?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{port:?} is no port"))?;
        Ok((port, duration(time)?.min(PROBE_TIMEOUT_MAX)))
    });
    let entries: Vec<_> = entries.collect::<Result<_, String>>()?;
    if entries.len() > PROBES_MAX {
        return Err(format!("{} probes, of at most {PROBES_MAX}", entries.len()));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_dialled_for_the_kubelet() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        assert_eq!(tcp_probes("5432=900ms  6379=2h"), Ok(vec![(5432, ms(900)), (6379, s(60))]));
        for bad in ["5432", "5432=", "0=1s", "x=1s", "5432=1", "5432=1s,6379=1s"] {
            assert!(tcp_probes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let env = |name: &str| match name {
            "LACEWING_INBOUND_ADDR" => Some("nowhere".to_owned()),
            "LACEWING_PRIVATE_ADMIN_ADDR" => Some("0.0.0.0:4192".to_owned()),
            "LACEWING_OUTBOUND_MAP" => Some("7001".to_owned()),
            _ => None,
        };
        let error = Config::read(&env).unwrap_err().to_string();
        for part in [
            "LACEWING_POD_NAME is not set",
            "LACEWING_POD_NAMESPACE",
            "LACEWING_INBOUND_ADDR",
            "on loopback",
            "listen=target",
            "LACEWING_TRUST_BUNDLE",
        ] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }

    #[test]
    fn lists_and_marks() {
        assert_eq!(list::<SocketAddr>(OUTBOUND_ADDR).unwrap().len(), 2);
        assert_eq!(list::<Cidr>(CLUSTER_NETWORKS).unwrap().len(), 5);
        assert!(list::<IpAddr>("10.0.0.1,").is_err());
        assert_eq!((mark(""), mark("0x2102"), mark("7")), (Ok(None), Ok(Some(0x2102)), Ok(Some(7))));
        assert!(mark("0").is_err() && mark("-1").is_err() && mark("0x").is_err());
    }

    #[test]
    fn no_more_workers_than_processors() {
        assert_eq!((workers("1", 4), workers("4", 4), workers(WORKERS, 1)), (Ok(1), Ok(4), Ok(1)));
        for bad in ["0", "5", "-1", "many", ""] {
            assert!(workers(bad, 4).unwrap_err().contains("from 1 to 4"), "{bad}");
        }
    }

    #[test]
    fn maps_listen_addresses_to_targets() {
        let map = outbound_map("127.0.0.1:7001=echo.shop:7000, [::1]:7002=db:5432").unwrap();
        assert_eq!(map.len(), 2);
        assert_eq!(map[1].target, "db:5432");
        for bad in ["x=db:1", "127.0.0.1:1=db", "127.0.0.1:1=db:port", "127.0.0.1:1"] {
            assert!(outbound_map(bad).is_err(), "{bad}");
        }
    }
}

//! The one control stream: connect, subscribe to everything that is in use, apply answers, report what is applied, and
//! start over when it breaks. It touches nothing that it has no answer for, so a broken stream changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use lacewing_proto::control::{
    self as wire, WatchRequest, WatchResponse, key::Key as WireKey, watch_request::Action, watch_response::Answer,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::{BackendKey, Change, Discovery, Stream, channel, parse};
use crate::{
    config::{CONTROL_BACKOFF_MAX, CONTROL_BACKOFF_MIN, CONTROL_TIMEOUT, Control, ENDPOINTS_MAX},
    endpoint::Info,
    tls::Identity,
};

/// Requests under way to the controller.
const REQUESTS_MAX: usize = 64;

const CLOSED: &str = "the controller closed the stream";

/// Keeps the stream up for as long as the process lives.
pub async fn run(discovery: Arc<Discovery>, control: Control, pod: String) {
    let mut backoff = Backoff::default();
    let mut identity_changed = discovery.context.identity.subscribe();
    loop {
        // Without a certificate the controller would refuse the stream.
        if discovery.context.identity.current().is_err() {
            let _ = identity_changed.changed().await;
            continue;
        }
        match session(&discovery, &control, &pod, &mut backoff).await {
            // The new stream asks for everything again; meanwhile nothing is missing, so nobody needs to hear of it.
            End::Renewed => continue,
            End::Lost(why) => {
                tracing::info!(reason = why, "control stream ended; the last answers stay in force");
                discovery.context.metrics.control_stream(false);
                discovery.stream.send_replace(Stream::Down(why));
            }
        }
        backoff.wait().await;
    }
}

/// Exponential wait between attempts, with full jitter.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub async fn wait(&mut self) {
        self.failures += 1;
        let longest = CONTROL_BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(CONTROL_BACKOFF_MAX);
        let jittered = longest.saturating_sub(CONTROL_BACKOFF_MIN).mul_f64(fastrand::f64());
        tokio::time::sleep(CONTROL_BACKOFF_MIN + jittered).await;
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Why a stream ended.
enum End {
    /// We have a new certificate: the old one must not speak for us any longer.
    Renewed,
    Lost(String),
}

/// One stream from connect to end; returns why it ended.
async fn session(discovery: &Arc<Discovery>, control: &Control, pod: &str, backoff: &mut Backoff) -> End {
    let identity = &discovery.context.identity;
    let mut identity_changed = identity.subscribe();
    let serial = || identity.current().ok().map(|current| current.leaf.serial_hex());
    let ours = serial();
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let mut answers = match open(identity, control, receiver).await {
        Ok(answers) => answers,
        Err(why) => return End::Lost(why),
    };
    let mut session = Session {
        discovery,
        requests,
        backends: HashMap::new(),
        chunks: (None, Vec::new()),
        unreported: HashMap::new(),
    };
    if session.subscribe_all(pod).await.is_err() {
        return End::Lost(CLOSED.to_owned());
    }
    tracing::info!("control stream is up");
    discovery.context.metrics.control_stream(true);
    discovery.stream.send_replace(Stream::Up);
    let room = session.requests.clone();
    loop {
        session.report();
        tokio::select! {
            () = discovery.wake.notified() => {
                if session.send_changes().await.is_err() {
                    return End::Lost(CLOSED.to_owned());
                }
            }
            Ok(()) = identity_changed.changed() => {
                if serial() != ours {
                    return End::Renewed;
                }
            }
            // Whoever waits here gets room when the controller reads; then the loop reports.
            _ = room.reserve(), if !session.unreported.is_empty() => {}
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    backoff.reset();
                    session.apply(answer);
                }
                Ok(None) => return End::Lost(CLOSED.to_owned()),
                Err(status) => return End::Lost(format!("the controller ended the stream: {} {:?}", status.code(), status.message())),
            },
        }
    }
}

async fn open(
    identity: &Identity,
    control: &Control,
    requests: mpsc::Receiver<WatchRequest>,
) -> Result<tonic::Streaming<WatchResponse>, String> {
    let credentials = identity.current().map_err(|error| error.to_string())?;
    let mut client = channel::connect(control, &credentials.bundle, Some(&credentials.leaf)).await?;
    let watch = timeout(CONTROL_TIMEOUT, client.watch(ReceiverStream::new(requests))).await;
    match watch {
        Ok(Ok(answers)) => Ok(answers.into_inner()),
        Ok(Err(status)) => Err(format!("the controller refused the stream: {} {:?}", status.code(), status.message())),
        Err(_) => Err(format!("the controller did not open the stream within {}s", CONTROL_TIMEOUT.as_secs())),
    }
}

/// The stream is closed, or as good as that: nothing can be sent.
struct Closed;

struct Session<'a> {
    discovery: &'a Arc<Discovery>,
    requests: mpsc::Sender<WatchRequest>,
    /// Endpoints as of the last version on this stream: what deltas apply to.
    backends: HashMap<BackendKey, BTreeMap<SocketAddr, Info>>,
    /// Chunks of the snapshot of this version, whose rest is on its way.
    chunks: (Option<wire::Version>, Vec<wire::Endpoint>),
    /// The latest version of each key that is in force and not reported yet.
    unreported: HashMap<WireKey, Option<wire::Version>>,
}

impl Session<'_> {
    async fn subscribe_all(&mut self, pod: &str) -> Result<(), Closed> {
        let mut keys = vec![WireKey::Trust(wire::Trust {}), WireKey::Inbound(pod.to_owned())];
        {
            let mut state = self.discovery.state.lock();
            state.changes.clear();
            keys.extend(state.targets.keys().cloned().map(WireKey::Target));
            keys.extend(state.backends.keys().map(|key| WireKey::Endpoints(wire_backend(key))));
        }
        for key in keys {
            self.send(Action::Subscribe(wire::Key { key: Some(key) })).await?;
        }
        Ok(())
    }

    async fn send_changes(&mut self) -> Result<(), Closed> {
        let changes = std::mem::take(&mut self.discovery.state.lock().changes);
        for change in changes {
            let (key, wanted) = match change {
                Change::Target(name) => (WireKey::Target(name), true),
                Change::Backend(key) => (WireKey::Endpoints(wire_backend(&key)), true),
                Change::ForgetTarget(name) => (WireKey::Target(name), false),
                Change::ForgetBackend(key) => {
                    self.backends.remove(&key);
                    (WireKey::Endpoints(wire_backend(&key)), false)
                }
            };
            let key = wire::Key { key: Some(key) };
            self.send(if wanted { Action::Subscribe(key) } else { Action::Unsubscribe(key) }).await?;
        }
        Ok(())
    }

    /// Answers are not read meanwhile. A controller that waits for that, and reads nothing itself, is left.
    async fn send(&self, action: Action) -> Result<(), Closed> {
        let sent = timeout(CONTROL_TIMEOUT, self.requests.send(WatchRequest { action: Some(action) })).await;
        sent.map_err(|_| Closed)?.map_err(|_| Closed)
    }

    /// Reports what is in force, as far as there is room now.
    fn report(&mut self) {
        while let Some(key) = self.unreported.keys().next().cloned() {
            let Ok(room) = self.requests.try_reserve() else { return };
            let version = self.unreported.remove(&key).flatten();
            let applied = wire::Applied { key: Some(wire::Key { key: Some(key) }), version };
            room.send(WatchRequest { action: Some(Action::Applied(applied)) });
        }
    }

    /// Applies one answer and notes its version. One that cannot be applied is logged and changes nothing.
    fn apply(&mut self, response: WatchResponse) {
        let WatchResponse { key: Some(wire::Key { key: Some(key) }), version, more, answer: Some(answer) } = response
        else {
            tracing::warn!("the controller sent an answer without key or content; ignored");
            return;
        };
        match self.applied(&key, version, more, answer) {
            Ok(true) => {
                self.unreported.insert(key, version);
            }
            Ok(false) => {}
            Err(why) => {
                tracing::warn!(?key, why, "an answer of the controller cannot be applied; the last one stays in force");
            }
        }
    }

    /// Whether the answer is now in force (chunks are not, until the last one).
    fn applied(
        &mut self,
        key: &WireKey,
        version: Option<wire::Version>,
        more: bool,
        answer: Answer,
    ) -> Result<bool, String> {
        match (key, answer) {
            (WireKey::Target(name), Answer::Target(target)) => self.discovery.set_target(name, parse::target(target)?),
            (WireKey::Endpoints(backend), Answer::Snapshot(snapshot)) => {
                if self.chunks.0 != version {
                    // The rest of another snapshot never came: it was not wanted any more.
                    self.chunks = (version, Vec::new());
                }
                // One more than the limit says that there are too many; the rest need not be kept.
                let room = (ENDPOINTS_MAX + 1).saturating_sub(self.chunks.1.len());
                self.chunks.1.extend(snapshot.endpoints.into_iter().take(room));
                if more {
                    return Ok(false);
                }
                let (_, all) = std::mem::take(&mut self.chunks);
                if all.len() > ENDPOINTS_MAX {
                    return Err(format!("more than {ENDPOINTS_MAX} endpoints"));
                }
                self.set_endpoints(parse::backend(backend.clone())?, BTreeMap::new(), all);
            }
            (WireKey::Endpoints(backend), Answer::Delta(delta)) => {
                let key = parse::backend(backend.clone())?;
                let removed =
                    delta.removed.iter().map(|addr| addr.parse().map_err(|_| format!("{addr:?} is not an address")));
                let removed: Vec<SocketAddr> = removed.collect::<Result<_, _>>()?;
                let mut known = self.backends.get(&key).cloned().ok_or("a delta without a snapshot before it")?;
                known.retain(|addr, _| !removed.contains(addr));
                let is_new = |endpoint: &&wire::Endpoint| {
                    endpoint.address.parse().is_ok_and(|addr: SocketAddr| !known.contains_key(&addr))
                };
                if known.len() + delta.upserted.iter().filter(is_new).count() > ENDPOINTS_MAX {
                    return Err(format!("more than {ENDPOINTS_MAX} endpoints"));
                }
                self.set_endpoints(key, known, delta.upserted);
                // Each part of a delta is true by itself; only the whole is a version.
                return Ok(!more);
            }
            (WireKey::Inbound(_), Answer::Inbound(ports)) => {
                self.discovery.inbound.send_replace(Some(parse::inbound(&ports)?));
            }
            (WireKey::Trust(_), Answer::Trust(bundle)) => self.set_trust(bundle)?,
            (WireKey::Target(name), Answer::Refused(why)) => {
                self.discovery.set_target(name, parse::TargetAnswer::NotFound(why));
            }
            (_, Answer::Refused(why)) => return Err(format!("refused: {why}")),
            _ => return Err("the answer is of another kind than its key".to_owned()),
        }
        Ok(true)
    }

    fn set_endpoints(&mut self, key: BackendKey, mut known: BTreeMap<SocketAddr, Info>, upserted: Vec<wire::Endpoint>) {
        for endpoint in upserted {
            // If it cannot be understood, what was known about it is not true any more either.
            if let Ok(addr) = endpoint.address.parse::<SocketAddr>() {
                known.remove(&addr);
            }
            match parse::endpoint(endpoint) {
                Ok(info) => {
                    known.insert(info.addr, info);
                }
                Err(why) => tracing::warn!(backend = %key, why, "an endpoint is not usable and was left out"),
            }
        }
        if let Some(backend) = self.discovery.backend(&key) {
            backend.set(known.values().cloned().collect());
            self.backends.insert(key, known);
        }
    }

    fn set_trust(&self, bundle: wire::TrustBundle) -> Result<(), String> {
        let bundle = parse::trust(bundle)?;
        let identity = &self.discovery.context.identity;
        let current = identity.current().map_err(|error| error.to_string())?;
        if current.bundle == bundle {
            return Ok(());
        }
        tracing::info!(roots = bundle.certificates().len(), "the trust bundle has changed");
        identity.set(current.leaf.clone(), bundle).map_err(|error| error.to_string())
    }
}

fn wire_backend(key: &BackendKey) -> wire::Backend {
    wire::Backend { namespace: key.namespace.clone(), service: key.service.clone(), port: u32::from(key.port) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::CONTROL_BACKOFF_MAX;

    #[tokio::test(start_paused = true)]
    async fn backoff_grows_to_its_limit_and_never_spins() {
        let mut backoff = Backoff::default();
        for _ in 0..40 {
            let started = tokio::time::Instant::now();
            backoff.wait().await;
            let waited = started.elapsed();
            assert!(
                waited >= CONTROL_BACKOFF_MIN && waited <= CONTROL_BACKOFF_MAX + Duration::from_millis(1),
                "{waited:?}"
            );
        }
        backoff.reset();
        let started = tokio::time::Instant::now();
        backoff.wait().await;
        assert!(started.elapsed() <= CONTROL_BACKOFF_MIN * 2 + Duration::from_millis(1));
    }
}

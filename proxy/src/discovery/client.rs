//! The one control stream: connect, subscribe to everything that is in use, apply answers, report what is applied, and
//! start over when it breaks. It touches nothing that it has no answer for, so a broken stream changes nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use lacewing_proto::control::{
    self as wire, WatchRequest, WatchResponse, key::Key as WireKey, watch_request::Action, watch_response::Answer,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::{Stream as Answers, StreamExt, wrappers::ReceiverStream};
use tonic::Status;

use super::{BackendKey, Change, Discovery, Stream, channel, parse};
use crate::{
    config::{
        CONTROL_BACKOFF_MAX, CONTROL_BACKOFF_MIN, CONTROL_REQUESTS_MAX, CONTROL_TIMEOUT, CONTROL_WAITING_MAX, Control,
        ENDPOINTS_MAX,
    },
    endpoint::Info,
    tls::Identity,
};

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
    let (requests, receiver) = mpsc::channel(CONTROL_REQUESTS_MAX);
    let identity = &discovery.context.identity;
    let (changes, ours) = (identity.subscribe(), serial(identity));
    match open(identity, control, receiver).await {
        Ok(answers) => {
            let mut session = Session::new(discovery, requests);
            session.subscribe_all(pod);
            session.talk(answers, changes, ours, backoff).await
        }
        Err(why) => End::Lost(why),
    }
}

/// Of the certificate in use.
fn serial(identity: &Identity) -> Option<String> {
    identity.current().ok().map(|current| current.leaf.serial_hex())
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

struct Session<'a> {
    discovery: &'a Arc<Discovery>,
    requests: mpsc::Sender<WatchRequest>,
    /// What is to be said, in this order, as soon as there is room.
    waiting: VecDeque<Action>,
    /// Endpoints as of the last version on this stream: what deltas apply to.
    backends: HashMap<BackendKey, BTreeMap<SocketAddr, Info>>,
    /// Chunks of the snapshot of this version, whose rest is on its way.
    chunks: (Option<wire::Version>, Vec<wire::Endpoint>),
    /// The latest version of each key that is in force and not reported yet.
    unreported: HashMap<WireKey, Option<wire::Version>>,
}

impl<'a> Session<'a> {
    fn new(discovery: &'a Arc<Discovery>, requests: mpsc::Sender<WatchRequest>) -> Self {
        let (waiting, unreported) = (VecDeque::new(), HashMap::new());
        Self { discovery, requests, waiting, backends: HashMap::new(), chunks: (None, Vec::new()), unreported }
    }

    /// Says and hears, until the stream ends. It hears whether or not it can speak: a controller that waits for its
    /// answers to be read before it reads on is never waited for in turn.
    async fn talk(
        mut self,
        mut answers: impl Answers<Item = Result<WatchResponse, Status>> + Unpin,
        mut identity_changed: watch::Receiver<u64>,
        ours: Option<String>,
        backoff: &mut Backoff,
    ) -> End {
        tracing::info!("control stream is up");
        self.discovery.context.metrics.control_stream(true);
        self.discovery.stream.send_replace(Stream::Up);
        let room = self.requests.clone();
        loop {
            self.send();
            if self.waiting.len() > CONTROL_WAITING_MAX {
                return End::Lost(format!("the controller reads nothing: {CONTROL_WAITING_MAX} requests wait"));
            }
            tokio::select! {
                () = self.discovery.wake.notified() => self.take_changes(),
                Ok(()) = identity_changed.changed() => {
                    if serial(&self.discovery.context.identity) != ours {
                        return End::Renewed;
                    }
                }
                // When the controller reads, there is room; then the loop sends. That there is nobody, answers tell.
                Ok(_) = room.reserve(), if !self.is_silent() => {}
                answer = answers.next() => match answer {
                    Some(Ok(answer)) => {
                        backoff.reset();
                        self.apply(answer);
                    }
                    None => return End::Lost(CLOSED.to_owned()),
                    Some(Err(status)) => {
                        let (code, message) = (status.code(), status.message());
                        return End::Lost(format!("the controller ended the stream: {code} {message:?}"));
                    }
                },
            }
        }
    }

    fn subscribe_all(&mut self, pod: &str) {
        let mut state = self.discovery.state.lock();
        state.changes.clear();
        let own = [WireKey::Trust(wire::Trust {}), WireKey::Inbound(pod.to_owned())];
        let targets = state.targets.keys().cloned().map(WireKey::Target);
        let backends = state.backends.keys().map(|key| WireKey::Endpoints(wire_backend(key)));
        let keys = own.into_iter().chain(targets).chain(backends);
        self.waiting.extend(keys.map(|key| Action::Subscribe(wire::Key { key: Some(key) })));
    }

    fn take_changes(&mut self) {
        for change in std::mem::take(&mut self.discovery.state.lock().changes) {
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
            self.waiting.push_back(if wanted { Action::Subscribe(key) } else { Action::Unsubscribe(key) });
        }
    }

    fn is_silent(&self) -> bool {
        self.waiting.is_empty() && self.unreported.is_empty()
    }

    /// Says what waits, then reports what is in force, as far as there is room now.
    fn send(&mut self) {
        while let Ok(room) = self.requests.try_reserve() {
            let action = if let Some(action) = self.waiting.pop_front() {
                action
            } else if let Some(key) = self.unreported.keys().next().cloned() {
                let version = self.unreported.remove(&key).flatten();
                Action::Applied(wire::Applied { key: Some(wire::Key { key: Some(key) }), version })
            } else {
                return;
            };
            room.send(WatchRequest { action: Some(action) });
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

    use super::{super::tests::discovery, *};
    use crate::config::{CONTROL_BACKOFF_MAX, TARGETS_MAX};

    /// A stream of `discovery` to a controller that says `answers` and reads nothing; it says why it ended.
    async fn unread(discovery: &Arc<Discovery>, answers: mpsc::Receiver<WatchResponse>) -> String {
        let (requests, _unread) = mpsc::channel(CONTROL_REQUESTS_MAX);
        let mut session = Session::new(discovery, requests);
        session.subscribe_all("shop/web-1");
        let answers = ReceiverStream::new(answers).map(Ok);
        let identity = discovery.context.identity.subscribe();
        match session.talk(answers, identity, None, &mut Backoff::default()).await {
            End::Lost(why) => why,
            End::Renewed => panic!("nobody renewed it"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_does_not_read_yet_is_heard() {
        let discovery = discovery();
        for i in 0..500 {
            discovery.target(&format!("svc-{i}.shop:80")).ok().unwrap();
        }
        let (answer, answers) = mpsc::channel(1);
        let (mut inbound, mut stream) = (discovery.inbound.subscribe(), discovery.stream.subscribe());
        let told = async {
            let key = Some(wire::Key { key: Some(WireKey::Inbound("shop/web-1".to_owned())) });
            let inbound = Some(Answer::Inbound(wire::InboundPorts::default()));
            answer.send(WatchResponse { key, answer: inbound, ..Default::default() }).await.unwrap();
            answer
        };
        let heard = async {
            let (answer, _) = tokio::join!(told, inbound.changed());
            stream.wait_for(|stream| *stream == Stream::Up).await.unwrap();
            drop(answer);
        };
        let (why, ()) =
            tokio::join!(unread(&discovery, answers), async { timeout(Duration::from_secs(1), heard).await.unwrap() });
        assert_eq!(why, CLOSED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_reads_nothing_for_ever_is_left() {
        let discovery = discovery();
        let (answer, answers) = mpsc::channel::<WatchResponse>(1);
        let asking = async {
            for i in 0.. {
                let name = format!("svc-{i}.shop:80");
                discovery.target(&name).ok().unwrap();
                discovery.set_target(&name, parse::TargetAnswer::Unknown);
                tokio::task::yield_now().await;
                assert!(i < 10 * TARGETS_MAX, "requests pile up");
            }
        };
        let why = tokio::select! {
            why = unread(&discovery, answers) => why,
            () = asking => unreachable!(),
        };
        assert!(why.contains("reads nothing"), "{why}");
        drop(answer);
    }

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

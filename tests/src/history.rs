//! The history of a run: an open-loop load client and servers, both of which write down what they see, and the check at
//! its end. Every request carries a token of its own, which the server echoes, so that the check can say: each request
//! had exactly one outcome, nobody got another's answer, what must not be done twice was done at most once, and nobody
//! was asked who was known to be gone. See [`History::check`]; [`Shop`] is a cluster made for it.

mod client;
mod frames;
mod server;
mod shop;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use client::{Load, Stream};
pub use frames::{Asked, FrameServer, Say};
pub use server::{Mode, Server};
pub use shop::{Member, Shop, run_for};

/// A request that was picked before a removal was acknowledged may still be on its way this long after.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// Most failures that a message lists.
const SHOWN: usize = 12;

/// How requests travel from the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1 over kept connections.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC unary calls: HTTP/2 with trailers, always POST.
    Grpc,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    /// The port of the [`Shop`]'s servers for it.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http1 => 8080,
            Self::Http2 => 8081,
            Self::Grpc => 8082,
        }
    }

    /// Name of the port.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// What became of one request, as an app sees it.
#[derive(Clone, Debug)]
pub struct Event {
    pub token: String,
    pub protocol: Protocol,
    /// Must not be processed twice.
    pub post: bool,
    /// When it should have been sent; latency counts from here.
    pub due: Instant,
    pub took: Duration,
    pub outcome: Outcome,
}

/// An answer, or none.
#[derive(Clone, Debug)]
pub enum Outcome {
    Answered {
        status: u16,
        grpc: Option<u16>,
        /// `l6g-error`: the answer is a proxy's own.
        error: Option<String>,
        /// Token and name of the server, from the answer's body.
        echo: Option<(String, String)>,
    },
    Failed(String),
}

impl Event {
    /// Answered by a server, with success.
    pub fn is_ok(&self) -> bool {
        match &self.outcome {
            Outcome::Answered { status: 200, grpc, error: None, echo: Some(_) } => grpc.unwrap_or(0) == 0,
            _ => false,
        }
    }

    /// Who answered.
    pub fn server(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Answered { echo: Some((_, server)), .. } => Some(server),
            _ => None,
        }
    }

    /// In few words, for counting.
    pub fn kind(&self) -> String {
        match &self.outcome {
            Outcome::Answered { status, grpc, error, .. } => {
                let grpc = grpc.map(|grpc| format!(" grpc {grpc}")).unwrap_or_default();
                let error = error.as_ref().map(|error| format!(" {error}")).unwrap_or_default();
                format!("{status}{grpc}{error}")
            }
            Outcome::Failed(why) => why.clone(),
        }
    }
}

/// A request that reached a server.
#[derive(Clone, Debug)]
pub struct Seen {
    pub token: String,
    pub server: String,
    pub post: bool,
    pub at: Instant,
}

/// Where servers write down what reaches them.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Entries>>);

#[derive(Clone, Default)]
struct Entries {
    seen: Vec<Seen>,
    removed: HashMap<String, Instant>,
}

impl Book {
    pub fn note(&self, server: &str, token: &str, post: bool) {
        let seen = Seen { token: token.to_owned(), server: server.to_owned(), post, at: Instant::now() };
        self.with(|entries| entries.seen.push(seen));
    }

    /// Clients know by now that this server is gone.
    pub fn removed(&self, server: &str) {
        self.with(|entries| *entries.removed.entry(server.to_owned()).or_insert_with(Instant::now));
    }

    /// How many requests reached this server since.
    pub fn count(&self, server: &str, since: Instant) -> usize {
        self.with(|entries| entries.seen.iter().filter(|seen| seen.at >= since && seen.server == server).count())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Entries) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What everybody saw.
pub struct History {
    pub events: Vec<Event>,
    seen: Vec<Seen>,
    removed: HashMap<String, Instant>,
}

impl History {
    /// The outcomes of ended loads together with what the servers saw.
    pub fn new(events: Vec<Event>, book: &Book) -> Self {
        let Entries { seen, removed } = book.with(|entries| entries.clone());
        Self { events, seen, removed }
    }

    /// What must hold in every run, whatever was broken in it.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn check(&self) {
        let wrong: Vec<String> =
            [self.outcomes(), self.cross_talk(), self.twice(), self.after_removal()].into_iter().flatten().collect();
        let shown = wrong.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
        assert!(wrong.is_empty(), "the history has {} contradictions:\n{shown}", wrong.len());
    }

    /// The same, and every request succeeded; `least` requests were sent.
    #[track_caller]
    pub fn check_clean(&self, least: usize) {
        self.check();
        let failed: Vec<&Event> = self.events.iter().filter(|event| !event.is_ok()).collect();
        let first = self.events.iter().map(|event| event.due).min();
        let line = |event: &&Event| {
            let at = first.map(|first| event.due - first).unwrap_or_default();
            let method = if event.post { "POST" } else { "GET" };
            format!("at {at:.2?} after {:.1?}: {} {method} {}", event.took, event.protocol.name(), event.kind())
        };
        let shown = failed.iter().take(SHOWN).map(line).collect::<Vec<_>>().join("\n");
        assert!(failed.is_empty(), "{} of {} requests failed:\n{shown}", failed.len(), self.events.len());
        assert!(self.events.len() >= least, "only {} requests were sent, not {least}", self.events.len());
    }

    /// How often servers saw a request, per request that was sent: 1 without retries.
    pub fn amplification(&self) -> f64 {
        self.seen.len() as f64 / self.events.len().max(1) as f64
    }

    /// Each request exactly one outcome, and nothing was answered that nobody asked.
    fn outcomes(&self) -> Vec<String> {
        let mut outcomes: HashMap<&str, usize> = HashMap::new();
        self.events.iter().for_each(|event| *outcomes.entry(&event.token).or_default() += 1);
        let many = outcomes.iter().filter(|(_, count)| **count != 1);
        let many = many.map(|(token, count)| format!("{token} has {count} outcomes"));
        let unknown = self.seen.iter().filter(|seen| !outcomes.contains_key(seen.token.as_str()));
        many.chain(unknown.map(|seen| format!("{} saw {:?}, which nobody sent", seen.server, seen.token))).collect()
    }

    /// No answer to another's request, and none that no server gave.
    fn cross_talk(&self) -> Vec<String> {
        let known: BTreeSet<(&str, &str)> =
            self.seen.iter().map(|seen| (seen.token.as_str(), seen.server.as_str())).collect();
        let mut wrong = Vec::new();
        for event in &self.events {
            let Outcome::Answered { echo: Some((token, server)), .. } = &event.outcome else { continue };
            if *token != event.token {
                wrong.push(format!("{} got the answer to {token}, from {server}", event.token));
            } else if !known.contains(&(token.as_str(), server.as_str())) {
                wrong.push(format!("{token} was answered by {server}, which never saw it"));
            }
        }
        wrong
    }

    /// What is not idempotent was seen at most once.
    fn twice(&self) -> Vec<String> {
        let mut seen: HashMap<&str, Vec<&str>> = HashMap::new();
        for Seen { token, server, .. } in self.seen.iter().filter(|seen| seen.post) {
            seen.entry(token).or_default().push(server);
        }
        let twice = seen.into_iter().filter(|(_, servers)| servers.len() > 1);
        twice.map(|(token, servers)| format!("POST {token} was seen by {servers:?}")).collect()
    }

    /// Who was known to be gone was asked nothing new.
    fn after_removal(&self) -> Vec<String> {
        let late = self.seen.iter().filter_map(|seen| {
            let since = seen.at.checked_duration_since(*self.removed.get(&seen.server)?)?;
            (since > ON_ITS_WAY).then(|| format!("{} saw {} {since:.1?} after its removal", seen.server, seen.token))
        });
        late.collect()
    }
}

/// Numbers about some of the events.
#[derive(Clone, Debug)]
pub struct Figures {
    pub count: usize,
    pub failed: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub slowest: Duration,
    /// Successes by server.
    pub by_server: BTreeMap<String, usize>,
    /// What was no success, by kind.
    pub failures: BTreeMap<String, usize>,
}

impl Figures {
    /// About the events that were due in `from..to`.
    pub fn of(events: &[Event], from: Instant, to: Instant) -> Self {
        Self::about(events.iter().filter(|event| event.due >= from && event.due < to))
    }

    /// About these.
    pub fn about<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let (mut took, mut by_server, mut failures) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for event in events {
            took.push(event.took);
            if !event.is_ok() {
                *failures.entry(event.kind()).or_default() += 1;
            }
            if let Some(server) = event.server() {
                *by_server.entry(server.to_owned()).or_default() += 1;
            }
        }
        took.sort_unstable();
        let rank = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
        Self {
            count: took.len(),
            failed: failures.values().sum(),
            p50: rank(50),
            p99: rank(99),
            slowest: took.last().copied().unwrap_or_default(),
            by_server,
            failures,
        }
    }

    /// The server's part of what servers answered, 0 to 1.
    pub fn share(&self, server: &str) -> f64 {
        let all: usize = self.by_server.values().sum();
        self.by_server.get(server).copied().unwrap_or_default() as f64 / all.max(1) as f64
    }

    /// What was no success, 0 to 1.
    pub fn failure_rate(&self) -> f64 {
        self.failed as f64 / self.count.max(1) as f64
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, failed, p50, p99, slowest, by_server, failures } = self;
        write!(f, "{count} requests, {failed} failed, p50 {p50:.1?} p99 {p99:.1?} max {slowest:.1?}, {by_server:?}")?;
        if failures.is_empty() { Ok(()) } else { write!(f, ", {failures:?}") }
    }
}

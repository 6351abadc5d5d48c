//! An API server in miniature, for tests that need no node: it keeps objects as JSON and serves lists by pages, watches,
//! writes and TokenReview over plain HTTP on loopback, and does on demand what real ones do on bad days: breaks watches off,
//! forgets old versions (410), refuses, goes away. It knows no schemas, no rights and no controllers. What it answers is
//! held to a real server's answers by [`contract`], which runs against both.

pub mod contract;
mod http;
mod store;

use std::{
    collections::BTreeMap,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

use serde_json::Value;

use store::Store;

/// A running double. It ends with the process: its threads wait for sockets.
pub struct Api {
    shared: Arc<Shared>,
    pub address: SocketAddr,
}

/// What connections share.
struct Shared {
    state: Mutex<State>,
    /// Something changed that watches wait for.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    store: Store,
    tokens: BTreeMap<String, Token>,
    /// Paths that start so are answered with this status.
    refusals: BTreeMap<String, u16>,
    /// Requests so far, as `GET /api/v1/pods?limit=1`.
    requests: Vec<String>,
    /// Watches of an earlier generation end.
    generation: u64,
    /// Bookmarks that were asked for.
    bookmarks: u64,
    /// Nobody is there.
    away: bool,
    sockets: Vec<TcpStream>,
}

/// What a TokenReview says of a token.
#[derive(Clone)]
pub struct Token {
    pub username: String,
    pub audiences: Vec<String>,
    /// Empty for one that is not bound to a pod.
    pub pod: String,
}

impl Api {
    /// Starts an empty one on a port of its own.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let acceptor = shared.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let mut state = acceptor.lock();
                if state.away {
                    continue;
                }
                state.sockets.extend(socket.try_clone());
                drop(state);
                let shared = acceptor.clone();
                thread::spawn(move || http::serve(&shared, socket));
            }
        });
        Self { shared, address }
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\nclusters: [{{name: it, cluster: {{server: \
             'http://{}'}}}}]\nusers: [{{name: it, user: {{}}}}]\ncontexts: [{{name: it, context: {{cluster: it, user: \
             it}}}}]\n",
            self.address
        )
    }

    /// Creates an object, or replaces the one of that name, as somebody else would.
    pub fn put(&self, object: &Value) {
        self.change(|state| state.store.put(object));
    }

    /// Deletes the object at a path such as `/api/v1/namespaces/a/pods/web`.
    pub fn delete(&self, path: &str) {
        self.change(|state| drop(state.store.delete(path)));
    }

    /// The object at a path, if there is one.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.shared.lock().store.get(path).ok()
    }

    /// Makes a token good.
    pub fn token(&self, text: &str, token: Token) {
        self.change(|state| drop(state.tokens.insert(text.to_owned(), token)));
    }

    /// Breaks every watch off, without a word.
    pub fn cut(&self) {
        self.change(|state| state.generation += 1);
    }

    /// Forgets everything older than now, so that nobody can go on from there.
    pub fn compact(&self) {
        self.change(|state| state.store.compact());
    }

    /// Sends every watch a bookmark.
    pub fn bookmark(&self) {
        self.change(|state| state.bookmarks += 1);
    }

    /// From now on answers paths that start so with this status; with 0 as they should be.
    pub fn refuse(&self, path: &str, status: u16) {
        self.change(|state| match status {
            0 => drop(state.refusals.remove(path)),
            _ => drop(state.refusals.insert(path.to_owned(), status)),
        });
    }

    /// Goes away, or comes back.
    pub fn away(&self, away: bool) {
        self.change(|state| {
            state.away = away;
            for socket in state.sockets.drain(..) {
                // One that is closed already is as well.
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

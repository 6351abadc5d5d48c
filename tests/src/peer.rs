//! Peers that a test makes: TLS clients and servers with certificates of its choice, from the demo's own authority or from
//! one that nobody trusts. They never belong to a proxy. A server here counts what it gets, and answers nothing.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use lacewing_identity::{Authority, ClientAuth, Leaf, SpiffeId, TrustBundle, TrustDomain, tls};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned, pki_types::ServerName};

use crate::demo::Demo;

/// A proxy must answer or close within this; its own patience with a handshake is 10 s.
const PATIENCE: Duration = Duration::from_secs(15);
/// Life of a certificate that is made here, in seconds.
const LIFETIME: u64 = 3_600;

/// Whoever can issue certificates.
pub struct Issuer {
    authority: Authority,
    trust_domain: TrustDomain,
    now: u64,
}

impl Issuer {
    /// The demo's own authority, with the key that only its controller has.
    pub fn of(demo: &Demo) -> Self {
        let trust_domain = TrustDomain::parse("cluster.local").expect("a trust domain");
        let pem = std::fs::read_to_string(demo.dir.join("controller/authority.pem")).expect("the demo's authority");
        let authority = Authority::from_pem(&trust_domain, &pem).expect("a good authority");
        let now = demo.private("traffic-1", "/identity")["now"].as_u64().expect("the time");
        Self { authority, trust_domain, now }
    }

    /// Another authority, for the same names.
    #[must_use]
    pub fn self_made(&self) -> Self {
        let authority = Authority::generate(&self.trust_domain, self.now).expect("a new authority");
        Self { authority, trust_domain: self.trust_domain.clone(), now: self.now }
    }

    /// A name in the demo's namespace.
    pub fn id(&self, service_account: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, "emojivoto", service_account).expect("a name")
    }

    /// A certificate for that name.
    pub fn leaf(&self, service_account: &str) -> Leaf {
        self.authority.issue_own(&self.id(service_account), self.now, LIFETIME).expect("a certificate")
    }

    pub fn bundle(&self) -> &TrustBundle {
        self.authority.bundle()
    }

    /// A client that trusts this issuer, calls `server`, and presents `leaf` or nothing.
    pub fn client(&self, leaf: Option<&Leaf>, server: &str, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        tls::client_config(leaf, self.bundle(), &self.id(server), alpn).expect("a client configuration")
    }
}

/// What a connection came to.
#[derive(Debug)]
pub struct Ended {
    /// Application bytes, decrypted; of a plain connection, all bytes.
    pub got: Vec<u8>,
    /// Why it ended, unless it was closed in order.
    pub error: Option<String>,
}

/// A socket that a proxy must not leave hanging.
fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Says `words` over TLS and reads to the end. `sni` is the server name to send; without one none is sent.
pub fn ask(to: SocketAddr, config: Arc<ClientConfig>, sni: Option<&str>, words: &[u8]) -> Ended {
    let name = match sni {
        Some(name) => ServerName::try_from(name.to_owned()).expect("a server name"),
        None => ServerName::from(to.ip()), // an address is no server name: nothing is sent
    };
    let tls = ClientConnection::new(config, name).expect("a client");
    let mut stream = StreamOwned::new(tls, connect(to));
    let said = stream.write_all(words);
    let mut ended = to_the_end(&mut stream);
    ended.error = said.err().map(|error| error.to_string()).or(ended.error);
    ended
}

/// Says `words` in plain text and reads to the end.
pub fn ask_plain(to: SocketAddr, words: &[u8]) -> Ended {
    let mut socket = connect(to);
    let said = socket.write_all(words);
    let mut ended = to_the_end(&mut socket);
    ended.error = said.err().map(|error| error.to_string()).or(ended.error);
    ended
}

/// # Panics
/// The other side neither says anything nor closes.
fn to_the_end(stream: &mut impl Read) -> Ended {
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).err();
    let hangs = error.as_ref().is_some_and(|e| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    assert!(!hangs, "the connection was still open after {PATIENCE:?}");
    Ended { got, error: error.map(|error| error.to_string()) }
}

/// What reached an [`Impostor`].
#[derive(Clone, Debug, Default)]
pub struct Reached {
    pub connections: usize,
    /// Completed ones, in which the client has accepted us.
    pub handshakes: usize,
    pub application_bytes: usize,
    /// Why handshakes failed.
    pub errors: Vec<String>,
}

/// A TLS server that poses as a proxy. It ends on drop.
pub struct Impostor {
    pub address: SocketAddr,
    reached: Arc<Mutex<Reached>>,
    stopped: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Impostor {
    /// Listens on a free port of `ip`, with a certificate of `issuer` for `service_account`.
    pub fn start(ip: IpAddr, issuer: &Issuer, service_account: &str, alpn: &[&[u8]]) -> Self {
        let leaf = issuer.leaf(service_account);
        let config = tls::server_config(&leaf, issuer.bundle(), ClientAuth::Required, alpn).expect("a configuration");
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (reached, stopped) = (Arc::<Mutex<Reached>>::default(), Arc::<AtomicBool>::default());
        let accepting = {
            let (reached, stopped) = (reached.clone(), stopped.clone());
            std::thread::spawn(move || {
                // One after the other: refused handshakes are short.
                for client in listener.incoming() {
                    if stopped.load(SeqCst) {
                        return;
                    }
                    if let Ok(client) = client {
                        serve(client, &config, &reached);
                    }
                }
            })
        };
        Self { address, reached, stopped, accepting: Some(accepting) }
    }

    /// What reached it so far.
    pub fn reached(&self) -> Reached {
        self.reached.lock().expect("its thread did not panic").clone()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accepting thread
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut client: TcpStream, config: &Arc<ServerConfig>, reached: &Mutex<Reached>) {
    let mut tls = ServerConnection::new(config.clone()).expect("a server");
    let note = |change: &dyn Fn(&mut Reached)| change(&mut reached.lock().expect("nobody panicked with it"));
    note(&|reached| reached.connections += 1);
    let mut handshake = client.set_read_timeout(Some(Duration::from_secs(2)));
    while handshake.is_ok() && tls.is_handshaking() {
        handshake = tls.complete_io(&mut client).map(|_| ());
    }
    if let Err(error) = handshake {
        return note(&|reached| reached.errors.push(error.to_string()));
    }
    note(&|reached| reached.handshakes += 1);
    let mut stream = StreamOwned::new(tls, client);
    let mut chunk = [0; 4 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        note(&|reached| reached.application_bytes += read);
    }
}

//! Detect: reads a connection's first bytes until they tell the protocol, and lets a server speak first where its client
//! is silent, so that nobody waits for a timer. What was read is kept, to be read again by who serves the connection.
//! What the bytes mean is decided in `detect.rs`; whom to dial is the spine's business.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    config::{
        AMBIGUOUS_TIMEOUT, DETECT_BYTES_MAX, MESHED_PEER_LASTS, MESHED_PEERS_MAX, SILENCE_GRACE,
        SILENCE_GRACE_CLIENT_FIRST, SILENCE_GRACE_INBOUND, SILENCE_GRACE_MESHED,
    },
    detect::{Protocol, detect, is_http2_settings},
    error::Error,
    tcp::Abort,
    tls::forward_writes,
};

/// What a connection began with.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// The client's first bytes say so.
    Client(Protocol),
    /// The client said nothing for the given time.
    Silence,
    /// The client left without a word.
    Closed,
    /// The server spoke first.
    Server,
    /// The server closed without a word.
    ServerClosed,
}

/// Why bytes are refused that are no HTTP where HTTP is declared. Passed on, they could still become a request: one that
/// nobody has looked at, with whatever `l6g-*` fields its sender likes.
pub const NOT_HTTP: &str = "the port is declared to speak HTTP (appProtocol), and these bytes do not";

/// What the target's `appProtocol` says; then nobody has to guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Declared {
    #[default]
    Nothing,
    /// The client speaks first: there is nothing to be dialled before it does.
    Http,
    /// Bytes, whatever they look like.
    Opaque,
}

/// Who spoke first, the last time that somebody asked: one per target.
#[derive(Default)]
pub struct Speaks(AtomicU8);

const CLIENT: u8 = 1;
const SERVER: u8 = 2;

impl Speaks {
    /// How long a client may be silent before the server is dialled.
    pub fn grace(&self) -> Duration {
        match self.0.load(Relaxed) {
            SERVER => Duration::ZERO,
            CLIENT => SILENCE_GRACE_CLIENT_FIRST,
            _ => SILENCE_GRACE,
        }
    }

    /// Remembers how a connection began.
    pub fn learn(&self, first: &First) {
        match first {
            First::Client(Protocol::Http1 | Protocol::Http2) => self.0.store(CLIENT, Relaxed),
            First::Server => self.0.store(SERVER, Relaxed),
            // Of opaque bytes nothing follows: the server will be dialled anyway, so that a short grace costs nothing.
            First::Client(_) | First::Silence | First::Closed | First::ServerClosed => {}
        }
    }
}

/// Addresses from which mesh TLS has come: from there silence is a late handshake, not an app that waits.
#[derive(Default)]
pub struct Meshed(Mutex<HashMap<IpAddr, Instant>>);

impl Meshed {
    pub fn note(&self, from: IpAddr) {
        let mut known = self.0.lock();
        if known.len() >= MESHED_PEERS_MAX && !known.contains_key(&from) {
            known.retain(|_, since| since.elapsed() < MESHED_PEER_LASTS / 2);
        }
        if known.len() < MESHED_PEERS_MAX || known.contains_key(&from) {
            known.insert(from, Instant::now());
        }
    }

    /// How long a client may be silent before the app is dialled.
    pub fn grace(&self, from: IpAddr) -> Duration {
        let is_meshed = self.0.lock().get(&from).is_some_and(|since| since.elapsed() < MESHED_PEER_LASTS);
        if is_meshed { SILENCE_GRACE_MESHED } else { SILENCE_GRACE_INBOUND }
    }
}

/// Reads until the client's bytes tell the protocol, or it was silent for `silence`. Bytes that could still become HTTP
/// for `ambiguous` after the first of them are opaque.
///
/// # Errors
/// The connection broke.
pub async fn read<I>(
    client: &mut I,
    bytes: &mut BytesMut,
    silence: Duration,
    ambiguous: Duration,
) -> Result<First, Error>
where
    I: AsyncRead + Unpin,
{
    let mut deadline = Instant::now() + silence;
    loop {
        if let Some(protocol) = told(bytes) {
            return Ok(First::Client(protocol));
        }
        let before = bytes.len();
        match timeout_at(deadline, client.read_buf(bytes)).await {
            Ok(read) => {
                if read? == 0 {
                    return Ok(end(bytes));
                }
                if before == 0 {
                    deadline = Instant::now() + ambiguous;
                }
            }
            Err(_) if bytes.is_empty() => return Ok(First::Silence),
            Err(_) => return Ok(First::Client(Protocol::Opaque)),
        }
    }
}

/// The client is silent and the server is dialled: who speaks first? Waits for as long as both are silent. A server that
/// begins with HTTP/2 settings has not decided anything: its client must speak all the same.
///
/// # Errors
/// One of the connections broke.
pub async fn race<C, S>(
    client: &mut C,
    bytes: &mut BytesMut,
    server: &mut S,
    greeting: &mut BytesMut,
) -> Result<First, Error>
where
    C: AsyncRead + Unpin,
    S: AsyncRead + Unpin,
{
    let ambiguous = || Instant::now() + AMBIGUOUS_TIMEOUT;
    let mut deadline = (!bytes.is_empty()).then(ambiguous);
    let mut settings = None;
    loop {
        if let Some(protocol) = told(bytes) {
            return Ok(First::Client(protocol));
        }
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Where both have spoken, the client was answered, or did not wait: either way its bytes decide nothing.
            biased;
            read = server.read_buf(greeting), if settings != Some(true) => {
                let closed = read? == 0;
                settings = is_http2_settings(greeting);
                if closed && greeting.is_empty() {
                    return Ok(First::ServerClosed);
                }
                if closed || settings == Some(false) {
                    return Ok(First::Server);
                }
                deadline.get_or_insert_with(ambiguous);
                if settings == Some(true) && bytes.is_empty() {
                    deadline = None;
                }
            }
            read = client.read_buf(bytes) => {
                if read? == 0 {
                    return Ok(end(bytes));
                }
                deadline.get_or_insert_with(ambiguous);
            }
            () = patience => return Ok(if bytes.is_empty() { First::Server } else { First::Client(Protocol::Opaque) }),
        }
    }
}

/// A client's connection whose first bytes are told as they pass.
pub struct Overheard<I, F> {
    io: I,
    hears: Option<F>,
}

impl<I, F: FnOnce(&[u8])> Overheard<I, F> {
    pub fn new(io: I, hears: F) -> Self {
        Self { io, hears: Some(hears) }
    }
}

impl<I: AsyncRead + Unpin, F: FnOnce(&[u8]) + Unpin> AsyncRead for Overheard<I, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before
            && let Some(hears) = self.hears.take()
        {
            hears(&buf.filled()[before..]);
        }
        polled
    }
}

forward_writes!([<I: AsyncWrite + Unpin, F: Unpin>] Overheard<I, F>, |this| Pin::new(&mut this.io));

impl<I: Abort, F> Abort for Overheard<I, F> {
    fn abort(&self) {
        self.io.abort();
    }

    fn bare(&self) -> Option<&TcpStream> {
        self.io.bare().filter(|_| self.hears.is_none())
    }

    fn will_stream(&mut self) {
        self.io.will_stream();
    }
}

fn told(bytes: &[u8]) -> Option<Protocol> {
    // A request line of this length: hyper has the right answer (414).
    detect(bytes).or_else(|| (bytes.len() >= DETECT_BYTES_MAX).then_some(Protocol::Http1))
}

/// The client closed its side: what it said, if anything, is all there is.
fn end(bytes: &BytesMut) -> First {
    if bytes.is_empty() { First::Closed } else { First::Client(Protocol::Opaque) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const INPUTS: [(&[u8], Protocol); 5] = [
        (b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n", Protocol::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Protocol::Http2),
        (b"\x16\x03\x01\x02\x00\x01\x00", Protocol::Tls),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Protocol::Opaque),
        (b"EHLO mail.example\r\n", Protocol::Opaque),
    ];

    /// Writes `parts`, one at a time, each when the reader has had time for the one before.
    fn write(mut to: DuplexStream, parts: Vec<Vec<u8>>, pause: Duration) -> tokio::task::JoinHandle<DuplexStream> {
        tokio::spawn(async move {
            for part in parts {
                to.write_all(&part).await.unwrap();
                tokio::time::sleep(pause).await;
            }
            to
        })
    }

    #[tokio::test(start_paused = true)]
    async fn first_bytes_may_be_split_anywhere() {
        for (input, expected) in INPUTS {
            for cut in 1..input.len() {
                let (client, mut here) = duplex(1_024);
                let parts = vec![input[..cut].to_vec(), input[cut..].to_vec()];
                let writer = write(client, parts, Duration::from_millis(5));
                let mut bytes = BytesMut::new();
                let first = read(&mut here, &mut bytes, SILENCE_GRACE, AMBIGUOUS_TIMEOUT).await.unwrap();
                assert_eq!(first, First::Client(expected), "{input:?} cut at {cut}");
                // Nothing is lost: what was read and what is still to be read are what was sent.
                let _open = writer.await.unwrap();
                let mut rest = vec![0; input.len() - bytes.len()];
                here.read_exact(&mut rest).await.unwrap();
                assert_eq!([&bytes[..], &rest[..]].concat(), input);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn byte_by_byte_is_the_same_within_a_second() {
        for (input, expected) in INPUTS {
            let (client, mut here) = duplex(1_024);
            let _writer = write(client, input.iter().map(|byte| vec![*byte]).collect(), Duration::from_millis(1));
            let first = read(&mut here, &mut BytesMut::new(), SILENCE_GRACE, AMBIGUOUS_TIMEOUT).await.unwrap();
            assert_eq!(first, First::Client(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_ambiguous_goes_opaque_and_silence_is_noticed() {
        let (mut client, mut here) = duplex(1_024);
        client.write_all(b"GET /").await.unwrap();
        let started = Instant::now();
        let mut bytes = BytesMut::new();
        let first = read(&mut here, &mut bytes, SILENCE_GRACE, AMBIGUOUS_TIMEOUT).await.unwrap();
        assert_eq!(
            (first, &bytes[..], started.elapsed()),
            (First::Client(Protocol::Opaque), &b"GET /"[..], AMBIGUOUS_TIMEOUT)
        );

        let (client, mut here) = duplex(1_024);
        let started = Instant::now();
        assert_eq!(
            read(&mut here, &mut BytesMut::new(), SILENCE_GRACE, AMBIGUOUS_TIMEOUT).await.unwrap(),
            First::Silence
        );
        assert_eq!(started.elapsed(), SILENCE_GRACE);
        drop(client);
        assert_eq!(
            read(&mut here, &mut BytesMut::new(), SILENCE_GRACE, AMBIGUOUS_TIMEOUT).await.unwrap(),
            First::Closed
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_speaks_first_wins() {
        for (client_says, server_says, expected) in [
            (&b""[..], &b"220 mail ready\r\n"[..], First::Server),
            (b"GET / HTTP/1.1\r\n", b"", First::Client(Protocol::Http1)),
            (b"\x16\x03\x01", b"", First::Client(Protocol::Tls)),
            (b"GE", b"", First::Client(Protocol::Opaque)),
            (b"GE", b"220 x\r\n", First::Server),
            (b"", b"!", First::Server),
            (b"PING", b"", First::Client(Protocol::Opaque)),
            (PREFACE, SETTINGS, First::Client(Protocol::Http2)),
            (b"\x00\x01", SETTINGS, First::Client(Protocol::Opaque)),
        ] {
            let (mut client, mut here) = duplex(1_024);
            let (mut server, mut there) = duplex(1_024);
            client.write_all(client_says).await.unwrap();
            server.write_all(server_says).await.unwrap();
            let (mut bytes, mut greeting) = (BytesMut::new(), BytesMut::new());
            let first = race(&mut here, &mut bytes, &mut there, &mut greeting).await.unwrap();
            assert_eq!(first, expected, "{client_says:?} {server_says:?}");
            assert_eq!(&greeting[..], server_says);
        }
    }

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64";

    #[tokio::test(start_paused = true)]
    async fn what_was_read_before_the_race_counts() {
        let (_client, mut here) = duplex(1_024);
        let (_server, mut there) = duplex(1_024);
        let (mut bytes, mut greeting) = (BytesMut::from(&b"PING"[..]), BytesMut::new());
        let first = race(&mut here, &mut bytes, &mut there, &mut greeting).await.unwrap();
        assert_eq!(first, First::Client(Protocol::Opaque));
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_server_that_begins_does_not_decide() {
        let (mut client, mut here) = duplex(1_024);
        let (mut server, mut there) = duplex(1_024);
        server.write_all(SETTINGS).await.unwrap();
        let (mut bytes, mut greeting) = (BytesMut::new(), BytesMut::new());
        let (first, ()) = tokio::join!(race(&mut here, &mut bytes, &mut there, &mut greeting), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            client.write_all(PREFACE).await.unwrap();
        });
        assert_eq!((first.unwrap(), &greeting[..]), (First::Client(Protocol::Http2), SETTINGS));
    }

    #[tokio::test(start_paused = true)]
    async fn two_silent_sides_are_held() {
        let (_client, mut here) = duplex(1_024);
        let (_server, mut there) = duplex(1_024);
        let (mut bytes, mut greeting) = (BytesMut::new(), BytesMut::new());
        let race = race(&mut here, &mut bytes, &mut there, &mut greeting);
        assert!(tokio::time::timeout(Duration::from_secs(3_600), race).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn proxies_are_known_for_a_while_and_never_too_many() {
        let meshed = Meshed::default();
        let at = |n: usize| IpAddr::from((n as u128).to_be_bytes());
        assert_eq!(meshed.grace(at(0)), SILENCE_GRACE_INBOUND);
        (0..MESHED_PEERS_MAX + 5).for_each(|n| meshed.note(at(n)));
        assert_eq!((meshed.grace(at(0)), meshed.0.lock().len()), (SILENCE_GRACE_MESHED, MESHED_PEERS_MAX));
        tokio::time::advance(MESHED_PEER_LASTS / 2).await;
        meshed.note(at(MESHED_PEERS_MAX + 7));
        assert_eq!(meshed.0.lock().len(), 1, "the old make room");
        tokio::time::advance(MESHED_PEER_LASTS).await;
        assert_eq!(meshed.grace(at(MESHED_PEERS_MAX + 7)), SILENCE_GRACE_INBOUND);
    }

    #[test]
    fn memory_shortens_or_lengthens_the_wait() {
        let speaks = Speaks::default();
        assert_eq!(speaks.grace(), SILENCE_GRACE);
        speaks.learn(&First::Client(Protocol::Opaque));
        assert_eq!(speaks.grace(), SILENCE_GRACE);
        speaks.learn(&First::Client(Protocol::Http1));
        assert_eq!(speaks.grace(), SILENCE_GRACE_CLIENT_FIRST);
        speaks.learn(&First::Silence);
        speaks.learn(&First::Server);
        assert_eq!(speaks.grace(), Duration::ZERO);
    }
}

//! Mesh TLS: the proxy's own credentials (swapped while it runs), connecting to a peer that must prove an exact
//! identity, and accepting peers. A `ClientHello` that offers a `lacewing/` protocol is mesh TLS; any other is the
//! app's own and stays untouched. It never falls back: a peer that should be meshed is meshed, or an error.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use arc_swap::ArcSwapOption;
use bytes::{Buf, Bytes, BytesMut};
use lacewing_identity::{ClientAuth, Leaf, Refusal, RefusalKind, SpiffeId, TrustBundle, tls as configs};
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    config::{CLIENT_HELLO_MAX, HANDSHAKE_TIMEOUT},
    error::Error,
    socket::{Dialer, between_proxies},
    tcp::{
        Abort,
        buffer::{self, Buffer},
    },
};

/// How the bytes inside mesh TLS are meant; said by ALPN, so nothing has to be detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.1, one request at a time.
    H1,
    /// HTTP/2, to an app that speaks HTTP/2.
    H2,
    /// HTTP/1 requests in HTTP/2 frames, to an app that speaks HTTP/1.
    H1H2,
    /// Opaque bytes.
    Tcp,
}

impl Alpn {
    pub const ALL: [Self; 4] = [Self::H2, Self::H1H2, Self::H1, Self::Tcp];

    pub const fn id(self) -> &'static [u8] {
        match self {
            Self::H1 => b"lacewing/h1",
            Self::H2 => b"lacewing/h2",
            Self::H1H2 => b"lacewing/h1h2",
            Self::Tcp => b"lacewing/tcp",
        }
    }

    /// Carries many requests, and only proxies read it.
    pub const fn is_multiplexed(self) -> bool {
        matches!(self, Self::H2 | Self::H1H2)
    }

    fn parse(id: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.id() == id)
    }
}

const MESH_PREFIX: &[u8] = b"lacewing/";

/// What we prove ourselves with, and whom we trust.
pub struct Credentials {
    pub leaf: Leaf,
    pub bundle: TrustBundle,
    server: Arc<ServerConfig>,
    /// Grows with every change, so that configurations made from older credentials are noticed.
    generation: u64,
}

/// The proxy's identity over its life: none at first, then swapped at every renewal and change of trust.
pub struct Identity {
    current: ArcSwapOption<Credentials>,
    changed: watch::Sender<u64>,
    /// Why there is no certificate yet, for `/ready` and for errors.
    waiting_for: Mutex<String>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            waiting_for: Mutex::new("no attempt was made yet".to_owned()),
        }
    }
}

impl Identity {
    /// The credentials of this moment.
    ///
    /// # Errors
    /// There are none yet, and why.
    pub fn current(&self) -> Result<Arc<Credentials>, Error> {
        self.current.load_full().ok_or_else(|| Error::NoCertificate(self.waiting_for.lock().clone()))
    }

    /// Swaps the credentials in.
    ///
    /// # Errors
    /// They do not make a TLS configuration; the old ones stay.
    pub fn set(&self, leaf: Leaf, bundle: TrustBundle) -> Result<(), lacewing_identity::Error> {
        let alpn = Alpn::ALL.map(Alpn::id);
        let server = configs::server_config(&leaf, &bundle, ClientAuth::Required, &alpn)?;
        let generation = *self.changed.borrow() + 1;
        self.current.store(Some(Arc::new(Credentials { leaf, bundle, server, generation })));
        self.changed.send_replace(generation);
        Ok(())
    }

    pub fn waiting_for(&self, why: String) {
        *self.waiting_for.lock() = why;
    }

    /// Sees every change of the credentials.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// How to reach one peer, and whom it must prove to be.
pub struct Transport {
    pub addr: SocketAddr,
    /// The identity to insist on; `None`: plain text.
    pub peer: Option<SpiffeId>,
    /// Says where the connection is meant for, when no redirection does.
    pub sni: Option<ServerName<'static>>,
    identity: Arc<Identity>,
    dialer: Dialer,
    /// Client configurations by protocol, made at the first connect and again when the credentials change.
    configs: Mutex<Vec<(Alpn, u64, Arc<ClientConfig>)>>,
}

impl Transport {
    pub fn new(
        addr: SocketAddr,
        peer: Option<SpiffeId>,
        sni: Option<ServerName<'static>>,
        identity: Arc<Identity>,
        dialer: Dialer,
    ) -> Self {
        Self { addr, peer, sni, identity, dialer, configs: Mutex::default() }
    }

    /// Connects: TCP within [`crate::config::CONNECT_TIMEOUT`], then mesh TLS if the peer has an identity.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Handshake`] or [`Error::NoCertificate`]; nothing was sent to the app in any case.
    pub async fn connect(&self, alpn: Alpn) -> Result<Io, Error> {
        // Said here, once per connection: requests that wait for it may all be served elsewhere.
        self.try_connect(alpn).await.inspect_err(|error| tracing::info!(%error, "cannot connect"))
    }

    async fn try_connect(&self, alpn: Alpn) -> Result<Io, Error> {
        let failed = |cause| Error::Connect { addr: self.addr, cause: Arc::new(cause) };
        let socket = self.dialer.connect(self.addr).await.map_err(failed)?;
        let Some(peer) = &self.peer else { return Ok(Io::Plain(socket)) };
        if alpn.is_multiplexed() {
            between_proxies(&socket).map_err(failed)?;
        }
        let config = self.client_config(peer, alpn)?;
        let name = self.sni.clone().unwrap_or(ServerName::IpAddress(self.addr.ip().into()));
        let handshake = TlsConnector::from(config).connect(name, Rewound::whole(socket));
        let stream =
            timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let failed = |refusal| Error::Handshake { addr: self.addr, refusal };
        let stream = stream.map_err(|error| failed(lacewing_identity::refusal(&error)))?;
        if stream.get_ref().1.alpn_protocol() != Some(alpn.id()) {
            return Err(failed(Refusal::new(RefusalKind::Alpn, "the peer chose no mesh protocol")));
        }
        Ok(Io::Tls(Box::new(stream)))
    }

    fn client_config(&self, peer: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        let credentials = self.identity.current()?;
        let mut configs = self.configs.lock();
        configs.retain(|(_, generation, _)| *generation == credentials.generation);
        if let Some((_, _, config)) = configs.iter().find(|(of, ..)| *of == alpn) {
            return Ok(config.clone());
        }
        let config = configs::client_config(Some(&credentials.leaf), &credentials.bundle, peer, &[alpn.id()])
            .map_err(|error| Error::NoCertificate(error.to_string()))?;
        configs.push((alpn, credentials.generation, config.clone()));
        Ok(config)
    }
}

/// An authenticated connection from a peer.
pub struct MeshConnection {
    pub io: tokio_rustls::server::TlsStream<Rewound<TcpStream>>,
    pub peer: SpiffeId,
    pub alpn: Alpn,
    pub sni: Option<String>,
}

/// Takes a connection that begins like TLS: mesh TLS is terminated, the app's own is given back as it came.
///
/// # Errors
/// [`Error::Forbidden`]: the peer did not prove an identity of ours, or sends garbage; [`Error::NoCertificate`].
pub async fn accept(
    mut socket: TcpStream,
    mut first: BytesMut,
    identity: &Identity,
) -> Result<Result<Box<MeshConnection>, Rewound<TcpStream>>, Error> {
    let is_mesh = offers_mesh(&mut socket, &mut first).await?;
    let rewound = Rewound::new(first.freeze(), socket);
    if !is_mesh {
        return Ok(Err(rewound));
    }
    let credentials = identity.current()?;
    let refused = |error: io::Error| Error::Forbidden(lacewing_identity::refusal(&error));
    let io = TlsAcceptor::from(credentials.server.clone()).accept(rewound).await.map_err(refused)?;
    let session = io.get_ref().1;
    let peer = lacewing_identity::peer_id(session.peer_certificates().unwrap_or_default())
        .map_err(|error| forbidden(RefusalKind::UntrustedCertificate, error.to_string()))?;
    let alpn = session.alpn_protocol().and_then(Alpn::parse);
    let alpn =
        alpn.ok_or_else(|| forbidden(RefusalKind::Alpn, "the client offered a mesh protocol that is not known here"))?;
    let sni = session.server_name().map(str::to_owned);
    if alpn.is_multiplexed() {
        between_proxies(&io.get_ref().0.io)?;
    }
    Ok(Ok(Box::new(MeshConnection { io, peer, alpn, sni })))
}

fn forbidden(kind: RefusalKind, detail: impl Into<String>) -> Error {
    Error::Forbidden(Refusal::new(kind, detail))
}

/// Reads the whole `ClientHello` (post-quantum ones span segments) and looks at its ALPN. What rustls cannot read is not
/// mesh TLS of ours: some other kind of TLS, or bytes that only begin like it.
async fn offers_mesh(socket: &mut TcpStream, first: &mut BytesMut) -> Result<bool, Error> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut fed = 0;
    loop {
        while fed < first.len() {
            fed += acceptor.read_tls(&mut &first[fed..])?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let mut offered = accepted.client_hello().alpn().into_iter().flatten();
                return Ok(offered.any(|protocol| protocol.starts_with(MESH_PREFIX)));
            }
            Ok(None) if first.len() < CLIENT_HELLO_MAX => {
                if socket.read_buf(first).await? == 0 {
                    return Ok(false);
                }
            }
            Ok(None) | Err(_) => return Ok(false),
        }
    }
}

/// A connection to a peer or to the app.
pub enum Io {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<Rewound<TcpStream>>>),
}

/// A connection whose first bytes were read to look at them, and are read again by who serves it. Below TLS that carries
/// a stream it also reads ahead.
pub struct Rewound<I> {
    first: Bytes,
    ahead: Ahead,
    io: I,
}

/// Whether more is read than was asked for: rustls asks for 4 KiB at a time, a record may have 16.
enum Ahead {
    Off,
    /// With what nobody has asked for yet.
    On(Option<Buffer>),
}

impl<I> Rewound<I> {
    pub fn new(first: Bytes, io: I) -> Self {
        Self { first, ahead: Ahead::Off, io }
    }

    /// A connection of which nothing was read.
    pub fn whole(io: I) -> Self {
        Self::new(Bytes::new(), io)
    }

    /// From now on reads ahead.
    pub fn read_ahead(&mut self) {
        if matches!(self.ahead, Ahead::Off) {
            self.ahead = Ahead::On(None);
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { first, ahead, io } = &mut *self;
        if !first.is_empty() {
            let n = first.len().min(buf.remaining());
            buf.put_slice(&first[..n]);
            first.advance(n);
            if first.is_empty() {
                *first = Bytes::new(); // gives the buffer back
            }
            return Poll::Ready(Ok(()));
        }
        match ahead {
            Ahead::On(held) if held.is_some() || buf.remaining() < buffer::SIZE => {
                let mut read = held.take().unwrap_or_else(Buffer::lend);
                if read.is_empty() {
                    ready!(read.poll_fill(cx, io))?;
                }
                let n = read.filled().len().min(buf.remaining());
                buf.put_slice(&read.filled()[..n]);
                read.advance(n);
                *held = Some(read).filter(|read| !read.is_empty());
                Poll::Ready(Ok(()))
            }
            _ => Pin::new(io).poll_read(cx, buf),
        }
    }
}

/// Passes writes on to the connection inside.
macro_rules! forward_writes {
    ([$($generics:tt)*] $type:ty, |$this:ident| $inner:expr) => {
        impl $($generics)* AsyncWrite for $type {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                let $this = &mut *self;
                $inner.poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $this = &mut *self;
                $inner.poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $this = &mut *self;
                $inner.poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let $this = &mut *self;
                $inner.poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }
        }
    };
}

pub(crate) use forward_writes;

forward_writes!([<I: AsyncWrite + Unpin>] Rewound<I>, |this| Pin::new(&mut this.io));
forward_writes!([] Io, |this| this.writer());

impl<I: Abort> Abort for Rewound<I> {
    fn abort(&self) {
        self.io.abort();
    }

    fn bare(&self) -> Option<&TcpStream> {
        self.io.bare().filter(|_| self.first.is_empty() && matches!(self.ahead, Ahead::Off))
    }

    fn will_stream(&mut self) {
        self.io.will_stream();
    }
}

impl Abort for Io {
    fn abort(&self) {
        match self {
            Self::Plain(socket) => socket.abort(),
            Self::Tls(stream) => stream.abort(),
        }
    }

    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    fn will_stream(&mut self) {
        match self {
            Self::Plain(socket) => socket.will_stream(),
            Self::Tls(stream) => stream.will_stream(),
        }
    }
}

impl Io {
    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Plain(socket) => Pin::new(socket),
            Self::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

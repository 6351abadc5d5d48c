//! The HTTP/2 parts of the bench: an app that speaks HTTP/2 only, and a bridge from plain TCP to mesh TLS, so that a suite
//! which knows nothing of our TLS can talk to an inbound port. The bridge looks at nothing; each byte goes on as it is.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsConnector;

/// Something that runs on a thread of its own, until it is dropped.
pub struct Running {
    _stop: oneshot::Sender<()>,
}

/// Runs `each` for every connection to `on`.
fn listen<F>(on: SocketAddr, each: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, Running)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (stop, mut stopped) = oneshot::channel::<()>();
    let socket = std::net::TcpListener::bind(on).unwrap_or_else(|error| panic!("listen on {on}: {error}"));
    socket.set_nonblocking(true).expect("a socket");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(socket).expect("a listener");
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((socket, _)) = accepted {
                        socket.set_nodelay(true).expect("a socket");
                        tokio::spawn(each(socket));
                    },
                    _ = &mut stopped => return,
                }
            }
        });
    });
    (address, Running { _stop: stop })
}

/// An app that answers every request with its path, once the request's body has ended.
pub fn http2_app(on: SocketAddr) -> Running {
    listen(on, |socket| async move {
        let service = service_fn(answer);
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
    })
    .1
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    while let Some(Ok(_)) = request.body_mut().frame().await {}
    // hyper sends what it is given; after HEAD that would be an error of ours (RFC 9110, 9.3.2).
    let body = if request.method() == Method::HEAD { String::new() } else { format!("{}\n", request.uri().path()) };
    Ok(Response::new(Full::from(body)))
}

/// Takes plain TCP on `on` and carries it over mesh TLS to `to`.
pub fn bridge(
    on: SocketAddr,
    to: SocketAddr,
    config: Arc<ClientConfig>,
    sni: ServerName<'static>,
) -> (SocketAddr, Running) {
    let connector = TlsConnector::from(config);
    listen(on, move |mut socket| {
        let (connector, sni) = (connector.clone(), sni.clone());
        async move {
            let Ok(server) = TcpStream::connect(to).await else { return };
            server.set_nodelay(true).expect("a socket");
            if let Ok(mut server) = connector.connect(sni, server).await {
                // However it ends, both sides learn it by their sockets.
                let _ = copy_bidirectional(&mut socket, &mut server).await;
            }
        }
    })
}

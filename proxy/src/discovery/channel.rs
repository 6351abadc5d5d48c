//! The gRPC channel to the controller: one HTTP/2 connection over TLS on which the controller proved its identity.
//! Reconnecting is the caller's loop, so that every reason is seen and said.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lacewing_identity::{Leaf, Refusal, RefusalKind, TrustBundle};
use lacewing_proto::control::control_client::ControlClient;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{CONTROL_MESSAGE_MAX, CONTROL_TIMEOUT, Control, PING_INTERVAL, PING_TIMEOUT};

/// A connection to the controller, as tonic wants it.
#[derive(Clone)]
pub struct Channel(http2::SendRequest<tonic::body::Body>);

/// Connects to the controller and checks who it is, before anything is sent. With `leaf`, proves who we are.
///
/// # Errors
/// What failed, in words for an operator.
pub async fn connect(
    control: &Control,
    bundle: &TrustBundle,
    leaf: Option<&Leaf>,
) -> Result<ControlClient<Channel>, String> {
    let addr = &control.addr;
    let attempt = async {
        let socket = control.dialer.connect_to_name(addr).await?;
        let config = lacewing_identity::tls::client_config(leaf, bundle, &control.identity, &[b"h2"])
            .map_err(|error| io::Error::other(error.to_string()))?;
        // The name is not what is verified; the SPIFFE ID is.
        let name = ServerName::IpAddress(socket.peer_addr()?.ip().into());
        let stream = TlsConnector::from(config).connect(name, socket).await;
        stream.map_err(|error| io::Error::other(refused(&lacewing_identity::refusal(&error), leaf.is_some())))
    };
    let stream = match timeout(CONTROL_TIMEOUT, attempt).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("cannot connect to the controller at {addr}: {error}")),
        Err(_) => {
            return Err(format!("cannot connect to the controller at {addr}: no answer within {CONTROL_TIMEOUT:?}"));
        }
    };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("cannot speak HTTP/2 to the controller at {addr}: {error}"))?;
    tokio::spawn(connection);
    let origin = http::Uri::from_static("http://lacewing-controller");
    Ok(ControlClient::with_origin(Channel(sender), origin).max_decoding_message_size(CONTROL_MESSAGE_MAX))
}

/// What to do about a controller that could not be verified.
fn refused(refusal: &Refusal, certified: bool) -> String {
    let way_out = if refusal.kind == RefusalKind::UntrustedCertificate && !certified {
        "; if the mesh's root was replaced since this pod was made, delete the pod, so that it is made anew with the new one"
    } else {
        ""
    };
    format!("TLS: {refusal}{way_out}")
}

impl tower::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

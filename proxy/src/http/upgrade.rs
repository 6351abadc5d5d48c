//! Requests that turn their connection into a tunnel: `Upgrade` (RFC 9110, 7.8; WebSocket above all) and `CONNECT`
//! (9.3.6). The tunnel begins only when the server has agreed; until then everything stays framed as HTTP, so nothing
//! can be smuggled in behind the request. Offers of HTTP/2 (`h2c`) are not upgrades to us: they are ignored.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
    request,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::headers;
use crate::{metrics::Peer, tcp};

/// A client's wish for a tunnel.
pub struct Wish {
    /// The client's side, once our answer has agreed.
    client: OnUpgrade,
    /// The protocol of an `Upgrade`; `None`: it is a `CONNECT`.
    protocol: Option<HeaderValue>,
}

/// The protocol that the server has switched to, to be said to the client, too.
pub fn agreed<B>(response: &Response<B>) -> Option<HeaderValue> {
    response.headers().get(UPGRADE).filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS).cloned()
}

/// Puts the fields of a switch of protocols on a head: they concern one connection only, so each hop makes its own.
pub fn put(fields: &mut HeaderMap, protocol: HeaderValue) {
    fields.insert(UPGRADE, protocol);
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// The request's wish, if it has one.
pub fn wish(head: &mut request::Parts) -> Option<Wish> {
    let protocol = headers::upgrade(head.version, &head.headers).cloned();
    if protocol.is_none() && head.method != Method::CONNECT {
        return None;
    }
    // hyper puts it there with every such request over HTTP/1; others cannot have a tunnel.
    Some(Wish { client: head.extensions.remove()?, protocol })
}

impl Wish {
    /// Says the wish on this hop, too.
    pub fn say(&self, fields: &mut HeaderMap) {
        if let Some(protocol) = &self.protocol {
            put(fields, protocol.clone());
        }
    }

    /// Whether the server agreed.
    pub fn is_granted(&self, status: StatusCode) -> bool {
        match self.protocol {
            Some(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            None => status.is_success(),
        }
    }

    /// Carries bytes between the client and the server that has agreed, until both are done. `held` lives as long: the
    /// connection's slot, what makes the proxy wait when it drains, what counts the tunnel as load.
    pub fn tunnel<B, H>(self, response: &mut Response<B>, peer: &Arc<Peer>, held: H)
    where
        H: Send + 'static,
    {
        let server = hyper::upgrade::on(response);
        let counted = peer.connection();
        tokio::spawn(async move {
            let _held = held;
            let (client, server) = match tokio::try_join!(self.client, server) {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(%error, "an upgrade was agreed on, but one side left");
                    return;
                }
            };
            if let Err(error) = tcp::forward(TokioIo::new(client), TokioIo::new(server), &counted).await {
                tracing::debug!(%error, "an upgraded connection broke");
            }
        });
    }
}

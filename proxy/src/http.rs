//! HTTP as the spines need it: serving a connection, a client for one endpoint, the one body type, and what happens to
//! header fields on the way. hyper and h2 do the protocols; decisions are the spines'.

pub mod body;
pub mod client;
pub mod flood;
pub mod headers;
mod interim;
mod multiplexed;
pub mod patience;
pub mod pulse;
mod pump;
pub mod server;
pub mod strict;
pub mod upgrade;

use ::http::{Request, request};
use body::Body;

/// A request on its way. Boxed once where it came in, so that what handles it moves a pointer and edits in place.
pub struct Message {
    pub head: request::Parts,
    pub body: Body,
}

impl Message {
    pub fn boxed(request: Request<Body>) -> Box<Self> {
        let (head, body) = request.into_parts();
        Box::new(Self { head, body })
    }
}

impl From<Box<Message>> for Request<Body> {
    fn from(message: Box<Message>) -> Self {
        let Message { head, body } = *message;
        Self::from_parts(head, body)
    }
}

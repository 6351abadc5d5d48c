//! gRPC's messages in HTTP/2 DATA: five bytes that say how long, then the message (gRPC over HTTP/2, "Length-Prefixed-Message").

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

/// The messages of a body, one after the other.
pub struct Messages {
    body: Incoming,
    read: BytesMut,
}

impl Messages {
    pub fn of(body: Incoming) -> Self {
        Self { body, read: BytesMut::new() }
    }

    /// Nothing at the end of the body, or when it breaks.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let length = self.read.get(1..5).map(|mut length| length.get_u32() as usize);
            if let Some(length) = length.filter(|length| self.read.len() >= 5 + length) {
                self.read.advance(5);
                return Some(self.read.split_to(length).freeze());
            }
            let data = self.body.frame().await?.ok()?;
            if let Ok(data) = data.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

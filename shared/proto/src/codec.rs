//! Owns how much memory a call keeps for its messages: little at rest, since each proxy keeps one open for ever and nearly
//! all messages are small. The messages themselves are prost's business; how large one may be is decided by who calls.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// First size of a call's buffers, and by how much they grow, in bytes.
const BUFFER: usize = 1_024;
/// Messages that are ready are sent together once they have this many bytes. A call's buffer never becomes smaller again:
/// the library's own 32 KiB would make it the most of what the controller holds for a proxy.
const TOGETHER: usize = 1_024;

/// [`ProstCodec`] with small buffers.
#[derive(Debug)]
pub struct SmallCodec<T, U>(PhantomData<fn() -> (T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for SmallCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, TOGETHER))
    }
}

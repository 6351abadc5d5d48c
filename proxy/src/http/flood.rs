//! HTTP/2 control frames that cost their sender nothing (PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM, unknown
//! kinds): counted by their nine-byte headers as they pass, and allowed at [`CONTROL_FRAMES_MAX`] in
//! [`CONTROL_FRAMES_WINDOW`]. Honest progress pays for more: requests, data in either direction. An answer to a PING does
//! not. Beyond that the connection ends, with GOAWAY if no other frame is half written. Floods of HEADERS, DATA and
//! CONTINUATION are h2's own to stop, and it does.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    patience::{Cut, Verdict},
    pulse::Pulse,
};
use crate::{
    config::{
        CONTROL_CREDIT_FRAME, CONTROL_CREDIT_MAX, CONTROL_FRAMES_MAX, CONTROL_FRAMES_WINDOW, GATHERED_KEPT,
        GATHERED_MAX,
    },
    detect::PREFACE,
};

/// Length of a frame's header (RFC 9113, 4.1).
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// An HTTP/2 connection whose control frames are counted.
pub struct Guarded<I> {
    io: I,
    read: Frames,
    written: Frames,
    allowance: Allowance,
    /// The latest stream that the peer opened.
    last_stream: [u8; 4],
    verdict: Verdict,
    pulse: Pulse,
    /// Written, and to be sent at the next flush.
    gathered: BytesMut,
}

impl<I> Guarded<I> {
    /// A connection that a client opened; its preface is still to be read. `verdict` learns why it was cut.
    pub fn server(io: I, verdict: Verdict, pulse: Pulse) -> Self {
        Self::new(io, verdict, pulse, PREFACE.len(), 0)
    }

    /// A connection that we opened; our preface is still to be written.
    pub fn client(io: I, pulse: Pulse) -> Self {
        Self::new(io, Verdict::default(), pulse, 0, PREFACE.len())
    }

    fn new(io: I, verdict: Verdict, pulse: Pulse, unread: usize, unwritten: usize) -> Self {
        let (read, written) = (Frames::after(unread), Frames::after(unwritten));
        Self {
            io,
            read,
            written,
            allowance: Allowance::default(),
            last_stream: [0; 4],
            verdict,
            pulse,
            gathered: BytesMut::new(),
        }
    }

    /// Whether what was read is still within the allowance.
    fn take_in(&mut self, bytes: &[u8]) -> bool {
        let Self { read, allowance, last_stream, .. } = self;
        read.follow(bytes, |frame| match frame[3] {
            DATA => {
                // One without content is no progress.
                allowance.earn(u32::from(frame[..3] != [0; 3]));
                true
            }
            HEADERS => {
                last_stream.copy_from_slice(&frame[5..]);
                allowance.earn(CONTROL_CREDIT_FRAME);
                true
            }
            CONTINUATION => true,
            _ => allowance.spend(),
        })
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let Self { written, allowance, .. } = self;
        written.follow(bytes, |frame| {
            if matches!(frame[3], DATA | HEADERS) {
                allowance.earn(CONTROL_CREDIT_FRAME);
            }
            true
        });
    }
}

impl<I: AsyncWrite + Unpin> Guarded<I> {
    /// GOAWAY with `ENHANCE_YOUR_CALM`, if it can go out whole and at once; the connection ends either way.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if !self.written.between() || !matches!(self.poll_write_gathered(cx), Poll::Ready(Ok(()))) {
            return;
        }
        let mut frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        frame[HEADER..HEADER + 4].copy_from_slice(&self.last_stream);
        if Pin::new(&mut self.io).poll_write(cx, &frame).is_ready() {
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.beat();
        }
        if self.take_in(&buf.filled()[before..]) {
            return polled;
        }
        buf.set_filled(before);
        self.say_goodbye(cx);
        Poll::Ready(Err(self.verdict.cut(Cut::Flood)))
    }
}

impl<I: AsyncWrite + Unpin> Guarded<I> {
    /// Takes what fits to what is gathered already.
    fn gather(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(GATHERED_MAX.saturating_sub(self.gathered.len()));
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(GATHERED_KEPT);
        }
        self.gathered.extend_from_slice(&bytes[..taken]);
        self.wrote(&bytes[..taken]);
        taken
    }

    /// Writes what was gathered.
    fn poll_write_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(n);
        }
        // In use it stays; what a burst has made of it is given back.
        if self.gathered.capacity() > GATHERED_KEPT {
            self.gathered = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// h2 writes frame by frame and then flushes: gathered until then, the frames of many streams are one TLS record and one
/// system call.
impl<I: AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= GATHERED_MAX {
            ready!(self.poll_write_gathered(cx))?;
        }
        Poll::Ready(Ok(self.gather(buf)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_gathered(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_gathered(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= GATHERED_MAX {
            ready!(self.poll_write_gathered(cx))?;
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| self.gather(buf)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// Where in a stream of frames we are.
struct Frames {
    header: [u8; HEADER],
    /// Bytes of the header that are known.
    known: usize,
    /// Bytes that follow and are not looked at.
    skip: usize,
}

impl Frames {
    /// Frames that begin after so many bytes.
    fn after(skip: usize) -> Self {
        Self { header: [0; HEADER], known: 0, skip }
    }

    /// Nothing is half done.
    fn between(&self) -> bool {
        self.known == 0 && self.skip == 0
    }

    /// Follows `bytes` and shows each header that they complete, until one is not `seen` with favour.
    fn follow(&mut self, mut bytes: &[u8], mut seen: impl FnMut(&[u8; HEADER]) -> bool) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = if self.skip == 0 { bytes.len().min(HEADER - self.known) } else { 0 };
            self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == HEADER {
                let [high, middle, low, ..] = self.header;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.known = 0;
                if !seen(&self.header) {
                    return false;
                }
            }
        }
        true
    }
}

/// How many control frames a peer may still send.
#[derive(Default)]
struct Allowance {
    /// Earned by progress and not used yet.
    credit: u32,
    /// Sent without credit since `since`.
    unpaid: u32,
    since: Option<Instant>,
}

impl Allowance {
    fn earn(&mut self, frames: u32) {
        self.credit = (self.credit + frames).min(CONTROL_CREDIT_MAX);
    }

    /// Takes one control frame; `false`: it is one too many. The clock is read twice in a thousand frames.
    fn spend(&mut self) -> bool {
        if self.credit > 0 {
            self.credit -= 1;
            return true;
        }
        if self.unpaid > 0 && self.unpaid < CONTROL_FRAMES_MAX {
            self.unpaid += 1;
            return true;
        }
        let now = Instant::now();
        let over = self.unpaid > 0 && self.since.is_some_and(|since| now - since < CONTROL_FRAMES_WINDOW);
        if !over {
            (self.unpaid, self.since) = (1, Some(now));
        }
        !over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{advance, timeout},
    };

    use super::*;

    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u8, content: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, (content.len() >> 8) as u8, content.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend(content);
        frame
    }

    /// One of each kind, with contents that look like headers.
    fn some_of_each() -> (Vec<u8>, Vec<u8>) {
        let kinds: Vec<u8> = (0..=12).chain([255]).collect();
        let frames = kinds.iter().map(|kind| frame(*kind, 0, 1, &vec![*kind; usize::from(*kind) * 31]));
        (kinds.clone(), frames.flatten().collect())
    }

    #[test]
    fn boundaries_are_found_however_the_bytes_are_split() {
        let (kinds, frames) = some_of_each();
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frames);
        for step in [1, 2, 3, 7, 8, 9, 10, 64, bytes.len()] {
            for first in 0..bytes.len().min(60) {
                let (mut cursor, mut found) = (Frames::after(PREFACE.len()), Vec::new());
                let (start, rest) = bytes.split_at(first);
                for part in [start].into_iter().chain(rest.chunks(step)) {
                    assert!(cursor.follow(part, |header| {
                        found.push(header[3]);
                        true
                    }));
                }
                assert_eq!(found, kinds, "first {first} bytes, then {step} at a time");
                assert!(cursor.between());
            }
        }
        let mut cursor = Frames::after(PREFACE.len());
        for (at, byte) in bytes.iter().enumerate() {
            assert!(!(cursor.between() && at < PREFACE.len()), "between frames within the preface");
            cursor.follow(&[*byte], |_| true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_in_a_window_and_more_for_progress() {
        let mut allowance = Allowance::default();
        let spent = |allowance: &mut Allowance| (0..200_000).take_while(|_| allowance.spend()).count();
        assert_eq!(spent(&mut allowance), CONTROL_FRAMES_MAX as usize);
        advance(CONTROL_FRAMES_WINDOW.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(spent(&mut allowance), 0);
        allowance.earn(5);
        assert_eq!(spent(&mut allowance), 5);
        advance(Duration::from_millis(1)).await;
        assert_eq!(spent(&mut allowance), CONTROL_FRAMES_MAX as usize);
        advance(CONTROL_FRAMES_WINDOW * 100).await;
        assert_eq!(spent(&mut allowance), CONTROL_FRAMES_MAX as usize, "a long silence saves nothing up");
        (0..u32::from(u16::MAX)).for_each(|_| allowance.earn(1_000));
        assert_eq!(spent(&mut allowance), CONTROL_CREDIT_MAX as usize, "nor does endless progress");
    }

    fn served() -> (DuplexStream, Guarded<DuplexStream>, Verdict) {
        let (client, server) = duplex(4 * 1024 * 1024);
        let verdict = Verdict::default();
        (client, Guarded::server(server, verdict.clone(), Pulse::default()), verdict)
    }

    /// Sends `frames` once and says how many bytes of them came through, and what the client got.
    async fn pass(frames: &[u8], before: &[Vec<u8>]) -> (bool, Option<Cut>, Vec<u8>) {
        let (mut client, mut guarded, verdict) = served();
        for written in before {
            guarded.write_all(written).await.unwrap();
        }
        guarded.flush().await.unwrap();
        client.write_all(PREFACE).await.unwrap();
        client.write_all(frames).await.unwrap();
        client.shutdown().await.unwrap();
        let through = guarded.read_to_end(&mut Vec::new()).await.is_ok();
        drop(guarded);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        (through, verdict.get(), got.split_off(before.iter().map(Vec::len).sum()))
    }

    #[tokio::test(start_paused = true)]
    async fn floods_end_with_a_word_and_use_does_not() {
        const MANY: usize = CONTROL_FRAMES_MAX as usize + 1;
        let goodbye = |last: u8| frame(7, 0, 0, &[0, 0, 0, last, 0, 0, 0, 11]);
        for kind in [2, RST_STREAM, 4, PING, 8, 10, 77, 255] {
            let one = frame(kind, 0, 0, &[0; 8]);
            assert_eq!(pass(&one.repeat(MANY - 1), &[]).await, (true, None, Vec::new()), "{kind}");
            let (through, cut, got) = pass(&one.repeat(MANY), &[]).await;
            assert_eq!((through, cut, got), (false, Some(Cut::Flood), goodbye(0)), "{kind}");
        }
        let ping = frame(PING, 0, 0, &[0; 8]);
        // Requests, their data and their answers pay; empty data and answers to pings do not.
        let mut request = frame(HEADERS, 5, 3, b"head");
        request.extend(ping.repeat(CONTROL_CREDIT_FRAME as usize));
        assert!(pass(&request.repeat(MANY), &[]).await.0);
        assert_eq!(pass(&[request, ping.repeat(MANY)].concat(), &[]).await, (false, Some(Cut::Flood), goodbye(3)));
        let upload = [frame(DATA, 0, 1, b"x"), ping.clone()].concat();
        assert!(pass(&upload.repeat(2 * MANY), &[]).await.0);
        let nothing = [frame(DATA, 0, 1, b""), ping.clone()].concat();
        assert!(!pass(&nothing.repeat(MANY), &[]).await.0);
        let updates = frame(8, 0, 0, &[0, 0, 0, 1]).repeat(2 * MANY);
        assert!(pass(&updates, &[frame(DATA, 0, 1, &[7; 300]).repeat(MANY)]).await.0);
        assert!(!pass(&updates, &[frame(PING, 1, 0, &[0; 8]).repeat(MANY)]).await.0);
    }

    #[tokio::test]
    async fn what_is_written_goes_out_together_and_whole() {
        let (mut client, mut guarded, _) = served();
        guarded.write_all(b"a frame").await.unwrap();
        let early = timeout(Duration::ZERO, client.read_u8()).await;
        assert!(early.is_err(), "nothing before the flush");
        guarded.flush().await.unwrap();
        let large: Vec<u8> = (0..3 * GATHERED_MAX).map(|n| n as u8).collect();
        guarded.write_all(&large).await.unwrap();
        guarded.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [b"a frame", large.as_slice()].concat());
        assert!(guarded.gathered.capacity() <= GATHERED_KEPT, "what a burst needs is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn no_word_in_the_middle_of_another() {
        let (mut client, mut guarded, verdict) = served();
        let half = &frame(DATA, 0, 1, &[1; 100])[..50];
        let [head, body] = [&half[..4], &half[4..]].map(io::IoSlice::new);
        assert_eq!(guarded.write_vectored(&[head, body]).await.unwrap(), 50);
        guarded.flush().await.unwrap();
        client.write_all(PREFACE).await.unwrap();
        client.write_all(&frame(PING, 0, 0, &[0; 8]).repeat(5_000)).await.unwrap();
        assert!(guarded.read_to_end(&mut Vec::new()).await.is_err());
        assert_eq!(verdict.get(), Some(Cut::Flood));
        drop(guarded);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, half);
    }
}

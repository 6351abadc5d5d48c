//! Sends a message's body over an HTTP/2 stream: a frame at a time, each when the stream has room for it, so a slow
//! reader slows its source and nothing piles up. A body that breaks resets the stream. A reader that takes nothing of what
//! waits for it, while its connection is well, loses the stream after the time that the caller allows; a stream that
//! waits for its source may be silent for ever.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body as _, Frame};
use tokio::time::timeout;

use super::body::{Body, Broke};

/// Sends it to its end, or until the reader does not want it any more.
pub async fn pump(mut body: Body, mut to: SendStream<Bytes>, patience: Duration) {
    while let Some(frame) = next(&mut body, &mut to).await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(broke) => return to.send_reset(broke.reason()),
        };
        match frame.into_data() {
            Ok(data) => {
                if !data.is_empty() && !has_room(&mut to, patience).await {
                    return to.send_reset(Reason::CANCEL);
                }
                let last = body.is_end_stream();
                if to.send_data(data, last).is_err() || last {
                    return;
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let _ = to.send_trailers(trailers);
                    return;
                }
            }
        }
    }
    // Fails where the reader is gone already, which is an end, too.
    let _ = to.send_data(Bytes::new(), true);
}

/// What comes next; nothing more once the reader has reset the stream.
async fn next(body: &mut Body, to: &mut SendStream<Bytes>) -> Option<Result<Frame<Bytes>, Broke>> {
    poll_fn(|cx| {
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if polled.is_pending() && to.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        polled
    })
    .await
}

/// Waits until something may be sent. Not for all of it: what a stream claims and does not send yet is missing to the
/// others of its connection.
async fn has_room(to: &mut SendStream<Bytes>, patience: Duration) -> bool {
    to.reserve_capacity(1);
    if to.capacity() > 0 {
        return true;
    }
    let room = poll_fn(|cx| {
        loop {
            match ready!(to.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                granted => return Poll::Ready(matches!(granted, Some(Ok(_)))),
            }
        }
    });
    timeout(patience, room).await.unwrap_or_else(|_| {
        tracing::debug!("an HTTP/2 stream is reset: its reader took nothing for {} s", patience.as_secs());
        false
    })
}
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use h2::{RecvStream, SendStream, client::SendRequest};
    use http::{Request, Response};
    use tokio::{
        io::{DuplexStream, duplex},
        time::{self, timeout},
    };

    use super::*;
    use crate::{
        config::{NO_PROGRESS, STREAM_WINDOW},
        http::{
            Message,
            server::{Allowed, serve_http2},
        },
        listen::Drain,
    };

    /// More than a window.
    const LARGE: usize = 3 * STREAM_WINDOW as usize;

    async fn echo(incoming: Box<Message>) -> Result<Response<Body>, h2::Error> {
        Ok(Response::new(incoming.body))
    }

    /// A client of a server that answers with what it is sent.
    async fn client(drain: &Drain) -> SendRequest<Bytes> {
        let (ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 20);
        tokio::spawn(serve_http2(theirs, Allowed::PEER, drain.handle(), echo));
        let mut builder = h2::client::Builder::new();
        let (requests, connection) = builder.initial_connection_window_size(1 << 20).handshake(ours).await.unwrap();
        tokio::spawn(connection);
        requests
    }

    async fn ask(requests: &mut SendRequest<Bytes>, bytes: usize) -> (RecvStream, SendStream<Bytes>) {
        let request = Request::post("http://a/").body(()).unwrap();
        let (answer, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(vec![7; bytes].into(), false).unwrap();
        (answer.await.unwrap().into_body(), sending)
    }

    /// What does not end by then hangs.
    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_loses_its_stream_and_no_other_does() {
        let drain = Drain::default();
        let mut requests = client(&drain).await;
        let (mut silent, mut speaking) = ask(&mut requests, 1).await;
        assert_eq!(silent.data().await.unwrap().unwrap(), &[7][..]);
        let (mut stalled, _sending) = ask(&mut requests, LARGE).await;
        let began = time::Instant::now();
        // What the window takes, which is never opened again; then the end.
        let until_broken = async { while let Some(Ok(_)) = stalled.data().await {} };
        timeout(DAY, until_broken).await.expect("the stream ends");
        let lasted = began.elapsed();
        assert!(lasted >= NO_PROGRESS && lasted < NO_PROGRESS * 2, "{lasted:?}");

        // One that had nothing to read for long is as it was.
        time::sleep(NO_PROGRESS * 10).await;
        speaking.send_data(Bytes::from_static(b"still here"), false).unwrap();
        let heard = timeout(DAY, silent.data()).await.expect("an echo");
        assert_eq!(heard.unwrap().unwrap(), &b"still here"[..]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_is_taken_back_does_not_look_whole() {
        for reason in [Reason::NO_ERROR, Reason::CANCEL] {
            let (ours, theirs) = duplex(1 << 20);
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            let read = move |mut incoming: Box<Message>| {
                let tell = tell.clone();
                async move {
                    let mut frames = Vec::new();
                    while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming.body).poll_frame(cx)).await {
                        frames.push(frame.is_ok());
                        if frame.is_err() {
                            break;
                        }
                    }
                    let _ = tell.send(frames);
                    Ok(Response::new(Body::empty()))
                }
            };
            let drain = Drain::default();
            let served = serve_http2(theirs, Allowed::PEER, drain.handle(), read);
            let ask = async {
                let (mut requests, connection) = h2::client::handshake(ours).await.unwrap();
                tokio::spawn(connection);
                let request = Request::post("http://a/").body(()).unwrap();
                let (_answer, mut sending) = requests.send_request(request, false).unwrap();
                sending.send_data(Bytes::from_static(b"half"), false).unwrap();
                time::sleep(time::Duration::from_secs(1)).await;
                sending.send_reset(reason);
                timeout(time::Duration::from_secs(5), told.recv()).await
            };
            tokio::select! {
                _ = served => panic!("the connection ended"),
                // Either it hears of it, or it was dropped with its stream: in no case does the body end well.
                frames = ask => assert_ne!(frames.ok().flatten(), Some(vec![true]), "{reason}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_it_all() {
        let drain = Drain::default();
        let mut requests = client(&drain).await;
        let (mut slow, _sending) = ask(&mut requests, LARGE).await;
        let mut got = 0;
        while got < LARGE {
            let data = timeout(DAY, slow.data()).await.expect("more").unwrap();
            let size = data.unwrap().len();
            got += size;
            time::sleep(NO_PROGRESS / 4).await;
            slow.flow_control().release_capacity(size).unwrap();
        }
    }
}

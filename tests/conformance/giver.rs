//! An app that speaks HTTP/2 and gives what it is asked for: `/give/N` answers with N bytes, `/hang` never answers. It counts
//! the requests that it saw, and those that it still works on.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::oneshot};

/// Bytes of one frame.
const CHUNK: usize = 16 * 1024;

#[derive(Default)]
struct Counts {
    seen: AtomicUsize,
    under_way: AtomicUsize,
}

/// The app. It ends on drop.
pub struct Giver {
    counts: Arc<Counts>,
    _stop: oneshot::Sender<()>,
}

impl Giver {
    pub fn start(on: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let socket = std::net::TcpListener::bind(on).unwrap_or_else(|error| panic!("listen on {on}: {error}"));
        socket.set_nonblocking(true).expect("a socket");
        let counts = Arc::<Counts>::default();
        let shared = counts.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(TcpListener::from_std(socket).expect("a listener"), shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { counts, _stop: stop }
    }

    pub fn seen(&self) -> usize {
        self.counts.seen.load(SeqCst)
    }

    pub fn under_way(&self) -> usize {
        self.counts.under_way.load(SeqCst)
    }
}

async fn serve(listener: TcpListener, counts: Arc<Counts>) {
    while let Ok((socket, _)) = listener.accept().await {
        let counts = counts.clone();
        socket.set_nodelay(true).expect("a socket");
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(counts.clone(), request));
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(10_000).max_header_list_size(1 << 20);
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// Counts a request for as long as it lives.
struct UnderWay(Arc<Counts>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

async fn answer(counts: Arc<Counts>, request: Request<Incoming>) -> Result<Response<Given>, Infallible> {
    counts.seen.fetch_add(1, SeqCst);
    counts.under_way.fetch_add(1, SeqCst);
    let under_way = UnderWay(counts);
    let asked = request.uri().path().strip_prefix("/give/").and_then(|size| size.parse().ok());
    if asked.is_none() && request.uri().path() == "/hang" {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Given { left: asked.unwrap_or(0), _under_way: under_way }))
}

struct Given {
    left: usize,
    _under_way: UnderWay,
}

impl Body for Given {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static BYTES: [u8; CHUNK] = [b'g'; CHUNK];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(CHUNK);
        self.left -= size;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&BYTES[..size])))))
    }
}

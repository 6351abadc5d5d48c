//! A load client: HTTP/1.1 GETs at a fixed rate over a few kept connections through a proxy's outbound port, every
//! outcome written down. A worker that is late sends at once, so a stall is followed by what would have come in it.
//! It retries nothing: what it records is what an app would see.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Connections, each with one request at a time.
const CONNECTIONS: u32 = 4;
/// An answer must come within this, or the request has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest body that is kept.
const BODY_MAX: u64 = 64 * 1024;
/// Most failures that a message lists.
const SHOWN: usize = 10;

/// Requests under way until [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Vec<Sample>>>,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was sent, since the start of the load.
    pub at: Duration,
    pub took: Duration,
    /// Status and body, or why there are none.
    pub outcome: Result<(u16, String), String>,
}

impl Sample {
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Ok((200, _)))
    }
}

/// Everything that was sent.
#[derive(Debug)]
pub struct Report {
    pub samples: Vec<Sample>,
}

impl Load {
    /// Sends `rps` requests a second for `http://host/path` through `proxy`.
    pub fn start(proxy: SocketAddr, host: &str, path: &str, rps: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let started = Instant::now();
        let workers = (0..CONNECTIONS).map(|number| {
            let (stop, request) = (stop.clone(), request.clone());
            let pace = Pace {
                started,
                first: Duration::from_secs(1) / rps * number,
                gap: CONNECTIONS * Duration::from_secs(1) / rps,
            };
            std::thread::spawn(move || work(proxy, &request, &pace, &stop))
        });
        Self { workers: workers.collect(), stop }
    }

    /// Ends it and says what happened.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Relaxed);
        let workers = std::mem::take(&mut self.workers);
        let mut samples: Vec<Sample> =
            workers.into_iter().flat_map(|worker| worker.join().expect("no worker panics")).collect();
        samples.sort_by_key(|sample| sample.at);
        Report { samples }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Report {
    /// Not answered with 200, for people.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.samples.iter().filter(|sample| !sample.is_ok());
        failed.map(|Sample { at, took, outcome }| format!("at {at:.1?}, after {took:.1?}: {outcome:?}")).collect()
    }

    /// Answers whose body begins with `name`.
    pub fn answered_by(&self, name: &str) -> usize {
        self.samples
            .iter()
            .filter(|sample| sample.outcome.as_ref().is_ok_and(|(_, body)| body.starts_with(name)))
            .count()
    }

    /// The longest that anybody waited.
    pub fn slowest(&self) -> Duration {
        self.samples.iter().map(|sample| sample.took).max().unwrap_or_default()
    }

    /// All were answered with 200, and there were at least `least`.
    #[track_caller]
    pub fn assert_clean(&self, least: usize) {
        let failures = self.failures();
        let shown = failures.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
        assert!(failures.is_empty(), "{} of {} requests failed:\n{shown}", failures.len(), self.samples.len());
        assert!(self.samples.len() >= least, "only {} requests were sent, not {least}", self.samples.len());
    }
}

/// When a worker sends.
struct Pace {
    started: Instant,
    first: Duration,
    gap: Duration,
}

fn work(proxy: SocketAddr, request: &str, pace: &Pace, stop: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut connection = None;
    let mut due = pace.first;
    while !stop.load(Relaxed) {
        std::thread::sleep(due.saturating_sub(pace.started.elapsed()));
        due += pace.gap;
        let at = pace.started.elapsed();
        let outcome = exchange(proxy, &mut connection, request).map_err(|error| error.to_string());
        if outcome.is_err() {
            connection = None;
        }
        samples.push(Sample { at, took: pace.started.elapsed().saturating_sub(at), outcome });
    }
    samples
}

/// One request and its answer; the connection stays for the next, unless the answer ends it.
fn exchange(
    proxy: SocketAddr,
    kept: &mut Option<BufReader<TcpStream>>,
    request: &str,
) -> std::io::Result<(u16, String)> {
    if kept.is_none() {
        let socket = TcpStream::connect_timeout(&proxy, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        *kept = Some(BufReader::new(socket));
    }
    let Some(connection) = kept else { unreachable!("made above") };
    connection.get_mut().write_all(request.as_bytes())?;
    let (mut status, mut length, mut last) = (0, 0, false);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("closed before an answer"));
        }
        let line = line.trim_end().to_ascii_lowercase();
        if status == 0 {
            status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().map_err(std::io::Error::other)?;
        } else if line == "connection: close" {
            last = true;
        } else if line.starts_with("transfer-encoding:") {
            return Err(std::io::Error::other("an answer without a length, which this client does not read"));
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; usize::try_from(BODY_MAX.min(length)).unwrap_or(0)];
    connection.read_exact(&mut body)?;
    if last {
        *kept = None;
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

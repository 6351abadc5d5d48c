//! Owns following one kind at the API server: a list by pages, then watches from where it ended, for ever. When a watch
//! cannot go on from there (410, KEP-365), it lists anew; after anything else it goes on, later and later while that
//! fails. What the objects are is read in `event`, and what becomes of them is decided in `super`.

use std::{collections::HashSet, fmt::Write, time::Duration};

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt;
use kube::client::Body;
use lacewing_crds::Kind;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Intake,
    event::{self, Event, Read},
};
use crate::cluster::{ApiError, Cluster};

/// Objects of one page: a page is held in memory as text, and pods are some 10 KB each.
const PAGE_OBJECTS: usize = 250;
/// How long the API server is asked to keep a watch open, in seconds: at random, so that they do not all end at once.
const WATCH_SECONDS: std::ops::Range<u64> = 240..360;
/// A watch that says nothing for so much longer than that is dead.
const SILENCE_MARGIN: Duration = Duration::from_secs(15);
/// Longest line of a watch, in bytes: an object is at most some 1.5 MB in etcd's own form.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pause after a failure; doubled each time, up to the longest. Half of it is at random.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A watch that was open for so long was a good one: the next failure begins with the shortest pause again.
const STEADY: Duration = Duration::from_secs(30);

/// What was asked for is no longer kept.
const GONE: u16 = 410;
/// Stands for an answer that cannot be read: a list may be readable.
const UNREADABLE: u16 = 422;

/// Follows one kind, for ever.
pub async fn follow(kind: Kind, cluster: &Cluster, intake: &Mutex<Intake>) {
    let mut at = None;
    let mut pause = PAUSE;
    loop {
        let began = Instant::now();
        let outcome = step(kind, cluster, intake, &mut at).await;
        let steady = began.elapsed() >= STEADY;
        if let Err(error) = outcome {
            tracing::debug!(%kind, %error, "a watch ended");
            if must_relist(error.status) {
                at = None;
            }
            // Watches break when an API server goes and another is there; what lasts is the trouble.
            if !steady && !error.is(GONE) {
                intake.lock().trouble(kind, Some(error.message));
            }
        }
        if steady {
            pause = PAUSE;
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Lists unless it is known from where to go on, and watches until that ends; `at` goes on meanwhile.
async fn step(kind: Kind, cluster: &Cluster, intake: &Mutex<Intake>, at: &mut Option<String>) -> Result<(), ApiError> {
    let at = match at {
        Some(at) => at,
        None => at.insert(list(kind, cluster, intake).await?),
    };
    let seconds = fastrand::u64(WATCH_SECONDS);
    let how = format!("watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}", encoded(at));
    let body = cluster.stream(&(path(kind).to_owned() + &how)).await?;
    intake.lock().trouble(kind, None);
    watch(kind, body, intake, at, Duration::from_secs(seconds) + SILENCE_MARGIN).await
}

/// Whether, after the API server said this, a watch cannot go on from where it was: that is too old, or comes from
/// another time of the cluster (504: the version is from the future, as after a restored backup).
fn must_relist(status: Option<u16>) -> bool {
    matches!(status, Some(400 | 404 | GONE | 422 | 504))
}

/// Lists all of a kind as of one moment, page by page. The pages are passed on as they come: what is there instead of
/// them is older.
async fn list(kind: Kind, cluster: &Cluster, intake: &Mutex<Intake>) -> Result<String, ApiError> {
    let mut names = HashSet::new();
    let mut next: Option<String> = None;
    loop {
        let mut path = format!("{}limit={PAGE_OBJECTS}", path(kind));
        if let Some(token) = next {
            path.extend(["&continue=", &encoded(&token)]);
        }
        let page = cluster.request(Method::GET, &path, None).await?;
        let page = event::page(kind, &page).map_err(ApiError::broken)?;
        names.extend(page.objects.iter().map(|read| read.key().name));
        intake.lock().take(page.objects);
        next = page.next;
        if next.is_none() {
            intake.lock().listed(kind, &names);
            return Ok(page.version);
        }
    }
}

/// Reads a watch to its end.
async fn watch(
    kind: Kind,
    mut body: Body,
    intake: &Mutex<Intake>,
    at: &mut String,
    silence: Duration,
) -> Result<(), ApiError> {
    let mut text = BytesMut::new();
    loop {
        let Ok(frame) = timeout(silence, body.frame()).await else {
            return Err(ApiError::broken("the API server says nothing any more"));
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|error| ApiError::broken(format!("a watch broke: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let whole = data.iter().rposition(|byte| *byte == b'\n').map(|at| text.len() + at + 1);
        text.extend_from_slice(&data);
        if let Some(whole) = whole {
            events(kind, &text.split_to(whole), intake, at)?;
        }
        if text.len() > LINE_BYTES_MAX {
            return Err(ApiError::broken(format!("a watch event of more than {LINE_BYTES_MAX} bytes")));
        }
    }
}

/// Takes whole lines as one step.
fn events(kind: Kind, lines: &[u8], intake: &Mutex<Intake>, at: &mut String) -> Result<(), ApiError> {
    let mut batch: Vec<Read> = Vec::new();
    let mut end = Ok(());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match event::line(kind, line) {
            Ok((Event::Error(status, message), _)) => end = Err(ApiError { status: Some(status), message }),
            Ok((event, version)) => {
                batch.extend(if let Event::Change(read) = event { Some(read) } else { None });
                if !version.is_empty() {
                    *at = version;
                }
            }
            Err(message) => end = Err(ApiError { status: Some(UNREADABLE), message }),
        }
        if end.is_err() {
            break;
        }
    }
    intake.lock().take(batch);
    end
}

/// Up to the first parameter. Pods that have finished are nobody's endpoints and ask for nothing; there can be many.
fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "/api/v1/namespaces?",
        Kind::Pod => "/api/v1/pods?fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed&",
        Kind::Service => "/api/v1/services?",
        Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices?",
    }
}

/// A value in a query (RFC 3986, 2.3).
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests;

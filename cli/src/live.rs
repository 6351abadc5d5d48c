//! Owns reading the proxies: a few small HTTP requests to each pod's admin ports, many pods at once.
//!
//! In the demo they are asked at their addresses, in a cluster by port-forward; nothing else differs. A proxy that does
//! not answer is a result, not an error: the caller shows it. Merging is `commands/stat.rs`' business.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use lacewing_proxy::live::Report;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    cluster::{Forward, objects::Owner},
    demo::cast,
    failure::{Exit, Failure},
    output::{Printer, plain, units},
};

/// Pods asked at a time.
const AT_ONCE_MAX: usize = 50;
/// A proxy answers from memory: one that takes longer is as good as gone.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The same through an API server and a kubelet, which may have to dial first.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 8 * 1024 * 1024;
/// Data that reach back less than they could by more than this are worth a note.
const COVERED_TOLERANCE_S: f64 = 2.0;
/// What a browser or a tricked server cannot send across origins.
const ADMIN_HEADER: &str = "l6g-admin";
/// With it a proxy says why it answered itself.
const ERROR_HEADER: &str = "l6g-error";

/// A pod as the live commands see it.
#[derive(Clone)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// What it is a replica of.
    pub owner: Owner,
    /// Whether it has a proxy; none: only the proxy's answer tells.
    pub has_proxy: Option<bool>,
    /// Its proxy's private admin port; none: there is nobody to ask.
    pub proxy: Option<Way>,
}

/// How to get to an admin port.
#[derive(Clone)]
pub enum Way {
    /// Its address, in the demo.
    Address(SocketAddr),
    /// Through the API server of its cluster.
    Forward(Arc<Forward>),
}

impl From<&cast::Pod> for Pod {
    fn from(pod: &cast::Pod) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            owner: Owner { kind: pod.workload_kind.clone(), name: pod.workload.clone() },
            has_proxy: None,
            proxy: Some(Way::Address(pod.private_admin)),
        }
    }
}

/// What one pod's proxy answered, or why it did not.
pub struct Reading<T> {
    pub pod: Pod,
    pub answer: Result<T, String>,
}

impl<T> Reading<T> {
    /// Why a proxy that was asked did not answer.
    pub fn silence(&self) -> Option<&str> {
        self.answer.as_ref().err().filter(|_| self.pod.proxy.is_some()).map(String::as_str)
    }

    /// The pod has a proxy, as far as anybody knows.
    pub fn is_meshed(&self) -> bool {
        self.pod.has_proxy.unwrap_or(self.answer.is_ok())
    }
}

/// The certificate of a proxy.
#[derive(Debug, Clone, Deserialize)]
pub struct Identity {
    pub id: String,
    /// Seconds since the Unix epoch, as are the other times.
    pub not_before: u64,
    pub not_after: u64,
    /// The renewal falls between these two, at a random time.
    pub renew_from: u64,
    pub renew_until: u64,
    /// Roots that it trusts.
    pub roots: u64,
}

/// Where a proxy sends requests, and how it hears of that.
#[derive(Debug, Clone, Deserialize)]
pub struct Destinations {
    /// `up`, or `down: ` and why.
    pub control_stream: String,
    pub backends: Vec<Backend>,
}

#[derive(Debug, Clone, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the proxy's own word")]
pub struct Backend {
    /// `namespace/name:port`, or an address.
    pub backend: String,
    pub endpoints: Vec<BackendEndpoint>,
    pub why_no_service: Option<String>,
}

/// An endpoint as a proxy sees it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct BackendEndpoint {
    pub address: String,
    pub pod: String,
    pub workload: String,
    /// None: it is spoken to in plain text.
    pub identity: Option<String>,
    pub latency_ewma_ms: f64,
    pub in_flight: u64,
    /// The breaker holds it out.
    pub ejected: bool,
}

/// A watch stream as the controller sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Stream {
    /// The identity in the proxy's certificate.
    pub peer: String,
    pub keys: Vec<StreamKey>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct StreamKey {
    pub key: String,
    /// Versions; 0: nothing yet.
    pub sent: u64,
    pub applied: u64,
}

/// What the controller cannot honour, or not as written.
#[derive(Debug, Deserialize)]
pub struct ManifestErrors {
    errors: Vec<ManifestError>,
    /// What is wrong with trust, by a word for what it concerns.
    #[serde(default)]
    trust: BTreeMap<String, TrustProblem>,
    warnings: Vec<ManifestWarning>,
}

/// What is wrong with the trust root or the controller's own certificates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct TrustProblem {
    /// The Secret, the file, or another object.
    pub place: String,
    pub cause: String,
    /// The commands that mend it, where the cause does not say it all.
    pub way_out: Option<String>,
    /// What the mesh acts on until it is mended.
    pub in_force: String,
}

#[derive(Debug, Deserialize)]
struct ManifestError {
    file: String,
    line: Option<u64>,
    column: Option<u64>,
    cause: String,
    in_force: String,
}

#[derive(Debug, Deserialize)]
struct ManifestWarning {
    object: String,
    message: String,
}

impl ManifestErrors {
    /// One line for each.
    pub fn lines(&self) -> Vec<String> {
        let errors = self.errors.iter().map(|error| {
            let place = error.line.map_or_else(String::new, |line| format!(":{line}:{}", error.column.unwrap_or(1)));
            format!("error: {}{place}: {}; {}", error.file, error.cause, error.in_force)
        });
        let trust = self.trust.values().map(|problem| {
            let way_out = problem.way_out.as_ref().map_or_else(String::new, |way_out| format!("; {way_out}"));
            format!("error: {}: {}{way_out}; {}", problem.place, problem.cause, problem.in_force)
        });
        let warnings = self.warnings.iter().map(|warning| format!("warning: {}: {}", warning.object, warning.message));
        errors.chain(trust).chain(warnings).collect()
    }
}

/// Asks the controller what is wrong with the manifests.
pub async fn manifest_errors(controller_admin: SocketAddr) -> Result<ManifestErrors, String> {
    ask(&Way::Address(controller_admin), "/errors").await
}

/// Asks a controller what is wrong with trust, by a word for what it concerns.
pub async fn trust_problems(controller: &Way) -> Result<BTreeMap<String, TrustProblem>, String> {
    let listed: ManifestErrors = ask(controller, "/errors").await?;
    Ok(listed.trust)
}

/// Asks every pod for its last `window`, in the order of `pods`.
pub async fn reports(pods: &[Pod], window: Duration) -> Vec<Reading<Report>> {
    ask_all(pods, &format!("/stats?window={}", window.as_secs())).await
}

/// Asks every pod for its certificate, in the order of `pods`.
pub async fn identities(pods: &[Pod]) -> Vec<Reading<Identity>> {
    ask_all(pods, "/identity").await
}

/// Asks every pod where it sends requests, in the order of `pods`.
pub async fn destinations(pods: &[Pod]) -> Vec<Reading<Destinations>> {
    ask_all(pods, "/destinations").await
}

/// Asks a controller for its watch streams.
pub async fn streams(controller: &Way) -> Result<Vec<Stream>, String> {
    ask(controller, "/streams").await
}

/// The metrics of a controller, in the exposition format.
pub async fn metrics(controller: &Way) -> Result<String, String> {
    let (status, body) = exchange(controller, "/metrics").await?;
    if status == StatusCode::OK {
        Ok(String::from_utf8_lossy(&body).into_owned())
    } else {
        Err(format!("it answered {status}"))
    }
}

/// What came back of a request through a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    /// The proxy's own word for why it did not reach anybody.
    pub error: Option<String>,
}

/// Sends `HEAD /` to `host` through the proxy at `way`.
pub async fn head(way: &Way, host: &str) -> Result<Answered, String> {
    let Way::Forward(forward) = way else { return Err("the demo has no such way".to_owned()) };
    let send = async {
        let mut line = forward.connect().await?;
        let request = Request::head("/").header(header::HOST, host).body(Empty::<Bytes>::new())?;
        match line.sender.send_request(request).await {
            Ok(answer) => {
                let error = answer
                    .headers()
                    .get(ERROR_HEADER)
                    .map(|word| String::from_utf8_lossy(word.as_bytes()).into_owned());
                Ok(Answered { status: answer.status().as_u16(), error })
            }
            Err(error) => Err(line.why().await.map_or_else(|| error.into(), Broken::from)),
        }
    };
    match timeout(FORWARD_TIMEOUT, send).await {
        Ok(answer) => answer.map_err(|error| format!("{forward}: {error}")),
        Err(_) => Err(format!("{forward} did not answer within {}s", FORWARD_TIMEOUT.as_secs())),
    }
}

/// Whether the proxy with this admin address is ready; if not, why.
pub async fn ready(admin: SocketAddr) -> Result<(), String> {
    match exchange(&Way::Address(admin), "/ready").await? {
        (StatusCode::OK, _) => Ok(()),
        (_, body) => Err(String::from_utf8_lossy(&body).trim().to_owned()),
    }
}

/// Tells the user which proxies did not answer, and fails if none did; `next` is what to do then.
pub fn report_unreachable<T>(readings: &[Reading<T>], next: &str, printer: &mut Printer) -> Result<(), Failure> {
    let silent: Vec<(&Pod, &str)> = readings.iter().filter_map(|r| Some((&r.pod, r.silence()?))).collect();
    let asked = readings.iter().filter(|r| r.pod.proxy.is_some()).count();
    if asked > 0 && silent.len() == asked {
        let (pod, why) = silent[0];
        let what = format!("none of {} proxies answered; {}: {why}", silent.len(), pod.name);
        return Err(Failure::new(Exit::Error, what).hint(next));
    }
    for (pod, why) in silent {
        printer.note(&format!("warning: no answer from the proxy of {}: {why}", pod.name));
    }
    Ok(())
}

/// What to tell about proxies that do not reach back as far as the window: all of them, or some that were restarted.
pub fn age_notes(readings: &[Reading<Report>], window: Duration) -> Vec<String> {
    let ages: Vec<(&str, f64)> =
        readings.iter().filter_map(|r| Some((&*r.pod.name, r.answer.as_ref().ok()?.covered_s))).collect();
    let oldest = ages.iter().map(|(_, age)| *age).fold(0.0, f64::max).min(window.as_secs_f64());
    let mut notes = Vec::new();
    if oldest + COVERED_TOLERANCE_S < window.as_secs_f64() {
        let asked = units::span(window);
        notes.push(format!("note: the proxies started {oldest:.0}s ago; the numbers are about that time, not {asked}"));
    }
    for (pod, age) in ages.into_iter().filter(|(_, age)| age + COVERED_TOLERANCE_S < oldest) {
        notes.push(format!(
            "note: {pod}'s proxy started {age:.0}s ago; what it counted before is lost: its part of the numbers is \
             about that time only"
        ));
    }
    notes
}

async fn ask_all<T: DeserializeOwned + Send + 'static>(pods: &[Pod], path: &str) -> Vec<Reading<T>> {
    let slots = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let mut asked = JoinSet::new();
    for (at, pod) in pods.iter().cloned().enumerate() {
        let (slots, path) = (slots.clone(), path.to_owned());
        asked.spawn(async move {
            // The semaphore is never closed; without a slot we would only ask too many at once.
            let _slot = slots.acquire_owned().await;
            let answer = match &pod.proxy {
                Some(way) => ask(way, &path).await,
                None => Err("it has no proxy".to_owned()),
            };
            (at, Reading { pod, answer })
        });
    }
    let mut readings = asked.join_all().await;
    readings.sort_by_key(|(at, _)| *at);
    readings.into_iter().map(|(_, reading)| reading).collect()
}

/// Asks one admin port.
pub async fn ask<T: DeserializeOwned>(way: &Way, path: &str) -> Result<T, String> {
    let (status, body) = exchange(way, path).await?;
    if status != StatusCode::OK {
        return Err(format!("{}{path} answered {status}: {}", way.name(), plain(&String::from_utf8_lossy(&body))));
    }
    serde_json::from_slice(&body).map_err(|error| {
        format!("{}{path} answered something else than expected ({error}); is it another version?", way.name())
    })
}

impl Way {
    fn name(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Forward(forward) => forward.to_string(),
        }
    }
}

async fn exchange(way: &Way, path: &str) -> Result<(StatusCode, Bytes), String> {
    let (limit, answer) = match way {
        Way::Address(address) => (TIMEOUT, timeout(TIMEOUT, dial(*address, path)).await),
        Way::Forward(forward) => (FORWARD_TIMEOUT, timeout(FORWARD_TIMEOUT, through(forward, path)).await),
    };
    match answer {
        Ok(answer) => answer.map_err(|error| format!("{}: {error}", way.name())),
        Err(_) => Err(format!("{} did not answer within {}s", way.name(), limit.as_secs())),
    }
}

async fn dial(admin: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), Broken> {
    let socket = TcpStream::connect(admin).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let answer = get(&mut sender, &admin.to_string(), path).await;
    connection.abort();
    answer
}

/// Over a way that may be open already; one that broke meanwhile is opened anew.
async fn through(forward: &Forward, path: &str) -> Result<(StatusCode, Bytes), Broken> {
    if let Some(mut line) = forward.reuse().await
        && let Ok(answer) = get(&mut line.sender, "localhost", path).await
    {
        forward.keep(line).await;
        return Ok(answer);
    }
    let mut line = forward.connect().await?;
    match get(&mut line.sender, "localhost", path).await {
        Ok(answer) => {
            forward.keep(line).await;
            Ok(answer)
        }
        // What the kubelet says is nearer to the cause than a connection that ended.
        Err(error) => Err(line.why().await.map_or(error, Broken::from)),
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn get(sender: &mut SendRequest<Empty<Bytes>>, host: &str, path: &str) -> Result<(StatusCode, Bytes), Broken> {
    let request = Request::get(path).header(header::HOST, host).header(ADMIN_HEADER, "1").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await?.to_bytes();
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use hyper::body::Incoming;
    use lacewing_ops::admin;

    use super::*;

    fn answer(request: &Request<Incoming>) -> admin::Answer {
        match (request.uri().path(), request.headers().contains_key(ADMIN_HEADER)) {
            (_, false) => admin::text(StatusCode::FORBIDDEN, "the header is missing"),
            ("/ready", _) => admin::text(StatusCode::SERVICE_UNAVAILABLE, "no certificate yet\n"),
            ("/errors", _) => admin::json(
                r#"{"errors":[{"file":"/m/web.yaml","line":3,"column":2,"cause":"bad","in_force":"the last good one stays"},
                    {"file":"/m","line":null,"column":null,"cause":"gone","in_force":"all stays"}],
                    "trust":{"kept":{"place":"Secret a/b","cause":"bad key","way_out":"do `x`","in_force":"the old one"}},
                    "warnings":[{"object":"Service a/web","message":"port 81"}]}"#,
            ),
            ("/identity", _) => admin::json(
                r#"{"id":"spiffe://x/ns/a/sa/b","serial_hex":"01","not_before":1,"not_after":3,"renew_from":2,"renew_until":2,"roots":1}"#,
            ),
            _ => admin::json("[]"),
        }
    }

    #[test]
    fn proxies_younger_than_the_window_or_the_others_are_noted() {
        let notes = |ages: &[f64], window| {
            let pods = "127.1.203".parse::<cast::Subnet>().expect("a subnet").pods();
            let reading = |(pod, age): (cast::Pod, &f64)| Reading {
                pod: Pod::from(&pod),
                answer: Ok(Report { covered_s: *age, ..Report::default() }),
            };
            let mut readings: Vec<_> = pods.into_iter().zip(ages).map(reading).collect();
            readings.push(Reading { pod: readings[0].pod.clone(), answer: Err("refused".to_owned()) });
            age_notes(&readings, Duration::from_secs(window))
        };
        assert!(notes(&[60.0, 59.5, 58.5], 60).is_empty());
        assert_eq!(
            notes(&[4.2, 60.0, 60.0], 60),
            ["note: web-1's proxy started 4s ago; what it counted before is lost: its part of the numbers is about \
              that time only"]
        );
        assert_eq!(
            notes(&[20.0, 19.0, 20.0], 60),
            ["note: the proxies started 20s ago; the numbers are about that time, not 1m"]
        );
        let both = notes(&[20.0, 3.0, 5.0], 60);
        assert_eq!(both.len(), 3);
        assert!(both[1].contains("web-2's proxy started 3s ago") && both[2].contains("emoji-1's"), "{both:?}");
    }

    #[tokio::test]
    async fn answers_silence_and_nonsense_are_told_apart() {
        let listener = admin::bind(([127, 0, 0, 1], 0).into(), "test").expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(admin::serve(listener, answer));
        let pods = "127.1.202".parse::<cast::Subnet>().expect("a subnet").pods();
        let mut pods: Vec<Pod> = pods[..2].iter().map(Pod::from).collect();
        pods[0].proxy = Some(Way::Address(address));
        let identities = identities(&pods).await;
        assert_eq!(identities[0].answer.as_ref().expect("answered").not_after, 3);
        let refused = identities[1].answer.as_ref().expect_err("nobody there");
        assert!(refused.contains("127.1.202.11:4192"), "{refused}");
        let nonsense = reports(&pods[..1], Duration::from_secs(60)).await;
        assert!(nonsense[0].answer.as_ref().expect_err("a list").contains("another version"));
        let lines = manifest_errors(address).await.expect("answered").lines();
        assert_eq!(lines[0], "error: /m/web.yaml:3:2: bad; the last good one stays");
        let trust = "error: Secret a/b: bad key; do `x`; the old one";
        assert_eq!(lines[1..], ["error: /m: gone; all stays", trust, "warning: Service a/web: port 81"]);
        let problems = trust_problems(&Way::Address(address)).await.expect("answered");
        assert_eq!(problems["kept"].way_out.as_deref(), Some("do `x`"));
        assert_eq!(ready(address).await, Err("no certificate yet".to_owned()));
    }
}

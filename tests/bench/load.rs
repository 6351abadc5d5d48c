//! The programs that make load, and what they say: requests, rates and latencies. A run with a single error (an answer
//! that is not 2xx, a socket error, a lost byte) is no run. Each answer holds the command, to be repeated by hand.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    peers::{Protocol, Shape},
    site::{START, Site},
};

/// Connections of a load at a fixed rate.
const RATE_CONNECTIONS: u32 = 16;

/// What a load did.
#[derive(Debug)]
pub struct Done {
    pub command: String,
    /// Requests, or bytes of a stream, or handshakes.
    pub count: f64,
    pub figures: BTreeMap<&'static str, f64>,
}

/// As many HTTP/1.1 requests as go, 64 at a time.
pub fn wrk(site: &Site, shape: Shape, path: &str, seconds: u64) -> Result<Done, String> {
    wrk_to(site, shape, &site.target(shape, Protocol::H1).to_string(), path, seconds)
}

/// The same to another address.
pub fn wrk_to(site: &Site, shape: Shape, to: &str, path: &str, seconds: u64) -> Result<Done, String> {
    let url = format!("http://{to}{path}");
    let text = say(site, shape, "wrk", &["-t1", "-c64", &format!("-d{seconds}s"), &url])?;
    if let Some(line) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        return Err(format!("wrk {url}: {}", line.trim()));
    }
    let count = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<f64>().ok());
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
    let (Some(count), Some(rate)) = (count, rate) else { return Err(format!("wrk {url} said:\n{text}")) };
    let command = format!("wrk -t1 -c64 -d{seconds}s http://SERVICE{path}");
    Ok(Done { command, count, figures: BTreeMap::from([("rps", rate)]) })
}

/// As many HTTP/2 requests as go, on 2 connections with 32 streams each.
pub fn h2load(site: &Site, shape: Shape, path: &str, seconds: u64) -> Result<Done, String> {
    let url = format!("http://{}{path}", site.target(shape, Protocol::H2));
    let text = say(site, shape, "h2load", &["-t1", "-c2", "-m32", &format!("-D{seconds}"), &url])?;
    let count = succeeded(&text).ok_or(format!("h2load {url}:\n{text}"))?;
    let command = format!("h2load -t1 -c2 -m32 -D{seconds} http://SERVICE{path}");
    Ok(Done { command, count, figures: BTreeMap::from([("rps", count / seconds as f64)]) })
}

/// So many HTTP/1.1 requests, one after the other on one connection.
pub fn one_by_one(site: &Site, shape: Shape, requests: u64) -> Result<Done, String> {
    let url = format!("http://{}/", site.target(shape, Protocol::H1));
    let text = say(site, shape, "h2load", &["--h1", "-t1", "-c1", &format!("-n{requests}"), &url])?;
    let count = succeeded(&text).filter(|count| *count as u64 == requests).ok_or(format!("h2load {url}:\n{text}"))?;
    Ok(Done { command: format!("h2load --h1 -t1 -c1 -n{requests} http://SERVICE/"), count, figures: BTreeMap::new() })
}

/// Requests of h2load; none if one of them failed, or there was none.
pub fn succeeded(text: &str) -> Option<f64> {
    let field = |line: &str, name: &str| {
        let at = text.lines().find_map(|text| text.strip_prefix(line))?;
        at.split(',').find_map(|part| part.trim().strip_suffix(name)?.trim().parse::<f64>().ok())
    };
    let (count, good) = (field("requests:", "succeeded")?, field("status codes:", "2xx")?);
    let bad = ["failed", "errored", "timeout"].iter().any(|name| field("requests:", name) != Some(0.0));
    // What is under way when time is up has its status already, or not yet.
    (!bad && (count - good).abs() <= 64.0 && count >= 1.0).then_some(count)
}

/// HTTP/1.1 requests on a schedule; latencies from the scheduled time.
pub fn rate(site: &Site, shape: Shape, per_second: u64, warm: u64, seconds: u64) -> Result<Done, String> {
    let to = site.target(shape, Protocol::H1).to_string();
    rate_to(site, shape, &to, per_second, [warm, seconds], RATE_CONNECTIONS)
}

/// The same to other addresses, with commas between, over which the connections are spread; for so long as a warm-up, and
/// then so long.
pub fn rate_to(
    site: &Site,
    shape: Shape,
    to: &str,
    per_second: u64,
    [warm, seconds]: [u64; 2],
    connections: u32,
) -> Result<Done, String> {
    let numbers = [per_second, warm, seconds, connections.into()].map(|number| number.to_string());
    let answer = part(site, shape, &[&["rate", to], numbers.each_ref().map(String::as_str).as_slice()].concat())?;
    let keys = ["p50_us", "p90_us", "p99_us", "p999_us"];
    let figures = keys.into_iter().filter_map(|key| Some((key, answer[key].as_f64()?))).collect();
    let command = format!("bench-parts rate SERVICE {}", numbers.join(" "));
    Ok(Done { command, count: answer["requests"].as_f64().unwrap_or_default(), figures })
}

/// One TCP stream.
pub fn stream(site: &Site, shape: Shape, seconds: u64) -> Result<Done, String> {
    let to = site.target(shape, Protocol::Tcp).to_string();
    let answer = part(site, shape, &["stream", &to, &seconds.to_string()])?;
    let figures = BTreeMap::from([("gbit_s", answer["gbit_s"].as_f64().unwrap_or_default())]);
    let command = format!("bench-parts stream SERVICE {seconds}");
    Ok(Done { command, count: answer["bytes"].as_f64().unwrap_or_default(), figures })
}

/// Handshakes with the inner proxy of a pair, from a pod without a proxy; `kind` is `full` or `resumed`. None, if it
/// resumes nothing.
pub fn shake(site: &Site, certs: &Path, alpn: &str, kind: &'static str, seconds: u64) -> Result<Option<Done>, String> {
    let (to, certs) = (site.web.at(Protocol::H1.port()).to_string(), certs.display().to_string());
    let answer = part(site, Shape::Direct, &["shake", &to, &seconds.to_string(), &certs, alpn, kind])?;
    let count = answer["handshakes"].as_f64().unwrap_or_default();
    let Some(rate) = answer["per_second"].as_f64() else { return Ok(None) };
    let figure = if kind == "full" { "full_per_s" } else { "resumed_per_s" };
    let command = format!("bench-parts shake POD:8080 {seconds} CERTS ALPN full|resumed");
    Ok(Some(Done { command, count, figures: BTreeMap::from([(figure, rate)]) }))
}

/// Idle connections; closed on drop.
pub struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub fn hold(site: &Site, shape: Shape, connections: u64) -> Result<Held, String> {
    let mut command = site.from(shape).command(&site.parts);
    command.args(["hold", &site.target(shape, Protocol::H1).to_string(), &connections.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line);
    let held = Held(child);
    answer("hold", &line).map(|_| held)
}

/// Waits until a request, or a byte, comes back.
pub fn until_it_passes(site: &Site, shape: Shape, protocol: Protocol, look: Duration) -> Result<(), String> {
    let (to, host, began) = (site.target(shape, protocol), site.from(shape), Instant::now());
    loop {
        let passes = match protocol {
            Protocol::H1 => host.enter(|| one_request(to, began, look)),
            Protocol::H2 => {
                let url = format!("http://{to}/");
                let text = say(site, shape, "h2load", &["-n1", "-c1", "-m1", &url])?;
                text.contains("1 succeeded") && text.contains("1 2xx")
            }
            Protocol::Tcp => part(site, shape, &["stream", &to.to_string(), "0"]).is_ok(),
        };
        if passes {
            return Ok(());
        }
        if began.elapsed() > START {
            return Err(format!("nothing passes to {to} within {START:?}"));
        }
        std::thread::sleep(look);
    }
}

/// Asks again and again on this thread, which is in the client's network already.
fn one_request(to: SocketAddr, began: Instant, look: Duration) -> bool {
    while began.elapsed() < START {
        // A proxy that does not listen yet refuses; one that is not ready yet may say so.
        if status(to).is_ok_and(|line| line.starts_with("HTTP/1.1 200")) {
            return true;
        }
        std::thread::sleep(look);
    }
    false
}

fn status(to: SocketAddr) -> io::Result<String> {
    let mut socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(START))?;
    write!(socket, "GET / HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line)?;
    Ok(line)
}

fn part(site: &Site, shape: Shape, args: &[&str]) -> Result<Value, String> {
    let text = say(site, shape, &site.parts.display().to_string(), args)?;
    answer(args[0], &text)
}

fn answer(what: &str, text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text.trim()).map_err(|error| format!("{what} said {text:?}: {error}"))?;
    if value["errors"] == 0 { Ok(value) } else { Err(format!("{what}: {value}")) }
}

fn say(site: &Site, shape: Shape, program: &str, args: &[&str]) -> Result<String, String> {
    let mut command: Command = site.from(shape).command(program);
    let output = command.args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{program} {args:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

//! Owns the double's HTTP/1.1: one thread a connection, a request at a time, whole answers, and watches as chunks.

use std::{
    io::{BufRead, BufReader, Read, Result, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Shared, State, Token,
    store::{Refusal, Target, status},
};

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// How long a watch lasts that does not say.
const WATCH: Duration = Duration::from_secs(1_800);

struct Request {
    method: String,
    path: String,
    content_type: String,
    body: Value,
}

/// Serves one connection to its end.
pub fn serve(shared: &Shared, socket: TcpStream) {
    let Ok(writer) = socket.try_clone() else { return };
    let mut reader = BufReader::new(socket);
    while let Ok(Some(request)) = read(&mut reader) {
        if answer(shared, &request, &writer).is_err() {
            break;
        }
    }
    // There is another handle of it, so that all can be broken off together. One that is closed already is as well.
    let _ = writer.shutdown(Shutdown::Both);
}

fn read(reader: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let (mut length, mut content_type) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(std::io::Error::other)?,
            "content-type" => value.trim().clone_into(&mut content_type),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), content_type, body }))
}

fn answer(shared: &Shared, request: &Request, mut writer: &TcpStream) -> Result<()> {
    let outcome = {
        let mut state = shared.lock();
        state.requests.push(format!("{} {}", request.method, request.path));
        let refused = state.refusals.iter().find(|(path, _)| request.path.starts_with(*path)).map(|(_, code)| *code);
        match refused {
            Some(code) => Err(status(code, "Refused", "refused on demand")),
            None => perform(&mut state, request),
        }
    };
    shared.changed.notify_all();
    let (code, body) = match outcome {
        Ok(Some((code, body))) => (code, body),
        Ok(None) => return watch(shared, request, writer),
        Err(refusal) => refusal,
    };
    let body = body.to_string();
    let head = format!("HTTP/1.1 {code} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    writer.write_all((head + &body).as_bytes())
}

/// Does what is asked; nothing for a watch.
fn perform(state: &mut State, request: &Request) -> std::result::Result<Option<(u16, Value)>, Refusal> {
    if request.method == "POST" && request.path == TOKEN_REVIEWS {
        return Ok(Some((201, review(state, &request.body))));
    }
    let target = Target::parse(&request.path)?;
    let is_watch = target.query.get("watch").is_some_and(|watch| watch == "1" || watch == "true");
    let named = state.store.get(&request.path);
    match (request.method.as_str(), target.is_collection()) {
        ("GET", true) if is_watch => Ok(None),
        ("GET", true) => state.store.list(&target).map(|list| Some((200, list))),
        ("GET", false) => named.map(|object| Some((200, object))),
        ("POST", true) => state.store.create(&target, &request.body).map(|object| Some((201, object))),
        ("PUT", false) => state.store.replace(&target, &request.body).map(|object| Some((200, object))),
        ("PATCH", false) => {
            let code = if named.is_ok() { 200 } else { 201 };
            state.store.patch(&target, &request.content_type, &request.body).map(|object| Some((code, object)))
        }
        ("DELETE", false) => state.store.delete(&request.path).map(|object| Some((200, object))),
        _ => Err(status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")),
    }
}

/// As the API server does: a token is good for the audiences that were asked for and that it has.
fn review(state: &State, review: &Value) -> Value {
    let mut answer = review.clone();
    let asked: Vec<&str> =
        review["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let token = review["spec"]["token"].as_str().and_then(|token| state.tokens.get(token));
    answer["status"] = match token {
        Some(Token { username, audiences, pod }) if audiences.iter().any(|own| asked.contains(&own.as_str())) => {
            let both: Vec<_> = audiences.iter().filter(|own| asked.contains(&own.as_str())).collect();
            let mut user = json!({"username": username, "uid": "1", "groups": ["system:serviceaccounts"]});
            if !pod.is_empty() {
                user["extra"] = json!({"authentication.kubernetes.io/pod-name": [pod]});
            }
            json!({"authenticated": true, "audiences": both, "user": user})
        }
        Some(Token { audiences, .. }) => {
            let why = format!("token audiences {audiences:?} is invalid for the target audiences {asked:?}");
            json!({"user": {}, "error": format!("[invalid bearer token, {why}]")})
        }
        None => json!({"user": {}, "error": "[invalid bearer token]"}),
    };
    answer
}

/// Writes what happens until the watch is over.
fn watch(shared: &Shared, request: &Request, mut writer: &TcpStream) -> Result<()> {
    let Ok(target) = Target::parse(&request.path) else { return Ok(()) };
    let number = |name: &str| target.query.get(name).and_then(|value| value.parse::<u64>().ok());
    let until = Instant::now() + number("timeoutSeconds").map_or(WATCH, Duration::from_secs);
    let bookmarks = target.query.get("allowWatchBookmarks").is_some_and(|allowed| allowed == "true");
    writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let mut send = |line: &Value| {
        let line = format!("{line}\n");
        writer.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
    };
    let (mut at, generation, mut marked) = {
        let state = shared.lock();
        (number("resourceVersion").unwrap_or(state.store.version()), state.generation, state.bookmarks)
    };
    loop {
        let mut state = shared.lock();
        if state.generation != generation || state.away {
            // As when the connection breaks: no last chunk.
            return Err(std::io::Error::other("broken off on demand"));
        }
        let Some((lines, version)) = state.store.since(&target, at) else {
            let (_, expired) = status(410, "Expired", "too old resource version");
            send(&json!({"type": "ERROR", "object": expired}))?;
            break;
        };
        at = version;
        let mark = bookmarks && state.bookmarks != marked;
        marked = state.bookmarks;
        let left = until.saturating_duration_since(Instant::now());
        if lines.is_empty() && !mark && !left.is_zero() {
            state = shared.changed.wait_timeout(state, left).expect("nobody panics with it").0;
        }
        drop(state);
        lines.iter().try_for_each(&mut send)?;
        if mark || (bookmarks && left.is_zero()) {
            send(&json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": at.to_string()}}}))?;
        }
        if left.is_zero() {
            break;
        }
    }
    writer.write_all(b"0\r\n\r\n")
}

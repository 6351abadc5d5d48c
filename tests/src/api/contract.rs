//! What the controller relies on of an API server, as assertions that hold for the double and for real ones alike. Spoken
//! over plain HTTP: to the double itself, or to `kubectl proxy`.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";
const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A server to be held to the contract.
pub struct Server<'a> {
    /// Where it speaks plain HTTP with whoever comes.
    pub address: SocketAddr,
    /// A namespace that is there, with nothing in it that anybody needs.
    pub namespace: &'a str,
    /// A token of the service account `default` in it, for the audience `lacewing.dev/identity` alone.
    pub token: &'a str,
}

/// The whole contract.
pub fn holds(server: &Server<'_>) {
    server.objects_are_made_once_and_replaced_by_version();
    server.applies_need_a_manager_and_merge();
    server.lists_come_in_pages_of_one_version();
    server.watches_go_on_from_a_list_and_end_in_time();
    server.versions_of_long_ago_are_gone();
    server.tokens_are_good_for_their_audience_alone();
    server.events_get_a_name();
}

impl Server<'_> {
    fn leases(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn lease(&self, name: &str, holder: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2026-11-22T10:00:00.000000Z"},
        })
    }

    fn objects_are_made_once_and_replaced_by_version(&self) {
        let path = format!("{}/once", self.leases());
        let (code, missing) = self.ask("GET", &path, JSON, &Value::Null);
        assert_eq!((code, &missing["kind"], &missing["reason"]), (404, &json!("Status"), &json!("NotFound")));
        let (code, made) = self.ask("POST", &self.leases(), JSON, &self.lease("once", "a"));
        assert_eq!((code, &made["spec"]["holderIdentity"]), (201, &json!("a")), "{made}");
        let first = version(&made);
        let (code, again) = self.ask("POST", &self.leases(), JSON, &self.lease("once", "b"));
        assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));
        let mut next = self.lease("once", "b");
        assert_eq!(self.ask("PUT", &path, JSON, &next).0, 422, "a Lease is replaced by version only");
        next["metadata"]["resourceVersion"] = first.to_string().into();
        let (code, replaced) = self.ask("PUT", &path, JSON, &next);
        assert_eq!((code, &replaced["spec"]["holderIdentity"]), (200, &json!("b")), "{replaced}");
        assert!(version(&replaced) > first);
        let (code, late) = self.ask("PUT", &path, JSON, &next);
        assert_eq!((code, &late["reason"]), (409, &json!("Conflict")), "of two that replace one version, one fails");
        assert_eq!(self.ask("DELETE", &path, JSON, &Value::Null).0, 200);
    }

    fn applies_need_a_manager_and_merge(&self) {
        let path = format!("{}/applied", self.leases());
        let mut part = self.lease("applied", "a");
        assert_eq!(self.ask("PATCH", &path, APPLY, &part).0, 422, "no field manager");
        let path = format!("{path}?fieldManager=it&force=true");
        let (code, made) = self.ask("PATCH", &path, APPLY, &part);
        assert_eq!(code, 201, "{made}");
        let (_, same) = self.ask("PATCH", &path, APPLY, &part);
        assert_eq!(version(&same), version(&made), "what changes nothing makes no version");
        part["spec"]["holderIdentity"] = "b".into();
        let (code, applied) = self.ask("PATCH", &path, APPLY, &part);
        let spec = &applied["spec"];
        assert_eq!((code, &spec["holderIdentity"], &spec["leaseDurationSeconds"]), (200, &json!("b"), &json!(15)));
        assert_eq!(self.ask("DELETE", path.split('?').next().unwrap_or(&path), JSON, &Value::Null).0, 200);
    }

    fn lists_come_in_pages_of_one_version(&self) {
        let names: BTreeSet<String> = (0..3).map(|n| format!("page-{n}")).collect();
        for name in &names {
            assert_eq!(self.ask("POST", &self.leases(), JSON, &self.lease(name, "a")).0, 201);
        }
        let (mut found, mut next, mut versions) = (BTreeSet::new(), String::new(), BTreeSet::new());
        loop {
            let (code, page) =
                self.ask("GET", &format!("{}?limit=1&continue={next}", self.leases()), JSON, &Value::Null);
            let items = page["items"].as_array().expect("items");
            assert!(code == 200 && items.len() == 1, "{page}");
            found.extend(items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()));
            versions.insert(version(&page));
            page["metadata"]["continue"].as_str().unwrap_or_default().clone_into(&mut next);
            if next.is_empty() {
                break;
            }
        }
        assert_eq!((&found, versions.len()), (&names, 1));
        for name in names {
            assert_eq!(self.ask("DELETE", &format!("{}/{name}", self.leases()), JSON, &Value::Null).0, 200);
        }
        let phase = "/api/v1/pods?limit=1&fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";
        assert_eq!(self.ask("GET", phase, JSON, &Value::Null).0, 200);
    }

    fn watches_go_on_from_a_list_and_end_in_time(&self) {
        let listed = version(&self.ask("GET", &self.leases(), JSON, &Value::Null).1);
        let mut lease = self.lease("watched", "a");
        let (_, made) = self.ask("POST", &self.leases(), JSON, &lease);
        let path = format!("{}/watched", self.leases());
        lease["spec"]["holderIdentity"] = "b".into();
        lease["metadata"]["resourceVersion"] = version(&made).to_string().into();
        assert_eq!(self.ask("PUT", &path, JSON, &lease).0, 200);
        assert_eq!(self.ask("DELETE", &path, JSON, &Value::Null).0, 200);
        let how = format!("watch=1&allowWatchBookmarks=true&timeoutSeconds=2&resourceVersion={listed}");
        let lines = self.watch(&format!("{}?{how}", self.leases()));
        let (marks, changes): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["type"] == "BOOKMARK");
        let types: Vec<_> = changes.iter().map(|line| line["type"].as_str().unwrap_or_default()).collect();
        assert_eq!(types, ["ADDED", "MODIFIED", "DELETED"], "{lines:?}");
        let versions: Vec<u64> = changes.iter().map(|line| version(&line["object"])).collect();
        assert!(versions.is_sorted() && versions[0] > listed && versions[2] > versions[1], "{versions:?}");
        assert!(marks.iter().all(|mark| version(&mark["object"]) >= listed), "{marks:?}");
    }

    fn versions_of_long_ago_are_gone(&self) {
        let path = format!("{}?watch=1&timeoutSeconds=2&resourceVersion=1", self.leases());
        let lines = self.watch(&path);
        // As the answer itself, or as the first event.
        let error = lines.first().map(|line| if line["type"] == "ERROR" { &line["object"] } else { line });
        assert_eq!(error.map(|error| &error["code"]), Some(&json!(410)), "{lines:?}");
    }

    fn tokens_are_good_for_their_audience_alone(&self) {
        let review = |token: &str, audience: &str| {
            let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                "spec": {"token": token, "audiences": [audience]}});
            let (code, mut answer) = self.ask("POST", TOKEN_REVIEWS, JSON, &question);
            assert_eq!(code, 201, "{answer}");
            answer["status"].take()
        };
        let good = review(self.token, "lacewing.dev/identity");
        let name = format!("system:serviceaccount:{}:default", self.namespace);
        assert_eq!(good["authenticated"], true, "{good}");
        assert_eq!((&good["audiences"], &good["user"]["username"]), (&json!(["lacewing.dev/identity"]), &json!(name)));
        for (token, audience) in [(self.token, "somebody-else"), ("nonsense", "lacewing.dev/identity")] {
            let bad = review(token, audience);
            assert!(bad["authenticated"] != true && bad["error"].as_str().is_some_and(|why| !why.is_empty()), "{bad}");
        }
    }

    fn events_get_a_name(&self) {
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": "it.", "namespace": self.namespace},
            "involvedObject": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "namespace": self.namespace, "name": "it", "uid": ""},
            "type": "Warning", "reason": "Tested", "message": "only a test", "count": 1,
            "firstTimestamp": "2026-11-22T10:00:00Z", "lastTimestamp": "2026-11-22T10:00:00Z",
            "source": {"component": "it"}, "reportingComponent": "it", "reportingInstance": "it-1",
        });
        let path = format!("/api/v1/namespaces/{}/events", self.namespace);
        let (code, made) = self.ask("POST", &path, JSON, &event);
        let name = made["metadata"]["name"].as_str().unwrap_or_default();
        assert!(code == 201 && name.len() > "it.".len() && name.starts_with("it."), "{made}");
    }

    /// Asks, and reads the whole answer.
    fn ask(&self, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let (code, text) = self.exchange(method, path, content_type, body);
        (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {path}: {error}: {text}")))
    }

    /// Watches to the end: every line, or the one answer that refuses.
    fn watch(&self, path: &str) -> Vec<Value> {
        let (_, text) = self.exchange("GET", path, JSON, &Value::Null);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn exchange(&self, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).expect("the API answers");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        socket.write_all((head + &body).as_bytes()).expect("written");
        let mut reader = BufReader::new(socket);
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        let code = line.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let (mut length, mut chunked) = (None, false);
        loop {
            line.clear();
            reader.read_line(&mut line).expect("a head");
            let Some((name, value)) = line.trim().split_once(':') else { break };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<usize>().ok(),
                "transfer-encoding" => chunked = true,
                _ => {}
            }
        }
        let mut body = Vec::new();
        if chunked {
            while let Some(chunk) = chunk(&mut reader) {
                body.extend(chunk);
            }
        } else {
            body.resize(length.expect("a length"), 0);
            reader.read_exact(&mut body).expect("the whole answer");
        }
        (code, String::from_utf8(body).expect("UTF-8"))
    }
}

/// The next chunk (RFC 9112, 7.1); nothing at the end.
fn chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a chunk, and an end with one");
    let length = usize::from_str_radix(line.trim(), 16).expect("a chunk's length");
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).expect("a whole chunk");
    chunk.truncate(length);
    (length > 0).then_some(chunk)
}

#[track_caller]
fn version(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
    version.unwrap_or_else(|| panic!("no version in {object}"))
}

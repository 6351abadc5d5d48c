//! Owns the Events that the controller writes about other people's objects, so that `kubectl describe` and `kubectl get
//! events` show what the mesh did not do for them, and why. They are advice: what cannot be written is logged and lost.
//! Nobody waits for them, the same thing is said once in a while, and there are never many a second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::Method;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    clock,
    cluster::{Cluster, JSON},
};

/// Most Events that wait to be written.
pub const QUEUE_MAX: usize = 256;
/// The same about the same object is not said again for this long.
pub const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// Most different Events that are remembered for that; while they are so many, new ones are lost.
pub const REMEMBERED_MAX: usize = 2_000;
/// Pause after each Event.
pub const PACE: Duration = Duration::from_millis(200);
/// Longest message, in bytes, that the API takes.
pub const MESSAGE_MAX: usize = 1_024;

/// Who writes.
const COMPONENT: &str = "lacewing-controller";
/// Where Events about cluster-wide objects are.
const DEFAULT_NAMESPACE: &str = "default";

/// The object that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    pub api_version: String,
    pub kind: String,
    /// Empty for a cluster-wide object.
    pub namespace: String,
    pub name: String,
    /// Empty if it is not known.
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Event {
    about: ObjectRef,
    reason: &'static str,
    message: String,
}

/// Takes Events. Clones share one queue.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    said: Arc<Mutex<HashMap<Event, Instant>>>,
}

/// The other end of the queue: see [`follow`].
pub struct Queue(mpsc::Receiver<Event>);

/// An empty queue.
pub fn queue() -> (Events, Queue) {
    let (queue, waiting) = mpsc::channel(QUEUE_MAX);
    (Events { queue, said: Arc::default() }, Queue(waiting))
}

impl Events {
    /// Says `message` about an object, as a warning, unless that was said lately. `reason` is one word in `CamelCase`.
    pub fn note(&self, about: ObjectRef, reason: &'static str, mut message: String) {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        let event = Event { about, reason, message };
        if !self.is_new(&event, Instant::now()) {
            return;
        }
        if let Err(error) = self.queue.try_send(event) {
            let event = match error {
                mpsc::error::TrySendError::Full(event) | mpsc::error::TrySendError::Closed(event) => event,
            };
            tracing::warn!(reason, message = %event.message, "an Event was lost: too many at a time");
            self.said.lock().remove(&event);
        }
    }

    /// Whether the Event was not noted lately, and there is room to remember that it now is.
    fn is_new(&self, event: &Event, now: Instant) -> bool {
        let mut said = self.said.lock();
        let recent = |at: &Instant| now.duration_since(*at) < REPEAT_AFTER;
        if said.get(event).is_some_and(recent) {
            return false;
        }
        if said.len() >= REMEMBERED_MAX {
            said.retain(|_, at| recent(at));
        }
        let room = said.len() < REMEMBERED_MAX;
        if room {
            said.insert(event.clone(), now);
        }
        room
    }
}

/// Writes what is noted, until nobody can note any more. `now` is wall time in unix seconds.
pub async fn follow(cluster: Cluster, mut queue: Queue, instance: String, now: fn() -> u64) {
    while let Some(event) = queue.0.recv().await {
        let (path, body) = written(&event, &instance, &clock::micro_time(now()));
        if let Err(error) = cluster.request(Method::POST, &path, Some((JSON, body))).await {
            tracing::warn!(reason = event.reason, message = %event.message, %error, "an Event could not be written");
        }
        sleep(PACE).await;
    }
}

/// Where an Event goes, and its text.
fn written(event: &Event, instance: &str, now: &str) -> (String, Vec<u8>) {
    let Event { about, reason, message } = event;
    let namespace = if about.namespace.is_empty() { DEFAULT_NAMESPACE } else { &about.namespace };
    let seconds = now.replace(".000000Z", "Z");
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "generateName": format!("{}.", about.name), "namespace": namespace },
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "source": { "component": COMPONENT },
        "reportingComponent": COMPONENT,
        "reportingInstance": instance,
    });
    (format!("/api/v1/namespaces/{namespace}/events"), body.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str) -> ObjectRef {
        ObjectRef {
            api_version: "apps/v1".to_owned(),
            kind: "ReplicaSet".to_owned(),
            namespace: "a".to_owned(),
            name: name.to_owned(),
            uid: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_in_a_while() {
        let (events, mut queue) = queue();
        let mut noted = |name: &str| {
            events.note(about(name), "InjectionSkipped", "hostNetwork".to_owned());
            queue.0.try_recv().is_ok()
        };
        assert!(noted("web") && !noted("web") && noted("db"));
        tokio::time::advance(REPEAT_AFTER).await;
        assert!(noted("web") && !noted("web"));
    }

    #[tokio::test]
    async fn nobody_waits_and_memory_is_bounded() {
        let (events, mut queue) = queue();
        for n in 0..REMEMBERED_MAX * 2 {
            events.note(about(&n.to_string()), "InjectionSkipped", "x".repeat(MESSAGE_MAX + 1));
        }
        // What was lost may be said again.
        assert_eq!(events.said.lock().len(), QUEUE_MAX);
        for _ in 0..QUEUE_MAX {
            assert_eq!(queue.0.try_recv().unwrap().message.len(), MESSAGE_MAX);
        }
        assert!(queue.0.try_recv().is_err());
    }

    #[test]
    fn an_event_stands_beside_its_object() {
        let mut event = Event { about: about("web"), reason: "InjectionSkipped", message: "why".to_owned() };
        let (path, body) = written(&event, "controller-1", "2026-11-21T22:26:40.000000Z");
        assert_eq!(path, "/api/v1/namespaces/a/events");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((body["involvedObject"]["name"].as_str(), body["type"].as_str()), (Some("web"), Some("Warning")));
        assert_eq!(body["lastTimestamp"], "2026-11-21T22:26:40Z");
        event.about.namespace = String::new();
        assert_eq!(written(&event, "c", "t").0, "/api/v1/namespaces/default/events");
    }
}

//! What only HTTP/2 can do to a request, by servers made of frames behind a pair of proxies: GOAWAY with streams left out,
//! refused streams, other resets, connections that end in the middle. All requests are POSTs: what must not be done twice.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use lacewing_tests::history::{
    Asked, Event, Figures, FrameServer, History, Load, Protocol, Say, Shop, Stream, run_for,
};

use super::faults::{RPS, short_or_long, timely};

/// Codes of RFC 9113, 7, with what the client's library says about those that an app may use.
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const CODES: [(u32, &str); 3] = [
    (2, "unexpected internal error encountered"),
    (8, "stream no longer needed"),
    (11, "detected excessive load generating behavior"),
];

/// Tokens, for the test to look at after the run.
#[derive(Clone, Default)]
struct Tokens(Arc<Mutex<HashMap<String, u32>>>);

impl Tokens {
    fn add(&self, asked: &Asked, code: u32) {
        self.0.lock().unwrap().insert(asked.token.clone(), code);
    }

    fn all(&self) -> HashMap<String, u32> {
        self.0.lock().unwrap().clone()
    }
}

/// Two members that speak frames, by one script, under load of POSTs; what became of them, and the servers' connections.
fn under_load(protocol: Protocol, script: impl FnMut(&mut Say, Asked) + Clone + Send + 'static) -> (History, usize) {
    let shop = Shop::new();
    let start = |name| {
        let pod = shop.held(name);
        let server = FrameServer::start(&pod.host, name, protocol, &shop.book, script.clone());
        shop.cluster.set_ready(&pod, true);
        (pod, server)
    };
    let members = ["web-1", "web-2"].map(start);
    let load = Load::start(&shop.client.host, Stream { post_each: 1, ..shop.stream(protocol, RPS) });
    run_for(short_or_long(3, 30));
    let history = shop.history(load.stop());
    (history, members.iter().map(|(_, server)| server.connections()).sum())
}

fn kinds(events: &[Event]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for event in events {
        *kinds.entry(event.kind()).or_default() += 1;
    }
    kinds
}

/// What each connection does: it answers 25 requests, keeps the next one waiting, and leaves all later ones out by a GOAWAY,
/// after which it ends what is under way: with an answer, or by breaking off.
#[derive(Clone)]
struct Leaves {
    breaks_off: bool,
    last: Option<u32>,
    said: bool,
    broken: Tokens,
    left_out: Tokens,
}

impl Leaves {
    fn new(breaks_off: bool) -> Self {
        Self { breaks_off, last: None, said: false, broken: Tokens::default(), left_out: Tokens::default() }
    }

    fn asked(&mut self, say: &mut Say, asked: Asked) {
        // Bodies may end in another order than their streams began.
        if self.last.is_some_and(|last| asked.stream > last) {
            self.left_out.add(&asked, NO_ERROR);
            if !std::mem::replace(&mut self.said, true) {
                say.go_away(self.last.unwrap_or_default(), NO_ERROR);
                self.end_those_under_way(say);
            }
            return;
        }
        say.process(&asked);
        if asked.nth < 25 {
            return say.answer(&asked);
        }
        self.last.get_or_insert(asked.stream);
        say.hold(asked);
        if self.said {
            self.end_those_under_way(say);
        }
    }

    fn end_those_under_way(&self, say: &mut Say) {
        if !self.breaks_off {
            return say.answer_held();
        }
        for asked in say.forget_held() {
            self.broken.add(&asked, NO_ERROR);
        }
        say.close();
    }

    /// What broke off has failed, and nothing else; but several may be left out together, again and again, until the
    /// budget ends it, which is said.
    fn judge(&self, history: &History, connections: usize) {
        let (broken, left_out) = (self.broken.all(), self.left_out.all());
        println!(
            "F23 breaks off: {}: {} requests over {connections} connections, {} left out, {} broken off: {:?}",
            self.breaks_off,
            history.events.len(),
            left_out.len(),
            broken.len(),
            kinds(&history.events)
        );
        history.check();
        assert!(left_out.len() > 4, "only {} were left out", left_out.len());
        assert_eq!(self.breaks_off, !broken.is_empty());
        let mut given_up = 0;
        for event in &history.events {
            let was_broken = broken.contains_key(&event.token);
            if !was_broken && left_out.contains_key(&event.token) && event.kind().contains("refused") {
                given_up += 1;
            } else {
                assert_eq!(event.is_ok(), !was_broken, "{event:?}");
            }
        }
        let all = Figures::about(history.events.iter());
        timely(&all, given_up * 10 <= left_out.len(), "what was left out is served elsewhere");
    }
}

/// F23: what a GOAWAY leaves out is sent again elsewhere, whatever its method; what is under way ends well.
#[test]
fn streams_that_a_goaway_leaves_out_are_sent_again() {
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        let leaves = Leaves::new(false);
        let mut script = leaves.clone();
        let (history, connections) = under_load(protocol, move |say, asked| script.asked(say, asked));
        leaves.judge(&history, connections);
    }
}

/// F23: what a GOAWAY did not leave out, and then broke off, may have been processed: it fails, and is not sent again.
#[test]
fn streams_that_broke_off_under_a_goaway_are_not_sent_again() {
    let leaves = Leaves::new(true);
    let mut script = leaves.clone();
    let (history, connections) = under_load(Protocol::Http2, move |say, asked| script.asked(say, asked));
    leaves.judge(&history, connections);
}

/// F24: the server did not process it, so any method goes elsewhere.
#[test]
fn refused_streams_are_sent_again() {
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        let refused = Tokens::default();
        let noted = refused.clone();
        let (history, _) = under_load(protocol, move |say, asked| {
            // Once each: how often in a row is another matter.
            if asked.nth % 8 == 5 && !noted.all().contains_key(&asked.token) {
                noted.add(&asked, REFUSED_STREAM);
                say.reset(&asked, REFUSED_STREAM);
            } else {
                say.process(&asked);
                say.answer(&asked);
            }
        });
        let refused = refused.all().len();
        println!(
            "F24 {}: {} requests, {refused} refused: {:?}",
            protocol.name(),
            history.events.len(),
            kinds(&history.events)
        );
        history.check_clean(250);
        assert!(refused > 20, "only {refused} were refused");
    }
}

/// F24: any other code means something between app and app.
#[test]
fn other_resets_pass_through_as_they_are() {
    for begun in [false, true] {
        let resets = Tokens::default();
        let noted = resets.clone();
        let mut next = 0;
        let (history, _) = under_load(Protocol::Http2, move |say, asked| {
            say.process(&asked);
            if asked.nth % 10 != 5 {
                return say.answer(&asked);
            }
            let (code, _) = CODES[next % CODES.len()];
            next += 1;
            noted.add(&asked, code);
            if begun {
                say.begin(&asked);
            }
            say.reset(&asked, code);
        });
        let resets = resets.all();
        println!("F24 other codes, answer begun: {begun}: {} resets: {:?}", resets.len(), kinds(&history.events));
        history.check();
        assert!(resets.len() > 10, "only {} were reset", resets.len());
        for event in &history.events {
            let Some(code) = resets.get(&event.token) else {
                assert!(event.is_ok(), "{event:?}");
                continue;
            };
            let words = CODES.iter().find(|(known, _)| known == code).unwrap().1;
            assert!(event.kind().contains(words), "reset with {code}, and the client saw {:?}", event.kind());
        }
    }
}

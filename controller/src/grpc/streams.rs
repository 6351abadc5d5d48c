//! Owns the list of open watch streams, so that an operator can see who follows what, and which version each proxy acts
//! on. It keeps no stream alive and sends nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use serde::Serialize;

use super::subscriptions::{Subscriptions, View};
use crate::locality::Place;

/// Open streams by number.
type Open = Arc<Mutex<BTreeMap<u64, Weak<Mutex<Subscriptions>>>>>;

/// The open streams of this controller's life.
pub struct Streams {
    epoch: u64,
    entered: Mutex<u64>,
    open: Open,
}

/// A stream's place in the list; leaving happens by dropping it.
pub struct Guard {
    number: u64,
    open: Open,
}

/// One stream, for the operator.
#[derive(Debug, Serialize)]
pub struct StreamView {
    /// The identity in the proxy's certificate.
    pub peer: String,
    /// Names the life of the controller; versions below are counters in it.
    pub epoch: u64,
    /// Where its pod runs; empty until it has asked for its inbound side, and where nothing says so.
    pub node: String,
    pub zone: String,
    pub keys: Vec<View>,
}

impl Streams {
    /// `epoch` names this life of the controller: random, so that two lives are never mistaken for each other.
    pub fn new(epoch: u64) -> Self {
        Self { epoch, entered: Mutex::new(0), open: Open::default() }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn enter(&self, subscriptions: &Arc<Mutex<Subscriptions>>) -> Guard {
        let number = {
            let mut entered = self.entered.lock();
            *entered += 1;
            *entered
        };
        self.open.lock().insert(number, Arc::downgrade(subscriptions));
        Guard { number, open: self.open.clone() }
    }

    /// How many streams are open, and how many keys they follow together.
    pub fn count(&self) -> (usize, usize) {
        let open = self.open.lock();
        let keys = open.values().filter_map(Weak::upgrade).map(|subscriptions| subscriptions.lock().len());
        (open.len(), keys.sum())
    }

    /// Whether every proxy that follows the trust bundle here acts on the one of this moment.
    pub fn have_applied_trust(&self) -> bool {
        let open: Vec<_> = self.open.lock().values().filter_map(Weak::upgrade).collect();
        open.iter().all(|subscriptions| subscriptions.lock().has_applied_trust())
    }

    /// Every stream, in the order in which they were opened.
    pub fn view(&self) -> Vec<StreamView> {
        let open: Vec<_> = self.open.lock().values().filter_map(Weak::upgrade).collect();
        let view = |subscriptions: Arc<Mutex<Subscriptions>>| {
            let subscriptions = subscriptions.lock();
            let Place { node, zone } = subscriptions.place().clone();
            let peer = subscriptions.peer().to_string();
            StreamView { peer, epoch: self.epoch, node, zone, keys: subscriptions.view() }
        };
        open.into_iter().map(view).collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.open.lock().remove(&self.number);
    }
}

//! The demo: the whole mesh on one machine, every pod two real processes, on loopback addresses.
//!
//! `cast.rs` says who is in it, `manifests.rs` tells the controller so, `state.rs` owns the directory, `faults.rs` the
//! switches, `crew.rs` the processes, `startup.rs` the order of things; `apps/` is what the pods run.

pub mod apps;
pub mod cast;
pub mod crew;
pub mod faults;
pub mod manifests;
pub mod startup;
pub mod state;

#[allow(clippy::all, clippy::pedantic, missing_docs)]
#[rustfmt::skip]
pub mod emoji;

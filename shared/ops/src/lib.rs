//! What both daemons need to run and nothing else: the log, settings from the environment, the signal to stop,
//! and the small HTTP server of the admin ports. No policy, no mesh types.

pub mod admin;
pub mod log;
pub mod nearest;
pub mod ports;
pub mod settings;
pub mod signal;
pub mod usage;

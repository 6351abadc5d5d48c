//! The `it` ring: everything that one machine and loopback can show, in one binary.

mod demo;
mod generated;
mod tidy;

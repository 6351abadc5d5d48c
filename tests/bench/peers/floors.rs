//! The floors are in `bench/parts`: this says how they are started.

use std::{path::Path, process::Command};

use super::{Peer, Place, Protocol};

pub fn command(place: &Place<'_>, peer: Peer, parts: &Path) -> Command {
    let stands = match (place.tls_in, place.tls_out) {
        (true, _) => "in",
        (_, true) => "out",
        _ => "single",
    };
    let kind = match (peer, place.protocol) {
        (Peer::Splice, _) => "splice",
        (_, Protocol::H1) => "h1",
        (_, Protocol::H2) => "h2",
        (_, Protocol::Tcp) => "tcp",
    };
    let mut command = place.command(parts);
    let (listen, dial) = (format!("0.0.0.0:{}", place.listen), place.dial.to_string());
    command.args(["floor", stands, kind, &listen, &dial]).arg(place.certs);
    command
}

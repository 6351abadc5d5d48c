//! The control stream: any bytes that are a message of it are read or refused without a panic, and nothing half-understood
//! goes on: an endpoint that says an identity is never taken for a plain one, and a port is never zero.
//! The first byte of the input says which message it is.

#![no_main]

use lacewing_proto::control as wire;
use lacewing_proxy::discovery::parse;
use prost::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [kind, bytes @ ..] = bytes else { return };
    match kind % 4 {
        0 => {
            let Ok(endpoint) = wire::Endpoint::decode(bytes) else { return };
            let (identity, direct) = (endpoint.identity.clone(), endpoint.direct.is_some());
            let Ok(info) = parse::endpoint(endpoint) else { return };
            assert_eq!(info.identity.map(|id| id.to_string()).unwrap_or_default(), identity);
            assert_eq!(info.direct.is_some(), direct);
        }
        1 => {
            let _ = wire::Target::decode(bytes).map(parse::target);
        }
        2 => {
            let Ok(ports) = wire::InboundPorts::decode(bytes) else { return };
            let Ok(inbound) = parse::inbound(&ports) else { return };
            assert!(inbound.ports.iter().all(|(port, _)| *port != 0));
        }
        _ => {
            let _ = wire::TrustBundle::decode(bytes).map(parse::trust);
        }
    }
});

//! What the benchmark measures with and against, built like the proxy that ships (`--profile dist`): load (`rate`,
//! `hold`, `stream`, `shake`) and the floors, proxies that do nothing but carry bytes or messages. One thread each.
//! Arguments are positional, answers are one JSON line on stdout; wrong use ends with 2. `tests/bench/main.rs` drives it.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a measurement that went wrong must end, loudly")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its answer, and why there is none")]

mod bytes;
mod hold;
mod messages;
mod rate;
mod shake;
mod stream;
mod tls;

use std::{net::SocketAddr, path::Path, process::ExitCode, time::Duration};

const USAGE: &str = "usage: bench-parts
  floor single|out|in h1|h2|tcp|splice LISTEN DIAL CERTS   a proxy without features; out and in: mutual TLS between them
  rate ADDRESS,… PER_SECOND WARM_S SECONDS CONNECTIONS     HTTP/1.1 on a schedule; connections spread over the addresses
  hold ADDRESS CONNECTIONS                                 idle connections, one request each; until stdin ends
  sink LISTEN                                              counts bytes
  stream ADDRESS SECONDS                                   one TCP stream to a sink
  shake ADDRESS SECONDS CERTS ALPN full|resumed            mutual TLS handshakes, one after the other";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["floor", place, kind, listen, dial, certs] => {
            floor(place, kind, address(listen), address(dial), certs.as_ref());
        }
        ["rate", to, per_second, warm, seconds, connections] => {
            let plan = rate::Plan {
                to: to.split(',').map(address).collect(),
                per_second: number(per_second),
                warm: Duration::from_secs(number(warm)),
                measured: Duration::from_secs(number(seconds)),
                connections: number(connections) as usize,
            };
            println!("{}", rate::run(&plan));
        }
        ["hold", to, connections] => hold::run(address(to), number(connections) as usize),
        ["sink", listen] => stream::sink(address(listen)),
        ["stream", to, seconds] => println!("{}", stream::send(address(to), Duration::from_secs(number(seconds)))),
        ["shake", to, seconds, certs, alpn, kind] => {
            let measured = Duration::from_secs(number(seconds));
            println!("{}", shake::run(address(to), measured, certs.as_ref(), alpn, kind == "resumed"));
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn floor(place: &str, kind: &str, listen: SocketAddr, dial: SocketAddr, certs: &Path) {
    let place = match place {
        "single" => tls::Place::Single,
        "out" => tls::Place::Out,
        "in" => tls::Place::In,
        other => panic!("no place {other}"),
    };
    let ends = tls::Ends::new(place, kind, listen, dial, certs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match kind {
        "h1" | "h2" => runtime.block_on(messages::serve(ends, kind)),
        "tcp" => runtime.block_on(bytes::serve(ends)),
        "splice" => runtime.block_on(bytes::serve_spliced(ends)),
        other => panic!("no floor {other}"),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text:?} is no ip:port: {error}"))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|error| panic!("{text:?} is no number: {error}"))
}

//! Envoy, one worker, without access log, tracing, policy or a stats sink: leaner than a mesh runs it. In a pair it speaks
//! HTTP/2 over TLS.

use std::{env, fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use super::super::site::{folder, tool};
use super::{Place, Protocol};

/// Connections and requests: more than any measure has.
const PLENTY: u32 = 20_000;

/// Where Envoy is.
pub fn program() -> PathBuf {
    let path =
        env::var_os("LACEWING_BENCH_ENVOY").expect("LACEWING_BENCH_ENVOY says where Envoy is: tests/run bench does");
    tool("envoy", path.as_ref())
}

pub fn command(place: &Place<'_>) -> Command {
    let dir = folder(place.host, &place.name("envoy"));
    let file = dir.join("envoy.json");
    let mut chain = json!({ "filters": [filter(place)] });
    if place.tls_in {
        let mut context = tls(place);
        context["@type"] = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext".into();
        context["require_client_certificate"] = true.into();
        chain["transport_socket"] = json!({ "name": "tls", "typed_config": context });
    }
    let config = json!({ "static_resources": {
        "listeners": [{ "name": "clients", "address": address("0.0.0.0", place.listen), "filter_chains": [chain] }],
        "clusters": [cluster(place)],
    } });
    fs::write(&file, config.to_string()).expect("the host's folder is ours");
    let mut command = place.command(program());
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(&file);
    command
}

fn filter(place: &Place<'_>) -> Value {
    let codec = match (place.protocol, place.tls_in) {
        (Protocol::Tcp, _) => {
            return json!({ "name": "tcp", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "tcp", "cluster": "servers",
            } });
        }
        (Protocol::H1, false) => "HTTP1",
        _ => "HTTP2",
    };
    json!({ "name": "http", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "codec_type": codec,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": { "cluster": "servers", "timeout": "0s" } },
        ] }] },
        "http_filters": [{ "name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
    } })
}

fn cluster(place: &Place<'_>) -> Value {
    let to = address(&place.dial.ip().to_string(), place.dial.port());
    let mut cluster = json!({
        "name": "servers", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [
            { "max_connections": PLENTY, "max_pending_requests": PLENTY, "max_requests": PLENTY } ] },
        "load_assignment": { "cluster_name": "servers", "endpoints": [
            { "lb_endpoints": [{ "endpoint": { "address": to } }] } ] },
    });
    if place.protocol != Protocol::Tcp {
        let version = if place.tls_out || place.protocol == Protocol::H2 {
            "http2_protocol_options"
        } else {
            "http_protocol_options"
        };
        cluster["typed_extension_protocol_options"] = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { version: {} },
        } });
    }
    if place.tls_out {
        let mut context = tls(place);
        context["@type"] = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext".into();
        context["sni"] = "peer.bench".into();
        cluster["transport_socket"] = json!({ "name": "tls", "typed_config": context });
    }
    cluster
}

fn tls(place: &Place<'_>) -> Value {
    let file = |name: &str| json!({ "filename": place.certs.join(name) });
    let alpn: &[&str] = if place.protocol == Protocol::Tcp { &[] } else { &["h2"] };
    json!({ "common_tls_context": {
        "alpn_protocols": alpn,
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{ "certificate_chain": file("leaf.pem"), "private_key": file("leaf.key") }],
        "validation_context": { "trusted_ca": file("ca.pem"), "match_typed_subject_alt_names": [
            { "san_type": "DNS", "matcher": { "exact": "peer.bench" } } ] },
    } })
}

fn address(ip: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

//! HAProxy, Debian's, one thread. In a pair it speaks over TLS what the client speaks: HTTP/1.1 from a pool, or HTTP/2.

use std::{fs, process::Command};

use lacewing_tests::net::User;

use super::super::site::{debian, folder};
use super::{Place, Protocol};

pub fn command(place: &Place<'_>) -> Command {
    let dir = folder(place.host, &place.name("haproxy"));
    let certs = place.certs.display();
    let (mode, alpn, plain) = match place.protocol {
        Protocol::H1 => ("http", " alpn http/1.1", ""),
        Protocol::H2 => ("http", " alpn h2", " proto h2"),
        Protocol::Tcp => ("tcp", "", ""),
    };
    let reuse = if mode == "http" { "http-reuse always" } else { "" };
    let bind = if place.tls_in {
        format!(" ssl crt {certs}/both.pem ca-file {certs}/ca.pem verify required{alpn}")
    } else {
        plain.to_owned()
    };
    let server = if place.tls_out {
        format!(
            " ssl crt {certs}/both.pem ca-file {certs}/ca.pem verify required verifyhost peer.bench \
             sni str(peer.bench){alpn}{plain}"
        )
    } else {
        plain.to_owned()
    };
    let config = format!(
        "global
  nbthread 1
  maxconn 8000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode {mode}
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
frontend clients
  bind 0.0.0.0:{}{bind}
  default_backend servers
backend servers
  {reuse}
  server up {}{server}
",
        place.listen, place.dial
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config).expect("the host's folder is ours");
    let mut command = debian(place.host, User::Proxy, "haproxy");
    command.arg("-db").arg("-f").arg(&file);
    command
}

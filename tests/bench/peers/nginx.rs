//! nginx, Debian's, without a master process. In a pair it speaks HTTP/1.1 over TLS from a pool of kept connections, since
//! it has no HTTP/2 to servers; streams go through its stream module, which half-closes when told so.

use std::{fs, path::Path, process::Command};

use lacewing_tests::net::User;

use super::super::site::{debian, debian_root, folder};
use super::{Place, Protocol};

/// Settings of the whole process.
pub fn head(dir: &Path) -> String {
    format!(
        "daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {}/pid;
error_log stderr crit;
events {{ worker_connections 9000; multi_accept on; }}",
        dir.display()
    )
}

/// Its folders, which by default only root may write to.
pub fn temporary(dir: &Path) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    kinds.map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display())).join(" ")
}

pub fn command(place: &Place<'_>) -> Command {
    let dir = folder(place.host, &place.name("nginx"));
    let (ssl_in, ssl_out, listen, dial) = (ssl_in(place), ssl_out(place), place.listen, place.dial);
    let ssl = if place.tls_in { " ssl" } else { "" };
    let scheme = if place.tls_out { "https" } else { "http" };
    let body = if place.protocol == Protocol::Tcp {
        let proxy_ssl = if place.tls_out { "proxy_ssl on;" } else { "" };
        format!(
            "stream {{
  server {{ listen 0.0.0.0:{listen}{ssl}; tcp_nodelay on; proxy_half_close on; {ssl_in} {ssl_out} {proxy_ssl} proxy_pass {dial}; }}
}}"
        )
    } else {
        format!(
            "http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  {}
  upstream up {{ server {dial}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 3600s; }}
  server {{
    listen 0.0.0.0:{listen}{ssl} backlog=4096;
    {ssl_in} {ssl_out}
    location / {{
      proxy_pass {scheme}://up;
      proxy_http_version 1.1;
      proxy_set_header Connection '';
      proxy_set_header Host $host;
      proxy_max_temp_file_size 0;
    }}
  }}
}}",
            temporary(&dir)
        )
    };
    let file = dir.join("nginx.conf");
    let mut command = debian(place.host, User::Proxy, "nginx");
    let module = debian_root().join("usr/lib/nginx/modules/ngx_stream_module.so");
    let config = format!("load_module {};\n{}\n{body}\n", module.display(), head(&dir));
    fs::write(&file, config).expect("the host's folder is ours");
    command.arg("-p").arg(&dir).arg("-e").arg("stderr").arg("-c").arg(&file);
    command
}

fn ssl_in(place: &Place<'_>) -> String {
    if !place.tls_in {
        return String::new();
    }
    let certs = place.certs.display();
    format!(
        "ssl_certificate {certs}/leaf.pem; ssl_certificate_key {certs}/leaf.key; ssl_client_certificate {certs}/ca.pem; \
         ssl_verify_client on; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;"
    )
}

fn ssl_out(place: &Place<'_>) -> String {
    if !place.tls_out {
        return String::new();
    }
    let certs = place.certs.display();
    format!(
        "proxy_ssl_certificate {certs}/leaf.pem; proxy_ssl_certificate_key {certs}/leaf.key; \
         proxy_ssl_trusted_certificate {certs}/ca.pem; proxy_ssl_verify on; proxy_ssl_name peer.bench; \
         proxy_ssl_protocols TLSv1.3;"
    )
}

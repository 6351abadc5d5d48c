//! TCP sockets as every part of the proxy wants them: opened in time, marked where the redirection rules must tell them
//! from the app's, with limits on silence; and where an accepted one was meant for before the kernel redirected it.

use std::{
    io,
    net::{SocketAddr, SocketAddrV6},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};

use crate::config::{CONNECT_TIMEOUT, TCP_KEEPALIVE, TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_BETWEEN_PROXIES};

/// Opens connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialer {
    /// `SO_MARK` for each socket: exempts it from redirection where the user id cannot. Needs `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
}

impl Dialer {
    /// Connects within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// Refused, unreachable, too late, or no right to set the mark.
    pub async fn connect(self, addr: SocketAddr) -> io::Result<TcpStream> {
        let stream = timeout(CONNECT_TIMEOUT, self.open(addr)).await??;
        tune(&stream)?;
        Ok(stream)
    }

    /// Connects, however long the kernel tries.
    ///
    /// # Errors
    /// Refused, unreachable, or no right to set the mark.
    pub async fn open(self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        #[cfg(target_os = "linux")]
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(addr).await
    }

    /// Connects to the first address of `host:port` that answers.
    ///
    /// # Errors
    /// The name is not known, or none of its addresses answers: the last one's error.
    pub async fn connect_to_name(self, name: &str) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for addr in lookup_host(name).await? {
            match self.connect(addr).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Sets what every connection of ours has: no delay for small writes, and limits on silence and on unacknowledged data.
///
/// # Errors
/// The kernel refuses.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE).with_retries(3);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(())
}

/// Shortens the patience with unacknowledged data on a connection whose other end is a proxy: it always reads.
///
/// # Errors
/// The kernel refuses.
pub fn between_proxies(socket: &TcpStream) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(socket).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT_BETWEEN_PROXIES))?;
    Ok(())
}

/// Where the client wanted to go, if the kernel redirected the connection here (`SO_ORIGINAL_DST`); `None` if it wanted
/// to come here, or nothing is known.
pub fn redirected_from(socket: &TcpStream) -> Option<SocketAddr> {
    let here = socket.local_addr().ok()?;
    let meant = original_destination(socket, here)?;
    (meant != here).then_some(meant)
}

#[cfg(target_os = "linux")]
fn original_destination(socket: &TcpStream, here: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(socket);
    let meant = if here.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match meant.ok()?.as_socket()? {
        SocketAddr::V4(meant) => Some(meant.into()),
        // Compared and looked up by address and port alone.
        SocketAddr::V6(meant) => Some(SocketAddrV6::new(*meant.ip(), meant.port(), 0, 0).into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn original_destination(_: &TcpStream, _: SocketAddr) -> Option<SocketAddr> {
    None
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_meant_for_us_was_not_redirected() {
        for here in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(here).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let client = Dialer::default().connect(addr).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            assert_eq!(redirected_from(&server), None);
            assert!(client.nodelay().unwrap());
        }
    }
}

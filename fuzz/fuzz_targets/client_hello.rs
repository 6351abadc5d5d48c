//! The ClientHello: a connection that begins like TLS is told to be the mesh's or the app's own without a panic and without
//! hanging; the app's own bytes are given back as they came. Without a certificate of ours no handshake goes on.
//! And the server name by which a connection says where it is meant for has one spelling.

#![no_main]

use bytes::BytesMut;
use lacewing_identity::sni;
use lacewing_proxy::tls::{Identity, accept};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What fits a socket's buffer, and more than a ClientHello may have.
const BYTES_MAX: usize = 32 * 1024;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((port, service, namespace)) = std::str::from_utf8(bytes).ok().and_then(sni::parse) {
        assert_eq!(sni::format(port, service, namespace).as_bytes(), bytes);
    }
    let [cut, rest @ ..] = bytes else { return };
    let rest = &rest[..rest.len().min(BYTES_MAX)];
    let (first, later) = rest.split_at(usize::from(*cut).min(rest.len()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    // Without sockets there is nothing to find here.
    let Ok(runtime) = runtime else { return };
    let _ = runtime.block_on(converse(first, later));
});

async fn converse(first: &[u8], later: &[u8]) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut client = TcpStream::connect(listener.local_addr()?).await?;
    let (server, _) = listener.accept().await?;
    // No TIME_WAIT for each of a million connections.
    client.set_zero_linger()?;
    client.write_all(later).await?;
    client.shutdown().await?;
    let accepted = accept(server, BytesMut::from(first), &Identity::default()).await;
    match accepted {
        Ok(Ok(_)) => panic!("a handshake without a certificate"),
        Ok(Err(mut own)) => {
            let mut again = Vec::new();
            own.read_to_end(&mut again).await?;
            assert_eq!(again, [first, later].concat(), "the app's own TLS comes as it was sent");
        }
        Err(_) => {}
    }
    Ok(())
}

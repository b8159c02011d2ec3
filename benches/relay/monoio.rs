//! The floor of this stack: bytes from each client to a connection of its own and back, by monoio, with the runtime that
//! the proxy uses and nothing read of what passes.

mod common;

use chocon_uring::shard::runtime;
use monoio::{
    io::{AsyncReadRent, AsyncWriteRentExt, Splitable},
    net::{TcpListener, TcpStream},
};
use std::{io, net::SocketAddr};

fn main() -> io::Result<()> {
    let (listener, to) = common::start("relay-monoio")?;
    let flags = runtime::probe().map_err(io::Error::other)?;
    runtime::build(flags)?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (client, _peer) = listener.accept().await?;
            monoio::spawn(async move {
                if let Err(e) = relay(client, to).await {
                    eprintln!("relay-monoio: no connection to {to}: {e}");
                }
            });
        }
    })
}

async fn relay(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let origin = TcpStream::connect_addr(to).await?;
    client.set_nodelay(true)?;
    origin.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (origin_read, origin_write) = origin.into_split();
    monoio::spawn(copy(client_read, origin_write));
    copy(origin_read, client_write).await;
    Ok(())
}

/// Carries bytes until either end is gone. Dropping `to` sends FIN.
async fn copy(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRentExt) {
    let mut buf = Vec::with_capacity(common::READ_BYTES);
    loop {
        let (received, bytes) = from.read(buf).await;
        if !matches!(received, Ok(1..)) {
            return;
        }
        let (sent, bytes) = to.write_all(bytes).await;
        if sent.is_err() {
            return;
        }
        buf = bytes;
    }
}

//! The origin that `scripts/bench` measures against: `origin BODY_BYTES`. It prints the port that the kernel chose.

mod echo;

use std::net::TcpListener;

fn main() -> std::io::Result<()> {
    let body_bytes = std::env::args().nth(1).map_or(Ok(2), |bytes| bytes.parse());
    let body_bytes: usize = body_bytes
        .map_err(|e| std::io::Error::other(format!("usage: origin [BODY_BYTES], a number: {e}")))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on {}", listener.local_addr()?);
    echo::serve(listener, vec![b'x'; body_bytes].into())
}

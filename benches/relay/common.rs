//! What both relays have in common: their arguments, their CPU and their sockets' options, as the proxy has them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// Bytes taken in one receive: a small block of the proxy.
pub const READ_BYTES: usize = 16 * 1024;

/// As the proxy's listeners.
const BACKLOG: i32 = 4096;

/// Reads `--listen ADDR:PORT --to ADDR:PORT`, pins this thread to the first CPU it may use, and listens; the port is
/// printed. Returns the listener and where each connection leads.
pub fn start(program: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = || io::Error::other(format!("usage: {program} --listen ADDR:PORT --to ADDR:PORT"));
    let [listen_flag, listen, to_flag, to] = &args[..] else { return Err(usage()) };
    if (listen_flag.as_str(), to_flag.as_str()) != ("--listen", "--to") {
        return Err(usage());
    }
    let listen: SocketAddr = listen.parse().map_err(|_| usage())?;
    let to = to.parse().map_err(|_| usage())?;
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    if !cpus.first().is_some_and(|cpu| core_affinity::set_for_current(*cpu)) {
        eprintln!("{program}: not pinned to a CPU");
    }
    let domain = socket2::Domain::for_address(listen);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("{}", listener.local_addr()?.port());
    Ok((listener, to))
}

//! Tells systemd when the process serves and when it ends (sd_notify(3)), for units with `Type=notify`.

#![forbid(unsafe_code)]

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Sends `state`, for example `READY=1`, to the socket that `NOTIFY_SOCKET` names, if it does.
pub fn notify(state: &str) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else {
        return;
    };
    if let Err(e) = send(&place, state) {
        log::warn!("systemd cannot be told {state} over NOTIFY_SOCKET: {e}");
    }
}

fn send(place: &OsStr, state: &str) -> io::Result<()> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _path => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A reader that does not read must not keep the proxy from serving.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

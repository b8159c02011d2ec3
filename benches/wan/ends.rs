//! The two ends: each a network namespace with a TUN device and its addresses.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::thread;

use crate::sys;

/// Addresses of a range for measurements between networks (RFC 2544 C.2.2), which no real peer has.
pub const NEAR_ADDR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const FAR_ADDR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// All of 198.18.0.0/16 is at the other end of the device.
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 0, 0);

/// On the loopback device a network's every address is the host's own: 254 more at the far end.
const FAR_NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const FAR_NETWORK_MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

const DEVICE: &str = "wan0";

/// Packets that may wait in the device for the delay line. It reads within a millisecond, in which
/// even 10 Gbit/s bring 830; the bound that counts is the link's own queue.
const DEVICE_QUEUE_PACKETS: i32 = 10_000;

pub struct End {
    pub namespace: File,
    pub device: File,
}

/// Builds the end with this address.
pub fn build(addr: Ipv4Addr, mtu: usize) -> io::Result<End> {
    // A namespace is a thread's; on a thread that ends, nobody is left in it.
    let build = move || {
        let namespace = sys::leave_network().map_err(|e| explain("make a network namespace", e))?;
        let device = sys::open_tun(DEVICE).map_err(|e| explain("make a TUN device", e))?;
        configure(addr, mtu).map_err(|e| explain("configure the devices", e))?;
        Ok(End { namespace, device })
    };
    thread::spawn(build).join().unwrap_or_else(|_| Err(io::Error::other("an end panicked")))
}

fn configure(addr: Ipv4Addr, mtu: usize) -> io::Result<()> {
    let devices = sys::Interfaces::open()?;
    devices.set_up("lo")?;
    devices.set_mtu(DEVICE, mtu)?;
    match devices.set_queue(DEVICE, DEVICE_QUEUE_PACKETS) {
        // Linux lets only the machine's own root change it by this call, not that of a user's
        // namespaces. The 500 of TUN are enough for 6 ms at 1 Gbit/s.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        other => other?,
    }
    devices.set_addr(DEVICE, addr, MASK)?;
    devices.set_up(DEVICE)?;
    if addr == FAR_ADDR {
        devices.set_addr("lo:1", FAR_NETWORK, FAR_NETWORK_MASK)?;
    }
    Ok(())
}

fn explain(what: &str, e: io::Error) -> io::Error {
    let remedy = match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "run it as root (CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "load the module tun, or mknod /dev/net/tun c 10 200"
        }
        _ => "this kernel may lack network namespaces or TUN",
    };
    io::Error::new(e.kind(), format!("cannot {what}: {e}; {remedy}"))
}

//! provisional
use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};
#[derive(Clone)]
pub struct Resolver;
pub struct Busy;
#[derive(Clone, Debug)]
pub struct DnsError;
impl std::fmt::Display for DnsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no such name")
    }
}
pub struct Answer {
    pub name: Arc<str>,
    pub result: Result<Arc<[IpAddr]>, DnsError>,
    pub ttl: Duration,
}
impl Resolver {
    pub fn start() -> io::Result<Self> {
        Ok(Self)
    }
    pub fn ask(
        &self,
        name: Arc<str>,
        reply: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), Busy> {
        std::thread::spawn(move || {
            let r = (&*name, 0u16)
                .to_socket_addrs()
                .map(|a| a.map(|s| s.ip()).collect::<Vec<_>>().into())
                .map_err(|_| DnsError);
            reply(Answer { name, result: r, ttl: Duration::from_secs(5) });
        });
        Ok(())
    }
}

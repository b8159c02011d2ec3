//! The least proxy that Pingora makes: one thread, one pool, HTTP/1.1 to one origin, whose certificate is not verified
//! (nor is it by the other peers). No log.

use async_trait::async_trait;
use pingora::prelude::{HttpPeer, ProxyHttp, Server, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;
use std::process::exit;

/// Idle connections kept, as many as the proxy and the other peers keep.
const POOL: usize = 2048;

struct Fixed {
    origin: String,
    tls: bool,
    /// Sent in the handshake.
    name: String,
}

#[async_trait]
impl ProxyHttp for Fixed {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(&self.origin, self.tls, self.name.clone());
        peer.options.verify_cert = false;
        peer.options.verify_hostname = false;
        Ok(Box::new(peer))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, host, origin_port, scheme] = &args[..] else {
        eprintln!("usage: peer-pingora PORT ORIGIN_HOST ORIGIN_PORT http|https");
        exit(2);
    };
    let conf =
        ServerConf { threads: 1, upstream_keepalive_pool_size: POOL, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let origin = format!("{host}:{origin_port}");
    let fixed = Fixed { origin, tls: scheme == "https", name: host.clone() };
    let mut proxy = http_proxy_service(&server.configuration, fixed);
    proxy.add_tcp(&format!("127.0.0.1:{port}"));
    server.add_service(proxy);
    server.run_forever();
}

//! Nothing, on purpose.
//!
//! monoio-http 0.3.12 declares monoio-rustls 0.3 as a dependency and uses no item of it. The real
//! crate drags in rustls 0.21 and rustls-webpki 0.101, which carry RUSTSEC-2026-0098, -0099 and
//! -0104. Patching this in removes them from `Cargo.lock` and from the build.
#![forbid(unsafe_code)]

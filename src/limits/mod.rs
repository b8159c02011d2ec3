//! Every bound of the proxy: its unit, why it has this value, and what the peer sees when it is reached.

#![forbid(unsafe_code)]

mod buffers;
mod clients;
mod flags;
mod http2;
mod messages;
mod names;
mod observing;
mod origins;
mod state;
mod time;
mod warmth;

pub use buffers::*;
pub use clients::*;
pub use flags::*;
pub use http2::*;
pub use messages::*;
pub use names::*;
pub use observing::*;
pub use origins::*;
pub use state::*;
pub use time::*;
pub use warmth::*;

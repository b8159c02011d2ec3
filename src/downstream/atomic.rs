//! The atomics of [`super::balance`]; a file of its own, so that a model checker's can stand in.

pub use std::sync::atomic::*;

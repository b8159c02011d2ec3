//! Messages to a shard from other threads: a lock-free queue, and an event counter read on the shard's ring.
//!
//! Cold path only: look-up answers, orders from the process, connections between shards.

#![forbid(unsafe_code)]

use super::sys;
use crate::limits::MAILBOX_MAX;
use crossbeam_queue::ArrayQueue;
use std::{
    fs::File,
    io,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Any thread's end.
pub struct Mailbox<M> {
    inner: Arc<Inner<M>>,
}

struct Inner<M> {
    queue: ArrayQueue<M>,
    event: File,
}

/// The shard's end.
pub struct Inbox<M> {
    inner: Arc<Inner<M>>,
}

/// Makes a mailbox and its inbox.
pub fn mailbox<M>() -> io::Result<(Mailbox<M>, Inbox<M>)> {
    with_room(MAILBOX_MAX)
}

/// Makes a mailbox for one message, and its inbox.
pub fn reply<M>() -> io::Result<(Mailbox<M>, Inbox<M>)> {
    with_room(1)
}

fn with_room<M>(messages: usize) -> io::Result<(Mailbox<M>, Inbox<M>)> {
    let event = File::from(sys::event_counter()?);
    let inner = Arc::new(Inner { queue: ArrayQueue::new(messages), event });
    Ok((Mailbox { inner: inner.clone() }, Inbox { inner }))
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<M> Mailbox<M> {
    /// Leaves a message and wakes the shard. Errors: the message comes back when `MAILBOX_MAX` are waiting.
    pub fn send(&self, message: M) -> Result<(), M> {
        self.inner.queue.push(message)?;
        // An event counter takes 2^64 - 2 additions before it would block; it is reset at each read.
        if let Err(e) = (&self.inner.event).write_all(&1u64.to_ne_bytes()) {
            log::error!("a shard could not be woken: {e}");
        }
        Ok(())
    }
}

impl<M> Inbox<M> {
    /// Waits for one message. Errors: the event counter cannot be read. Cancel-safe: the message is lost with the inbox.
    pub async fn first(self) -> io::Result<M> {
        let event = monoio::fs::File::from_std(self.inner.event.try_clone()?)?;
        let mut counter: Box<[u8]> = Box::new([0; 8]);
        loop {
            if let Some(message) = self.inner.queue.pop() {
                return Ok(message);
            }
            let (result, back) = event.read_at(counter, 0).await;
            result?;
            counter = back;
        }
    }

    /// Hands every message to `each`, for as long as the shard lives; one that makes it panic is lost, and logged. Errors:
    /// the event counter cannot be read.
    pub async fn serve(self, mut each: impl FnMut(M)) -> io::Result<()> {
        let event = monoio::fs::File::from_std(self.inner.event.try_clone()?)?;
        let mut counter: Box<[u8]> = Box::new([0; 8]);
        loop {
            while let Some(message) = self.inner.queue.pop() {
                // What `each` changes it changes between waits, and leaves nothing half-made (see the borrows).
                if catch_unwind(AssertUnwindSafe(|| each(message))).is_err() {
                    log::error!(
                        "a message ended in a panic; the shard goes on. Please report this"
                    );
                }
            }
            let (result, back) = event.read_at(counter, 0).await;
            result?;
            counter = back;
        }
    }
}

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

/// Makes a mailbox in which so many messages may wait, and its inbox.
pub fn with_room<M>(messages: usize) -> io::Result<(Mailbox<M>, Inbox<M>)> {
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
    /// Leaves a message and wakes the shard. Errors: the message comes back when as many wait as there is room for.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::runtime;
    use std::{cell::Cell, rc::Rc, thread, time::Duration};

    /// Runs until `done`, serving `inbox` with `each`.
    fn serve<M: 'static>(inbox: Inbox<M>, each: impl FnMut(M) + 'static, done: impl Fn() -> bool) {
        let mut ring = runtime::build(runtime::probe().unwrap()).unwrap();
        ring.block_on(async {
            monoio::spawn(inbox.serve(each));
            for _ in 0..10_000 {
                if done() {
                    return;
                }
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            panic!("messages are missing");
        });
        // The read of the counter is still under way; its buffer must outlive it.
        std::mem::forget(ring);
    }

    #[test]
    fn every_message_of_every_thread_arrives() {
        const EACH: u64 = 2000;
        let (mailbox, inbox) = mailbox().unwrap();
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let mailbox: Mailbox<u64> = mailbox.clone();
                thread::spawn(move || (1..=EACH).for_each(|n| mailbox.send(n).unwrap()))
            })
            .collect();
        let sum = Rc::new(Cell::new(0));
        let seen = sum.clone();
        let each = move |n| seen.set(seen.get() + n);
        serve(inbox, each, move || sum.get() == EACH * (EACH + 1));
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (mailbox, _inbox) = mailbox().unwrap();
        (0..MAILBOX_MAX).for_each(|n| mailbox.send(n).unwrap());
        assert_eq!(mailbox.send(7), Err(7));
    }

    #[test]
    fn a_message_that_panics_does_not_end_the_service() {
        let (mailbox, inbox) = mailbox().unwrap();
        (0..3).for_each(|n| mailbox.send(n).unwrap());
        let last = Rc::new(Cell::new(0));
        let seen = last.clone();
        let each = move |n| {
            assert_ne!(n, 1, "this one panics");
            seen.set(n);
        };
        serve(inbox, each, move || last.get() == 2);
    }
}

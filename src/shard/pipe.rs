//! A bounded way in both directions between two shards, for something that takes several steps: each end sees what the
//! other sent, that it made room where there was none, and that it is gone.
//!
//! A queue a direction, lock-free, and an event counter an end that is read on its shard's ring. An end is polled by one
//! task: [`End::poll_stirred`] is ready when the other end did anything, and the task looks at everything anew.

#![forbid(unsafe_code)]

use super::sys;
use crossbeam_queue::ArrayQueue;
use std::{
    cell::RefCell,
    fs::File,
    future::Future,
    io::{self, Write},
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Release,
            Ordering::SeqCst,
        },
    },
    task::{Context, Poll},
};

/// One end, for any thread: the shard that is to use it attaches it. Dropping it tells the other end.
pub struct Loose<Out, In> {
    out: Arc<ArrayQueue<Out>>,
    back: Arc<ArrayQueue<In>>,
    own: Arc<Bell>,
    other: Arc<Bell>,
}

/// What an end is told by, beside its queue.
struct Bell {
    event: File,
    /// What the other end granted and this one did not take.
    granted: AtomicUsize,
    /// The end that listens here found no room for a message.
    wants_room: AtomicBool,
    /// The end that listens here is gone.
    is_gone: AtomicBool,
}

/// Makes a way with room for so many messages a direction. Errors: no descriptors.
pub fn pipe<A, B>(room: usize) -> io::Result<(Loose<A, B>, Loose<B, A>)> {
    let bell = || -> io::Result<Arc<Bell>> {
        let event = File::from(sys::event_counter()?);
        Ok(Arc::new(Bell {
            event,
            granted: AtomicUsize::new(0),
            wants_room: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
        }))
    };
    let (here, there) = (bell()?, bell()?);
    let (out, back) = (Arc::new(ArrayQueue::new(room)), Arc::new(ArrayQueue::new(room)));
    let first =
        Loose { out: out.clone(), back: back.clone(), own: here.clone(), other: there.clone() };
    Ok((first, Loose { out: back, back: out, own: there, other: here }))
}

impl Bell {
    fn ring(&self) {
        // An event counter takes 2^64 - 2 additions before it would block; it is reset at each read.
        if let Err(e) = (&self.event).write_all(&1u64.to_ne_bytes()) {
            log::error!("a shard could not be woken: {e}");
        }
    }
}

impl<Out, In> Loose<Out, In> {
    /// Puts it to use on this shard. Errors: no descriptors.
    pub fn attach(self) -> io::Result<End<Out, In>> {
        let event = monoio::fs::File::from_std(self.own.event.try_clone()?)?;
        Ok(End { loose: self, listening: RefCell::new(listen(event)) })
    }
}

impl<Out, In> Drop for Loose<Out, In> {
    fn drop(&mut self) {
        self.own.is_gone.store(true, Release);
        self.other.ring();
    }
}

type Listening = Pin<Box<dyn Future<Output = io::Result<monoio::fs::File>>>>;

fn listen(event: monoio::fs::File) -> Listening {
    Box::pin(async move {
        let counter: Box<[u8]> = Box::new([0; 8]);
        let (result, _) = event.read_at(counter, 0).await;
        result.map(|_| event)
    })
}

/// One end on its shard.
pub struct End<Out, In> {
    loose: Loose<Out, In>,
    listening: RefCell<Listening>,
}

impl<Out, In> End<Out, In> {
    /// Errors: it comes back when the queue is full; the other end stirs when it takes something.
    pub fn send(&self, message: Out) -> Result<(), Out> {
        let refused = self.loose.out.push(message).err();
        if let Some(message) = refused {
            // Told first and tried again after that: the other end looks for the wish after it has made room.
            self.loose.own.wants_room.store(true, SeqCst);
            self.loose.out.push(message)?;
        }
        self.loose.other.ring();
        Ok(())
    }

    /// The next message, if there is one.
    pub fn take(&self) -> Option<In> {
        let message = self.loose.back.pop()?;
        // Only where it is waited for: each signal wakes the other shard.
        if self.loose.other.wants_room.swap(false, SeqCst) {
            self.loose.other.ring();
        }
        Some(message)
    }

    /// Lets the other end have `n` more of what both of them count.
    pub fn grant(&self, n: usize) {
        self.loose.other.granted.fetch_add(n, AcqRel);
        self.loose.other.ring();
    }

    /// What the other end granted since this was last asked.
    pub fn take_granted(&self) -> usize {
        self.loose.own.granted.swap(0, AcqRel)
    }

    /// Whether the other end is gone. What it sent before can still be taken.
    pub fn is_left(&self) -> bool {
        self.loose.other.is_gone.load(Acquire)
    }

    /// Ready once after the other end did something. Pending: the task is woken when it does.
    pub fn poll_stirred(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut listening = self.listening.borrow_mut();
        match listening.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(event)) => {
                *listening = listen(event);
                Poll::Ready(())
            }
            Poll::Ready(Err(e)) => {
                // Nothing could be heard any more: as if the other end were gone.
                log::error!("an event counter cannot be read: {e}");
                self.loose.other.is_gone.store(true, Release);
                *listening = Box::pin(std::future::pending());
                Poll::Ready(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::runtime;
    use std::{future::poll_fn, thread};

    fn run(future: impl Future<Output = ()>) {
        let mut ring = runtime::build(runtime::probe().unwrap()).unwrap();
        let within = std::time::Duration::from_secs(20);
        let ended = ring.block_on(async { monoio::time::timeout(within, future).await });
        // Reads of the counters may still be under way; their buffers must outlive them.
        std::mem::forget(ring);
        assert!(ended.is_ok(), "not done in time");
    }

    async fn next<Out, In>(end: &End<Out, In>) -> Option<In> {
        poll_fn(|cx| {
            loop {
                if let Some(message) = end.take() {
                    return Poll::Ready(Some(message));
                }
                if end.is_left() {
                    // It may have sent and left since.
                    return Poll::Ready(end.take());
                }
                if end.poll_stirred(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    async fn send<Out, In>(end: &End<Out, In>, message: Out) {
        let mut message = Some(message);
        poll_fn(|cx| {
            loop {
                match end.send(message.take().expect("it came back")) {
                    Ok(()) => return Poll::Ready(()),
                    Err(back) => message = Some(back),
                }
                if end.poll_stirred(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    #[test]
    fn all_messages_pass_in_order_however_small_the_room_and_then_the_end_is_seen() {
        const EACH: u32 = 5000;
        for room in [1, 3] {
            let (near, far) = pipe::<u32, u32>(room).unwrap();
            let echo = thread::spawn(move || {
                run(async move {
                    let far = far.attach().unwrap();
                    while let Some(n) = next(&far).await {
                        send(&far, n).await;
                    }
                });
            });
            run(async move {
                let near = near.attach().unwrap();
                for n in 0..EACH {
                    send(&near, n).await;
                    assert_eq!(next(&near).await, Some(n));
                }
            });
            echo.join().unwrap();
        }
    }

    #[test]
    fn what_was_sent_before_the_end_is_still_there_and_grants_add_up() {
        run(async {
            let (near, far) = pipe::<u32, u32>(2).unwrap();
            let (near, far) = (near.attach().unwrap(), far.attach().unwrap());
            near.grant(3);
            near.grant(4);
            assert_eq!((far.take_granted(), far.take_granted()), (7, 0));
            near.send(1).unwrap();
            near.send(2).unwrap();
            assert_eq!(near.send(3), Err(3));
            assert!(!far.is_left());
            drop(near);
            assert!(far.is_left());
            assert_eq!(
                (next(&far).await, next(&far).await, next(&far).await),
                (Some(1), Some(2), None)
            );
        });
    }

    #[test]
    fn an_end_that_never_was_attached_tells_too() {
        run(async {
            let (near, far) = pipe::<u32, u32>(1).unwrap();
            let near = near.attach().unwrap();
            assert!(!near.is_left());
            drop(far);
            assert_eq!(next(&near).await, None);
        });
    }
}

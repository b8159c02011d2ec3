//! The thread that makes the proxy's own pages. To merge a million samples, or to ask the kernel for
//! figures, takes a while; a shard has others to serve meanwhile.
#![forbid(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::SystemTime;

use crate::limits::API_ASKED_MAX;
use crate::observe::admin::{self, Figures, Page};
use crate::observe::counters::{Counters, Summary};
use crate::observe::memory::Memory;
use crate::observe::utc;

/// What the pages are made of.
#[derive(Debug)]
pub struct Sources {
    /// Of each shard.
    pub counters: Vec<Arc<Counters>>,
    /// Samples that count: `--stsize`.
    pub kept: usize,
    /// CPUs that the process may use.
    pub cpus: usize,
}

/// Any thread's way to ask.
#[derive(Clone, Debug)]
pub struct Api {
    asked: SyncSender<Ask>,
}

struct Ask {
    page: Page,
    reply: Box<dyn FnOnce(Option<Vec<u8>>) + Send>,
}

impl Api {
    /// Starts the thread. It ends when all who could ask are gone.
    ///
    /// Errors: no thread to be had.
    pub fn start(sources: Sources) -> io::Result<Api> {
        let (asked, asks) = sync_channel(API_ASKED_MAX);
        thread::Builder::new().name("api".into()).spawn(move || answer(&asks, &sources))?;
        Ok(Api { asked })
    }

    /// Has `page` made and given to `reply`, on the thread; None if that panicked. Returns at once:
    /// whether it was taken, and not while `API_ASKED_MAX` are waiting.
    pub fn ask(&self, page: Page, reply: impl FnOnce(Option<Vec<u8>>) + Send + 'static) -> bool {
        self.asked.try_send(Ask { page, reply: Box::new(reply) }).is_ok()
    }
}

fn answer(asks: &Receiver<Ask>, sources: &Sources) {
    for Ask { page, reply } in asks {
        // Sources are only read: a panic leaves nothing half-changed, and the next page may be fine.
        reply(catch_unwind(AssertUnwindSafe(|| sources.page(page))).ok());
    }
}

impl Sources {
    fn page(&self, page: Page) -> Vec<u8> {
        match page {
            Page::Stats { pretty } => admin::stats(&self.figures(), pretty),
            Page::HttpStats => admin::http_stats(&Summary::of(&self.counters, self.kept)),
        }
    }

    fn figures(&self) -> Figures {
        Figures {
            unix_ns: u64::try_from(utc::unix_us(SystemTime::now())).unwrap_or(0) * 1000,
            cpus: self.cpus,
            clients: self.counters.iter().map(|shard| shard.clients()).collect(),
            http2: self.counters.iter().map(|shard| shard.http2()).collect(),
            memory: Memory::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn asks_that_wait_for_the_thread_are_bounded() {
        let api = Api::start(Sources { counters: vec![], kept: 1, cpus: 1 }).expect("a thread");
        let (began, begins) = channel();
        let (release, released) = channel::<()>();
        // Its reply holds the thread up.
        assert!(api.ask(Page::HttpStats, move |_| {
            began.send(()).expect("a test");
            released.recv().ok();
        }));
        begins.recv().expect("the first page");
        let (answered, answers) = channel();
        for _ in 0..API_ASKED_MAX {
            let answered = answered.clone();
            assert!(api.ask(Page::HttpStats, move |page| answered.send(page).expect("a test")));
        }
        assert!(!api.ask(Page::HttpStats, |_| {}));
        drop(release);
        for _ in 0..API_ASKED_MAX {
            assert!(answers.recv().expect("an answer").is_some());
        }
        assert!(api.ask(Page::HttpStats, |_| {}));
    }
}

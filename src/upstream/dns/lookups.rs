//! The look-ups under way on the resolver's thread: one for each name, whoever asks.

#![forbid(unsafe_code)]

use super::{
    Answer, DnsError, Question, Reply,
    cache::{Cache, Found, News},
    servers::{Current, Sources},
};
use crate::limits::{
    LOOKUP_WITHIN, LOOKUPS_AT_ONCE, NAME_REPORT_EVERY, NAME_STALE_MAX, NEGATIVE_TTL_MIN,
};
use hickory_resolver::config::ResolverConfig;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// The thread's state: the configuration in force, what was found, and who waits for which name.
pub struct Lookups {
    sources: Sources,
    servers: Option<ResolverConfig>,
    current: Rc<Current>,
    /// When the files were last looked at.
    looked: Instant,
    found: Rc<RefCell<Cache>>,
    waiting: Rc<RefCell<HashMap<Arc<str>, Vec<Reply>>>>,
    reports: Rc<Reports>,
    /// Look-ups that may be under way, and families that may be late.
    turns: Rc<Semaphore>,
    lates: Rc<Semaphore>,
}

impl Lookups {
    pub fn new(sources: Sources, servers: Option<ResolverConfig>) -> Self {
        let current = Rc::new(Current::read(&sources, servers.clone()));
        Self {
            sources,
            servers,
            current,
            looked: Instant::now(),
            found: Rc::default(),
            waiting: Rc::default(),
            reports: Rc::default(),
            turns: Rc::new(Semaphore::new(LOOKUPS_AT_ONCE)),
            lates: Rc::new(Semaphore::new(LOOKUPS_AT_ONCE)),
        }
    }

    pub fn take(&mut self, Question { name, newer_than, reply }: Question) {
        self.refresh();
        let now = Instant::now();
        let known = self.current.in_hosts(&name, now);
        if let Some(answer) = known.or_else(|| self.found.borrow().get(&name, newer_than, now)) {
            return reply(answer);
        }
        let mut waiting = self.waiting.borrow_mut();
        let replies = waiting.entry(name.clone()).or_default();
        replies.push(reply);
        if replies.len() > 1 {
            // A look-up of this name is under way; its answer serves all.
            return;
        }
        drop(waiting);
        let (current, found) = (self.current.clone(), self.found.clone());
        let (waiting, reports) = (self.waiting.clone(), self.reports.clone());
        let (turns, lates) = (self.turns.clone(), self.lates.clone());
        tokio::task::spawn_local(async move {
            let panicked = DnsError::Failed("the look-up ended in a panic".to_owned());
            let mut pending = Pending {
                answer: Answer {
                    name: name.clone(),
                    result: Err(panicked),
                    at: Instant::now(),
                    ttl: NEGATIVE_TTL_MIN,
                },
                waiting,
            };
            // The semaphore is never closed.
            let permit = turns.acquire().await;
            let ended = tokio::time::timeout(LOOKUP_WITHIN, current.lookup(&name)).await;
            let (families, late) = ended.unwrap_or_else(|_elapsed| {
                let timed_out = || Found::Failed(DnsError::TimedOut);
                ([timed_out(), timed_out()], None)
            });
            let (answer, news) = found.borrow_mut().take(&name, families, Instant::now());
            pending.answer = answer;
            drop(pending);
            drop(permit);
            if let Some(news) = news {
                reports.tell(&name, &news);
            }
            if let Some((family, late)) = late
                && let Ok(_permit) = lates.try_acquire()
                && let Ok(then) = tokio::time::timeout(LOOKUP_WITHIN, late).await
            {
                found.borrow_mut().complete(&name, family, then, Instant::now());
            }
        });
    }

    /// Reads the files again if they changed; looks at most once a second.
    fn refresh(&mut self) {
        if self.looked.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.looked = Instant::now();
        if self.sources.changed() != self.current.changed {
            log::info!("the hosts file or resolv.conf changed; names are looked up by them anew");
            self.current = Rc::new(Current::read(&self.sources, self.servers.clone()));
            self.found.borrow_mut().expire();
        }
    }
}

/// What the log was told of failing name servers. They fail for all names, and one line is enough for that.
#[derive(Default)]
struct Reports {
    warned: Cell<Option<Instant>>,
    recovery_due: Cell<bool>,
}

impl Reports {
    fn tell(&self, name: &str, news: &News) {
        let recently = self.warned.get().is_some_and(|at| at.elapsed() < NAME_REPORT_EVERY);
        match news {
            News::Stale(why) if recently => log::debug!("{name}: {why}; old addresses are used"),
            News::Stale(why) => {
                let hours = NAME_STALE_MAX.as_secs() / 3600;
                log::warn!(
                    "{name}: {why}; its last addresses, and those of other names that fail, are used for up to {hours} h"
                );
                self.warned.set(Some(Instant::now()));
                self.recovery_due.set(true);
            }
            News::Recovered if self.recovery_due.replace(false) => {
                log::info!("{name}: the look-up succeeds again");
            }
            News::Recovered => log::debug!("{name}: the look-up succeeds again"),
        }
    }
}

/// A look-up under way. Its drop gives the answer, so that nobody waits for one that panicked.
struct Pending {
    answer: Answer,
    waiting: Rc<RefCell<HashMap<Arc<str>, Vec<Reply>>>>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let replies = self.waiting.borrow_mut().remove(&self.answer.name).unwrap_or_default();
        for reply in replies {
            reply(self.answer.clone());
        }
    }
}

//! What is left of a request when it is over: a value in the counters and a line in the log.

#![forbid(unsafe_code)]

use super::asked::Asked;
use crate::{
    client::Client,
    error::Error,
    observe::access_log::{Course, ErrorRecord, Record},
    relay::Progress,
    shard::Shard,
    upstream::Origin,
};
use std::time::Instant;

/// What the logs say of a request.
pub struct Entry<'e> {
    pub shard: &'e Shard,
    pub client: &'e Client,
    pub asked: &'e Asked,
    pub head: &'e [u8],
    pub started: Instant,
    pub progress: &'e Progress,
}

impl Entry<'_> {
    fn course(&self, now: Instant, error: Option<&Error>) -> Course {
        let progress = self.progress;
        let begun = progress.response_begun.get();
        let first_byte = |begun: Instant| {
            let sent = progress.request_sent.get()?;
            (begun >= sent).then(|| begun.saturating_duration_since(sent))
        };
        Course {
            attempts: progress.attempts.get(),
            connection: progress.connection.get(),
            first_byte: begun.and_then(first_byte),
            body: begun.map(|begun| now.saturating_duration_since(begun)),
            ended_by: error.map(|error| (error.party, error.phase)),
        }
    }

    /// Returns when the request ended.
    pub fn record(&self, error: Option<&Error>, origin: Option<&Origin>) -> Instant {
        let Entry { shard, client, asked, head, started, progress } = self;
        let now = progress.ended.get().unwrap_or_else(Instant::now);
        let duration = now.saturating_duration_since(*started);
        let status = match error {
            // What the client was told before the cut stands in the response; that it went away matters more.
            Some(error) if error.status() == 499 => 499,
            Some(error) => progress.status.get().unwrap_or(error.status()),
            None => progress.status.get().unwrap_or(0),
        };
        shard.recorder.record(status, duration, now);
        let mut log = shard.log.borrow_mut();
        if log.enabled() {
            log.record(&Record {
                started_unix_us: shard.unix_us(*started),
                peer: client.peer,
                method: &head[asked.method.clone()],
                target: &head[asked.target.clone()],
                path: &head[asked.path.clone()],
                version: asked.version,
                status,
                size: progress.body_bytes.get(),
                user_agent: &head[asked.user_agent.clone()],
                duration,
                host: &head[asked.host.clone()],
                id: asked.id.bytes(),
                course: self.course(now, error),
            });
        }
        if let Some(error) = error {
            log.error(&ErrorRecord {
                at_unix_us: shard.unix_us(now),
                request_host: &head[asked.host.clone()],
                request_path: &head[asked.path.clone()],
                proxy_host: origin.map(|o| o.authority()).unwrap_or_default().as_bytes(),
                proxy_scheme: origin.map_or("", |o| o.scheme().word()),
                proxy_id: asked.id.bytes(),
                error: &error.to_string(),
                phase: error.phase.word(),
                party: error.party.word(),
            });
        }
        now
    }
}

//! What the process says of itself, by the `log` crate's macros, one line each:
//! `2026-11-24T01:02:03.456Z INFO  listening on 127.0.0.1:41233 with 2 shards`.
//!
//! A line goes to the writer's queue, so that a shard which says something never waits for stderr.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

use crate::observe::utc;
use crate::observe::writer::{Destination, Stream, WriterHandle};

/// Targets of this program's own messages begin with it.
const OWN_TARGET: &str = "chocon_uring";

/// The logger of the process.
#[derive(Debug)]
pub struct Diagnostics {
    writer: WriterHandle,
    level: LevelFilter,
}

impl Diagnostics {
    /// Makes `writer` the way of all messages up to `level`. Messages of libraries pass from
    /// warnings up, and all of them at debug; theirs begin with their target.
    ///
    /// Errors: the process has a logger already.
    pub fn install(writer: WriterHandle, level: LevelFilter) -> Result<(), SetLoggerError> {
        log::set_boxed_logger(Box::new(Diagnostics { writer, level }))?;
        log::set_max_level(level);
        Ok(())
    }
}

/// The target of what somebody asked for.
const ASKED_TARGET: &str = "chocon_uring::asked";

/// Writes a line that somebody asked for with a signal, whatever `--log-level` is.
pub fn say(text: &str) {
    let mut record = Record::builder();
    let record = record.level(Level::Info).target(ASKED_TARGET);
    log::logger().log(&record.args(format_args!("{text}")).build());
}

impl Log for Diagnostics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.target() == ASKED_TARGET {
            return true;
        }
        let level = if is_own(metadata.target()) || self.level >= LevelFilter::Debug {
            self.level
        } else {
            self.level.min(LevelFilter::Warn)
        };
        metadata.level() <= level
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let foreign = (!is_own(record.target())).then(|| record.target());
            let now_us = utc::unix_us(SystemTime::now());
            let line = line(now_us, record.level(), foreign, record.args());
            self.writer.send(Destination::Stderr, Stream::Diagnostics, line.into_bytes(), 1);
        }
    }

    /// Nothing: to wait for the output would block a shard. `Writer::finish` is the way.
    fn flush(&self) {}
}

fn is_own(target: &str) -> bool {
    target.strip_prefix(OWN_TARGET).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The whole line with its end.
fn line(unix_us: i64, level: Level, target: Option<&str>, message: &fmt::Arguments<'_>) -> String {
    let mut line = String::with_capacity(128);
    utc::append_stamp(&mut line, unix_us);
    write!(line, " {level:<5} ").expect("a String takes every write");
    let mut text = OneLine(&mut line);
    let written = match target {
        Some(target) => write!(text, "{target}: {message}"),
        None => write!(text, "{message}"),
    };
    if written.is_err() {
        // Only a value's own Display can fail here.
        line.push_str("(this message could not be formatted in full)");
    }
    line.push('\n');
    line
}

/// Escapes control characters: a message that quotes a peer stays one line and cannot forge one.
struct OneLine<'a>(&'a mut String);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::writer::{Writer, tests::Sink};
    use std::time::Duration;

    const AT: i64 = 1_795_482_123_456_000;

    #[test]
    fn a_message_becomes_one_line_with_time_and_level() {
        let listening = format_args!("listening on 127.0.0.1:41233 with {} shards", 2).to_string();
        assert_eq!(
            line(AT, Level::Info, None, &format_args!("{listening}")),
            "2026-11-24T01:02:03.456Z INFO  listening on 127.0.0.1:41233 with 2 shards\n"
        );
        assert_eq!(
            line(AT, Level::Error, Some("rustls::conn"), &format_args!("x")),
            "2026-11-24T01:02:03.456Z ERROR rustls::conn: x\n"
        );
    }

    #[test]
    fn a_message_cannot_forge_a_second_line() {
        assert_eq!(
            line(AT, Level::Warn, None, &format_args!("a\nb\r\x1b[31mé")),
            "2026-11-24T01:02:03.456Z WARN  a\\nb\\r\\u{1b}[31mé\n"
        );
    }

    #[test]
    fn libraries_are_heard_from_warnings_up_and_in_full_at_debug() {
        let sink = Sink::open();
        let writer = Writer::start_on(sink.clone(), None).expect("threads");
        let passes = |level, target: &str, of: Level| {
            let logger = Diagnostics { writer: writer.handle(), level };
            logger.enabled(&Metadata::builder().level(of).target(target).build())
        };
        assert!(passes(LevelFilter::Info, "chocon_uring::process", Level::Info));
        assert!(passes(LevelFilter::Info, "chocon_uring", Level::Info));
        assert!(!passes(LevelFilter::Info, "chocon_uring_other", Level::Info));
        assert!(!passes(LevelFilter::Info, "rustls", Level::Info));
        assert!(passes(LevelFilter::Info, "rustls", Level::Warn));
        assert!(passes(LevelFilter::Debug, "rustls", Level::Debug));
        assert!(!passes(LevelFilter::Error, "chocon_uring", Level::Warn));
        assert!(passes(LevelFilter::Error, ASKED_TARGET, Level::Info));
        let logger = Diagnostics { writer: writer.handle(), level: LevelFilter::Info };
        let record = |level| Record::builder().level(level).target("chocon_uring").build();
        logger.log(&record(Level::Info));
        logger.log(&record(Level::Debug));
        assert_eq!(writer.finish(Duration::from_secs(5)), 0);
        assert_eq!(sink.lines().len(), 1, "{:?}", sink.lines());
    }
}

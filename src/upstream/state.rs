//! What is worth knowing after a restart: the origins in use, what each needs ready, how long it lets a connection be idle.
//!
//! The form is text, a line for each origin, so that an operator can read it and a diff shows what changed:
//!
//! ```text
//! chocon-uring-state 1
//! saved=1764028800
//! https://api.example.com:443 needs=4.00 speaks=h2 idle_limit_ms=5000 seen=1764028795
//! end 1
//! ```
//!
//! Times are seconds since 1970. The first line has the version, the last the number of origins: a file that was cut is
//! known by it. Empty lines and those with `#` are passed over, and so are words that a later program may add to a line.
//! Secrets are not in it: no TLS ticket, no field of a request.

#![forbid(unsafe_code)]

use crate::{
    authority::OriginUrl,
    limits::{
        DEMAND_LEARNED_AFTER, IDLE_LIMIT_LEARNED_MIN, IDLE_LIMIT_TOLD_MAX, KEEPALIVE_CONNS_MAX,
        STATE_KEPT_FOR, STATE_ORIGINS_MAX,
    },
};
use std::{
    collections::HashMap,
    fmt::{self, Write},
    time::Duration,
};

const NAME: &str = "chocon-uring-state";
const VERSION: u32 = 1;

/// What is known of the origins, by where they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State(pub HashMap<OriginUrl, Known>);

/// What is known of one origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Connections that are worth keeping ready, by recent peaks, as far as those are not forgotten.
    pub needs: f64,
    /// What it chose to speak when it could choose.
    pub speaks: Option<Spoken>,
    /// After how long it closes an idle connection.
    pub idle_limit: Option<Duration>,
    /// When its last request was, in seconds since 1970.
    pub seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
}

/// What one shard knows of one origin.
#[derive(Clone, Debug)]
pub struct Part {
    pub at: OriginUrl,
    pub known: Known,
    /// Requests from which `needs` follows, up to as many as count.
    pub uses: u32,
    /// Connections that all shards had open of late, as far as this one knows.
    pub open: usize,
}

/// Why a text is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Something else than a file of this program.
    Foreign,
    /// Its version, which this program does not know.
    Version(u32),
    /// It ends before its end.
    Cut,
    /// The number of a line that cannot be read, and why.
    Line(usize, &'static str),
    /// Longer ago than `STATE_KEPT_FOR`, by so much in all.
    Old(Duration),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => write!(f, "it is no state file of this program"),
            Self::Version(version) => {
                write!(f, "it has version {version}, and this program knows {VERSION} only")
            }
            Self::Cut => write!(f, "it ends in the middle"),
            Self::Line(number, why) => write!(f, "line {number} {why}"),
            Self::Old(age) => write!(f, "it was saved {} days ago", age.as_secs() / 86_400),
        }
    }
}

impl State {
    /// Puts together what the shards know, and what was known before of origins that none of them has used since.
    ///
    /// An origin that was asked once is not kept, as a floor would not keep it either, unless its limit is known.
    pub fn merge(before: &Self, parts: impl IntoIterator<Item = Part>) -> Self {
        let mut sums: HashMap<OriginUrl, Part> = HashMap::new();
        for part in parts {
            match sums.get_mut(&part.at) {
                Some(sum) => sum.add(&part),
                None => drop(sums.insert(part.at.clone(), part)),
            }
        }
        let mut known: HashMap<_, _> = before
            .0
            .iter()
            .map(|(at, known)| (at.clone(), Known { needs: 0.0, ..*known }))
            .collect();
        for (at, Part { known: new, uses, open, .. }) in sums {
            let is_learned = uses >= DEMAND_LEARNED_AFTER;
            // The shards' peaks were not all at one time; no more were needed than were open.
            let needs = if is_learned { new.needs.min(open as f64) } else { 0.0 };
            known.insert(at, Known { needs, ..new });
        }
        known.retain(|_, known| known.is_worth_keeping());
        Self(known)
    }

    /// Which of its parts would make it worth to be written again: not the decay of what is needed by a hundredth, nor each
    /// second of use.
    pub fn is_as_good_as(&self, other: &Self) -> bool {
        const SEEN_COUNTS_AFTER: u64 = 600;
        let same = |(at, known): (&OriginUrl, &Known)| {
            other.0.get(at).is_some_and(|other| {
                known.needs.round() == other.needs.round()
                    && known.speaks == other.speaks
                    && known.idle_limit == other.idle_limit
                    && known.seen.abs_diff(other.seen) < SEEN_COUNTS_AFTER
            })
        };
        self.0.len() == other.0.len() && self.0.iter().all(same)
    }

    /// The origins in the order of what they need, most first, then of their last use. No more than `STATE_ORIGINS_MAX`.
    pub fn in_order(&self) -> Vec<(&OriginUrl, &Known)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by(|(a_at, a), (b_at, b)| {
            let by_need = b.needs.round().total_cmp(&a.needs.round());
            by_need.then(b.seen.cmp(&a.seen)).then_with(|| a_at.name.cmp(&b_at.name))
        });
        all.truncate(STATE_ORIGINS_MAX);
        all
    }

    /// The text of a file that is saved at `now`, in seconds since 1970.
    pub fn text(&self, now: u64) -> String {
        let origins = self.in_order();
        let mut text = format!(
            "{NAME} {VERSION}\n# Origins in use: the next start makes connections to them before a request comes.\n\
             saved={now}\n"
        );
        for (OriginUrl { scheme, name, port }, known) in &origins {
            let scheme = scheme.word();
            let bracketed = if name.contains(':') { ("[", "]") } else { ("", "") };
            let (open, close) = bracketed;
            // Writing to a String cannot fail.
            write!(text, "{scheme}://{open}{name}{close}:{port} needs={:.2}", known.needs).ok();
            if let Some(speaks) = known.speaks {
                write!(text, " speaks={}", speaks.word()).ok();
            }
            if let Some(limit) = known.idle_limit {
                write!(text, " idle_limit_ms={}", limit.as_millis()).ok();
            }
            writeln!(text, " seen={}", known.seen).ok();
        }
        writeln!(text, "end {}", origins.len()).ok();
        text
    }

    /// Reads a text at `now`, in seconds since 1970. Origins whose last use is too long ago are left out.
    pub fn read(text: &str, now: u64) -> Result<Self, Unusable> {
        let mut lines = text.lines().zip(1..).filter(|(line, number)| {
            *number == 1 || !(line.trim().is_empty() || line.starts_with('#'))
        });
        let first = lines.next().and_then(|(line, _)| line.strip_prefix(NAME));
        let version = first.and_then(|rest| rest.strip_prefix(' ')).ok_or(Unusable::Foreign)?;
        match version.parse() {
            Ok(VERSION) => {}
            Ok(other) => return Err(Unusable::Version(other)),
            Err(_) => return Err(Unusable::Foreign),
        }
        let last = text.lines().next_back().unwrap_or_default();
        if !last.starts_with("end ") || !text.ends_with('\n') {
            return Err(Unusable::Cut);
        }
        let (saved, number) = lines.next().ok_or(Unusable::Cut)?;
        let saved: u64 = saved
            .strip_prefix("saved=")
            .and_then(|saved| saved.parse().ok())
            .ok_or(Unusable::Line(number, "does not say when it was saved"))?;
        let age = Duration::from_secs(now.saturating_sub(saved));
        if age > STATE_KEPT_FOR {
            return Err(Unusable::Old(age));
        }
        let mut known = HashMap::new();
        let mut count = 0;
        for (line, number) in lines {
            if let Some(end) = line.strip_prefix("end ") {
                let is_whole = end.parse() == Ok(count);
                known.retain(|_, known: &mut Known| {
                    now - known.seen <= STATE_KEPT_FOR.as_secs() && known.is_worth_keeping()
                });
                return if is_whole { Ok(Self(known)) } else { Err(Unusable::Cut) };
            }
            count += 1;
            if count > STATE_ORIGINS_MAX {
                return Err(Unusable::Line(number, "is one origin too many"));
            }
            let (at, one) = read_origin(line, now).map_err(|why| Unusable::Line(number, why))?;
            if known.insert(at, one).is_some() {
                return Err(Unusable::Line(number, "names an origin for the second time"));
            }
        }
        Err(Unusable::Cut)
    }
}

fn read_origin(line: &str, now: u64) -> Result<(OriginUrl, Known), &'static str> {
    let mut words = line.split(' ');
    // The same check as for a name in a flag or a Host: length, labels, address literals.
    let at = OriginUrl::parse(words.next().unwrap_or_default())?;
    let mut known = Known { needs: 0.0, speaks: None, idle_limit: None, seen: 0 };
    for word in words {
        let (name, value) = word.split_once('=').ok_or("has a word without =")?;
        match name {
            "needs" => {
                let needs: f64 = value.parse().map_err(|_| "has a need that is no number")?;
                if !(0.0..=KEEPALIVE_CONNS_MAX as f64).contains(&needs) {
                    return Err("has a need that no origin has");
                }
                known.needs = needs;
            }
            "speaks" => known.speaks = Spoken::read(value),
            "idle_limit_ms" => {
                let ms = value.parse().map_err(|_| "has an idle limit that is no number")?;
                let limit = Duration::from_millis(ms);
                if !(IDLE_LIMIT_LEARNED_MIN..=IDLE_LIMIT_TOLD_MAX).contains(&limit) {
                    return Err("has an idle limit that no origin has");
                }
                known.idle_limit = Some(limit);
            }
            "seen" => {
                let seen: u64 = value.parse().map_err(|_| "has a time that is no number")?;
                // A clock that was set back must not keep it forever.
                known.seen = seen.min(now);
            }
            _of_a_later_program => {}
        }
    }
    Ok((at, known))
}

impl Part {
    /// What another shard knows of the same origin.
    fn add(&mut self, other: &Self) {
        let (known, new) = (&mut self.known, &other.known);
        known.needs += new.needs;
        known.speaks = known.speaks.or(new.speaks);
        known.idle_limit = known.idle_limit.into_iter().chain(new.idle_limit).min();
        known.seen = known.seen.max(new.seen);
        self.uses = self.uses.saturating_add(other.uses);
        self.open = self.open.max(other.open);
    }
}

impl Known {
    fn is_worth_keeping(&self) -> bool {
        self.needs >= 0.5 || self.idle_limit.is_some()
    }
}

impl Spoken {
    fn word(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }

    fn read(word: &str) -> Option<Self> {
        [Self::Http1, Self::Http2].into_iter().find(|spoken| spoken.word() == word)
    }
}

#[cfg(test)]
mod tests;

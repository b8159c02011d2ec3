//! How the HTTP/2 connections to an origin are used, as the dump shows it below the latencies.

#![forbid(unsafe_code)]

use std::fmt::Write;

/// What the shards have of one origin at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2Use {
    /// Requests under way on each connection, and how many it takes.
    pub connections: Vec<(usize, usize)>,
    /// Connections that take no more and still finish some.
    pub leaving: usize,
    /// GOAWAYs received since the start.
    pub goaways: u64,
}

impl Http2Use {
    /// Whether there is nothing to say.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    pub fn add(&mut self, other: Self) {
        self.connections.extend(other.connections);
        self.leaving += other.leaving;
        self.goaways += other.goaways;
    }

    /// One line of the dump, with its end.
    pub fn append(&self, text: &mut String, origin: &str) {
        let Self { connections, leaving, goaways } = self;
        write!(text, "{origin}  {} HTTP/2 connections", connections.len())
            .expect("a String takes every write");
        if !connections.is_empty() {
            let each: Vec<_> = connections.iter().map(|(n, max)| format!("{n}/{max}")).collect();
            write!(text, " ({} requests)", each.join(" ")).expect("a String takes every write");
        }
        writeln!(text, ", {leaving} leaving, {goaways} GOAWAYs received")
            .expect("a String takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_places_taken_and_goaways_of_all_shards() {
        let mut all = Http2Use { connections: vec![(3, 100)], leaving: 0, goaways: 1 };
        all.add(Http2Use { connections: vec![(0, 128)], leaving: 1, goaways: 2 });
        let mut text = String::new();
        all.append(&mut text, "https://a:443");
        let expected = "https://a:443  2 HTTP/2 connections (3/100 0/128 requests), 1 leaving, \
                        3 GOAWAYs received\n";
        assert_eq!(text, expected);
        assert!(Http2Use::default().is_nothing() && !all.is_nothing());
    }
}

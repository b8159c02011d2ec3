//! The latencies of the origins as a table for people.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::super::paid::Paid;
use super::{LatencyReport, OriginLatency};

impl LatencyReport {
    /// The table for people: what requests paid for their connections, what is measured, a head
    /// line, then one line an origin, the busiest first. Microseconds. Ends with `\n`.
    pub fn table(&self) -> String {
        let mut text = self.paid();
        text += "upstream latency in µs, request sent -> first byte of the response, \
                 cumulative since start\n";
        if self.origins.is_empty() {
            text.push_str("no request has been answered by an origin yet\n");
        } else {
            self.append_rows(&mut text);
        }
        for (origin, http2) in &self.http2 {
            http2.append(&mut text, origin);
        }
        text
    }

    fn append_rows(&self, text: &mut String) {
        let mut origins: Vec<(&String, &OriginLatency)> = self.origins.iter().collect();
        origins.sort_by_key(|(name, latency)| (std::cmp::Reverse(latency.histogram.len()), *name));
        let mut rows: Vec<Vec<String>> = vec![COLUMNS.map(str::to_owned).to_vec()];
        rows.extend(origins.into_iter().map(|(name, latency)| row(name, latency)));
        append_aligned(text, &rows);
    }

    fn paid(&self) -> String {
        let (mut all, mut answered, mut lines) = (Paid::default(), 0, String::new());
        for (name, latency) in &self.origins {
            all.add(&latency.paid);
            answered += latency.histogram.len();
            latency.paid.append(&mut lines, name, latency.histogram.len());
        }
        let mut text = String::new();
        all.append_share(&mut text, answered);
        text + &lines
    }
}

const COLUMNS: [&str; 14] = [
    "origin", "count", "reused", "lent", "waited", "new", "min", "mean", "p50", "p90", "p99",
    "p99.9", "p99.99", "max",
];

fn row(name: &str, latency: &OriginLatency) -> Vec<String> {
    let histogram = &latency.histogram;
    let mut cells = vec![
        name.to_owned(),
        histogram.len().to_string(),
        latency.reused.to_string(),
        latency.lent.to_string(),
        latency.waited.to_string(),
        latency.new.to_string(),
        histogram.min().to_string(),
        format!("{:.1}", histogram.mean()),
    ];
    let quantiles = [0.5, 0.9, 0.99, 0.999, 0.9999].map(|q| histogram.value_at_quantile(q));
    cells.extend(quantiles.map(|value| value.to_string()));
    cells.push(histogram.max().to_string());
    cells
}

/// The first column to the left, the others to the right, two spaces apart.
fn append_aligned(text: &mut String, rows: &[Vec<String>]) {
    let mut widths = [0; COLUMNS.len()];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            match column {
                0 => write!(text, "{cell:<width$}"),
                _numbers => write!(text, "  {cell:>width$}"),
            }
            .expect("a String takes every write");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::latency;
    use super::super::{Acquired, Cost};
    use super::*;
    use crate::observe::http2_use::Http2Use;
    use std::time::Duration;

    #[test]
    fn shards_merge_into_one_line_an_origin_busiest_first() {
        let mut first = latency(1..=100);
        let cost = Cost { tls: Duration::from_millis(40), ..Cost::default() };
        first.record(5, Acquired::New, cost);
        first.record(5, Acquired::Waited, cost);
        first.record(5, Acquired::Lent, Cost::default());
        let report: LatencyReport = [
            latency([7]).snapshot("https://b.example:443"),
            first.snapshot("https://c.example:443"),
            latency([250_000]).snapshot("https://c.example:443"),
            latency([7]).snapshot("http://a.example:80"),
        ]
        .into_iter()
        .collect();
        let expected = "\
2 of 106 requests (1.887 %) waited 1 ms or more for a connection
paid at https://c.example:443: 2 of 104 requests; ms on average: dns 0.0, connect 0.0, tls 40.0, in line 0.0; \
at worst 40.0
upstream latency in µs, request sent -> first byte of the response, cumulative since start
origin                 count  reused  lent  waited  new  min    mean  p50  p90  p99   p99.9  p99.99     max
https://c.example:443    104     101     1       1    1    1  2453.0   49   91  100  250111  250111  250111
http://a.example:80        1       1     0       0    0    7     7.0    7    7    7       7       7       7
https://b.example:443      1       1     0       0    0    7     7.0    7    7    7       7       7       7
";
        let table = report.table();
        assert_eq!(table.lines().next(), expected.lines().next());
        assert_eq!(table, expected, "\n{table}");
    }

    #[test]
    fn an_empty_report_says_so() {
        let table = LatencyReport::default().table();
        assert_eq!(table.lines().count(), 3);
        assert!(table.ends_with("no request has been answered by an origin yet\n"));
    }

    #[test]
    fn an_origin_that_never_answered_has_a_line_for_its_http2_connections_only() {
        let open = Http2Use { connections: vec![(0, 100)], ..Http2Use::default() };
        let mut report: LatencyReport = [
            latency([]).snapshot("https://a.example:443").with_http2(open),
            latency([]).snapshot("http://b.example:80"),
        ]
        .into_iter()
        .collect();
        let http2 = "https://a.example:443  1 HTTP/2 connections (0/100 requests)";
        let lines = |report: &LatencyReport| -> Vec<String> {
            report.table().lines().map(str::to_owned).collect()
        };
        assert_eq!(lines(&report)[2], "no request has been answered by an origin yet");
        assert!(lines(&report)[3].starts_with(http2), "{}", report.table());
        report.merge(latency([7]).snapshot("https://c.example:443"));
        let table = report.table();
        assert!(table.contains("\nhttps://c.example:443") && table.contains(http2), "{table}");
        assert!(!table.contains("no request has been") && !table.contains("b.example"), "{table}");
    }
}

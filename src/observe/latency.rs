//! Latencies of the origins: last byte of a request sent to first byte of its response.
//!
//! Each shard keeps one `OriginLatency` an origin and records into it without lock or atomic.
//! On demand it gives snapshots away; a `LatencyReport` merges those of all shards.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::http2_use::Http2Use;
use super::paid::Paid;
use crate::limits::{HGRM_NAME_BYTES_MAX, LATENCY_US_MAX};

/// Digits of a latency that are kept: 0.1 % of its value at worst.
const SIGNIFICANT_DIGITS: u8 = 3;

/// How a request came to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It was idle and at hand.
    Reused,
    /// It was idle at another shard.
    Lent,
    /// Another request was done with it while this one waited.
    Waited,
    /// Dialled for it.
    New,
}

impl Acquired {
    /// In the access log.
    pub fn word(self) -> &'static str {
        match self {
            Acquired::Reused => "reused",
            Acquired::Lent => "lent",
            Acquired::Waited => "waited",
            Acquired::New => "new",
        }
    }
}

/// What a request paid for its connection, in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub dns: Duration,
    pub connect: Duration,
    pub tls: Duration,
    /// All that was none of these: in line for a connection.
    pub wait: Duration,
}

/// The latencies of one origin on one shard, since the start. Memory: 16 KiB at first; it doubles
/// its range as needed, 80 KiB for up to 0.5 s, 184 KiB for an hour.
#[derive(Clone, Debug)]
pub struct OriginLatency {
    histogram: Histogram<u64>,
    reused: u64,
    lent: u64,
    waited: u64,
    new: u64,
    paid: Paid,
}

/// What one shard knows of one origin at one moment; may go to another thread.
#[derive(Clone, Debug)]
pub struct OriginSnapshot {
    origin: String,
    latency: OriginLatency,
    http2: Http2Use,
}

impl OriginSnapshot {
    pub fn with_http2(self, http2: Http2Use) -> Self {
        Self { http2, ..self }
    }
}

/// The latencies of all origins, merged over the shards.
#[derive(Clone, Debug, Default)]
pub struct LatencyReport {
    origins: BTreeMap<String, OriginLatency>,
    http2: BTreeMap<String, Http2Use>,
}

impl OriginLatency {
    /// Nothing recorded yet.
    pub fn new() -> OriginLatency {
        let histogram = Histogram::new(SIGNIFICANT_DIGITS).expect("3 digits are in range");
        OriginLatency { histogram, reused: 0, lent: 0, waited: 0, new: 0, paid: Paid::default() }
    }

    /// Takes one latency down, in microseconds; it counts as 1 us at least and as
    /// `LATENCY_US_MAX` at most. Allocates only when the value is beyond all before it.
    pub fn record(&mut self, rtt_us: u64, how: Acquired, cost: Cost) {
        let value = rtt_us.clamp(1, LATENCY_US_MAX);
        self.histogram.record(value).expect("the histogram grows and an hour fits");
        match how {
            Acquired::Reused => self.reused += 1,
            Acquired::Lent => self.lent += 1,
            Acquired::Waited => self.waited += 1,
            Acquired::New => self.new += 1,
        }
        // An idle connection at hand costs nothing, and the request that takes it should not pay for the count.
        if how != Acquired::Reused {
            self.paid.record(cost);
        }
    }

    /// A copy to give away, under the origin's name (as people read it, `https://name:port`).
    pub fn snapshot(&self, origin: &str) -> OriginSnapshot {
        let (origin, latency) = (origin.to_owned(), self.clone());
        OriginSnapshot { origin, latency, http2: Http2Use::default() }
    }

    fn add(&mut self, other: &OriginLatency) {
        self.histogram.add(&other.histogram).expect("the histogram grows and an hour fits");
        self.reused += other.reused;
        self.lent += other.lent;
        self.waited += other.waited;
        self.new += other.new;
        self.paid.add(&other.paid);
    }
}

impl Default for OriginLatency {
    fn default() -> OriginLatency {
        OriginLatency::new()
    }
}

impl LatencyReport {
    /// Adds what one shard knows of one origin; the same origin of several shards becomes one.
    pub fn merge(&mut self, snapshot: OriginSnapshot) {
        if !snapshot.http2.is_nothing() {
            self.http2.entry(snapshot.origin.clone()).or_default().add(snapshot.http2);
        }
        match self.origins.get_mut(&snapshot.origin) {
            Some(latency) => latency.add(&snapshot.latency),
            None => {
                self.origins.insert(snapshot.origin, snapshot.latency);
            }
        }
    }

    /// The table for people: what requests paid for their connections, what is measured, a head
    /// line, then one line an origin, the busiest first. Microseconds. Ends with `\n`.
    pub fn table(&self) -> String {
        let mut text = self.paid();
        text += "upstream latency in µs, request sent -> first byte of the response, \
                 cumulative since start\n";
        if self.origins.is_empty() {
            text.push_str("no request has been answered by an origin yet\n");
            return text;
        }
        let mut origins: Vec<(&String, &OriginLatency)> = self.origins.iter().collect();
        origins.sort_by_key(|(name, latency)| (std::cmp::Reverse(latency.histogram.len()), *name));
        let mut rows: Vec<Vec<String>> = vec![COLUMNS.map(str::to_owned).to_vec()];
        rows.extend(origins.into_iter().map(|(name, latency)| row(name, latency)));
        append_aligned(&mut text, &rows);
        for (origin, http2) in &self.http2 {
            http2.append(&mut text, origin);
        }
        text
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

    /// Writes one file an origin into `dir`, in the percentile format of HdrHistogram that its
    /// plotter opens. Values are milliseconds, the plotter's default unit. A file appears whole or
    /// not at all and replaces an older one. Writes to disk: not for a shard.
    ///
    /// Returns how many were written. Error: the first file that could not be, by its path.
    pub fn write_hgrm(&self, dir: &Path) -> io::Result<usize> {
        let mut names = BTreeSet::new();
        for (origin, latency) in &self.origins {
            let name = unused_file_name(origin, &names);
            let path = dir.join(&name);
            write_then_rename(&path, &dir.join(format!(".{name}.tmp")), &hgrm(latency)).map_err(
                |error| io::Error::new(error.kind(), format!("{}: {error}", path.display())),
            )?;
            names.insert(name);
        }
        Ok(names.len())
    }
}

impl FromIterator<OriginSnapshot> for LatencyReport {
    fn from_iter<T: IntoIterator<Item = OriginSnapshot>>(snapshots: T) -> LatencyReport {
        let mut report = LatencyReport::default();
        for snapshot in snapshots {
            report.merge(snapshot);
        }
        report
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

/// The text of one `.hgrm` file. Source: HdrHistogram (Java), AbstractHistogram
/// `outputPercentileDistribution` with five ticks per half distance and a ratio of 1,000.
fn hgrm(latency: &OriginLatency) -> String {
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    const US_PER_MS: f64 = 1000.0;
    let histogram = &latency.histogram;
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / US_PER_MS;
        let quantile = step.quantile_iterated_to();
        // The last line has no fourth column: it would be infinite, and the plotter takes only
        // lines of four.
        if quantile < 1.0 {
            let inverse = 1.0 / (1.0 - quantile);
            writeln!(text, "{value:12.3} {quantile:2.12} {total:10} {inverse:14.2}")
        } else {
            writeln!(text, "{value:12.3} {quantile:2.12} {total:10}")
        }
        .expect("a String takes every write");
    }
    let (mean, deviation) = (histogram.mean() / US_PER_MS, histogram.stdev() / US_PER_MS);
    let (max, count) = (histogram.max() as f64 / US_PER_MS, histogram.len());
    // 2,048 sub-buckets are what three digits take: the power of two from 2 x 10^3 up.
    let (buckets, sub_buckets) = (histogram.buckets(), 2048);
    write!(
        text,
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n\
         #[Max     = {max:12.3}, Total count    = {count:12}]\n\
         #[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]\n"
    )
    .expect("a String takes every write");
    text
}

/// Letters, digits, `.` and `-` stay; `:` `/` `[` `]` become `_` `+` `@` `=`; any other byte, and a
/// `.` or `-` at the start, becomes `%` and two hex digits. No two origins share such a name. One
/// too long is cut and ends in `~` and a hash; should even these meet, a number follows.
fn unused_file_name(origin: &str, used: &BTreeSet<String>) -> String {
    let mut name = String::new();
    for (position, byte) in origin.bytes().enumerate() {
        match byte {
            b'.' | b'-' if position > 0 => name.push(char::from(byte)),
            b':' => name.push('_'),
            b'/' => name.push('+'),
            b'[' => name.push('@'),
            b']' => name.push('='),
            _ if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            _ => write!(name, "%{byte:02X}").expect("a String takes every write"),
        }
    }
    if name.len() > HGRM_NAME_BYTES_MAX {
        // The same for every run and release of this program is not promised, only within a run.
        let mut hasher = DefaultHasher::new();
        origin.hash(&mut hasher);
        let hash = format!("~{:016x}", hasher.finish());
        name.truncate(HGRM_NAME_BYTES_MAX - hash.len()); // All ASCII: every cut is between chars.
        name.push_str(&hash);
    }
    (1..)
        .map(|number| match number {
            1 => format!("{name}.hgrm"),
            _again => format!("{name}~{number}.hgrm"),
        })
        .find(|candidate| !used.contains(candidate))
        .expect("numbers do not run out")
}

fn write_then_rename(path: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    // One left by a run that was killed; and create_new never follows a link laid for us.
    match fs::remove_file(temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _removed = fs::remove_file(temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(values: impl IntoIterator<Item = u64>) -> OriginLatency {
        let mut latency = OriginLatency::new();
        for value in values {
            latency.record(value, Acquired::Reused, Cost::default());
        }
        latency
    }

    /// A directory of its own for each test, removed at the end.
    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let name = format!("chocon-uring-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).expect("a directory");
            Dir(dir)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(&self.0)
                .expect("readable")
                .map(|entry| entry.expect("readable").file_name().into_string().expect("ASCII"))
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

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
    fn latencies_beyond_the_range_count_at_its_ends() {
        let latency = latency([0, LATENCY_US_MAX, LATENCY_US_MAX + 1, u64::MAX]);
        assert_eq!(latency.histogram.len(), 4);
        assert_eq!(latency.histogram.min(), 1);
        assert_eq!(latency.histogram.count_at(LATENCY_US_MAX), 3);
    }

    #[test]
    fn three_digits_are_kept_over_the_whole_range() {
        for exponent in 0..=31 {
            let value = 3 * (1_u64 << exponent) / 2 + 1;
            let value = value.min(LATENCY_US_MAX);
            let kept = latency([value]).histogram.value_at_quantile(0.5);
            assert!(kept >= value && (kept - value) * 1000 <= value, "{value} became {kept}");
        }
    }

    #[test]
    fn a_histogram_takes_the_memory_that_is_documented() {
        let bytes = |us| latency([us]).histogram.distinct_values() * 8;
        assert_eq!(bytes(1), 16 * 1024);
        assert_eq!(bytes(500_000), 80 * 1024);
        assert_eq!(bytes(LATENCY_US_MAX), 184 * 1024);
    }

    #[test]
    fn the_percentile_text_has_the_layout_that_the_plotter_reads() {
        let text = hgrm(&latency([25_000, 50_000, 75_000]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "      25.007 0.000000000000          1           1.00");
        let last = lines.len() - 4;
        assert_eq!(lines[last], "      75.007 1.000000000000          3");
        assert_eq!(lines[last + 1], "#[Mean    =       49.992, StdDeviation   =       20.403]");
        assert_eq!(lines[last + 2], "#[Max     =       75.007, Total count    =            3]");
        assert_eq!(lines[last + 3], "#[Buckets =            7, SubBuckets     =         2048]");
        // The plotter draws the lines of four numbers; all values must go up.
        let mut before = (0.0, 0.0);
        for line in &lines[2..last] {
            let numbers: Vec<f64> =
                line.split_ascii_whitespace().map(|n| n.parse().expect("a number")).collect();
            let [value, percentile, _total, inverse] = numbers[..] else { panic!("{line}") };
            assert!(value >= before.0 && inverse >= before.1, "{line}");
            assert!((1.0 / (1.0 - percentile) - inverse).abs() < 0.01, "{line}");
            before = (value, inverse);
        }
    }

    #[test]
    fn each_origin_gets_a_file_and_an_older_one_is_replaced() {
        let dir = Dir::new("hgrm");
        let report: LatencyReport = ["https://api.example.com:443", "http://[2001:db8::1]:80"]
            .map(|origin| latency([1000]).snapshot(origin))
            .into_iter()
            .collect();
        let names = ["http_++@2001_db8__1=_80.hgrm", "https_++api.example.com_443.hgrm"];
        fs::write(dir.0.join(names[0]), "old").expect("writable");
        fs::write(dir.0.join(format!(".{}.tmp", names[0])), "left over").expect("writable");
        for _again in 0..2 {
            assert_eq!(report.write_hgrm(&dir.0).expect("writable"), 2);
            assert_eq!(dir.names(), names);
        }
        let text = fs::read_to_string(dir.0.join(names[0])).expect("readable");
        assert_eq!(text, hgrm(&latency([1000])));
    }

    #[test]
    fn a_directory_that_went_away_is_an_error_that_names_the_file() {
        let report: LatencyReport = [latency([1]).snapshot("o")].into_iter().collect();
        let error = report.write_hgrm(Path::new("/nonexistent")).expect_err("no such directory");
        assert!(error.to_string().starts_with("/nonexistent/o.hgrm: "), "{error}");
    }

    #[test]
    fn file_names_are_safe_bounded_and_never_shared() {
        let long = "a".repeat(HGRM_NAME_BYTES_MAX);
        let origins = [
            "..",
            ".",
            "",
            "-rf",
            "a:b",
            "a/b",
            "a_b",
            "a+b",
            "a[b",
            "a@b",
            "a]b",
            "a=b",
            "a%3Ab",
            "a~b",
            "a\0b",
            "é",
            "../etc/passwd",
            &long,
            &format!("{long}b"),
            &format!("{long}c"),
        ];
        let mut names = BTreeSet::new();
        for origin in origins {
            let name = unused_file_name(origin, &BTreeSet::new());
            assert!(!name.contains(['/', '\0']) && name.len() <= HGRM_NAME_BYTES_MAX + 5, "{name}");
            assert!(!name.starts_with("..") && !name.starts_with('-'), "{name}");
            assert!(names.insert(name.clone()), "{name} is shared");
        }
        let used = unused_file_name(&format!("{long}b"), &names);
        assert!(used.ends_with("~2.hgrm") && used.len() < 250, "{used}");
    }
}

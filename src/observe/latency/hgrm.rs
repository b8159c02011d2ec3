//! The latencies of the origins as files for the plotter of HdrHistogram.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::Path;

use super::{LatencyReport, OriginLatency};
use crate::limits::HGRM_NAME_BYTES_MAX;

impl LatencyReport {
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
    use super::super::tests::latency;
    use super::*;

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

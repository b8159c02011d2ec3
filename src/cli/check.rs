//! Checks values and gathers what is wrong with them. Where a mistake is found the default stands
//! in, so that the search goes on.
//!
//! A reader turns text into what it means; its error is the cause in words, made to stand behind the
//! quoted value: `"99999" is not a port`.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::flag::Flag;
use crate::cli::given::{Given, Value};
use crate::cli::values::{read_duration, read_switch, whole_number};

pub struct Check {
    given: Given,
    mistakes: Vec<String>,
}

type Cause = Cow<'static, str>;

impl Check {
    pub fn new(given: Given, mistakes: Vec<String>) -> Self {
        Self { given, mistakes }
    }

    /// What is wrong with flags together, a line each.
    pub fn add(&mut self, mistakes: Vec<String>) {
        self.mistakes.extend(mistakes);
    }

    pub fn into_mistakes(self) -> Vec<String> {
        self.mistakes
    }

    /// The value of a flag with a default.
    pub fn value<T, C: Into<Cause>>(
        &mut self,
        flag: &Flag,
        read: impl Fn(&str) -> Result<T, C>,
    ) -> T {
        let given = self.last(flag).and_then(|value| self.read(flag, value, &read));
        given.unwrap_or_else(|| {
            let default = flag.default.and_then(|default| read(default).ok());
            default.unwrap_or_else(|| panic!("--{} has no sound default", flag.name))
        })
    }

    /// The value of a flag without a default. Empty is as good as not given, as in chocon.
    pub fn optional<T, C: Into<Cause>>(
        &mut self,
        flag: &Flag,
        read: impl Fn(&str) -> Result<T, C>,
    ) -> Option<T> {
        let value = self.last(flag).filter(not_empty)?;
        self.read(flag, value, read)
    }

    /// A path that `look` finds fit; it need not be UTF-8. Empty is as good as not given.
    pub fn path(
        &mut self,
        flag: &Flag,
        look: impl Fn(&Path) -> Result<(), String>,
    ) -> Option<PathBuf> {
        let value = self.last(flag).filter(not_empty)?;
        self.read_raw(flag, value, |path| {
            look(Path::new(path))?;
            Ok(PathBuf::from(path))
        })
    }

    /// All values of a flag that may be repeated. `what` names them in the message on too many.
    pub fn list<T, C: Into<Cause>>(
        &mut self,
        flag: &Flag,
        max: usize,
        what: &str,
        read: impl Fn(&str) -> Result<T, C>,
    ) -> Vec<T> {
        let values = self.given.of(flag);
        if let Some(Value { name, .. }) = values.get(max) {
            let count = values.len();
            self.mistakes.push(format!("{name}: {count} {what} are too many; give {max} at most"));
        }
        values.into_iter().filter_map(|value| self.read(flag, value, &read)).collect()
    }

    /// A whole number within `range`; `cause` is said of any other value.
    pub fn number(
        &mut self,
        flag: &Flag,
        range: RangeInclusive<usize>,
        cause: &'static str,
    ) -> usize {
        self.value(flag, |text| whole_number(text, range.clone()).ok_or(cause))
    }

    /// A deadline that 0 turns off.
    pub fn deadline(&mut self, flag: &Flag) -> Option<Duration> {
        Some(self.value(flag, read_duration)).filter(|duration| !duration.is_zero())
    }

    pub fn above_zero(&mut self, flag: &Flag) -> Duration {
        self.value(flag, |text| match read_duration(text)? {
            Duration::ZERO => Err("is zero"),
            duration => Ok(duration),
        })
    }

    /// Whether a flag is on that needs no value.
    pub fn switch(&mut self, flag: &Flag) -> bool {
        let Some(mut value) = self.last(flag) else { return false };
        value.text.get_or_insert_with(|| "true".into());
        self.read(flag, value, read_switch).unwrap_or_default()
    }

    fn last(&mut self, flag: &Flag) -> Option<Value> {
        self.given.of(flag).pop()
    }

    fn read<T, C: Into<Cause>>(
        &mut self,
        flag: &Flag,
        value: Value,
        read: impl Fn(&str) -> Result<T, C>,
    ) -> Option<T> {
        self.read_raw(flag, value, |text| {
            read(text.to_str().ok_or("is not UTF-8")?).map_err(Into::into)
        })
    }

    fn read_raw<T>(
        &mut self,
        flag: &Flag,
        Value { name, text }: Value,
        read: impl Fn(&OsStr) -> Result<T, Cause>,
    ) -> Option<T> {
        let (quoted, result) = match &text {
            None => (String::new(), Err("has no value".into())),
            Some(text) => (format!(" {text:?}"), read(text)),
        };
        let noted = |cause| self.mistakes.push(format!("{name}:{quoted} {cause}; {}", flag.remedy));
        result.map_err(noted).ok()
    }
}

/// Typed without a value is a mistake; an empty value is none.
fn not_empty(value: &Value) -> bool {
    value.text.as_ref().is_none_or(|text| !text.is_empty())
}

//! Command line and environment taken apart: which flag was given what, and by which name. The only
//! file that knows clap.
//!
//! clap splits the command line and prints the help. It sees every value as bare text: values are
//! checked by us, all of them, so that one run reports every mistake and not only the first.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::flag::{Flag, GROUPS, Takes, all_flags};

/// What was given, by the name of the flag.
#[derive(Default)]
pub struct Given {
    values: HashMap<&'static str, Vec<Value>>,
    /// `--version` was typed.
    pub version: bool,
    /// Variables that look like ours and are not used, each with why.
    pub ignored: Vec<String>,
}

/// One value and where it comes from.
pub struct Value {
    /// What a message names: `--port` or `CHOCON_PORT`.
    pub name: String,
    /// None: the flag was typed without one.
    pub text: Option<OsString>,
}

/// Why there is no `Given`.
pub enum Stop {
    /// `--help` was typed; this is the answer.
    Help(String),
    /// The search for further mistakes ends here.
    Lost,
}

impl Given {
    /// Takes `args`, the program's name first, and the variables of those flags that were not typed.
    /// Words that are no flag go to `mistakes`.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        mistakes: &mut Vec<String>,
    ) -> Result<Self, Stop> {
        let matches = split(args.into_iter().collect(), mistakes)?;
        let mut given = Self { version: matches.get_flag("version"), ..Self::default() };
        for flag in all_flags() {
            let values = typed_values(flag, &matches);
            if !values.is_empty() {
                given.values.insert(flag.name, values);
            }
        }
        for (name, text) in variables {
            // `CHOCON_URING…` are those of the build and the scripts.
            let is_ours =
                |name: &&str| name.starts_with("CHOCON_") && !name.starts_with("CHOCON_URING");
            if let Some(name) = name.to_str().filter(is_ours) {
                given.take_variable(name, text);
            }
        }
        // The order of variables is nobody's choice.
        given.ignored.sort();
        Ok(given)
    }

    /// What `flag` was given, in the order of typing.
    pub fn of(&mut self, flag: &Flag) -> Vec<Value> {
        debug_assert!(all_flags().any(|f| f.name == flag.name), "--{} is in no group", flag.name);
        self.values.remove(flag.name).unwrap_or_default()
    }

    fn take_variable(&mut self, name: &str, text: OsString) {
        let Some(flag) = all_flags().find(|flag| flag.variable() == name) else {
            return self.ignored.push(format!("{name} (no flag has this name)"));
        };
        // Kubernetes tells every container of a service called "chocon" its address like this.
        if text.to_str().is_some_and(|text| text.starts_with("tcp://")) {
            return self.ignored.push(format!("{name} (made by Kubernetes or Docker for a link)"));
        }
        // Compose files and unit files cannot unset a variable, only empty it.
        if text.is_empty() || self.values.contains_key(flag.name) {
            return;
        }
        let texts = match (flag.takes, text.to_str()) {
            (Takes::Values(_), Some(list)) => {
                let trimmed = list.split(',').map(str::trim).filter(|text| !text.is_empty());
                trimmed.map(OsString::from).collect()
            }
            (Takes::Value(_) | Takes::Values(_) | Takes::Switch, _) => vec![text],
        };
        let value = |text| Value { name: name.to_owned(), text: Some(text) };
        self.values.insert(flag.name, texts.into_iter().map(value).collect());
    }
}

fn typed_values(flag: &Flag, matches: &ArgMatches) -> Vec<Value> {
    let Some(occurrences) = matches.get_occurrences::<OsString>(flag.name) else {
        return Vec::new();
    };
    occurrences.map(|mut o| Value { name: flag.typed(), text: o.next().cloned() }).collect()
}

const AFTER_HELP: &str = "\
TIME: whole seconds (90) or with units (500ms, 1.5h, 1h30m).
Each flag has an environment variable: --read-timeout is CHOCON_READ_TIMEOUT. A typed flag wins;
where a flag may be repeated, the variable takes values separated by commas.
SIGUSR1 prints a table of latencies per origin to stderr; SIGHUP opens log files anew; SIGTERM,
SIGINT and SIGQUIT end gracefully.

  curl -H 'Host: example.com.ccnproxy-https' http://127.0.0.1:3000/";

fn command() -> Command {
    let mut command = Command::new("chocon-uring")
        .about("HTTP proxy that keeps warm connections to far HTTP and HTTPS origins")
        .override_usage("chocon-uring [flags]")
        .after_help(AFTER_HELP)
        .disable_version_flag(true)
        .disable_help_flag(true)
        .args_override_self(true)
        .allow_negative_numbers(true);
    for group in GROUPS {
        for flag in group.flags {
            command = command.arg(argument(flag).help_heading(group.heading));
        }
    }
    let question = |name: &'static str, short| Arg::new(name).long(name).short(short);
    let version = question("version", 'v')
        .action(ArgAction::SetTrue)
        .help("Print name, version, compiler and TLS library");
    let help = question("help", 'h').action(ArgAction::HelpShort).help("Print this");
    let last = GROUPS.last().map_or("", |group| group.heading);
    command.arg(version.help_heading(last)).arg(help.help_heading(last))
}

/// To the parser values are optional, so that a missing one is a mistake like any other and does
/// not end the search for more.
fn argument(flag: &'static Flag) -> Arg {
    let help = match flag.default {
        Some("") => format!("{} [default: \"\"]", flag.help),
        Some(default) => format!("{} [default: {default}]", flag.help),
        None => flag.help.to_owned(),
    };
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .short(flag.short)
        .help(help)
        .action(ArgAction::Append)
        .value_parser(value_parser!(OsString))
        .num_args(0..=1);
    match flag.takes {
        Takes::Value(word) | Takes::Values(word) => argument.value_name(word),
        Takes::Switch => argument.require_equals(true).value_name("BOOL"),
    }
}

/// The help, for people: it shows values as required, and those of switches not at all.
fn help() -> String {
    let for_people = |arg: Arg| match all_flags().find(|flag| arg.get_id() == flag.name) {
        Some(Flag { takes: Takes::Switch, .. }) => arg.num_args(0).require_equals(false),
        Some(_takes_a_value) => arg.num_args(1),
        None => arg,
    };
    command().mut_args(for_people).render_help().to_string()
}

/// Lets clap split `args`. What clap does not know is noted and taken out, and the rest is tried
/// again: clap itself would stop at the first.
fn split(mut args: Vec<OsString>, mistakes: &mut Vec<String>) -> Result<ArgMatches, Stop> {
    loop {
        let error = match command().try_get_matches_from(&args) {
            Ok(matches) => return Ok(matches),
            Err(error) => error,
        };
        if error.kind() == ErrorKind::DisplayHelp {
            return Err(Stop::Help(help()));
        }
        let context = |kind| error.get(kind).map(ToString::to_string);
        let culprit = context(ContextKind::InvalidArg).unwrap_or_default();
        mistakes.push(match error.kind() {
            ErrorKind::UnknownArgument => unknown(&culprit, context(ContextKind::SuggestedArg)),
            // `--version=1`: clap puts the cause first and advice below it.
            _any_other => {
                let text = error.to_string();
                let cause = text.lines().next().unwrap_or_default();
                cause.trim_start_matches("error: ").to_owned()
            }
        });
        // Where clap's words cannot be found again, there is nothing to take out.
        let position = position_of(&culprit, &args).ok_or(Stop::Lost)?;
        let removed = args.remove(position);
        // The word behind an unknown flag is most likely its value, and no mistake of its own.
        let is_flag = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
        let has_value = removed.as_encoded_bytes().contains(&b'=');
        if is_flag(&removed) && !has_value && args.get(position).is_some_and(|arg| !is_flag(arg)) {
            args.remove(position);
        }
    }
}

fn unknown(culprit: &str, suggested: Option<String>) -> String {
    if !culprit.starts_with('-') {
        return format!("{culprit:?} belongs to no flag; leave it out or name its flag");
    }
    match suggested {
        Some(flag) => format!("{culprit}: there is no such flag; did you mean {flag}?"),
        None => format!("{culprit}: there is no such flag; --help lists them"),
    }
}

/// Where clap's culprit stands among the arguments: alone, with `=value`, or among short flags.
fn position_of(culprit: &str, args: &[OsString]) -> Option<usize> {
    let find = |fits: &dyn Fn(&str) -> bool| {
        let behind_name = args.iter().skip(1).position(|arg| fits(&arg.to_string_lossy()))?;
        Some(behind_name + 1)
    };
    find(&|arg| arg == culprit)
        .or_else(|| find(&|arg| arg.strip_prefix(culprit).is_some_and(|r| r.starts_with('='))))
        .or_else(|| {
            let short = culprit.strip_prefix('-').filter(|short| !short.starts_with('-'))?;
            find(&|arg| arg.starts_with('-') && !arg.starts_with("--") && arg.contains(short))
        })
}

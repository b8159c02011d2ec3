//! What `--help` and `--version` print.

use super::*;
use crate::cli::flag::all_flags;

#[test]
fn help_is_grouped_and_names_every_default() {
    for flag in ["-h", "--help"] {
        let exit = run(&["--bogus", flag, "--port", "x"]).expect_err("help");
        assert_eq!((exit.code, exit.to), (0, Output::Stdout));
        // The width of the terminal decides where lines are broken.
        let text = exit.text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "Listening:",
            "Origins:",
            "Deadlines:",
            "Logs and latencies:",
            "Other:",
            "[default: 0.0.0.0] -p, --port <N>",
            "[default: 3000]",
            "[default: 256]",
            "[default: 50s]",
            "[default: 30s]",
            "[default: 90s]",
            "[default: 60s]",
            "[default: 10s]",
            "[default: 1h]",
            r#"[default: ""]"#,
            "[default: info]",
            "-v, --version",
            "-h, --help",
            "--allow-cidr",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{}", exit.text);
        }
    }
}

#[test]
fn version_names_compiler_and_tls_library() {
    for flag in ["-v", "--version"] {
        let exit = run(&[flag, "--port", "x"]).expect_err("version");
        assert_eq!((exit.code, exit.to), (0, Output::Stdout));
        let lines: Vec<&str> = exit.text.lines().collect();
        assert_eq!(lines[0], format!("chocon-uring {}", env!("CARGO_PKG_VERSION")));
        assert!(lines[1].starts_with("Compiler: rustc "), "{}", lines[1]);
        assert_eq!(lines[2..], [format!("TLS: {PROVIDER}")]);
    }
}

#[test]
fn names_and_shorts_are_told_apart_and_every_flag_says_what_it_is() {
    let mut words = vec!["version", "help"];
    let mut shorts = vec!['v', 'h'];
    for flag in all_flags() {
        assert!(!words.contains(&flag.name), "--{} twice", flag.name);
        words.push(flag.name);
        assert!(flag.short.is_none_or(|short| !shorts.contains(&short)), "--{}", flag.name);
        shorts.extend(flag.short);
        assert!(!flag.help.is_empty() && !flag.remedy.is_empty(), "--{}", flag.name);
        assert!(!flag.help.ends_with('.') && !flag.remedy.ends_with('.'), "--{}", flag.name);
    }
}

#[test]
fn tls_library_is_named_as_it_is_locked() {
    let lock = include_str!("../../../Cargo.lock");
    let version = |name: &str| {
        let package = format!("name = \"{name}\"\nversion = \"");
        let (_, behind) = lock.split_once(&package).expect("a locked package");
        behind.split('"').next().expect("a version").to_owned()
    };
    let minor = version("rustls").split('.').take(2).collect::<Vec<_>>().join(".");
    assert_eq!(PROVIDER, format!("rustls {minor} with aws-lc-rs"));
    // What is named is what is built.
    version("aws-lc-rs");
}

#[test]
fn readme_says_of_every_flag_what_help_says() {
    let readme = include_str!("../../../README.md");
    let (_, from_flags) = readme.split_once("\n## Flags\n").expect("the chapter of the flags");
    let table = from_flags.split("\n## ").next().unwrap_or_default();
    for flag in all_flags() {
        let is_row_of = |line: &&str| {
            let cell = line.trim_start_matches('|').split('`').nth(1).unwrap_or_default();
            let typed = cell.split([' ', '[']).find(|word| word.starts_with("--"));
            line.starts_with("| `") && typed == Some(&flag.typed())
        };
        let rows: Vec<&str> = table.lines().filter(is_row_of).collect();
        let [row] = rows[..] else { panic!("{}: {} rows", flag.typed(), rows.len()) };
        let meant = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        // Defaults that no value stands for are said in help's sentence, and in README's own column or in brackets.
        let bare = |text: &str| {
            let text = text.replace("\\|", "|");
            let end = [" [default: ", " (default: "].iter().find_map(|default| text.find(default));
            text[..end.unwrap_or(text.len())].to_owned()
        };
        assert_eq!(bare(meant), bare(flag.help), "{row}");
    }
}

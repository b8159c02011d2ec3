//! Flags that come from the environment.

use super::*;
use crate::cli::flag::{Flag, Takes, all_flags};

/// Text that the flag cannot take, if there is any.
fn senseless(flag: &Flag) -> Option<&'static str> {
    // A directory that cannot be there, a number that is none, a duration that is none.
    run(&[&format!("{}=/nonexistent/,", flag.typed())]).is_err().then_some("/nonexistent/,")
}

#[test]
fn every_flag_has_its_variable_and_a_mistake_in_it_names_the_variable() {
    for flag in all_flags() {
        let Some(text) = senseless(flag) else { continue };
        let variable = flag.variable();
        let exit = run_with(&[], &[(&variable, text)]).expect_err("a mistaken variable");
        assert_eq!(exit.code, 2);
        let quoted = text.trim_end_matches(|c| c == ',' && matches!(flag.takes, Takes::Values(_)));
        assert!(exit.text.starts_with(&format!("{variable}: {quoted:?} ")), "{}", exit.text);
        assert!(exit.text.ends_with(&format!("; {}\n", flag.remedy)), "{}", exit.text);
    }
}

#[test]
fn variables_are_taken_and_a_typed_flag_wins() {
    let variables = [
        ("CHOCON_PORT", "81"),
        ("CHOCON_KEEPALIVE_CONNS", "7"),
        ("CHOCON_READ_TIMEOUT", "1h30m"),
        ("CHOCON_ALLOW_CIDR", "10.0.0.0/8, ::1,"),
        ("CHOCON_LOG_LEVEL", "loud"),
        ("PATH", "/bin"),
    ];
    let config = run_with(&["-p", "82", "--log-level=warn"], &variables).expect("flags");
    assert_eq!(config.listen.port(), 82);
    assert_eq!(config.keepalive_conns, 7);
    assert_eq!(config.read_timeout, Some(Duration::from_secs(5400)));
    let networks = ["10.0.0.0/8", "::1/128"].map(|net| net.parse().expect("net"));
    assert_eq!(config.allow_cidr, networks);
    assert_eq!(config.log_level, LevelFilter::Warn);
    assert!(config.ignored_variables.is_empty());
    let config = run_with(&["--allow-cidr=fd00::/8"], &variables[3..4]).expect("flags");
    assert_eq!(config.allow_cidr, ["fd00::/8".parse().expect("net")]);
}

#[test]
fn mistakes_of_flags_and_variables_are_said_in_one_run() {
    let exit = run_with(&["-c", "x", "--bogus"], &[("CHOCON_PORT", "y"), ("CHOCON_CORES", "0")]);
    let text = exit.expect_err("mistakes").text;
    let names: Vec<_> = text.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["--bogus", "CHOCON_PORT", "CHOCON_CORES", "--keepalive-conns"]);
}

#[test]
fn empty_variable_is_as_good_as_none() {
    let set: Vec<_> = all_flags().map(|flag| (flag.variable(), "")).collect();
    let set: Vec<_> = set.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    assert_eq!(run_with(&[], &set), run(&[]));
}

#[test]
fn variable_that_names_no_flag_is_told_and_does_no_harm() {
    let variables =
        [("CHOCON_PROT", "80"), ("CHOCON_PORT", "tcp://10.0.0.1:3000"), ("CHOCON_HELP", "1")];
    let config = run_with(&[], &variables).expect("flags");
    let expected = [
        "CHOCON_HELP (no flag has this name)",
        "CHOCON_PORT (made by Kubernetes or Docker for a link)",
        "CHOCON_PROT (no flag has this name)",
    ];
    assert_eq!(config.ignored_variables, expected);
    assert_eq!(config.listen.port(), 3000);
}

#[test]
fn switch_is_turned_on_by_its_name_and_off_against_its_variable() {
    let on = |args: &[&str], text| {
        run_with(args, &[("CHOCON_CHECK", text)]).map(|config| config.check_only)
    };
    assert_eq!(on(&[], ""), Ok(false));
    assert_eq!(on(&["--check"], ""), Ok(true));
    assert_eq!(on(&["--check", "--port", "1"], ""), Ok(true));
    assert_eq!(on(&["--check=false"], "true"), Ok(false));
    for (text, expected) in [("1", true), ("T", true), ("0", false), ("False", false)] {
        assert_eq!(on(&[], text), Ok(expected), "{text}");
    }
    let said = on(&[], "yes").expect_err("a mistake").text;
    let remedy = "give true or false, or no value for true";
    assert_eq!(said, format!("CHOCON_CHECK: \"yes\" is neither true nor false; {remedy}\n"));
    // A word behind a switch is not its value.
    assert!(on(&["--check", "false"], "").is_err());
}

#[test]
fn proxies_of_the_environment_are_taken_and_their_mistakes_told_with_the_others() {
    let given = run_with(&[], &[("HTTP_PROXY", "p:3128"), ("NO_PROXY", "a.test")]).expect("flags");
    assert!(given.proxies.before(Scheme::Http, "b.test", 80).is_some());
    assert!(given.proxies.before(Scheme::Http, "a.test", 80).is_none());
    let exit = run_with(&["--port", "x"], &[("https_proxy", "socks5://p")]).expect_err("mistakes");
    assert_eq!(exit.code, 2);
    let lines: Vec<&str> = exit.text.lines().collect();
    assert!(lines[0].starts_with("https_proxy: a proxy of scheme socks5"), "{lines:?}");
    assert!(lines[1].starts_with("--port"), "{lines:?}");
}

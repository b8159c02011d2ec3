//! Hands the compiler's version to the program, which prints it with `--version`.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=scripts/build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    // A compiler that cannot say its version is no reason to fail the build.
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_else(|| "rustc of unknown version".to_owned());
    println!("cargo::rustc-env=CHOCON_URING_RUSTC={version}");
}

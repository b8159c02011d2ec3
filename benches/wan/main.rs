//! A long link on one machine: two network namespaces and a delay line between them, in user space.
//!
//! Built as an example of the package so that every check of the package covers it; people start it
//! by `scripts/wan`, whose `--help` is the text below. Each namespace has a TUN device; what goes
//! into one comes out of the other half a round trip later ([`delay_line`]), as long as the link
//! has room and does not lose it ([`link`]).
//!
//! Namespaces and devices have no name outside this process: they end with it and with what runs in
//! them, so nothing is left behind however it ends.

mod command;
mod delay_line;
mod ends;
mod flags;
mod link;
mod segment;
mod sys;

use std::process::ExitCode;
use std::{io, thread};

use delay_line::DelayLine;
use ends::{FAR_ADDR, NEAR_ADDR};
use flags::{Flags, Wanted};

fn main() -> ExitCode {
    let flags = match flags::parse(std::env::args().skip(1)) {
        Ok(Wanted::Run(flags)) => flags,
        Ok(Wanted::Help) => {
            print!("{}", flags::HELP);
            return ExitCode::SUCCESS;
        }
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("wan: {mistake}");
            }
            return ExitCode::from(2);
        }
    };
    match run(flags) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("wan: {e}");
            // Neither the command's own status nor that of mistaken flags.
            ExitCode::from(125)
        }
    }
}

/// Builds the link, runs the command in the near namespace and ends what it left running. Returns
/// the command's exit status.
fn run(flags: Flags) -> io::Result<u8> {
    // Before any thread starts, so that all of them have the signals blocked and one waits.
    let signals = command::block_signals()?;
    let near = ends::build(NEAR_ADDR, flags.mtu)?;
    let far = ends::build(FAR_ADDR, flags.mtu)?;
    let (orders, control) = io::pipe()?;
    let variables = [
        ("WAN_NEAR", sys::path_of(&near.namespace)),
        ("WAN_FAR", sys::path_of(&far.namespace)),
        ("WAN_CONTROL", sys::path_of(&control)),
        ("WAN_NEAR_ADDR", NEAR_ADDR.to_string()),
        ("WAN_FAR_ADDR", FAR_ADDR.to_string()),
        ("WAN_RTT_US", flags.shape.rtt.as_micros().to_string()),
    ];
    let delay_line = DelayLine::new([near.device, far.device], flags.shape, flags.seed, orders);
    let counts = delay_line.counts();
    thread::Builder::new().name("delay line".into()).spawn(move || delay_line.run())?;
    let status = command::run(&flags.command, &near.namespace, &variables, &signals)?;
    // Open until here: the delay line's end of it would see an end otherwise.
    drop(control);
    if flags.stats {
        eprintln!("wan: {counts}");
    }
    Ok(status)
}

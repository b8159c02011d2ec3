//! Flags and orders as typed become the link as meant. Pure.

use std::time::Duration;

use crate::link::{BlackHole, Shape};

pub const HELP: &str = "\
usage: scripts/wan [FLAG...] -- COMMAND [ARGUMENT...]

Runs COMMAND at the near end of a long link that exists on this machine only: two network
namespaces with a delay line between them. Nothing else is reachable from either, no internet too.
  --rtt TIME          round trip, half of it each way (default 150ms)
  --loss PERCENT      packets lost at random, each way (default 0%)
  --rate RATE         bits a second, each way: 100mbit, 1gbit (default 1gbit)
  --queue BYTES       bytes that may wait for the line, each way (default rate x rtt)
  --black-hole WHERE  packets vanish without a word: none, to-far, to-near, both (default none)
  --mtu BYTES         longest packet (default 1500)
  --seed N            another sequence of losses (default 1)
  --stats             print at the end what the link carried, lost and how exact it was
COMMAND finds in its environment
  WAN_NEAR, WAN_FAR   the namespaces, for: nsenter --net=$WAN_FAR COMMAND
  WAN_NEAR_ADDR, WAN_FAR_ADDR  198.18.0.1 and 198.18.0.2; 198.18.1.1 to .254 are the far end's too
  WAN_CONTROL         takes orders while the link runs, a line each: rtt 60ms, loss 1%,
                      rate 100mbit, black-hole both, stats
  WAN_RTT_US          the round trip at the start, in microseconds
Its exit status is COMMAND's. What COMMAND started and left running is ended with it, and nothing
stays behind: no namespace, no device, no process. Needs root, or a system where users may make
namespaces of their own; and /dev/net/tun.

  scripts/wan --rtt 150ms -- ping -c 3 198.18.0.2
  scripts/wan --loss 1% -- sh -c 'nsenter --net=$WAN_FAR python3 -m http.server 80 & sleep 1;
      curl -so /dev/null -w \"%{time_total}\\n\" http://$WAN_FAR_ADDR/'
  scripts/wan -- sh -c '(sleep 3; echo black-hole both >$WAN_CONTROL) & ping -W 1 198.18.0.2'
";

#[derive(Debug, PartialEq)]
pub enum Wanted {
    Run(Flags),
    Help,
}

#[derive(Debug, PartialEq)]
pub struct Flags {
    pub shape: Shape,
    pub mtu: usize,
    pub seed: u64,
    pub stats: bool,
    /// Never empty.
    pub command: Vec<String>,
}

/// An order to the running link.
#[derive(Debug, PartialEq)]
pub enum Order {
    /// It has this shape from now on.
    Shape(Shape),
    Stats,
}

/// Below 1280 bytes there is no IPv6 (RFC 8200 §5), above 65535 no IPv4 (RFC 791 §3.1).
const MTU: std::ops::RangeInclusive<usize> = 1280..=65535;

/// Longest round trip: an order of magnitude beyond a satellite's, and memory stays bounded.
const RTT_MAX: Duration = Duration::from_secs(10);

/// Slowest and fastest line. Rate x round trip is what may be in memory: 125 GB at the worst, which
/// nobody fills by one core; 19 MB each way as it is by default, and the queue as much again.
const BITS_PER_SECOND: std::ops::RangeInclusive<u64> = 1_000..=100_000_000_000;

/// Reads the command line without the program's name. Errors: all mistakes.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Wanted, Vec<String>> {
    let mut flags = Flags {
        shape: Shape {
            rtt: Duration::from_millis(150),
            loss: 0.0,
            bits_per_second: 1_000_000_000,
            queue_bytes: None,
            black_hole: BlackHole::None,
        },
        mtu: 1500,
        seed: 1,
        stats: false,
        command: Vec::new(),
    };
    let mut mistakes = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        let (name, joined) = match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg, None),
        };
        match name.as_str() {
            "-h" | "--help" => return Ok(Wanted::Help),
            "--stats" => flags.stats = true,
            "--" => {
                flags.command = args.collect();
                break;
            }
            _ => {
                let Some(known) = name.strip_prefix("--").filter(|name| NAMES.contains(name))
                else {
                    mistakes.push(format!("{name}: there is no such flag; --help lists them"));
                    continue;
                };
                let Some(value) = joined.or_else(|| args.next()) else {
                    mistakes.push(format!("{name}: the value is missing"));
                    continue;
                };
                if let Err(why) = set(&mut flags, known, &value) {
                    mistakes.push(format!("{name} {value:?}: {why}"));
                }
            }
        }
    }
    if flags.command.is_empty() {
        mistakes.push("no command; give one behind --".to_owned());
    }
    if mistakes.is_empty() { Ok(Wanted::Run(flags)) } else { Err(mistakes) }
}

const NAMES: [&str; 7] = ["rtt", "loss", "rate", "queue", "black-hole", "mtu", "seed"];

fn set(flags: &mut Flags, name: &str, value: &str) -> Result<(), &'static str> {
    match name {
        "mtu" => {
            let number = value.parse().ok().filter(|mtu| MTU.contains(mtu));
            flags.mtu = number.ok_or("give 1280 to 65535")?;
        }
        "seed" => flags.seed = value.parse().map_err(|_| "give a whole number")?,
        "queue" => {
            let bytes = value.parse().map_err(|_| "give a whole number of bytes")?;
            flags.shape.queue_bytes = Some(bytes);
        }
        _ => reshape(&mut flags.shape, name, value)?,
    }
    Ok(())
}

/// Reads one line of orders to a link of this shape. Errors: why not.
pub fn order(line: &str, shape: &Shape) -> Result<Order, &'static str> {
    if line.trim() == "stats" {
        return Ok(Order::Stats);
    }
    let (name, value) = line.trim().split_once(' ').ok_or("give a name and a value")?;
    let mut shape = *shape;
    reshape(&mut shape, name, value.trim())?;
    Ok(Order::Shape(shape))
}

/// What can be changed while the link runs.
fn reshape(shape: &mut Shape, name: &str, value: &str) -> Result<(), &'static str> {
    match name {
        "rtt" => shape.rtt = time(value).ok_or("give 0 to 10s with a unit: 150ms, 0.2s, 500us")?,
        "loss" => shape.loss = share(value).ok_or("give 0% to 100%")?,
        "rate" => {
            let rate = rate(value).filter(|rate| BITS_PER_SECOND.contains(rate));
            shape.bits_per_second = rate.ok_or("give 1kbit to 100gbit: 100mbit, 2.5gbit")?;
        }
        "black-hole" => {
            shape.black_hole = match value {
                "none" => BlackHole::None,
                "to-far" => BlackHole::ToFar,
                "to-near" => BlackHole::ToNear,
                "both" => BlackHole::Both,
                _ => return Err("give none, to-far, to-near or both"),
            }
        }
        _ => return Err("there is no such order: rtt, loss, rate, black-hole and stats are"),
    }
    Ok(())
}

fn time(text: &str) -> Option<Duration> {
    // The longer unit first: "ms" ends in "s".
    let (number, unit) = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let time = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
    (time <= RTT_MAX).then_some(time)
}

fn share(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

fn rate(text: &str) -> Option<u64> {
    let (number, unit) = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)]
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let rate = number.parse::<f64>().ok()? * unit;
    // From float to integer saturates; a number that is none becomes 0, which is out of range.
    Some(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Wanted, Vec<String>> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn flags(line: &str) -> Flags {
        match parse_words(line) {
            Ok(Wanted::Run(flags)) => flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_are_read_until_the_command() {
        let read = flags("--rtt 60ms --loss=0.5% --rate 100mbit --black-hole to-far -- a --rtt b");
        assert_eq!(read.shape.rtt, Duration::from_millis(60));
        assert!((read.shape.loss - 0.005).abs() < 1e-12);
        assert_eq!(read.shape.bits_per_second, 100_000_000);
        assert_eq!(read.shape.black_hole, BlackHole::ToFar);
        assert_eq!(read.command, ["a", "--rtt", "b"]);
        assert_eq!(flags("--queue 3000 --mtu 9001 -- a").shape.queue_bytes, Some(3000));
    }

    #[test]
    fn times_have_units_and_a_bound() {
        assert_eq!(time("0.15s"), Some(Duration::from_millis(150)));
        assert_eq!(time("500us"), Some(Duration::from_micros(500)));
        assert_eq!(time("10s"), Some(RTT_MAX));
        for mistaken in ["150", "10.001s", "-1ms", "ms", "nans", "infs", "1 h"] {
            assert_eq!(time(mistaken), None, "{mistaken}");
        }
    }

    #[test]
    fn rates_and_shares_are_bounded() {
        for mistaken in ["999", "0.5kbit", "101gbit", "nangbit", "-1gbit"] {
            assert!(parse_words(&format!("--rate {mistaken} -- a")).is_err(), "{mistaken}");
        }
        for mistaken in ["1", "-1%", "101%", "nan%", "%"] {
            assert!(parse_words(&format!("--loss {mistaken} -- a")).is_err(), "{mistaken}");
        }
        assert_eq!(flags("--loss 100% --rate 100gbit -- a").shape.bits_per_second, 100_000_000_000);
    }

    #[test]
    fn every_mistake_is_reported_in_one_run() {
        let mistakes = parse_words("--rtt 5 --speed --mtu 100 --black-hole yes").unwrap_err();
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        assert!(mistakes[4].contains("no command"), "{mistakes:?}");
    }

    #[test]
    fn orders_change_what_they_name() {
        let shape = flags("-- a").shape;
        assert_eq!(order("stats\n", &shape), Ok(Order::Stats));
        let Ok(Order::Shape(changed)) = order("black-hole both", &shape) else { panic!() };
        assert_eq!(changed, Shape { black_hole: BlackHole::Both, ..shape });
        assert!(order("mtu 9001", &shape).is_err());
        assert!(order("loss", &shape).is_err());
    }
}

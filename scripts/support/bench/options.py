"""Flags as typed, and the plan that they mean: which sections, which cells, how many rounds."""

import argparse
import math
import re
from dataclasses import dataclass, field
from itertools import product

from origins import SCHEMES

SECTIONS = ("cost", "latency", "connects", "syscalls", "instructions", "memory")
LOGS = ("off", "file")
LOADS = ("wrk", "oha")
# Concurrency at which the open loop, the comparison of generators and the lengths are measured.
TYPICAL = 64
CONNECTIONS = (1, 16, 64, 256, 1024)
BODIES = (2, 1024, 64 * 1024, 1024 * 1024)
# What moves long files: few connections, each with more under way than any buffer holds.
LONG_BODY = 64 * 1024 * 1024
LONG_CONNECTIONS = (1, 4)
FEW_ROUNDS_MAX = 3
# Short runs and many of them: what disturbs a machine for a moment every few seconds is then in a few of them, and the
# median has none of it.
OPEN_ROUNDS_MAX = 9
OPEN_SECONDS = 1
# Minutes that the three sizes may take.
QUICK_MINUTES, DEFAULT_MINUTES, ALL_MINUTES = 2, 10, 26
CONNECTIONS_MAX = 4096
BODY_BYTES_MAX = LONG_BODY
UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
JUDGED_CONNECTIONS = (64, 256)
BODIES_A_CONNECTION = 4
# What one CPU is expected to pass on.
BYTES_A_SECOND = 1.2e9


@dataclass(frozen=True)
class Cell:
    """One measured situation; every peer that can is measured in it, in turn."""

    origin: str
    body: int
    connections: int
    log: str
    load: str

    @property
    def situation(self):
        """All but the origin and the log."""
        return self.body, self.connections, self.load

    def rounds(self, usual):
        """The bars of the project are judged where rounds are doubled; the longest runs are single."""
        if self.seconds(1) > 2:
            return 1
        judged = self.body == BODIES[0] and self.connections in JUDGED_CONNECTIONS and self.load == "wrk"
        return 2 * usual if judged else usual

    def seconds(self, usual):
        """Long enough for each connection to get some bodies: what is under way at the end is no result."""
        return max(usual, math.ceil(BODIES_A_CONNECTION * self.connections * self.body / BYTES_A_SECOND))


@dataclass
class Plan:
    sections: list
    cells: list
    rounds: int
    # Length of a closed-loop run, and of an open-loop one.
    seconds: float
    open_seconds: float
    origins: list
    budget_minutes: float
    peers: list = field(default_factory=list)
    fractions: tuple = (0.5, 0.8)

    @property
    def few_rounds(self):
        """Rounds of what has few cells or long runs."""
        return min(self.rounds, FEW_ROUNDS_MAX)

    @property
    def open_rounds(self):
        return open_rounds(self.rounds)


def open_rounds(rounds):
    """Rounds in open loop for so many of cost, an odd number: the median is a run.

    More of them, because a stall of the machine is the p99 of the run that it falls into.
    """
    return min(4 * rounds + 1, OPEN_ROUNDS_MAX)


USAGE = """%(prog)s [--quick | --all] [FLAG...]

CPU, rate, latency, memory, system calls and instructions a request of chocon-uring beside nginx,
HAProxy, two byte relays and any --peer, in interleaved rounds. Without a flag: at most ten minutes."""


def parse(arguments):
    p = argparse.ArgumentParser(prog="scripts/bench", usage=USAGE, allow_abbrev=False)
    sizes = p.add_argument_group("how much")
    sizes.add_argument("--quick", action="store_true", help="at most two minutes")
    sizes.add_argument("--all", action="store_true", help="the whole matrix and every section: 26 minutes")
    sizes.add_argument("--budget", type=positive, metavar="MINUTES", help="as many rounds as fit (2, 10 or 26)")
    sizes.add_argument("--rounds", type=whole, metavar="N", help="interleaved rounds a cell, whatever time they take")
    sizes.add_argument("--seconds", type=positive, metavar="N", help="length of a closed-loop run")
    sections = p.add_argument_group("sections (default: the first four)")
    for name in SECTIONS:
        also = ["--cpu"] if name == "cost" else []
        sections.add_argument(f"--{name}", *also, action="store_true", help=SECTION_HELP[name])
    axes = p.add_argument_group("axes of cost (lists by comma or blank); naming one gives their product")
    axes.add_argument("--origins", type=choices(SCHEMES), metavar="LIST", help="http, https, h2")
    axes.add_argument("--bodies", "--body", type=numbers(BODY_BYTES_MAX), metavar="LIST", help="2, 1k, 64k, 1m, 64m")
    axes.add_argument("--connections", type=numbers(CONNECTIONS_MAX), metavar="LIST", help="1, 16, 64, 256, 1024")
    axes.add_argument("--logs", type=choices(LOGS), metavar="LIST", help="access log: off, file")
    axes.add_argument("--loads", type=choices(LOADS), metavar="LIST", help="wrk, oha")
    who = p.add_argument_group("who")
    who.add_argument("--peers", type=words, metavar="LIST", help="of nginx, haproxy, relay-epoll, relay-monoio")
    who.add_argument("--peer", action="append", default=[], type=pair, metavar="NAME=CMD", help=PEER_HELP)
    who.add_argument("--peer-host", action="append", default=[], type=pair, metavar="NAME=HOST", help=HOST_HELP)
    out = p.add_argument_group("output")
    out.add_argument("--out", metavar="DIR", help="run folder (default benches/runs/DATE-MACHINE)")
    out.add_argument("--publish", action="store_true", help="put summary and plots into PERF.md")
    out.add_argument("--counts", action="store_true", help="hold instruction counts to benches/baseline.tsv, no more")
    out.add_argument("--baseline", action="store_true", help="write that file anew, no more")
    out.add_argument("--clients", type=whole, metavar="N", help="idle clients of --memory (default 10000)")
    given = p.parse_args(arguments)
    named = {name for name, _ in given.peer}
    for name, _ in given.peer_host:
        if name not in named:
            p.error(f"--peer-host {name}=…: there is no --peer {name}=…")
    return given


SECTION_HELP = {
    "cost": "CPU a request, requests/s, closed-loop latency, RSS",
    "latency": "open loop at 50 %% and 80 %% of saturation",
    "connects": "a new connection for each request",
    "syscalls": "system calls a request (strace)",
    "instructions": "user-space instructions a request and a micro-benchmark's call (callgrind)",
    "memory": "RSS an idle connection",
}
PEER_HELP = (
    "another program; CMD may hold {listen_port} {origin_host} {origin_port} {scheme} {label}, and {log_dir},"
    " a directory for its access log, or none"
)
HOST_HELP = "the Host that it wants, same placeholders (default {origin_host}.{label}:{origin_port})"


def plan(given):
    sections = [name for name in SECTIONS if getattr(given, name)]
    axes = (given.bodies, given.connections, given.logs, given.loads)
    origins = given.origins or (["http", "https"] if given.quick else list(SCHEMES))
    if given.all:
        cells, sections = all_cells(origins), sections or list(SECTIONS)
        minutes = ALL_MINUTES
    elif given.quick:
        cells, sections = [Cell(o, 2, TYPICAL, "off", "wrk") for o in origins], sections or list(SECTIONS[:3])
        minutes = QUICK_MINUTES
    else:
        cells, sections = default_cells(origins), sections or list(SECTIONS[:4])
        minutes = DEFAULT_MINUTES
    if any(axes):
        usual = ([2], [1, TYPICAL, 256], ["off"], ["wrk"])
        filled = [some or most for some, most in zip(axes, usual)]
        cells = [Cell(*values) for values in product(origins, *filled)]
    budget = given.budget or (0 if given.rounds else minutes)
    seconds = given.seconds or 1
    made = Plan(sections, cells, given.rounds or 1, seconds, given.seconds or OPEN_SECONDS, origins, budget)
    if given.quick:
        made.fractions = (0.8,)
    return made


def default_cells(origins):
    h1 = [origin for origin in origins if origin != "h2"]
    cells = [Cell(o, 2, c, "off", "wrk") for o in h1 for c in (1, TYPICAL, 256)]
    cells += [Cell(o, b, TYPICAL, "off", "wrk") for o in h1 for b in BODIES[2:]]
    cells += [Cell(o, 2, TYPICAL, "file", "wrk") for o in h1]
    cells += [Cell(o, 2, TYPICAL, "off", "oha") for o in h1]
    return cells + [Cell("h2", 2, TYPICAL, "off", "wrk") for origin in origins if origin == "h2"]


def all_cells(origins):
    cells = [Cell(*one, "off", "wrk") for one in product(origins, BODIES, CONNECTIONS)]
    cells += [Cell(o, LONG_BODY, c, "off", "wrk") for o in origins for c in LONG_CONNECTIONS]
    # What a line of the log costs does not depend on the body.
    cells += [Cell(o, 2, c, "file", "wrk") for o in origins for c in (1, TYPICAL, 256)]
    return cells + [Cell(o, 2, TYPICAL, "off", "oha") for o in origins]


def words(text):
    return [word for word in re.split(r"[,\s]+", text) if word]


def choices(known):
    def parse_list(text):
        got = words(text)
        unknown = [word for word in got if word not in known]
        if unknown or not got:
            raise argparse.ArgumentTypeError(f"{text!r}: a list of {', '.join(known)}")
        return got

    return parse_list


def numbers(most):
    def parse_list(text):
        got = [re.fullmatch(r"(\d+)([km]?)", word.lower()) for word in words(text)]
        values = [int(one[1]) * UNITS[one[2]] if one else 0 for one in got]
        if not values or not all(0 < value <= most for value in values):
            raise argparse.ArgumentTypeError(f"{text!r}: a list of numbers from 1 to {most}, k and m allowed")
        return values

    return parse_list


def positive(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 and below 1000")
    return value


def whole(text):
    if not text.isdigit() or not 0 < int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 to 100000")
    return int(text)


def pair(text):
    name, equals, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,30}", name) or not equals or not value.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=VALUE, NAME of letters, digits and ._-")
    return name, value

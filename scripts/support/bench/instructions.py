"""Instructions in user space, counted by callgrind: they do not depend on speed or load of a machine."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from measure import say
from peers import OURS
from processes import CannotStart, await_port, free_port
from summary import table

# A multiple of 64, the most connections that share them.
REQUESTS_COUNTED = 6400
# Each call takes the same path, so a few tell as much as many.
CALLS_COUNTED = 200
REQUEST_CONNECTIONS = (1, 64)
COUNT_SECONDS_MAX = 240
# Functions named for their locked instructions: the rest, each below a fiftieth a request, is summed up.
LOCKED_NAMED_MIN, LOCKED_NAMED_MAX = 0.02, 8
WHOLE_PERCENT = 99
ROOT = os.environ["ROOT"]


@dataclass
class Counts:
    """What callgrind counted, all threads together."""

    requests: int
    instructions: int
    # Those that lock the bus or a cache line: what atomics compile to, but for plain loads and stores.
    locked: int
    # Pairs of function and its locked instructions, most first.
    locked_by: list

    @property
    def each(self):
        return round(self.instructions / self.requests)

    @property
    def locked_each(self):
        return self.locked / self.requests


def bench_instructions(bench):
    if not shutil.which("valgrind"):
        bench.note("valgrind is missing: instructions are left out; scripts/setup installs it")
        return []
    ours = next(peer for peer in bench.peers if peer.name == OURS)
    lines, locked = [], []
    for scheme in bench.plan.origins:
        for connections in REQUEST_CONNECTIONS:
            say(f"instructions: request, origin {scheme}, c={connections}")
            try:
                got = counted(bench, ours, scheme, connections, REQUESTS_COUNTED)
                what = f"request to an {scheme} origin"
                lines.append([what, connections, f"{got.each:,}", f"{got.locked_each:.2f}"])
                locked.append([what, connections, shares(got)])
            except CannotStart as why:
                bench.note(f"instructions of a request to an {scheme} origin: {why}")
    micro = build_micro() if shutil.which("cargo") else None
    for case in listed(micro) if micro else []:
        say(f"instructions: {case}")
        lines.append([case, "", f"{a_call(micro, case):,}", ""])
    said = f"In user space: a request over {REQUESTS_COUNTED} warm ones, a call of `benches/micro.rs` over"
    said += f" {CALLS_COUNTED}. `callgrind_annotate` shows where they go, from the files in `target/profiles`."
    said += " Locked: those that atomics compile to, but for plain loads and stores."
    if not lines:
        return []
    parts = ["### Instructions", said, table(["what", "c", "instructions", "locked"], lines)]
    return [*parts, table(["what", "c", "locked instructions a request, by function"], locked)] if locked else parts


def shares(got):
    """`name 8.08, name 4.02, all others 0.05`."""
    named = [(name, n / got.requests) for name, n in got.locked_by[:LOCKED_NAMED_MAX]]
    named = [(name, each) for name, each in named if each >= LOCKED_NAMED_MIN]
    rest = got.locked_each - sum(each for _, each in named)
    return ", ".join(f"{name} {each:.2f}" for name, each in [*named, ("all others", max(0, rest))])


# Valgrind runs one thread at a time and keeps its turn while a shard waits in io_uring_enter, so
# other threads (main, log, resolver) hardly run once the shard does. That is why readiness is seen
# by connecting, the origin is an address, and the count is asked for by valgrind's own channel.
def counted(bench, ours, scheme, connections, requests):
    """Counts of so many warm requests."""
    origin = bench.origins.by_scheme[scheme]
    profiles = f"{os.environ.get('CARGO_TARGET_DIR', f'{ROOT}/target')}/profiles"
    os.makedirs(profiles, exist_ok=True)
    profile = f"{profiles}/{scheme}-c{connections}.callgrind"
    for name in (profile, f"{profile}.1"):
        if os.path.exists(name):
            os.remove(name)
    port = free_port()
    command = ours.command()
    command[command.index("--port") + 1] = str(port)
    tool = ["valgrind", "--tool=callgrind", "--collect-bus=yes", f"--callgrind-out-file={profile}"]
    process = bench.processes.start([*tool, *command], f"{bench.directory}/counted.log", bench.cpus.proxy)
    try:
        if not await_port(port, process):
            raise CannotStart("the proxy did not start under valgrind")
        host = f"127.0.0.1.{origin.label}:{origin.port}"
        load = ["python3", f"{ROOT}/scripts/support/make_requests.py", str(port), host, "/2"]
        load += [str(requests), str(connections)]
        bench.processes.run(load, bench.cpus.load, COUNT_SECONDS_MAX)
        control(process, "--zero")
        bench.processes.run(load, bench.cpus.load, COUNT_SECONDS_MAX)
        control(process, "--dump")
    finally:
        # It cannot take a SIGTERM in while it waits in the ring.
        process.kill()
        bench.processes.end(process)
    with open(f"{profile}.1", encoding="ascii", errors="replace") as file:
        total = re.search(r"^totals: (\d+) ?(\d*)", file.read(), re.MULTILINE)
    return Counts(requests, int(total[1]), int(total[2] or 0), locked_by(f"{profile}.1"))


def locked_by(profile):
    command = ["callgrind_annotate", "--threshold=100", "--auto=no", "--show=Ge", "--sort=Ge", profile]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    return read_locked(run.stdout)


def read_locked(text):
    """Lines of `COUNT (SHARE%)  FILE:FUNCTION [OBJECT]`, a function's files together, most first."""
    counts = {}
    for line in text.splitlines():
        found = re.match(r" *([\d,]+) \( *([.\d]+)%\)  \S+?:(\S.*?)(?: \[\S+\])?$", line)
        # Calls that were under way when the count began, a thread's first ones, have all below them as theirs.
        if found and float(found[2]) < WHOLE_PERCENT:
            counts[found[3]] = counts.get(found[3], 0) + int(found[1].replace(",", ""))
    return sorted(counts.items(), key=lambda one: -one[1])


def control(process, what):
    run = subprocess.run(["callgrind_control", what, str(process.pid)], capture_output=True, timeout=30, check=False)
    if run.returncode != 0:
        raise CannotStart(f"callgrind_control {what} failed")


def build_micro():
    """The path of the micro-benchmarks, built anew if need be."""
    command = ["cargo", "bench", "--bench", "micro", "--no-run"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"Executable .*\((.*)\)", run.stderr)
    if not found:
        raise CannotStart(f"the micro-benchmarks did not build: {run.stderr.strip()[-300:]}")
    return os.path.join(ROOT, found[1])


def listed(micro):
    return subprocess.run([micro, "list"], capture_output=True, text=True, check=True).stdout.split()


def a_call(micro, case):
    """Two runs, one twice as long: what both have is gone from the difference."""
    totals = [collected(micro, case, rounds) for rounds in (CALLS_COUNTED, 2 * CALLS_COUNTED)]
    return (totals[1] - totals[0]) // CALLS_COUNTED


def collected(micro, case, rounds):
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    # Path and environment stand on the stack: their length moves what is aligned there, and counts
    # would differ by 1 % from one shell to another.
    where, name = os.path.split(micro)
    command = [shutil.which("valgrind"), *tool[1:], f"./{name}", "count", case, str(rounds)]
    run = subprocess.run(
        command, cwd=where, env={}, capture_output=True, text=True, timeout=COUNT_SECONDS_MAX, check=False
    )
    found = re.search(r"Collected : (\d+)", run.stderr)
    if not found:
        raise CannotStart(f"callgrind counted nothing for {case}: {run.stderr.strip()[-300:]}")
    return int(found[1])

"""Instructions in user space, counted by callgrind: they do not depend on speed or load of a machine."""

import os
import re
import shutil
import subprocess

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
ROOT = os.environ["ROOT"]


def bench_instructions(bench):
    if not shutil.which("valgrind"):
        bench.note("valgrind is missing: instructions are left out; scripts/setup installs it")
        return []
    ours = next(peer for peer in bench.peers if peer.name == OURS)
    lines = []
    for scheme in bench.plan.origins:
        for connections in REQUEST_CONNECTIONS:
            say(f"instructions: request, origin {scheme}, c={connections}")
            try:
                count = a_request(bench, ours, scheme, connections, REQUESTS_COUNTED)
                lines.append([f"request to an {scheme} origin", connections, f"{count:,}"])
            except CannotStart as why:
                bench.note(f"instructions of a request to an {scheme} origin: {why}")
    micro = build_micro() if shutil.which("cargo") else None
    for case in listed(micro) if micro else []:
        say(f"instructions: {case}")
        lines.append([case, "", f"{a_call(micro, case):,}"])
    said = f"In user space: a request over {REQUESTS_COUNTED} warm ones, a call of `benches/micro.rs` over"
    said += f" {CALLS_COUNTED}. `callgrind_annotate` shows where they go, from the files in `target/profiles`."
    return ["### Instructions", said, table(["what", "c", "instructions"], lines)] if lines else []


# Valgrind runs one thread at a time and keeps its turn while a shard waits in io_uring_enter, so
# other threads (main, log, resolver) hardly run once the shard does. That is why readiness is seen
# by connecting, the origin is an address, and the count is asked for by valgrind's own channel.
def a_request(bench, ours, scheme, connections, requests):
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
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}"]
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
        total = re.search(r"^totals: (\d+)", file.read(), re.MULTILINE)
    return round(int(total[1]) / requests)


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

"""System calls a request, counted by strace in runs of their own: it slows what it watches."""

import os
import re
import shutil
import signal
import subprocess
import time

from accounting import family
from measure import say, target
from processes import CannotStart
from summary import table

RUN_SECONDS = 1
CONNECTIONS = (1, 64)
# strace says one line for each thread that it holds.
ATTACH_SECONDS_MAX = 5
NAMED_MAX = 5


def bench_syscalls(bench):
    if not shutil.which("strace"):
        bench.note("strace is missing: system calls are left out; scripts/setup installs it")
        return []
    header = ["origin", "c", "who", "system calls a request", "of these"]
    lines = []
    for scheme in bench.plan.origins:
        with bench.sides(scheme) as running:
            for connections in CONNECTIONS:
                for name, side in running.items():
                    say(f"syscalls: {name}, origin {scheme}, c={connections}")
                    try:
                        total, by_name = counted(bench, side, connections)
                    except CannotStart as why:
                        bench.note(f"system calls of {name} with origin {scheme}: {why}")
                        continue
                    named = ", ".join(f"{call} {n:.2f}" for call, n in by_name[:NAMED_MAX] if n >= 0.005)
                    lines.append([scheme, connections, name, f"**{total:.2f}**", named])
    said = "`strace -c -f` of all threads over a run of its own. It slows the process, so more waits than usual may"
    said += " find work at hand: at c = 64 these are a lower bound."
    return ["### System calls a request", said, table(header, lines)] if lines else []


def counted(bench, side, connections):
    """Calls a request, in all and by name, most first."""
    load = "wrk" if shutil.which("wrk") else "oha"
    bench.generators.closed(load, target(side, 2), connections, RUN_SECONDS)
    report_path = f"{bench.directory}/strace"
    pids = [flag for pid in family(side.process.pid) for flag in ("-p", str(pid))]
    command = ["strace", "-c", "-f", "-o", report_path, *pids]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    bench.processes.started.append(tracer)
    try:
        await_attached(tracer, side.process.pid)
        report = bench.generators.closed(load, target(side, 2), connections, RUN_SECONDS)
    finally:
        # SIGINT is how strace is told to detach and to write its table.
        tracer.send_signal(signal.SIGINT)
        tracer.wait(ATTACH_SECONDS_MAX)
        bench.processes.end(tracer)
    calls = parsed(report_path)
    if not calls or not report.requests:
        raise CannotStart("strace counted nothing")
    by_name = sorted(((call, n / report.requests) for call, n in calls.items()), key=lambda one: -one[1])
    return sum(n for _, n in by_name), by_name


def await_attached(tracer, pid):
    """Until the kernel says that every thread has a tracer."""
    deadline = time.monotonic() + ATTACH_SECONDS_MAX
    while time.monotonic() < deadline:
        if tracer.poll() is not None:
            raise CannotStart(f"strace may not trace here: {tracer.stderr.read().strip()[-200:]}")
        if all(traced(member) for member in family(pid)):
            return
        time.sleep(0.02)
    raise CannotStart("strace did not attach in time")


def traced(pid):
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
            if re.search(r"^TracerPid:\s+0$", file.read(), re.MULTILINE):
                return False
    return True


def parsed(path):
    """Lines of `% time  seconds  usecs/call  calls  [errors]  syscall`."""
    calls = {}
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
                calls[words[-1]] = int(words[3])
    return calls

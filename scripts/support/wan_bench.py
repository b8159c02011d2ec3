#!/usr/bin/env python3
"""Plays the rows of scripts/bench-wan at the near end of a long link and prints their table.

usage: wan_bench.py --work DIRECTORY --proxy BINARY [--peer nginx] [--rows NAME,...] [--long]
    [--all] [--cores N] [--tries N] [--rate RATE] [--congestion NEAR,FAR]
Started by scripts/bench-wan below scripts/wan. Exit status: 0 when all bars hold, 1 when one is
missed, 2 for mistaken arguments, 3 when none is missed but the machine was too busy to tell, 4 when it
could be told for all rows that no request paid a handshake, and no more.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from wan_client import Client
from wan_origin import BULK_BYTES, NameServer
from wan_rows import ROWS, Stage
from wan_sides import CannotRun, Nginx, Proxy

# With a round trip of the control longer than this, lateness is no proof against the proxy.
CONTROL_MAX = 1.02
# With one longer than this, handshakes are none either: where a shard stands still for so long,
# others rightly stop waiting for its connection and dial.
CONTROL_MAX_FOR_DIALS = 1.2
# A request that took this long as the first of its connection may have paid a handshake.
DIAL_MIN = 1.9
# Requests shown of a row that misses its bar.
SHOWN_MAX = 4
# Each network namespace has its own.
CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"

# The far end of the control: sends back what it gets.
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 0))
print(s.getsockname()[1], flush=True)
while True:
    s.sendto(*s.recvfrom(64))
"""


@dataclass
class Result:
    """A row as played once."""

    worst: float
    median: float
    control: float
    opened: int
    used: int
    resumed: int
    requests: int
    errors: list
    faults: list
    excerpt: list
    # Some judged request may have paid a handshake, by the origin's log.
    may_have_dialled: bool
    is_machine_busy: bool

    def holds(self, bar):
        return self.worst <= bar and not self.errors and not self.faults

    def verdict(self, bar):
        if self.holds(bar):
            return "holds"
        dialled = self.may_have_dialled or self.faults
        bound = CONTROL_MAX_FOR_DIALS if dialled else CONTROL_MAX
        is_decided = self.control <= bound and (dialled or not self.is_machine_busy)
        # A wrong or failed answer is what it is on any machine.
        if self.errors or is_decided:
            return "misses"
        return "undecided" if dialled or self.worst >= DIAL_MIN else "late"


def play(row, bench, directory):
    os.makedirs(directory)
    try:
        origin = row.origin(bench.work, f"{directory}/origin", bench.far)
    except CannotRun as e:
        return failed(str(e))
    names = NameServer()
    side = make_side(bench, f"{directory}/side", names)
    client = Client(bench.far_addr, bench.control_port)
    stage = Stage(row, bench.rtt, directory, side, origin, names, client)
    try:
        row.play(stage)
        # What the origin does last is on its way for half a round trip.
        time.sleep(bench.rtt)
        return judge(stage)
    except CannotRun as e:
        return failed(str(e))
    finally:
        side.stop()
        origin.stop()
        client.drop_idle()


def make_side(bench, directory, names):
    if bench.peer == "nginx":
        return Nginx(bench.work, directory)
    return Proxy(bench.proxy, bench.work, directory, names, bench.cores)


def failed(why):
    return Result(float("inf"), float("inf"), 0, 0, 0, 0, 0, [], [why], [], True, False)


def judge(stage):
    seen = stage.origin.requests()
    errors = [complaint for each in stage.judged + stage.others if (complaint := wrong(each))]
    ratios = [(each.first_byte or float("inf")) / stage.rtt for each in stage.judged]
    if stage.ratio is not None:
        ratios = [stage.ratio]
    # RFC 9110 9.2.2: a request that is not idempotent must not be repeated by a proxy.
    posts = [each.path for each in seen if each.method == "POST"]
    twice = sorted({path for path in posts if posts.count(path) > 1})
    faults = stage.faults + [f"POST {path} reached the origin twice" for path in twice]
    connections = {each.connection: each.is_resumed for each in seen}
    return Result(
        worst=max(ratios),
        median=statistics.median(ratios),
        control=stage.client.control_worst() / stage.rtt,
        opened=stage.origin.connections(),
        used=len(connections),
        resumed=sum(connections.values()),
        requests=len(stage.judged) + len(stage.others),
        errors=errors,
        faults=faults,
        excerpt=excerpt(stage, seen),
        may_have_dialled=may_have_dialled(stage, seen),
        is_machine_busy=stage.client.is_machine_busy(),
    )


def may_have_dialled(stage, seen):
    """Whether a request that was a round trip late was not seen on a connection in use before."""
    if stage.ratio is not None:
        return True
    on_used = {each.path for each in seen if each.nth > 1}
    late = [each for each in stage.judged if (each.first_byte or 99) > DIAL_MIN * stage.rtt]
    return any(each.request.path not in on_used for each in late)


def wrong(answer):
    """What is wrong with an answer; latency apart."""
    request = answer.request
    if answer.error:
        return f"{request.method} {request.path}: {answer.error}"
    if answer.status != 200:
        return f"{request.method} {request.path}: status {answer.status}"
    if request.path.startswith("/bulk/"):
        whole = len(answer.body) == BULK_BYTES
        return None if whole else f"{request.path}: {len(answer.body)} bytes"
    if answer.body.decode() != request.path:
        return f"{request.path} got the answer of {answer.body[:60]}"
    return None


def excerpt(stage, seen):
    """The slowest of the judged, and what the origin's log has of each."""
    by_path = {each.path: each.line for each in seen}
    slow = [each for each in stage.judged if (each.first_byte or 99) > stage.row.bar * stage.rtt]
    slow.sort(key=lambda each: -(each.first_byte or 99))
    lines = [stage.note] if stage.note else []
    lines += [f"{len(slow)} of {len(stage.judged)} above the bar"] if slow else []
    for each in slow[:SHOWN_MAX]:
        took = f"{each.first_byte / stage.rtt:.2f}" if each.first_byte else "none"
        known = by_path.get(each.request.path, "not in the origin's log")
        lines.append(f"{each.request.path} {took} round trips; origin: {known}")
    return lines


def say(text):
    print(text, file=sys.stderr, flush=True)


def report(row, result, bench):
    """The row's line of the table. A missed bar is explained on standard error."""
    verdict = result.verdict(row.bar)
    wrongs = len(result.errors) + len(result.faults)
    print(
        f"| {row.scenario} (`{row.name}`) | {shown(result.worst)} | {shown(result.median)}"
        f" | {row.bar:.2f} | {result.requests} | {len(result.errors)}"
        f" | {result.opened} / {result.used} | {result.resumed}"
        f" | {result.control:.2f} | {verdict if verdict == 'holds' else f'**{verdict}**'} |",
        flush=True,
    )
    if verdict == "holds":
        return
    for line in result.faults + result.errors[:SHOWN_MAX] + result.excerpt:
        say(f"  {row.name}: {line}")
    if wrongs > SHOWN_MAX:
        say(f"  {row.name}: {len(result.errors)} errors in all")


def shown(ratio):
    return "–" if ratio == float("inf") else f"{ratio:.3f}"


def environment(bench, side):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    print(f"- kernel {os.uname().release}, {len(models)} × {models[0] if models else 'CPU'}")
    print(f"- {side.version()}; {side.name}", end="")
    print("" if bench.peer else f", --cores {bench.cores}, its other flags by row")
    print(f"- link: {bench.rtt * 1000:g} ms, {bench.rate}/s, in user space (scripts/wan)")
    print(f"- congestion control, near and far: {bench.congestion_named}")
    print("- origin: nginx, in rows that end in -h2o h2o; TLS 1.3; the counts are its own. Look-ups take 40 ms, TTL 5 s.")
    print(f"- load average at the start: {os.getloadavg()[0]:.2f}")
    print()
    print(
        "| scenario | worst, round trips | median | bar | requests | errors"
        " | connections at the origin: opened / used | resumed | control, worst | verdict |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|", flush=True)


def read_congestion():
    with open(CONGESTION, encoding="ascii") as file:
        return file.read().strip()


def set_congestion(bench):
    """Of each end: BBR spaces what a new connection sends, others do not. Names both."""
    ends, named = ([], ["nsenter", f"--net={bench.far}"]), []
    for where, name in zip(ends, bench.congestion.split(","), strict=True):
        if name == "host":
            named.append(f"{read_congestion()}, the host's")
            continue
        named.append(name)
        order = f"echo {shlex.quote(name)} >{CONGESTION}"
        run = subprocess.run([*where, "sh", "-c", order], stderr=subprocess.DEVNULL)
        if run.returncode != 0:
            say(f"--congestion {name}: this kernel does not let a namespace have it")
            sys.exit(2)
    return "; ".join(named)


def wanted_rows(bench):
    if bench.all:
        return ROWS
    if not bench.rows:
        defaults = ["yes", "long"] if bench.long else ["yes"]
        return [row for row in ROWS if row.default in defaults]
    names = bench.rows.split(",")
    known = {row.name: row for row in ROWS}
    unknown = [name for name in names if name not in known]
    if unknown:
        say(f"no such rows: {', '.join(unknown)}; there are {', '.join(known)}")
        sys.exit(2)
    return [known[name] for name in names]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--peer", choices=["nginx"])
    parser.add_argument("--rows")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--cores", type=int, default=8)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--congestion", default="host,host")
    bench = parser.parse_args()
    if bench.congestion.count(",") != 1:
        parser.error("--congestion: give NEAR,FAR")
    bench.far, bench.far_addr = os.environ["WAN_FAR"], os.environ["WAN_FAR_ADDR"]
    bench.rtt = int(os.environ["WAN_RTT_US"]) / 1e6
    return bench


def run_before_others():
    """What else the machine does is not what is measured. Without the right to it, it is left."""
    try:
        os.nice(-10)
        # Linux first shares the time among sessions (sched(7), autogroup), then within each.
        os.setsid()
        with open("/proc/self/autogroup", "w", encoding="ascii") as file:
            file.write("-10")
    except OSError:
        pass


def main():
    bench = arguments()
    rows = wanted_rows(bench)
    minutes, seconds = divmod(sum(row.seconds for row in rows), 60)
    say(f"{len(rows)} rows: about {minutes} min {seconds} s, more where one is played again")
    run_before_others()
    bench.congestion_named = set_congestion(bench)
    echo = subprocess.Popen(
        ["nsenter", f"--net={bench.far}", sys.executable, "-c", ECHO], stdout=subprocess.PIPE
    )
    bench.control_port = int(echo.stdout.readline())
    environment(bench, make_side(bench, f"{bench.work}/none", NameServer()))
    verdicts = set()
    for row in rows:
        for attempt in range(1, bench.tries + 1):
            result = play(row, bench, f"{bench.work}/{row.name}-{attempt}")
            verdict = result.verdict(row.bar)
            if verdict in ("holds", "misses"):
                break
            busy = ", others had the CPUs" if result.is_machine_busy else ""
            say(f"  {row.name}: {verdict}, the control took {result.control:.2f} round trips{busy}")
        report(row, result, bench)
        verdicts.add(result.verdict(row.bar))
    echo.kill()
    statuses = {"misses": 1, "undecided": 3, "late": 4}
    sys.exit(next((status for each, status in statuses.items() if each in verdicts), 0))


if __name__ == "__main__":
    main()

"""The measured runs: cost in interleaved rounds, latency in open loop, connections anew."""

import os
import sys
import time
from contextlib import ExitStack, contextmanager

from accounting import cpu_ns, cpu_ticks, open_connections, rss_kib
from load import BULK_BYTES_MIN, Target, has
from options import TYPICAL, Cell
from peers import DIRECT, Running, Stage
from processes import CannotStart

WARM_SECONDS = 1
WARM_REQUESTS = 100
# One load run, beyond its length: start of the generator, readings.
RUN_SECONDS_EXTRA = 0.1
# More requests a second than one CPU takes; they are bounded by the second that it lasts.
OVERLOAD_RATE = 200_000
CONNECT_ANEW = 16
# Of each side, the fastest counts.
SATURATION_RUNS = 3


def say(text):
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


class Bench:
    """Everything that the sections share."""

    def __init__(self, plan, peers, origins, generators, processes, cpus, directory):
        self.plan = plan
        self.peers = peers
        self.origins = origins
        self.generators = generators
        self.processes = processes
        self.cpus = cpus
        self.directory = directory
        # A dictionary a run, as it goes into the raw results.
        self.rows = []
        # Sentences on what was left out or looks wrong.
        self.notes = []

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)
            say(text)

    @contextmanager
    def sides(self, scheme, log="off"):
        """All peers that can be measured there, up and idle; ended afterwards."""
        running = {}
        try:
            for peer in self.peers:
                refusal = peer.refusal(scheme, log == "file")
                if refusal:
                    self.note(f"{peer.name} is left out with origin {scheme}, log {log}: {refusal}")
                    continue
                try:
                    running[peer.name] = peer.start(self.stage(peer, scheme, log))
                except CannotStart as why:
                    self.note(f"{peer.name} is left out with origin {scheme}, log {log}: {why}")
            yield running
        finally:
            for side in reversed(running.values()):
                self.processes.end(side.process)

    def stage(self, peer, scheme, log):
        directory = f"{self.directory}/{peer.name}-{scheme}-{log}-{time.monotonic_ns()}"
        os.makedirs(directory)
        origin = self.origins.by_scheme[scheme]
        return Stage(directory, self.processes, self.cpus.proxy, origin, log == "file")

    def measured(self, section, peer, side, run, **where):
        """One run with the CPU time of the measured process around it; a row of the raw results."""
        load_cpus = self.cpus.load | self.cpus.origin
        busy_before, ticks_before = cpu_ticks(load_cpus)
        before = cpu_ns(side.process.pid)
        try:
            report = run()
        except CannotStart as why:
            self.note(f"{peer} with {where}: {why}")
            return None
        after = cpu_ns(side.process.pid)
        busy, ticks = cpu_ticks(load_cpus)
        if side.process.poll() is not None:
            self.note(f"{peer} ended during a run with {where}")
            return None
        row = {"section": section, "peer": peer, **where}
        row["cpu_us"] = round((after - before) / 1000 / max(1, report.requests), 3)
        row["cpu_share"] = round((after - before) / 1e9 / report.seconds, 3)
        row["load_share"] = round((busy - busy_before) / max(1, ticks - ticks_before), 3)
        row["requests"], row["seconds"] = round(report.requests), round(report.seconds, 3)
        row["rate"], row["errors"] = round(report.rate), report.errors
        row["rss_kib"] = rss_kib(side.process.pid)
        row.update({f"p{p}": round(us) for p, us in report.latency_us.items()})
        if report.requests and report.bytes_each < where["body"]:
            self.note(f"{peer} sent {report.bytes_each:.0f} bytes a response with {where}")
            row["errors"] += report.requests
        self.rows.append(row)
        return row


def target(side, body):
    return Target(side.port, side.host, body)


def bench_cost(bench):
    """Each cell of the plan, one side after another in a round, round by round.

    The protocols that are spoken over TLS take turns in one round, and so do runs with a log and
    without: what HTTP/2 or a log costs is said by neighbours in time, too.
    """
    groups = {}
    for cell in bench.plan.cells:
        groups.setdefault(cell.origin == "http", {}).setdefault(cell.situation, []).append(cell)
    done = 0
    for situations in groups.values():
        with ExitStack() as started:
            running = {}
            for scheme, log in dict.fromkeys((c.origin, c.log) for cells in situations.values() for c in cells):
                running[scheme, log] = started.enter_context(bench.sides(scheme, log))
                for name, side in running[scheme, log].items():
                    check_pooling(bench, name, side, scheme)
            for cells in situations.values():
                done += len(cells)
                say(f"cost {done}/{len(bench.plan.cells)}: {', '.join(map(words, cells))}")
                cost_of_situation(bench, cells, running)


def cost_of_situation(bench, cells, running):
    """Cells that differ in origin and log only: all sides of all of them take turns."""
    turns = [(cell, name, side) for cell in cells for name, side in running[cell.origin, cell.log].items()]
    # Pools filled and handshakes made before anything counts.
    for cell, _, side in turns:
        warm(bench, cell, side)
    # One program's protocols and logs next to each other.
    first = list(dict.fromkeys(name for _, name, _ in turns))
    turns.sort(key=lambda turn: first.index(turn[1]))
    seconds = cells[0].seconds(bench.plan.seconds)
    for number in range(cells[0].rounds(bench.plan.rounds)):
        for cell, name, side in turns:
            run = lambda cell=cell, side=side: closed(bench, cell, side, seconds)
            where = {"body": cell.body, "c": cell.connections, "log": cell.log, "load": cell.load}
            bench.measured("cost", name, side, run, round=number, origin=cell.origin, **where)


def warm(bench, cell, side):
    try:
        if has("oha"):
            # Of long bodies each connection gets its own and no more.
            more = 0 if cell.body >= BULK_BYTES_MIN else WARM_REQUESTS + cell.connections
            bench.generators.counted(target(side, cell.body), cell.connections, more + cell.connections)
        else:
            closed(bench, cell, side, WARM_SECONDS)
    except CannotStart as why:
        bench.note(f"warming up with {words(cell)}: {why}")


def closed(bench, cell, side, seconds):
    return bench.generators.closed(cell.load, target(side, cell.body), cell.connections, seconds)


def words(cell):
    return f"{cell.origin} origin, {cell.body} B, c={cell.connections}, log {cell.log}, {cell.load}"


def check_pooling(bench, name, side, scheme):
    """One that connects anew for each request would make a table of nonsense: say so."""
    port = bench.origins.by_scheme[scheme].port
    before = open_connections(port)
    warm(bench, Cell(scheme, 2, 1, "off", "wrk"), side)
    # A relay's origin connection ends with its client's: it pools nothing, and need not.
    if open_connections(port) <= before and not name.startswith("relay-"):
        bench.note(f"{name} keeps no connection to the {scheme} origin: its figures include dialling")


def bench_latency(bench):
    """Open loop, the same rate for all: a fraction of what the slowest HTTP proxy can do at most."""
    for scheme in bench.plan.origins:
        with bench.sides(scheme) as running:
            saturation = saturation_of(bench, scheme, running)
            sides = {**running, DIRECT: direct(bench)}
            for fraction in bench.plan.fractions if saturation else ():
                say(f"latency: origin {scheme}, {fraction:.0%}")
                rate = round(saturation * fraction)
                for number in range(bench.plan.open_rounds):
                    for name, side in rotated(sides.items(), number):
                        open_loop(bench, "latency", name, side, scheme, rate, round=number, fraction=fraction)


def rotated(turns, number):
    """The turns of round `number`, which begins one further on than the round before: work of the kernel
    that recurs at its own pace would otherwise meet the same side each time."""
    turns = list(turns)
    first = number % max(1, len(turns))
    return turns[first:] + turns[:first]


def open_loop(bench, section, name, side, scheme, rate, **more):
    seconds = bench.plan.open_seconds if section == "latency" else WARM_SECONDS
    run = lambda: bench.generators.open(target(side, 2), TYPICAL, rate, seconds)
    where = {"origin": scheme, "body": 2, "c": TYPICAL, "log": "off", "load": "oha"}
    return bench.measured(section, name, side, run, asked=rate, **more, **where)


def direct(bench):
    """The origin itself, over http: what generator and origin add to every figure."""
    origin = bench.origins.by_scheme["http"]
    return Running(bench.origins.process, origin.port, "localhost")


def saturation_of(bench, scheme, running):
    """What the slowest HTTP proxy gets done of more requests than any can take; 0 when none answers.

    In open loop, because pacing costs the generator CPU time: on a machine where it is the limit, a
    share of what it does in closed loop would be beyond it.
    """
    rates = []
    for name, side in running.items():
        if name.startswith("relay-"):
            continue
        runs = [open_loop(bench, "saturation", name, side, scheme, OVERLOAD_RATE) for _ in range(SATURATION_RUNS)]
        # A stall of the machine makes a run slower, and nothing makes one faster.
        if whole := [row["rate"] for row in runs if row and not row["errors"]]:
            rates.append(max(whole))
    return min(rates, default=0)


def bench_connects(bench):
    """A client connection for each request; HTTP proxies keep theirs to the origin."""
    for scheme in bench.plan.origins:
        with bench.sides(scheme) as running:
            say(f"connects: origin {scheme}")
            for number in range(bench.plan.few_rounds):
                for name, side in running.items():
                    run = lambda: bench.generators.each_anew(target(side, 2), CONNECT_ANEW, bench.plan.seconds)
                    where = {"origin": scheme, "body": 2, "c": CONNECT_ANEW, "log": "off", "load": "oha"}
                    bench.measured("connects", name, side, run, round=number, **where)

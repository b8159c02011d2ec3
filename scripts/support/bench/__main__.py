"""What a request costs, beside peers: scripts/bench starts this with ROOT, PROXY_BIN and PATH set.

Everything it starts is pinned, bounded in time and ended by its id. Standard output is the summary,
standard error the progress.
"""

import os
import resource
import shutil
import sys
import tempfile
import time

import counts
import environment
import estimate
import options
import plots
import run_folder
import summary
from instructions import bench_instructions
from load import Generators, has
from measure import Bench, bench_connects, bench_cost, bench_latency, say
from origins import Origins
from peers import HOST_DEFAULT, Custom, HaProxy, Nginx, Ours, Relay
from processes import CannotStart, Processes, exit_on_signals
from syscalls import bench_syscalls

ROOT = os.environ["ROOT"]
PROXY_BIN = os.environ["PROXY_BIN"]
SECTIONS = {"cost": bench_cost, "latency": bench_latency, "connects": bench_connects}
# Sections that make Markdown of their own.
TEXTS = {"syscalls": bench_syscalls, "instructions": bench_instructions}
MEMORY_SECONDS_MAX = 900


def main():
    given = options.parse(sys.argv[1:])
    plan = options.plan(given)
    exit_on_signals()
    raise_open_files()
    for tool in ("nginx", "openssl"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is missing: it is the origin's; scripts/setup installs it")
    processes = Processes()
    directory = tempfile.mkdtemp(prefix="bench-")
    try:
        run(given, plan, processes, directory)
    except CannotStart as why:
        raise SystemExit(str(why)) from None
    finally:
        processes.end_all()
        shutil.rmtree(directory, ignore_errors=True)


def run(given, plan, processes, directory):
    peers = chosen_peers(given)
    cpus = environment.Cpus.shared_out()
    origins = Origins(f"{directory}/origin", processes, cpus.origin)
    origins.start(sorted({2, *(cell.body for cell in plan.cells)}))
    # The proxy trusts the authority of this run and no other.
    os.environ["SSL_CERT_FILE"] = f"{directory}/origin/ca.pem"
    bench = Bench(plan, peers, origins, Generators(processes, cpus.load, directory), processes, cpus, directory)
    if given.counts or given.baseline:
        return gate(given, bench)
    leave_out_missing(bench)
    estimate.fit(bench)
    described = {
        **environment.describe(ROOT, PROXY_BIN, peers),
        "pinned": cpus.words(),
        "lost to others": environment.stalls(cpus.proxy | cpus.origin | cpus.load),
        **{f"{peer.name} runs with": peer.flags for peer in peers},
        "command": "scripts/bench " + " ".join(public_arguments(sys.argv[1:])),
        "date": time.strftime("%Y-%m-%d"),
    }
    started = time.monotonic()
    texts = []
    failed = False
    for name in plan.sections:
        # What was measured before is worth keeping, whatever goes wrong in a later section.
        try:
            texts += section(name, given, bench) or []
        except Exception as why:  # pylint: disable=broad-exception-caught
            failed = True
            bench.note(f"section {name} failed: {type(why).__name__}: {why}")
    say(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    finish(given, bench, described, texts)
    if failed:
        raise SystemExit(1)


def section(name, given, bench):
    """Runs one; Markdown if it makes its own."""
    if name in SECTIONS:
        return SECTIONS[name](bench)
    return TEXTS[name](bench) if name in TEXTS else memory(given, bench)


def gate(given, bench):
    """Counts of instructions: written as the baseline, or held to it."""
    if not shutil.which("valgrind"):
        raise SystemExit("valgrind is missing: scripts/setup installs it")
    now = counts.measured(bench, bench.peers[0])
    path = f"{ROOT}/benches/baseline.tsv"
    if given.baseline:
        counts.write(path, counts.surroundings(), now)
    elif not counts.check(path, now):
        raise SystemExit(1)


def finish(given, bench, described, texts):
    parts = [*summary.write(described, bench), *texts, *summary.notes(bench)]
    drawn = list(plots.draw(bench.rows))
    folder = os.path.abspath(given.out or run_folder.default_path(ROOT))
    run_folder.save(folder, described, bench.rows, drawn, parts)
    print("\n\n".join(parts))
    say(f"written: {os.path.relpath(folder)}")
    if given.publish:
        short = [*summary.write(described, bench, brief=True), *texts, *summary.notes(bench)]
        run_folder.publish(f"{ROOT}/PERF.md", folder, short, drawn)


def chosen_peers(given):
    examples = os.path.join(os.path.dirname(PROXY_BIN), "examples")
    relays = [Relay(name, f"{examples}/{name}") for name in ("relay-epoll", "relay-monoio")]
    known = [Nginx(), HaProxy(), *relays]
    if given.peers is not None:
        unknown = set(given.peers) - {peer.name for peer in known}
        if unknown:
            raise SystemExit(f"unknown peers: {', '.join(sorted(unknown))}; any program can be one by --peer NAME=CMD")
        known = [peer for peer in known if peer.name in given.peers]
    hosts = dict(given.peer_host)
    custom = [Custom(name, command, hosts.get(name, HOST_DEFAULT)) for name, command in given.peer]
    return [Ours(PROXY_BIN), *known, *custom]


def leave_out_missing(bench):
    """Names what this machine has not, and takes it out of the plan."""
    plan = bench.plan
    for generator in ("wrk", "oha"):
        if not has(generator):
            bench.note(f"{generator} is missing: its runs are left out; scripts/setup installs it")
            plan.cells = [cell for cell in plan.cells if cell.load != generator]
    if not has("oha"):
        plan.sections = [name for name in plan.sections if name not in ("latency", "connects")]
    if not plan.cells:
        plan.sections = [name for name in plan.sections if name != "cost"]


def memory(given, bench):
    """Another program's part: it prints Markdown."""
    path = next(p for p in (f"{ROOT}/scripts/support/bench_memory.{e}" for e in ("sh", "py")) if os.path.exists(p))
    command = [path, *(["--clients", str(given.clients)] if given.clients else [])]
    say("memory")
    return [bench.processes.run(command, os.sched_getaffinity(0), MEMORY_SECONDS_MAX).strip()]


def public_arguments(arguments):
    """The flags as given, without values that may hold a path or a host of the user's."""
    hidden = ("--peer", "--peer-host", "--out")
    out, hide = [], False
    for word in arguments:
        flag = word.partition("=")[0]
        out.append("…" if hide else f"{flag}=…" if flag in hidden and "=" in word else word)
        hide = word in hidden
    return out


def raise_open_files():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


main()

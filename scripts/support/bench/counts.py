"""The gate: instructions a call and a request, beside a committed baseline (benches/baseline.tsv).

Counts do not depend on the speed or the load of a machine, and a call's is the same from run to run;
they do depend on the compiler, the C library and what the CPU can do, which the baseline names.
"""

import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor

from environment import first_line
from instructions import a_call, build_micro, counted, listed
from measure import say

# A change beyond it in the same surroundings is a change of the code.
TOLERANCE = 0.03
# In others the same code compiles to somewhat more or less; a change of 15 % is still seen.
TOLERANCE_ELSEWHERE = 0.12
# The shortest cases have some tens of instructions, of which one more is no finding.
SLACK_INSTRUCTIONS = 8
REQUEST_SCHEMES = ("http", "https")
# Requests wait and wake, which varies by 0.1 % from run to run over so many.
REQUESTS_COUNTED = 1600
HEAD = """\
# Instructions in user space, counted by callgrind: a call of benches/micro.rs, a whole request at c = 1,
# and the locked ones (atomics that are no plain load or store) of a hundred requests.
# Written by `scripts/bench --baseline`, held by `scripts/bench --counts` (a section of scripts/test).
"""


def surroundings():
    """What counts depend on beside the code."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        vectors = sorted(set(re.findall(r"\b(avx|avx2|avx512f)\b", file.read())))
    return {
        "compiler": first_line("rustc", "--version"),
        "libc": " ".join(platform.libc_ver()),
        "cpu": " ".join([platform.machine(), *vectors]),
    }


def measured(bench, ours):
    micro = build_micro()
    # Each count is a process of its own, so as many run at once as there are CPUs.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cases = listed(micro)
        counts = dict(zip(cases, pool.map(lambda case: a_call(micro, case), cases)))
    for scheme in REQUEST_SCHEMES:
        say(f"counts: a request to an {scheme} origin")
        got = counted(bench, ours, scheme, 1, REQUESTS_COUNTED)
        counts[f"request_{scheme}"] = got.each
        # Of a hundred, so that one more a request is beyond the tolerance.
        counts[f"locked_{scheme}"] = round(got.locked_each * 100)
    return counts


def write(path, where, counts):
    lines = [f"# {name}\t{value}" for name, value in where.items()]
    lines += [f"{case}\t{count}" for case, count in counts.items()]
    with open(path, "w", encoding="utf-8") as file:
        file.write(HEAD + "\n".join(lines) + "\n")


def read(path):
    """The surroundings and the counts of a baseline."""
    where, counts = {}, {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            name, tab, value = line.rstrip("\n").partition("\t")
            if tab and name.startswith("# "):
                where[name[2:]] = value
            elif tab:
                counts[name] = int(value)
    return where, counts


def compare(baseline, now):
    """Sentences on what moved, and those of them that fail; both are pairs of surroundings, counts."""
    (where_then, then), (where_now, counts) = baseline, now
    differing = [name for name in where_now if where_now[name] != where_then.get(name)]
    moved, wrong = [], []
    for name in differing:
        moved.append(f"{name} differs: {where_now[name]}, baseline {where_then.get(name)}")
    for case in {**then, **counts}:
        if case not in counts:
            wrong.append(f"{case} is in the baseline and was not counted: scripts/bench --baseline")
        elif case not in then:
            wrong.append(f"{case} has no baseline: scripts/bench --baseline")
        elif counts[case] != then[case]:
            change = counts[case] / then[case] - 1
            said = f"{case}: {then[case]:,} -> {counts[case]:,} ({change:+.1%})"
            if beyond(then[case], counts[case], bool(differing)):
                wrong.append(said)
            else:
                moved.append(said)
    return moved, wrong


def beyond(before, after, elsewhere):
    """Whether it became dearer than noise explains; cheaper is news and never a failure."""
    share = TOLERANCE_ELSEWHERE if elsewhere else TOLERANCE
    return after - before > max(before * share, SLACK_INSTRUCTIONS)


def check(path, counts):
    """Prints what moved; whether the baseline holds."""
    where = surroundings()
    moved, wrong = compare(read(path), (where, counts))
    for line in moved:
        print(f"moved: {line}")
    for line in wrong:
        print(f"beyond its tolerance: {line}")
    if wrong:
        print("a change that is worth it brings a new baseline: scripts/bench --baseline")
    print(f"{len(counts)} counts, {len(wrong)} beyond tolerance")
    return not wrong

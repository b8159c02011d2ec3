#!/usr/bin/env python3
"""Turns the rounds of scripts/bench into a Markdown table.

usage: bench_table.py ROUNDS_FILE
A line of ROUNDS_FILE: origin, connections, round, side (proxy or nginx), CPU µs a request,
requests/s, p50 µs, p99 µs; separated by tabs.
"""

import statistics
import sys
from collections import defaultdict

COLUMNS = (
    "origin | c | CPU µs/request, proxy | nginx | proxy ÷ nginx (min–max of the pairs)"
    " | requests/s, proxy | nginx | p50 / p99 µs, proxy | nginx"
)


def middle(rounds, column):
    return statistics.median(one[column] for one in rounds.values())


def row(origin, connections, sides):
    proxy, nginx = sides["proxy"], sides["nginx"]
    # The two runs of one round are neighbours in time: their ratio is what the machine's own
    # changes of speed spoil least.
    pairs = [proxy[number][0] / nginx[number][0] for number in proxy if number in nginx]
    ratio = middle(proxy, 0) / middle(nginx, 0)
    return (
        f"| {origin} | {connections} | {middle(proxy, 0):.1f} | {middle(nginx, 0):.1f}"
        f" | **{ratio:.2f}** ({min(pairs):.2f}–{max(pairs):.2f})"
        f" | {middle(proxy, 1):,.0f} | {middle(nginx, 1):,.0f}"
        f" | {middle(proxy, 2):,.0f} / {middle(proxy, 3):,.0f}"
        f" | {middle(nginx, 2):,.0f} / {middle(nginx, 3):,.0f} |"
    )


def main():
    cells = defaultdict(lambda: {"proxy": {}, "nginx": {}})
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            origin, connections, number, side, *values = line.split("\t")
            cells[origin, int(connections)][side][int(number)] = [float(v) for v in values]
    print(f"| {COLUMNS} |")
    print("|---|" + "---:|" * (COLUMNS.count("|")))
    for (origin, connections), sides in cells.items():
        print(row(origin, connections, sides))


main()

#!/usr/bin/env python3
"""Looks whether a run folder of scripts/bench is whole; exit status 1 and a sentence when it is not.

usage: check_run.py DIRECTORY PEER...
"""

import json
import os
import sys
import xml.etree.ElementTree as xml

SECTIONS = ("cost", "latency", "connects")
BYTES_MAX = 300 * 1024


def main():
    directory, peers = sys.argv[1], sys.argv[2:]
    with open(f"{directory}/raw.json", encoding="utf-8") as file:
        raw = json.load(file)
    rows = [dict(zip(raw["columns"], run, strict=True)) for run in raw["runs"]]
    for section in SECTIONS:
        for peer in peers:
            some = [row for row in rows if (row["section"], row["peer"]) == (section, peer)]
            expect(some, f"no run of {peer} in section {section}")
            for row in some:
                expect(row["requests"] > 0 and row["cpu_us"] > 0 and row["rss_kib"] > 0, f"an empty run: {row}")
                expect(row["errors"] == 0, f"a run with errors: {row}")
                expect(0 < row["load_share"] <= 1, f"generator and origin did nothing: {row}")
    with open(f"{directory}/environment.json", encoding="utf-8") as file:
        said = json.load(file)
    expect(said["kernel"] and said["CPUs"] and said["commit"], f"an environment without its parts: {said}")
    expect(not any("/tmp" in value or "/home" in value for value in said.values()), f"a path of this machine: {said}")
    with open(f"{directory}/summary.md", encoding="utf-8") as file:
        summary = file.read()
    plots = [name for name in os.listdir(directory) if name.endswith(".svg")]
    expect({"cost-http.svg", "latency-http-80.svg"} <= set(plots), f"plots are missing: {plots}")
    for name in plots:
        expect(f"({name})" in summary, f"the summary does not show {name}")
        lines = xml.parse(f"{directory}/{name}").getroot().findall("{http://www.w3.org/2000/svg}polyline")
        expect(len(lines) >= len(peers), f"{name} has {len(lines)} lines")
    size = sum(os.path.getsize(f"{directory}/{name}") for name in os.listdir(directory))
    expect(size < BYTES_MAX, f"the folder has {size} bytes")
    print(f"{len(rows)} runs, {len(plots)} plots, {size} bytes")


def expect(holds, what):
    if not holds:
        sys.exit(what)


main()

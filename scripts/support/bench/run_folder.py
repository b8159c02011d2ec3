"""What a run leaves behind: environment, raw results, summary and plots; and PERF.md, if asked."""

import json
import os
import re
import time

from environment import machine_slug

MARKS = ("<!-- bench:begin -->", "<!-- bench:end -->")


def default_path(root):
    """benches/runs/DATE-MACHINE, or the next with a number: no run replaces another."""
    start = f"{root}/benches/runs/{time.strftime('%Y-%m-%d')}-{machine_slug()}"
    path, number = start, 1
    while os.path.exists(path):
        number += 1
        path = f"{start}.{number}"
    return path


def save(path, environment, rows, plots, parts):
    os.makedirs(path, exist_ok=True)
    put(f"{path}/environment.json", json.dumps(environment, indent=1, ensure_ascii=False) + "\n")
    put(f"{path}/raw.json", raw(rows))
    for name, text in plots:
        put(f"{path}/{name}", text)
    images = "\n".join(f"![{name.removesuffix('.svg')}]({name})" for name, _ in plots)
    put(f"{path}/summary.md", "\n\n".join(filter(None, ["# A run of scripts/bench", *parts, images])) + "\n")


def raw(rows):
    """One run a line; the names of columns once for all, which keeps hundreds of runs small."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [json.dumps([row.get(key) for key in columns], ensure_ascii=False) for row in rows]
    return '{"columns": ' + json.dumps(columns) + ',\n"runs": [\n' + ",\n".join(lines) + "\n]}\n"


def publish(perf, folder, parts, plots):
    """Puts summary and plots between the marks of PERF.md."""
    with open(perf, encoding="utf-8") as file:
        text = file.read()
    relative = os.path.relpath(folder, os.path.dirname(perf))
    if relative.startswith(".."):
        raise SystemExit(f"{folder} is outside the project: PERF.md cannot show its plots")
    images = "\n".join(f"![{name.removesuffix('.svg')}]({relative}/{name})" for name, _ in plots)
    made = "\n\n".join(filter(None, [f"From [`{relative}`]({relative}/):", images, *parts]))
    pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
    found = re.subn(pattern, lambda _: f"{MARKS[0]}\n{made}\n{MARKS[1]}", text, flags=re.DOTALL)
    if found[1] != 1:
        raise SystemExit(f"PERF.md has no place between {MARKS[0]} and {MARKS[1]}")
    put(perf, found[0])


def put(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)

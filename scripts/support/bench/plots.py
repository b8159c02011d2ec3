"""The charts of a run: cost by concurrency, and latency by percentile, one for each origin."""

import math
import statistics
from collections import defaultdict

from load import PERCENTILES
from svg import Axis, Line, chart, linear_ticks, log_ticks


def draw(rows):
    """Pairs of file name and SVG text; none for what was not measured."""
    origins = list(dict.fromkeys(row["origin"] for row in rows))
    for origin in origins:
        here = [row for row in rows if row["origin"] == origin]
        yield from cost_by_concurrency(origin, here)
        for fraction in dict.fromkeys(row["fraction"] for row in here if row["section"] == "latency"):
            yield from latency_by_percentile(origin, fraction, here)


def cost_by_concurrency(origin, rows):
    wanted = [r for r in rows if r["section"] == "cost" and r["log"] == "off" and r["load"] == "wrk"]
    body = min((row["body"] for row in wanted), default=0)
    points = defaultdict(lambda: defaultdict(list))
    for row in wanted:
        if row["body"] == body:
            points[row["peer"]][row["c"]].append(row["cpu_us"])
    concurrencies = sorted({c for by_c in points.values() for c in by_c})
    if len(concurrencies) < 2:
        return
    lines = []
    for peer, by_c in points.items():
        middles = [(c, statistics.median(values)) for c, values in sorted(by_c.items())]
        spread = [(min(values), max(values)) for _, values in sorted(by_c.items())]
        lines.append(Line(peer, middles, spread))
    highest = max(high for line in lines for _, high in line.spread)
    x = Axis("client connections", [(c, str(c)) for c in concurrencies], math.log)
    y = Axis("CPU µs a request (band: lowest and highest run)", linear_ticks(highest))
    title = f"Cost by concurrency, {origin} origin, body of {body} B"
    yield f"cost-{origin}.svg", chart(title, x, y, lines)


def latency_by_percentile(origin, fraction, rows):
    wanted = [r for r in rows if r["section"] == "latency" and r["fraction"] == fraction]
    lines, values = [], []
    for peer in dict.fromkeys(row["peer"] for row in wanted):
        some = [row for row in wanted if row["peer"] == peer]
        points = [(p, max(1, statistics.median(row[f"p{p}"] for row in some))) for p in PERCENTILES]
        values += [us for _, us in points]
        lines.append(Line(peer, points))
    # Each step to the right leaves a tenth as many requests above it.
    x = Axis("percentile", [(p, f"{p:g}") for p in PERCENTILES], lambda p: -math.log10(1 - p / 100))
    y = Axis("latency, µs", log_ticks(min(values), max(values)), math.log10)
    rate = f"{wanted[0]['asked']:,} requests/s"
    title = f"Latency in open loop, {origin} origin, {fraction:.0%} of saturation ({rate})"
    yield f"latency-{origin}-{fraction * 100:.0f}.svg", chart(title, x, y, lines)

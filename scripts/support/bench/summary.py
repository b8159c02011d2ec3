"""The tables of a run, in Markdown: medians, spread, ratios."""

import statistics
from collections import defaultdict

from load import BULK_BYTES_MIN
from options import TYPICAL
from peers import DIRECT, OURS

# Whose cost ours is not divided by; by nginx's, the nearest floor's and any --peer's it is.
NO_REFERENCES = (OURS, "haproxy", "relay-epoll")
METHOD = """\
CPU: growth of `schedstat` over all threads of the process and its children, user space and kernel, divided by the
requests that the generator completed (from bodies of 64 KiB on: by the bytes that it received ÷ the body's length).
Rounds are interleaved (A B C A B C, with both protocols over TLS, and with the log and without it, in one round); a
figure is the median of its runs and ± half their range; a ratio is the median of those of the pairs that stood in one
round, in brackets the lowest and highest: so it need not be the quotient of the two figures. All get the same request
bytes. No errors unless a note says so. The relays are the floor of a request; long bodies they copy through one small
buffer."""
RATE_METHOD = """\
Medians. Where there are two CPUs the generator shares its own with the origin: the rate is often its limit."""
RATE_BRIEF = f""" Of {TYPICAL} connections without a log; the others are in the run's `summary.md`."""
LATENCY_METHOD = """\
Open loop, `oha -q RATE --latency-correction`: requests are due at fixed times and a late one counts from when it was
due. Without that correction a generator that waits for a slow answer sends fewer requests just then, and the worst
latencies are left out (coordinated omission). The rate is the same for all: that share of what the slowest HTTP proxy
here got done when asked for more than it can. oha's timer ticks each millisecond, so requests come in bunches of
RATE/1000; `no proxy` is the http origin asked directly, so what generator and origin alone make of it. `load busy` says how
much of their CPUs' time generator and origin needed: near 100 % a tail is theirs, whoever stands between. Medians."""


def write(environment, bench, brief=False):
    """The whole summary; sections without rows are left out. `brief`: rates of typical cells only."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in environment.items() if value)]
    cost = chosen(bench.rows, "cost")
    if cost:
        parts += ["### CPU a request", METHOD, *cost_tables(cost), *protocol_tables(cost)]
        parts += [*log_tables(cost), *bulk_tables(cost)]
        parts += ["### Rate, closed-loop latency, memory"]
        typical = [row for row in cost if row["c"] == TYPICAL and row["log"] == "off"]
        parts += [RATE_METHOD + (RATE_BRIEF if brief else ""), rate_table(typical if brief else cost)]
    latency = chosen(bench.rows, "latency")
    if latency:
        parts += ["### Latency in open loop", LATENCY_METHOD, latency_table(latency)]
    connects = chosen(bench.rows, "connects")
    if connects:
        parts += ["### A connection for each request", "`oha --disable-keepalive`, medians.", connects_table(connects)]
    return parts


def notes(bench):
    wrong = [row for row in bench.rows if row["errors"]]
    errors = [
        f"{row['peer']}, {row['section']}, {row['origin']} origin, {row['body']} B, c={row['c']}, log {row['log']}:"
        f" {row['errors']} errors in {row['requests']} requests"
        for row in wrong
    ]
    lines = [f"- {line}" for line in [*bench.notes, *errors]]
    return ["### Notes", "\n".join(lines)] if lines else []


def chosen(rows, section):
    return [row for row in rows if row["section"] == section]


def cells(rows):
    """Rows by cell and then by peer, both in the order of measuring."""
    by_cell = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_cell[tuple(row[key] for key in ("origin", "body", "c", "log", "load"))][row["peer"]].append(row)
    return by_cell


def middle(rows, key):
    return statistics.median(row[key] for row in rows)


def table(header, lines):
    bar = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, bar, *lines])


def size(count):
    for unit, name in ((1024 * 1024, "MiB"), (1024, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"


def cost_tables(rows):
    """One for each origin: a line a cell, a column a peer."""
    for origin in dict.fromkeys(row["origin"] for row in rows):
        here = [row for row in rows if row["origin"] == origin]
        peers = list(dict.fromkeys(row["peer"] for row in here))
        references = [name for name in peers if name not in NO_REFERENCES] if OURS in peers else []
        header = ["body", "c", "log", "load", "rounds", *peers, *(f"{OURS} ÷ {name}" for name in references)]
        lines = []
        for (_, body, c, log, load), by_peer in cells(here).items():
            costs = [cost(by_peer.get(peer)) for peer in peers]
            ratios = [ratio(by_peer.get(OURS), by_peer.get(name)) for name in references]
            rounds = max(len(some) for some in by_peer.values())
            lines.append([size(body), c, log, load, rounds, *costs, *ratios])
        yield f"CPU µs a request, {origin} origin:\n\n{table(header, lines)}"


def protocol_tables(rows):
    """HTTP/2 to the origin beside HTTP/1.1 over TLS, of those measured with both in one round."""
    by_cell = cells(rows)
    lines = []
    for (origin, *situation), by_peer in by_cell.items():
        over_tls = by_cell.get(("https", *situation), {})
        for peer, some in by_peer.items() if origin == "h2" else ():
            if peer in over_tls:
                body, c, log, load = situation
                costs = [cost(over_tls[peer]), cost(some), ratio(some, over_tls[peer])]
                lines.append([size(body), c, log, load, peer, *costs])
    if lines:
        header = ["body", "c", "log", "load", "who", "https, CPU µs", "h2", "h2 ÷ https"]
        yield f"HTTP/2 to the origin beside HTTP/1.1, in turn:\n\n{table(header, lines)}"


def bulk_tables(rows):
    """What a CPU passes on in a second, of bodies that cost more than their request."""
    rows = [row for row in rows if row["body"] >= BULK_BYTES_MIN]
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    lines = []
    for (origin, body, c, _, load), by_peer in cells(rows).items():
        # Bytes a µs are MB a second.
        rates = {peer: body / middle(some, "cpu_us") / 1000 for peer, some in by_peer.items()}
        beside = f"**{rates[OURS] / rates['nginx']:.2f}**" if {OURS, "nginx"} <= set(rates) else "–"
        got = [f"{rates[peer]:.2f}" if peer in rates else "–" for peer in peers]
        lines.append([origin, size(body), c, load, *got, beside])
    if lines:
        header = ["origin", "body", "c", "load", *peers, f"{OURS} ÷ nginx"]
        yield f"GB that a second of CPU passes on:\n\n{table(header, lines)}"


def log_tables(rows):
    """What an access log to a file adds, where both were measured."""
    by_cell = cells(rows)
    lines = []
    for (origin, body, c, log, load), by_peer in by_cell.items():
        without = by_cell.get((origin, body, c, "off", load), {})
        for peer, some in by_peer.items() if log == "file" else ():
            if peer in without:
                costs = [cost(without[peer]), cost(some), ratio(some, without[peer])]
                lines.append([origin, size(body), c, peer, *costs])
    if lines:
        header = ["origin", "body", "c", "who", "log off, CPU µs", "to a file", "file ÷ off"]
        yield f"What an access log adds:\n\n{table(header, lines)}"


def cost(rows):
    if not rows:
        return "–"
    values = [row["cpu_us"] for row in rows]
    return f"{statistics.median(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"


def ratio(ours, theirs):
    if not ours or not theirs:
        return "–"
    # Neighbours in time: their ratio is what the machine's own changes of speed spoil least.
    by_round = {row["round"]: row["cpu_us"] for row in theirs}
    pairs = [row["cpu_us"] / by_round[row["round"]] for row in ours if by_round.get(row["round"])]
    if not pairs:
        return "–"
    return f"**{statistics.median(pairs):.2f}** ({min(pairs):.2f}–{max(pairs):.2f})"


def rate_table(rows):
    header = ["origin", "body", "c", "log", "load", "who", "requests/s", "CPU busy"]
    header += ["p50 µs", "p99 µs", "p99.9 µs", "RSS MiB"]
    lines = []
    for (origin, body, c, log, load), by_peer in cells(rows).items():
        for peer, some in by_peer.items():
            percentiles = [f"{middle(some, key):,.0f}" for key in ("p50", "p99", "p99.9")]
            rss = f"{max(row['rss_kib'] for row in some) / 1024:.1f}"
            busy = f"{middle(some, 'cpu_share'):.0%}"
            rate = f"{middle(some, 'rate'):,.0f}"
            lines.append([origin, size(body), c, log, load, peer, rate, busy, *percentiles, rss])
    return table(header, lines)


def latency_table(rows):
    header = ["origin", "load", "asked/s", "who", "done/s", "p50 µs", "p90", "p99", "p99.9", "p99.99"]
    header += ["CPU µs", "load busy"]
    lines = []
    by_line = defaultdict(list)
    for row in rows:
        by_line[row["origin"], row["fraction"], row["asked"], row["peer"]].append(row)
    for (origin, fraction, asked, peer), some in by_line.items():
        percentiles = [f"{middle(some, key):,.0f}" for key in ("p50", "p90", "p99", "p99.9", "p99.99")]
        own_cost = "–" if peer == DIRECT else cost(some)
        start = [origin, f"{fraction:.0%}", f"{asked:,}", peer, f"{middle(some, 'rate'):,.0f}"]
        load_busy = f"{middle(some, 'load_share'):.0%}"
        lines.append([*start, *percentiles, own_cost, load_busy])
    return table(header, lines)


def connects_table(rows):
    header = ["origin", "c", "who", "connections/s", "CPU µs each", "p50 µs", "p99 µs"]
    lines = []
    for (origin, _, c, _, _), by_peer in cells(rows).items():
        for peer, some in by_peer.items():
            rate = f"{middle(some, 'rate'):,.0f}"
            percentiles = [f"{middle(some, key):,.0f}" for key in ("p50", "p99")]
            lines.append([origin, c, peer, rate, cost(some), *percentiles])
    return table(header, lines)

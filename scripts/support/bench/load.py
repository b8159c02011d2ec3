"""The two load generators: wrk (closed loop) and oha (closed and open loop)."""

import json
import os
from dataclasses import dataclass, field

# What a run may take beyond its own length before it is ended.
GRACE_SECONDS = 15
# No open loop, and no run of a count, makes more requests than this.
REQUESTS_MAX = 20_000_000
THREADS_MAX = 4
# From here on bytes are what a body costs, not the request.
BULK_BYTES_MIN = 64 * 1024
PERCENTILES = (50, 90, 99, 99.9, 99.99)

# Runs once after the load, so it costs no request anything.
WRK_REPORT = """
function done(summary, latency)
    local e = summary.errors
    io.write(string.format('\\nREPORT {"requests": %d, "us": %d, "bytes": %d, "errors": %d',
        summary.requests, summary.duration, summary.bytes,
        e.connect + e.read + e.write + e.status + e.timeout))
    for _, p in ipairs({50, 90, 99, 99.9, 99.99}) do
        io.write(string.format(', "p%s": %d', p, latency:percentile(p)))
    end
    io.write('}\\n')
end
"""


@dataclass
class Report:
    """What one run of a generator saw."""

    requests: float
    seconds: float
    errors: int
    bytes_each: float
    latency_us: dict = field(default_factory=dict)

    @property
    def rate(self):
        return self.requests / self.seconds


@dataclass
class Target:
    """Where requests go, and from which CPUs."""

    port: int
    host: str
    body: int


class Generators:
    def __init__(self, processes, cpus, directory):
        self.processes = processes
        self.cpus = cpus
        self.threads = min(len(cpus), THREADS_MAX)
        self.script = f"{directory}/report.lua"
        with open(self.script, "w", encoding="ascii") as file:
            file.write(WRK_REPORT)

    def closed(self, generator, target, connections, seconds):
        """Each connection sends its next request when the answer to the last one is there."""
        if generator == "wrk":
            return self.wrk(target, connections, seconds)
        return self.oha(target, connections, ["-z", f"{seconds}s"], seconds)

    def wrk(self, target, connections, seconds):
        command = ["wrk", "-t", str(min(self.threads, connections)), "-c", str(connections)]
        # wrk takes whole seconds.
        command += ["-d", f"{max(1, round(seconds))}s", "--timeout", "10s", "-s", self.script]
        command += ["-H", f"Host: {target.host}", url(target)]
        out = self.processes.run(command, self.cpus, seconds + GRACE_SECONDS)
        line = next(line for line in out.splitlines() if line.startswith("REPORT "))
        got = json.loads(line.removeprefix("REPORT "))
        latency = {str(p): float(got[f"p{p}"]) for p in PERCENTILES}
        each = got["bytes"] / max(1, got["requests"])
        requests = got["requests"]
        if target.body >= BULK_BYTES_MIN:
            # Those under way count by what came of them: there may be as many as were completed.
            requests = got["bytes"] / target.body
        return Report(requests, got["us"] / 1e6, got["errors"], each, latency)

    def open(self, target, connections, rate, seconds):
        """Requests at fixed times, whatever the answers do; lateness counts as latency."""
        pace = ["-q", str(rate), "--latency-correction", "-z", f"{seconds}s"]
        assert rate * seconds < REQUESTS_MAX
        return self.oha(target, connections, pace, seconds)

    def each_anew(self, target, connections, seconds):
        """A connection for each request."""
        pace = ["--disable-keepalive", "-z", f"{seconds}s"]
        return self.oha(target, connections, pace, seconds)

    def counted(self, target, connections, requests):
        """So many requests, shared out among the connections."""
        return self.oha(target, connections, ["-n", str(requests)], GRACE_SECONDS)

    def oha(self, target, connections, pace, seconds):
        command = ["oha", "--no-tui", "--output-format", "json", "--disable-compression", "-t", "10s"]
        command += ["--worker-threads", str(self.threads), "-c", str(connections), *pace]
        command += ["--host", target.host, url(target)]
        return oha_report(json.loads(self.processes.run(command, self.cpus, seconds + GRACE_SECONDS)))


def url(target):
    return f"http://127.0.0.1:{target.port}/{target.body}"


def oha_report(got):
    statuses = got["statusCodeDistribution"]
    done = sum(statuses.values())
    # What was under way when the time was up is neither done nor wrong.
    failed = sum(n for why, n in got["errorDistribution"].items() if "deadline" not in why)
    wrong = failed + done - statuses.get("200", 0)
    percentiles = got["latencyPercentiles"]
    latency = {str(p): (percentiles[f"p{p}"] or 0) * 1e6 for p in PERCENTILES}
    summary = got["summary"]
    each = (summary["totalData"] or 0) / max(1, done)
    return Report(done, summary["total"], wrong, each, latency)


def has(generator):
    return any(os.access(os.path.join(d, generator), os.X_OK) for d in os.get_exec_path())

"""Where and with what a run was made, in words that name no host, no user and no path."""

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass


@dataclass
class Cpus:
    """Who runs where: the one measured alone, origin and load apart from it."""

    proxy: set
    origin: set
    load: set

    @classmethod
    def shared_out(cls):
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise SystemExit("two CPUs are needed: one for the proxy, one for load and origin")
        rest = allowed[1:]
        half = len(rest) // 2
        # With two CPUs load and origin have one between them; with more they do not meet.
        origin, load = (rest[:half], rest[half:]) if half else (rest, rest)
        return cls({allowed[0]}, set(origin), set(load))

    def words(self):
        load, origin = (listed(cpus) for cpus in (self.load, self.origin))
        return f"the measured one alone on CPU {listed(self.proxy)}, origin on {origin}, load on {load}"


# Longer than the pause between two visits of what the kernel does now and then.
STALL_LOOK_SECONDS = 6
# What is shorter, timer and Python make.
STALL_MS_MIN = 1
LOOK_FOR_STALLS = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
seconds, shortest = float(sys.argv[2]), float(sys.argv[3])
begun = last = time.monotonic()
lost = longest = 0
while last - begun < seconds:
    now = time.monotonic()
    if (gap := 1000 * (now - last)) >= shortest:
        lost, longest = lost + gap, max(longest, gap)
    last = now
print(f"{lost / seconds:.1f} ms a second, at most {longest:.1f} at once")
"""


def stalls(cpus):
    """What a thread loses that does nothing but look at the clock: this machine's own part of every tail."""
    command = [sys.executable, "-c", LOOK_FOR_STALLS]
    said = {}
    for cpu in sorted(cpus):
        words = [*command, str(cpu), str(STALL_LOOK_SECONDS), str(STALL_MS_MIN)]
        said[cpu] = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    return "; ".join(f"CPU {cpu} {look.communicate()[0].strip()}" for cpu, look in said.items())


def listed(cpus):
    return ",".join(map(str, sorted(cpus)))


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        found = re.search(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def machine_slug():
    words = re.sub(r"\(.*?\)|@.*", "", cpu_model())
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return f"{slug}-{os.cpu_count()}"


def first_line(*command):
    """The first line that a program prints of itself; empty when it is not there."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ((run.stdout + run.stderr).strip().splitlines() or [""])[0]


def commit(root):
    """The commit that is measured, and whether sources differ from it."""
    name = first_line("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    if not re.fullmatch(r"[0-9a-f]{7,40}", name):
        return "unknown"
    changed = first_line("git", "-C", root, "status", "--porcelain", "--", "src", "benches/relay", "Cargo.lock")
    return f"{name} with changes" if changed else name


def describe(root, proxy_bin, peers):
    """Pairs of name and value, for the head of a summary."""
    return {
        "commit": commit(root),
        "kernel": platform.release(),
        "CPUs": f"{os.cpu_count()} × {cpu_model()}",
        "proxy": first_line(proxy_bin, "--version"),
        "compiler": first_line("rustc", "--version"),
        "load": "; ".join(filter(None, [wrk_version(), first_line("oha", "--version")])),
        "TLS of the origin": first_line("openssl", "version"),
        **{peer.name: peer.version() for peer in peers if peer.version()},
    }


def wrk_version():
    # "wrk debian/4.1.0-3+b2 [epoll] Copyright ...": two words are the version.
    return " ".join(first_line("wrk", "-v").split()[:2])

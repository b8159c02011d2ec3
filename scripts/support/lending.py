#!/usr/bin/env python3
"""Makes the requests of scripts/bench-lending and says what lending cost them.

usage: lending.py DIRECTORY ORIGIN_PORT REQUESTS
DIRECTORY has proxy.log, and `current`, the access log.
"""

import json
import re
import sys
import time

from responses import connect, read_response

P99_MS_MAX = 1.0
WAIT_SECONDS_MAX = 10


def await_found(find, what):
    """What `find` returns, once that is something."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not (found := find()):
        if time.monotonic() > deadline:
            sys.exit(f"waited {WAIT_SECONDS_MAX} s for {what}")
        time.sleep(0.05)
    return found


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def main():
    directory, origin_port, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    listening = r"listening on \S+:(\d+)"
    found = await_found(lambda: re.search(listening, read(f"{directory}/proxy.log")), "the proxy")
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1.ccnproxy:{origin_port}\r\n\r\n".encode()
    for _ in range(count):
        with connect(int(found[1])) as client:
            client.sendall(request)
            read_response(client)

    def lines():
        whole = read(f"{directory}/current").splitlines()
        return whole if len(whole) >= count else None

    records = [json.loads(line) for line in await_found(lines, "the access log")]
    how = [record["conn"] for record in records]
    waits = sorted(record["wait_ms"] for record in records if record["conn"] == "lent")
    if not waits:
        sys.exit("nothing was lent")
    p50, p99, p999 = (waits[int(len(waits) * share)] for share in (0.5, 0.99, 0.999))
    print("| requests | lent | reused | new, waited | p50, ms | p99 | p99.9 | worst |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    others = how.count("new") + how.count("waited")
    print(
        f"| {count} | {len(waits)} | {how.count('reused')} | {others}"
        f" | {p50:.3f} | {p99:.3f} | {p999:.3f} | {waits[-1]:.3f} |"
    )
    sys.exit(1 if p99 >= P99_MS_MAX else 0)


if __name__ == "__main__":
    main()

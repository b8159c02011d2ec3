"""A burst of 64 requests over a long link to an origin that speaks HTTP/2, on one warm connection.

Run at the near end by the case of that name. The connections are those that the origin's kernel and log know, the
segments those that the link carried. Counts only: how fast the answers are is measured by scripts/bench-wan.
"""

import os
import re
import socket
import subprocess
import sys
import time

sys.path.insert(0, f"{os.environ['ROOT']}/scripts/support")

from wan_h2o import H2oOrigin
from wan_origin import NameServer
from wan_sides import CannotRun, Proxy

NAME = "burst"
REQUESTS = 64
SHARDS = 2
# The first goes on the connection that was just made. Ten segments fill its window, and then all others leave together in
# any case, a round trip later; so only the next ones are judged by their segments.
BURSTS = 6
# From one request of a burst to the next. All at once, a shard that is slow to wake finds them together, and what it
# sends of them is one segment with gathering and without.
SPACING_SECONDS = 0.0001
CONNECTIONS_MAX = 2
# Ten on each of them are under way at once (RFC 6928); a burst that leaves in more takes a round trip more.
SEGMENTS_MAX = 20
# Where a shard has to wait for its CPU, a burst goes out as late; not where all others were in time.
BEYOND_MAX = 1
ANSWER_SECONDS_MAX = 20
# BBR brings short writes together by itself, and is some hosts' own. This one is in every kernel.
SET_RENO = "echo reno >/proc/sys/net/ipv4/tcp_congestion_control"
COUNTED = re.compile(r"TCP segments with data (\d+) to far")


class Link:
    """What the link says of itself, on the standard error of scripts/wan."""

    def __init__(self, log):
        self.log = log
        self.asked = 0

    def data_segments_to_far(self):
        """TCP segments with data that it has carried there."""
        self.asked += 1
        with open(os.environ["WAN_CONTROL"], "w", encoding="ascii") as control:
            control.write("stats\n")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with open(self.log, encoding="utf-8") as file:
                said = COUNTED.findall(file.read())
            if len(said) >= self.asked:
                return int(said[self.asked - 1])
            time.sleep(0.02)
        sys.exit("the link does not say what it carried")


class Requests:
    """Numbered through, so that each answer names its request."""

    def __init__(self, port, host):
        self.port, self.host, self.made = port, host, 0

    def make(self, count):
        """So many, each on a connection that is open already; ends the case at an answer that is not its own."""
        clients = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(count)]
        paths = [f"/{NAME}-{self.made + nth}" for nth in range(1, count + 1)]
        self.made += count
        head = f" HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n"
        began = time.monotonic()
        for nth, (client, path) in enumerate(zip(clients, paths)):
            # A sleep would end when the machine lets it.
            while time.monotonic() < began + nth * SPACING_SECONDS:
                pass
            client.sendall(f"GET {path}{head}".encode())
        answers = [read_answer(client) for client in clients]
        for path, (head_came, body) in zip(paths, answers):
            if not head_came.startswith("HTTP/1.1 200 ") or body != path:
                sys.exit(f"{path} got {head_came!r} and {body!r}")


def read_answer(client):
    client.settimeout(ANSWER_SECONDS_MAX)
    with client:
        received = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    head, _, body = received.partition("\r\n\r\n")
    return head, body


def play(requests, link):
    """The data segments to the origin of each burst."""
    requests.make(1)
    segments = []
    for _ in range(BURSTS):
        before = link.data_segments_to_far()
        requests.make(REQUESTS)
        segments.append(link.data_segments_to_far() - before)
    return segments


def judge(origin, made, segments):
    """What is wrong, or None."""
    seen = origin.requests()
    protocols = {each.protocol for each in seen}
    if len(seen) != made or protocols != {"HTTP/2"}:
        return f"the origin saw {len(seen)} requests of {made}, in {protocols}"
    opened = origin.connections()
    if opened > CONNECTIONS_MAX:
        return f"{opened} connections opened, {CONNECTIONS_MAX} are enough"
    if sum(count > SEGMENTS_MAX for count in segments[1:]) > BEYOND_MAX:
        return f"bursts of {REQUESTS} left in {segments} segments, {SEGMENTS_MAX} are enough"
    return None


def main():
    case, far = os.environ["CASE_DIR"], os.environ["WAN_FAR"]
    for where in ([], ["nsenter", f"--net={far}"]):
        subprocess.run([*where, "sh", "-c", SET_RENO], check=True)
    try:
        origin = H2oOrigin(os.environ["WORK"], f"{case}/origin", far, NAME)
    except CannotRun as e:
        sys.exit(str(e))
    proxy = Proxy(os.environ["PROXY_BIN"], os.environ["WORK"], f"{case}/side", NameServer(), SHARDS)
    try:
        proxy.start()
        requests = Requests(*proxy.target("http2"))
        segments = play(requests, Link(f"{case}/wan.log"))
        # As long as the connections are there.
        wrong = judge(origin, requests.made, segments)
    finally:
        proxy.stop()
        origin.stop()
    if wrong:
        sys.exit(wrong)
    print(f"bursts of {REQUESTS} in {segments} segments")


if __name__ == "__main__":
    main()

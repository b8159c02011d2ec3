"""The rows of scripts/bench-wan: each a scenario, the bar it is held to, and what to look at."""

import random
import time
from dataclasses import dataclass, field

from wan_client import Client, Request
from wan_h2o import H2oOrigin
from wan_origin import SECOND_ADDR, NameServer, Origin

# What a start is given before the first request: a look-up, three round trips for a connection and
# as much again, at 300 ms.
SETTLE_SECONDS = 2

# Where one request tells: by chance it meets the shard that has a connection, 7 more one by one
# hardly do.
FIRSTS = 8

# Rounds of bulk, the last of which is judged.
BULK_ROUNDS = 6


@dataclass
class Row:
    name: str
    scenario: str
    bar: float
    # About how long it takes to play, its set-up included.
    seconds: int
    play: callable
    # Run when no rows are named: "yes", "long" (only with --long) or "no".
    default: str = "yes"
    # What is at the far end: "nginx" or "h2o".
    far: str = "nginx"

    def origin(self, work, directory, far):
        """Errors: CannotRun."""
        if self.far == "h2o":
            return H2oOrigin(work, directory, far, self.name)
        return Origin(work, directory, far)


@dataclass
class Stage:
    """What a row plays on, and what it found."""

    row: Row
    rtt: float
    dir: str
    side: object
    origin: object
    names: object
    client: Client
    # Answers whose latency the bar holds, and all others: those must be good, too.
    judged: list = field(default_factory=list)
    others: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    # What a row holds instead of the time to the first byte.
    ratio: float = None
    # Shown beside a missed bar.
    note: str = ""
    made: int = 0

    def request(self, origin="usual", method="GET", kept=False, bulk=False):
        self.made += 1
        port, host = self.side.target(origin)
        path = f"/{'bulk/' if bulk else ''}{self.row.name}-{self.made}"
        body = b"x=1" if method == "POST" else b""
        return Request(port, host, path, method, body, kept)

    def ask(self, **how):
        """One request that is not judged: what warms, or teaches."""
        answer = self.client.ask(self.request(**how))
        self.others.append(answer)
        return answer

    def judge(self, **how):
        self.judged.append(self.client.ask(self.request(**how)))

    def judge_firsts(self):
        for _ in range(FIRSTS):
            self.judge()

    def expect_connections(self, most, why):
        opened = self.origin.connections()
        if opened > most:
            self.faults.append(f"{opened} connections at the origin, {why}")


def play_warm_first(stage):
    stage.side.start(warm={"usual": 4})
    time.sleep(SETTLE_SECONDS)
    stage.judge_firsts()
    stage.expect_connections(4, "the floor is 4")


def play_learned_first(stage):
    state_file = f"{stage.dir}/state"
    stage.side.start(state_file=state_file)
    for _ in range(3):
        stage.ask()
    stage.side.stop()
    stage.side.start(state_file=state_file)
    time.sleep(SETTLE_SECONDS)
    stage.judge_firsts()


def play_next_20(stage):
    stage.side.start()
    stage.ask()
    for _ in range(20):
        stage.judge()


def play_second_burst(stage):
    stage.side.start()
    stage.others += stage.client.at_once([stage.request() for _ in range(16)])
    time.sleep(2)
    stage.judged += stage.client.at_once([stage.request() for _ in range(16)])


def silence_of(seconds, asked_before):
    def play(stage):
        stage.side.start()
        for _ in range(asked_before):
            stage.ask()
        time.sleep(seconds)
        stage.judge_firsts()

    return play


def play_idle_5s(stage):
    stage.side.start()
    stage.ask(origin="closes-at-5s")
    requests = [stage.request(origin="closes-at-5s") for _ in range(6)]
    stage.judged += stage.client.schedule([(7 + 7 * i, each) for i, each in enumerate(requests)])


def play_post_5s(stage):
    stage.side.start()
    # One silence of 7 s, in which the origin's limit can be learned.
    stage.ask(origin="closes-at-5s")
    time.sleep(7)
    play_posts(stage)


def play_post_5s_unlearned(stage):
    stage.side.start()
    play_posts(stage)


def play_posts(stage):
    stage.ask(origin="closes-at-5s", method="POST")
    # The same in each run. Most of them around 5.0, where the request crosses the FIN.
    pauses = random.Random(4)
    at, plan = 0, []
    for i in range(12):
        at += pauses.uniform(4.9, 5.2) if i % 2 else pauses.uniform(4.98, 5.03)
        plan.append((at, stage.request(origin="closes-at-5s", method="POST")))
    stage.judged += stage.client.schedule(plan)


def play_shards_40(stage):
    stage.side.start()
    stage.ask()
    for _ in range(40):
        stage.judge()
    stage.expect_connections(1, "1 is enough for one request at a time")


def load(stage, seconds, per_second=50, kept_every=2):
    """Requests at a steady rate, answered or not; some of them on kept client connections."""
    count = round(seconds * per_second)
    kept = [kept_every and i % kept_every == 0 for i in range(count)]
    return [(i / per_second, stage.request(kept=kept[i])) for i in range(count)]


def play_restart(stage):
    stage.side.start_restartable(f"{stage.dir}/state")
    plan = load(stage, 14)
    events = [(5, stage.side.restart), (9.5, stage.side.restart)]
    answers = stage.client.schedule(plan, events)
    # Two seconds for the very first process to get warm.
    stage.others += answers[:100]
    stage.judged += answers[100:]


def play_address_change(stage):
    stage.side.start()
    moved = []

    def move():
        stage.names.addr = SECOND_ADDR
        moved.append(time.time())

    empty_after = NameServer.TTL + 2
    left = []
    look = (3 + empty_after, lambda: left.append(connections_to_first_addr()))
    answers = stage.client.schedule(load(stage, 3 + empty_after + 3), [(3, move), look])
    stage.others += answers[:100]
    stage.judged += answers[100:]
    if left[0]:
        stage.faults.append(f"{left[0]} connections to the old address at TTL + 2 s")
    seen = stage.origin.requests()
    late = [each for each in seen if each.addr != SECOND_ADDR and each.at > moved[0] + empty_after]
    if late:
        stage.faults.append(f"{len(late)} requests at the old address after TTL + 2 s")
    if not any(each.addr == SECOND_ADDR for each in seen):
        stage.faults.append("no request at the new address")


def connections_to_first_addr():
    """Established ones, as this end's kernel lists them: there 198.18.1.1 reads 010112C6."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        lines = [line.split() for line in file]
    return sum(line[2].startswith("010112C6:") and line[3] == "01" for line in lines)


def play_h2_burst(stage):
    stage.side.start()
    stage.ask(origin="http2")
    stage.judged += stage.client.at_once([stage.request(origin="http2") for _ in range(64)])
    expect_http2(stage)
    stage.expect_connections(2, "2 are enough")


def play_h2_bulk(stage):
    stage.side.start()
    # Each round opens the windows for the next, as traffic of this kind would: a TCP connection
    # doubles what it carries in a round trip while that is what bounds it.
    for _ in range(BULK_ROUNDS):
        requests = [stage.request(origin="http2", bulk=True) for _ in range(8)]
        together = stage.client.at_once(requests)
        stage.others += together
    single = [stage.ask(origin="http2", bulk=True) for _ in range(6)]
    best = min((each.total for each in single if each.total), default=None)
    slowest = max((each.total or float("inf") for each in together))
    stage.ratio = slowest / best if best else float("inf")
    if best:
        stage.note = f"best single {best:.3f} s, slowest of 8 {slowest:.3f} s"
    expect_http2(stage)


def expect_http2(stage):
    protocols = {each.protocol for each in stage.origin.requests()}
    if not protocols or not protocols <= {"HTTP/2.0", "HTTP/2"}:
        stage.faults.append(f"the origin saw {' and '.join(sorted(protocols)) or 'no request'}")


ROWS = [
    Row("warm-first", "first request and 7 next, origin named by --warm", 1.05, 5, play_warm_first),
    Row("learned-first", "the same, learned before a restart", 1.05, 7, play_learned_first),
    Row("next-20", "20 next, one by one", 1.05, 5, play_next_20),
    Row("second-burst", "second burst of 16, 2 s after a first", 1.10, 5, play_second_burst),
    Row("silence-35", "one request and 7 next after 35 s of silence", 1.05, 39, silence_of(35, 1)),
    # An origin that was asked once is not learned: its connection is kept for --keepalive-timeout.
    Row("silence-300", "the same after 5 min, 2 before", 1.05, 304, silence_of(300, 2), "long"),
    Row("idle-5s", "one request every 7 s, origin closes at 5 s", 1.05, 45, play_idle_5s),
    Row("post-5s", "POST every 4.9–5.2 s, origin closes at 5 s", 1.05, 71, play_post_5s),
    Row(
        "post-5s-unlearned",
        "the same, nothing learned before",
        1.05,
        64,
        play_post_5s_unlearned,
        "no",
    ),
    Row("shards-40", "40 one by one after a first, 1 connection", 1.05, 9, play_shards_40),
    Row("restart", "two restarts under 50 requests/s", 1.10, 17, play_restart),
    Row("address-change", "address changes under 50 requests/s", 1.10, 15, play_address_change),
    Row(
        "h2-burst",
        "HTTP/2: burst of 64 after a first, 2 connections",
        1.10,
        4,
        play_h2_burst,
        "no",
    ),
    Row(
        "h2-burst-h2o",
        "the same with an origin that sends answers together",
        1.10,
        4,
        play_h2_burst,
        "no",
        "h2o",
    ),
    Row(
        "h2-bulk",
        "HTTP/2: slowest of 8 × 1 MiB at once ÷ best single",
        1.30,
        8,
        play_h2_bulk,
        "no",
    ),
]

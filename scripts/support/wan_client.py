"""The client of scripts/bench-wan: requests over raw sockets, each timed to its first byte.

One loop drives all that is under way, and the control beside it: datagrams over the bare link,
timed by the same loop. A link or a client that was late shows in the control, and is not the
proxy's fault. A byte counts from when the kernel put it into the client's socket
(SO_TIMESTAMPNS, socket(7)), not from when the loop came to read it; so does the control.
"""

import os
import selectors
import socket
import statistics
import struct
import time
from dataclasses import dataclass, field

# An answer that takes longer is an error: 13 handshakes at 300 ms, far beyond all bars.
ANSWER_SECONDS_MAX = 15
CONTROL_EVERY = 0.02
# Replies that came while nobody looked for this long are not timed.
UNLOOKED_SECONDS_MAX = 0.001
# Python does not name it; the same on all of Linux but PA-RISC and SPARC (asm-generic/socket.h).
SO_TIMESTAMPNS = 35
STAMP = struct.Struct("@qq")
# A stamp that is older than this, or of the future, is that of a clock which was set meanwhile.
STAMP_SECONDS_MAX = 1


@dataclass
class Request:
    """One to be made. `kept`: on a client connection that was used before, if one is idle."""

    port: int
    host: str
    path: str
    method: str = "GET"
    body: bytes = b""
    kept: bool = False

    def encoded(self):
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {self.host}\r\n"
        if self.body or self.method == "POST":
            head += f"Content-Length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


@dataclass
class Answer:
    """Times in seconds; the first byte counts from the start, a client's own connect included."""

    request: Request
    started: float
    first_byte: float = None
    total: float = None
    status: int = 0
    body: bytes = b""
    error: str = None

    def is_good(self):
        return self.error is None and self.status == 200


# Compared by identity: it stands in a set.
@dataclass(eq=False)
class Exchange:
    answer: Answer
    socket: socket.socket
    is_reused: bool = False
    received: bytearray = field(default_factory=bytearray)

    def message_length(self):
        """Bytes of the whole response, or None when its head is not complete."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        for line in bytes(self.received[:end]).lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return end + 4 + int(line[15:])
        return end + 4

    def says_close(self):
        head = bytes(self.received[: self.received.find(b"\r\n\r\n")]).lower()
        return b"\r\nconnection: close" in head


class Client:
    def __init__(self, far_addr, control_port):
        # It gives way to what it measures: elsewhere it would have a CPU of its own.
        os.sched_setscheduler(0, os.SCHED_IDLE | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        self.selector = selectors.DefaultSelector()
        self.idle = {}
        self.control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.control.connect((far_addr, control_port))
        self.control.setblocking(False)
        self.control.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.selector.register(self.control, selectors.EVENT_READ, None)
        self.next_control = 0
        self.control_seconds = []
        # How many others wanted a CPU, at each ping.
        self.others_running = []
        self.looked_at = 0

    def ask(self, request):
        return self.schedule([(0, request)])[0]

    def at_once(self, requests):
        """All of them on connections that are open already, sent within a few milliseconds."""
        sockets = [socket.create_connection(("127.0.0.1", each.port)) for each in requests]
        return self.schedule([(0, each) for each in requests], sockets=sockets)

    def schedule(self, plan, events=(), sockets=()):
        """Starts each request at its time, whether those before are answered or not.

        `plan`: pairs of seconds from now and a request, in order; `events`: of seconds and a
        function to call then; `sockets`: connected ones to use, in the order of the plan.
        Returns the answers in the order of the plan.
        """
        begin = time.perf_counter()
        plan, events, sockets = list(plan)[::-1], list(events)[::-1], list(sockets)[::-1]
        answers, open_exchanges = [], set()
        if time.perf_counter() - self.looked_at > UNLOOKED_SECONDS_MAX:
            self._discard_control()
        while plan or events or open_exchanges:
            now = time.perf_counter()
            while events and begin + events[-1][0] <= now:
                events.pop()[1]()
            while plan and begin + plan[-1][0] <= time.perf_counter():
                exchange = self._start(plan.pop()[1], sockets.pop() if sockets else None)
                answers.append(exchange.answer)
                if exchange.socket:
                    open_exchanges.add(exchange)
                    self._send(exchange, open_exchanges)
            self._ping()
            due = [begin + queue[-1][0] for queue in (plan, events) if queue]
            wake_at = min([*due, self.next_control])
            came = []
            for key, _ in self.selector.select(max(0, wake_at - time.perf_counter())):
                if key.data is None:
                    self._pong()
                else:
                    came.append((key.data, *self._receive(key.data)))
            # Only when all were looked at: the last of a burst must not wait for the others' work.
            for exchange, received, at in came:
                self._go_on(exchange, received, at, open_exchanges)
            for exchange in list(open_exchanges):
                if time.perf_counter() - exchange.answer.started > ANSWER_SECONDS_MAX:
                    self._end(exchange, open_exchanges, "no answer")
        self.looked_at = time.perf_counter()
        return answers

    def is_machine_busy(self):
        """Whether others had all of its CPUs most of the time: then whoever is woken waits for one, and no datagram does."""
        usual = statistics.median(self.others_running or [0])
        return usual >= len(os.sched_getaffinity(0))

    def control_worst(self):
        """The slowest round trip of the control since the last call, in seconds."""
        worst = max(self.control_seconds, default=0)
        self.control_seconds.clear()
        return worst

    def drop_idle(self):
        for sockets in self.idle.values():
            for each in sockets:
                each.close()
        self.idle.clear()

    def _start(self, request, connected):
        answer = Answer(request, time.perf_counter())
        if connected:
            connected.setblocking(False)
            return self._prepared(Exchange(answer, connected))
        kept = self._idle_socket(request.port) if request.kept else None
        if kept:
            return self._prepared(Exchange(answer, kept, is_reused=True))
        try:
            # Loopback connects within the call. A full backlog would make it wait, and be seen.
            fresh = socket.create_connection(("127.0.0.1", request.port), timeout=3)
        except OSError as e:
            answer.error = f"connect: {e}"
            return Exchange(answer, None)
        fresh.setblocking(False)
        return self._prepared(Exchange(answer, fresh))

    @staticmethod
    def _prepared(exchange):
        exchange.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        return exchange

    def _idle_socket(self, port):
        """One that is not closed by the other side, as any client looks before it uses it again."""
        while self.idle.get(port):
            candidate = self.idle[port].pop()
            try:
                candidate.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return candidate
            except OSError:
                pass
            candidate.close()
        return None

    def _send(self, exchange, open_exchanges):
        """A request is smaller than the socket's empty buffer: it goes at once."""
        try:
            exchange.socket.sendall(exchange.answer.request.encoded())
            failed = None
        except OSError as e:
            failed = str(e)
        self.selector.register(exchange.socket, selectors.EVENT_READ, exchange)
        if failed:
            self._end(exchange, open_exchanges, failed)

    @staticmethod
    def _receive(exchange):
        """Bytes, none at the end, None if there are none yet, or what went wrong; and when it came."""
        try:
            return receive_stamped(exchange.socket, 1 << 20)
        except BlockingIOError:
            return None, 0
        except OSError as e:
            return e, time.perf_counter()

    def _go_on(self, exchange, received, now, open_exchanges):
        if received is None:
            return
        if isinstance(received, OSError):
            self._end(exchange, open_exchanges, str(received))
            return
        answer = exchange.answer
        if not received:
            where = "a reused connection" if exchange.is_reused else "a fresh connection"
            self._end(exchange, open_exchanges, f"closed on {where}")
            return
        if answer.first_byte is None:
            answer.first_byte = now - answer.started
        exchange.received += received
        length = exchange.message_length()
        if length is not None and len(exchange.received) >= length:
            answer.total = now - answer.started
            answer.status = int(exchange.received[9:12])
            head_end = exchange.received.find(b"\r\n\r\n") + 4
            answer.body = bytes(exchange.received[head_end:])
            self._end(exchange, open_exchanges, None)

    def _end(self, exchange, open_exchanges, error):
        exchange.answer.error = error
        open_exchanges.discard(exchange)
        self.selector.unregister(exchange.socket)
        request = exchange.answer.request
        if error is None and request.kept and not exchange.says_close():
            self.idle.setdefault(request.port, []).append(exchange.socket)
        else:
            exchange.socket.close()

    def _ping(self):
        now = time.perf_counter()
        if now >= self.next_control:
            self.next_control = now + CONTROL_EVERY
            self.others_running.append(running() - 1)
            try:
                self.control.send(repr(now).encode())
            except OSError:
                # Refused, as long as the far end is not up: no sample.
                pass

    def _discard_control(self):
        kept = list(self.control_seconds)
        self._pong()
        self.control_seconds = kept

    def _pong(self):
        try:
            while True:
                sent, came = receive_stamped(self.control, 64)
                self.control_seconds.append(came - float(sent))
        except OSError:
            pass


def running():
    """How many threads of this machine run or wait for a CPU (proc_loadavg(5)), this one among them."""
    with open("/proc/loadavg", encoding="ascii") as file:
        return int(file.read().split()[3].split("/")[0])


def receive_stamped(receiving, length):
    """Bytes, and when the last of them came into the socket, as time.perf_counter() says it."""
    received, extras, _, _ = receiving.recvmsg(length, socket.CMSG_SPACE(STAMP.size))
    now, wall = time.perf_counter(), time.clock_gettime(time.CLOCK_REALTIME)
    for level, kind, value in extras:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(value) == STAMP.size:
            seconds, nanoseconds = STAMP.unpack(value)
            waited = wall - seconds - nanoseconds / 1e9
            if 0 <= waited < STAMP_SECONDS_MAX:
                return received, now - waited
    return received, now

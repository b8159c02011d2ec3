"""The far end of scripts/bench-wan: an nginx whose own log is the judge, and the name server.

What the proxy says of itself counts for nothing here: connections, resumptions and requests are
those that nginx saw.
"""

import os
import socket
import subprocess
import threading
import time
from dataclasses import dataclass

NAME = "origin.wan.test"
# All answer on both addresses; they differ in how long they keep an idle connection and in what
# they speak.
PORTS = {"usual": 443, "closes-at-5s": 8443, "http2": 9443}
FIRST_ADDR, SECOND_ADDR = "198.18.1.1", "198.18.1.2"
BULK_BYTES = 1024 * 1024

CONFIG = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
events {{ worker_connections 8192; }}
http {{
    log_format judge "$msec $server_addr $server_port $connection $connection_requests "
        "$ssl_session_reused $server_protocol $request_method $request_uri $status";
    access_log {dir}/judge.log judge;
    default_type text/plain;
    keepalive_timeout 300s;
    keepalive_requests 1000000;
    {temp}
    ssl_certificate {work}/origin.pem; ssl_certificate_key {work}/origin.key;
    ssl_protocols TLSv1.3;
    server {{
        listen 443 ssl backlog=4096;
        {locations}
    }}
    server {{
        listen 8443 ssl backlog=4096;
        keepalive_timeout 5s;
        {locations}
    }}
    server {{
        listen 9443 ssl http2 backlog=4096;
        {locations}
    }}
    server {{
        listen unix:{dir}/status.sock;
        access_log off;
        location / {{ stub_status; }}
    }}
}}
"""
LOCATIONS = """
        # The answer names the request, so that one that went to the wrong client is seen.
        location / {{ return 200 "$request_uri"; }}
        # One file under many names, so that the log tells the requests apart.
        location /bulk/ {{ root {work}; rewrite ^ /bulk break; }}
"""


@dataclass
class Seen:
    """One request as the origin logged it."""

    at: float
    addr: str
    port: int
    connection: int
    nth: int
    is_resumed: bool
    protocol: str
    method: str
    path: str
    status: int
    line: str


def nginx_preamble(directory):
    """What both nginx need to run out of one directory, as whoever starts it."""
    temp = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{name}_temp_path {directory}/temp-{name}; " for name in temp)


def user_line():
    # Started by root, its workers would drop to a user who cannot read a private directory.
    return "user root;\n" if os.geteuid() == 0 else ""


# The kernel's 4 MiB would bound what the origin has under way on one connection, before the link does.
LONG_BUFFERS = "echo 4096 16384 33554432 >/proc/sys/net/ipv4/tcp_wmem"


class Origin:
    def __init__(self, work, directory, far):
        self.dir = directory
        os.makedirs(directory)
        with open(f"{work}/bulk", "wb") as file:
            file.write(b"x" * BULK_BYTES)
        config = CONFIG.format(
            dir=directory,
            work=work,
            temp=nginx_preamble(directory),
            locations=LOCATIONS.format(work=work),
        )
        with open(f"{directory}/nginx.conf", "w", encoding="utf-8") as file:
            file.write(user_line() + config)
        subprocess.run(["nsenter", f"--net={far}", "sh", "-c", LONG_BUFFERS], check=True)
        arguments = ["nginx", "-p", directory, "-c", f"{directory}/nginx.conf"]
        self.process = subprocess.Popen(
            ["nsenter", f"--net={far}", *arguments, "-e", f"{directory}/error.log"],
            stdin=subprocess.DEVNULL,
        )
        self.looks = 0
        await_true(lambda: self._look() is not None, "the origin does not start", self.process)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def connections(self):
        """Connections accepted so far, those included that never carried a request."""
        return int(self._look().split()[7]) - self.looks

    def requests(self):
        """All requests but those whose end nginx has not seen, in the order of their ends."""
        with open(f"{self.dir}/judge.log", encoding="utf-8") as file:
            lines = file.read().splitlines()
        return [read_line(line) for line in lines]

    def _look(self):
        """The text of stub_status: connections accepted, among others, our own looks included."""
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(f"{self.dir}/status.sock")
                asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b""
                while piece := asking.recv(4096):
                    answer += piece
        except OSError:
            return None
        self.looks += 1
        return answer.partition(b"\r\n\r\n")[2].decode()


def read_line(line):
    at, addr, port, connection, nth, resumed, protocol, method, path, status = line.split()
    return Seen(
        at=float(at),
        addr=addr,
        port=int(port),
        connection=int(connection),
        nth=int(nth),
        is_resumed=resumed in ("r", "1"),
        protocol=protocol,
        method=method,
        path=path,
        status=int(status),
        line=line,
    )


def await_true(is_true, failure, process=None, seconds=10):
    """Waits for it; raises when the time, or the process, is over."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline or (process and process.poll() is not None):
            raise RuntimeError(failure)
        time.sleep(0.02)


class NameServer:
    """Answers A questions for one name, late, as a resolver does that has to ask on.

    Every answer takes DELAY, so a look-up on a request's time is seen in its latency.
    """

    TTL = 5
    DELAY = 0.04

    def __init__(self):
        self.addr = FIRST_ADDR
        self.questions = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            query, peer = self.socket.recvfrom(1500)
            self.questions += 1
            answer = self._answer(query)
            if answer:
                threading.Timer(self.DELAY, self.socket.sendto, (answer, peer)).start()

    def _answer(self, query):
        labels, at = [], 12
        while at < len(query) and query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
            at += 1 + query[at]
        end = at + 5
        if len(query) < end:
            return None
        is_known = ".".join(labels) == NAME
        addrs = [self.addr] if is_known and query[at + 1 : at + 3] == b"\0\1" else []
        # RFC 1035 4.1.1: a response, recursion available; name error for what is not known.
        head = query[:2] + bytes([0x85, 0x80 | (0 if is_known else 3), 0, 1, 0, len(addrs)])
        answer = head + bytes(4) + query[12:end]
        for addr in addrs:
            answer += b"\xc0\x0c\0\1\0\1" + self.TTL.to_bytes(4, "big") + b"\0\4"
            answer += socket.inet_aton(addr)
        return answer

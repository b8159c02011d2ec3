#!/usr/bin/env python3
"""Holds client connections so that the proxy's memory can be read beside them.

usage: hold_clients.py PORT HOST PATH COUNT one-by-one|at-once

Opens COUNT connections to 127.0.0.1:PORT and makes one request on each: `one-by-one` waits for a
response before the next request, so one origin connection serves all; `at-once` sends all requests
first, so each needs an origin connection of its own. Prints `held COUNT`, keeps the connections
open until standard input ends, then closes them.
"""

import socket
import sys

RESPONSE_BYTES_MAX = 1 << 20
TIMEOUT_SECONDS = 30


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_response(connection):
    """Reads one response with a Content-Length to its end; anything else is an error."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive(connection, received)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    if " 200 " not in lines[0] + " ":
        sys.exit(f"status line is {lines[0]!r}")
    length = next(int(l.split(":", 1)[1]) for l in lines if l.startswith("content-length:"))
    missing = length - len(body)
    while missing > 0:
        missing -= len(receive(connection, b""))


def receive(connection, so_far):
    piece = connection.recv(65536)
    if not piece or len(so_far) > RESPONSE_BYTES_MAX:
        sys.exit("the connection ended inside a response")
    return piece


def main():
    port, host, path, count, order = sys.argv[1:]
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    connections = []
    for _ in range(int(count)):
        connection = connect(int(port))
        connections.append(connection)
        connection.sendall(request)
        if order == "one-by-one":
            read_response(connection)
    if order == "at-once":
        for connection in connections:
            read_response(connection)
    print(f"held {count}", flush=True)
    sys.stdin.read()
    for connection in connections:
        connection.close()


main()

#!/usr/bin/env python3
"""Makes an exact number of requests, so that what they cost can be divided by it.

usage: make_requests.py PORT HOST PATH COUNT CONNECTIONS

All connections send one request each, then all responses are read, and so on until COUNT requests
are done; COUNT is a multiple of CONNECTIONS. Anything but a 200 with a Content-Length is an error.
"""

import socket
import sys

TIMEOUT_SECONDS = 60


def read_response(connection):
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if b" 200 " not in lines[0] + b" ":
        sys.exit(f"status line is {lines[0]!r}")
    length = next(int(l.split(b":", 1)[1]) for l in lines if l.startswith(b"content-length:"))
    missing = length - len(body)
    while missing > 0:
        missing -= len(receive(connection))


def receive(connection):
    piece = connection.recv(65536)
    if not piece:
        sys.exit("the connection ended inside a response")
    return piece


def main():
    port, host, path, count, connections = sys.argv[1:]
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    opened = []
    for _ in range(int(connections)):
        connection = socket.create_connection(("127.0.0.1", int(port)), timeout=TIMEOUT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.append(connection)
    for _ in range(int(count) // len(opened)):
        for connection in opened:
            connection.sendall(request)
        for connection in opened:
            read_response(connection)


main()

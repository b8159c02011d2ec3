"""Connections to 127.0.0.1 and responses read whole, for the clients of the scripts beside this."""

import socket
import sys

HEAD_BYTES_MAX = 1 << 20
TIMEOUT_SECONDS = 60
# Connections from one address of loopback: the kernel has about 28,000 ports for each.
CONNECTIONS_AN_ADDRESS = 20_000


def connect(port, nth=0):
    """The nth connection of a program, from 0."""
    source = (f"127.0.0.{1 + nth // CONNECTIONS_AN_ADDRESS}", 0)
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS, source)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_response(connection):
    """Reads one 200 with a Content-Length to its end; anything else ends the program."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive(connection)
        if len(received) > HEAD_BYTES_MAX:
            sys.exit("a response's head has no end")
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

#!/usr/bin/env python3
"""Python's http.client on one connection: keep-alive, a chunked upload, HEAD and 304."""

import hashlib
import http.client
import os
import sys


def ask(connection, method, path, host, body=None, chunked=False, **fields):
    """Sends one request and reads its response to the end: status, fields, body."""
    headers = {"Host": host, **{name.replace("_", "-"): value for name, value in fields.items()}}
    if chunked:
        headers["Transfer-Encoding"] = "chunked"
    connection.request(method, path, body=body, headers=headers, encode_chunked=chunked)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what} is {got!r}, not {wanted!r}")


def check(origin):
    host = os.environ.get(f"ORIGIN_{origin}")
    if not host:
        print(f"the {origin} origin is not running")
        sys.exit(77)
    files, work = os.environ["FILES"], os.environ["WORK"]
    with open(f"{files}/medium", "rb") as file:
        medium = file.read()
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PROXY_PORT"]), timeout=20)
    connection.connect()
    # http.client connects again when a connection was closed on it: the socket tells.
    socket = connection.sock

    for _ in range(50):
        expect("small", ask(connection, "GET", "/small", host)[::2], (200, b"ok"))
    status, fields, body = ask(connection, "HEAD", "/files/medium", host)
    expect("HEAD", (status, fields["Content-Length"], body), (200, str(len(medium)), b""))
    etag = fields["ETag"]
    status, _, body = ask(connection, "GET", "/files/medium", host, If_None_Match=etag)
    expect("conditional", (status, body), (304, b""))
    pieces = [medium[at : at + 8191] for at in range(0, len(medium), 8191)]
    path = f"/uploads/python-{origin}"
    status, _, _ = ask(connection, "PUT", path, host, body=iter(pieces), chunked=True)
    expect("chunked upload", status, 201)
    with open(work + path, "rb") as file:
        expect("uploaded", hashlib.sha256(file.read()).digest(), hashlib.sha256(medium).digest())
    expect("medium", ask(connection, "GET", "/files/medium", host)[2] == medium, True)
    expect("chunked", ask(connection, "GET", "/chunked/medium", host)[2] == medium, True)
    expect("the connection was kept", connection.sock is socket, True)
    connection.close()


for each in ("http", "tls12", "tls13"):
    check(each)

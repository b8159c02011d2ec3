#!/usr/bin/env python3
"""Makes an exact number of requests, so that what they cost can be divided by it.

usage: make_requests.py PORT HOST PATH COUNT CONNECTIONS

All connections send one request each, then all responses are read, and so on until COUNT requests
are done; COUNT is a multiple of CONNECTIONS. Anything but a 200 with a Content-Length is an error.
"""

import sys

from responses import connect, read_response


def main():
    port, host, path, count, connections = sys.argv[1:]
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    opened = [connect(int(port)) for _ in range(int(connections))]
    for _ in range(int(count) // len(opened)):
        for connection in opened:
            connection.sendall(request)
        for connection in opened:
            read_response(connection)


main()

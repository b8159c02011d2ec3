#!/usr/bin/env python3
"""Holds client connections so that the proxy's memory can be read beside them.

usage: hold_clients.py PORT HOST PATH COUNT one-by-one|at-once

Opens COUNT connections to 127.0.0.1:PORT and makes one request on each, to HOST, in which {} stands
for the number of the request, from 1: `one-by-one` waits for a
response before the next request, so one origin connection serves all; `at-once` sends all requests
first, so each needs an origin connection of its own. Prints `held COUNT`, keeps the connections
open until standard input ends, then closes them.
"""

import sys

from responses import connect, read_response


def main():
    port, host, path, count, order = sys.argv[1:]
    connections = []
    for nth in range(int(count)):
        connection = connect(int(port), nth)
        connections.append(connection)
        named = host.replace("{}", str(nth + 1))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {named}\r\n\r\n".encode())
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

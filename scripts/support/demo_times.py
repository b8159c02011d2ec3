#!/usr/bin/env python3
"""Times eleven requests made directly to an https origin and eleven made through the proxy.

usage: demo_times.py PROXY_PORT ORIGIN_PORT CA_FILE
Every request is made on a new connection, as a program without a connection pool of its own does:
directly that is TCP + TLS to the origin each time, through the proxy it is TCP to this host.
"""

import http.client
import json
import ssl
import sys
import time

NEXT_REQUESTS = 10


def ask(connection, fields, path="/"):
    """Milliseconds from before the connect to the last byte of the body, and the body."""
    started = time.perf_counter()
    connection.request("GET", path, headers=fields)
    response = connection.getresponse()
    body = response.read()
    elapsed_ms = (time.perf_counter() - started) * 1000
    connection.close()
    if response.status != 200:
        sys.exit(f"status {response.status} instead of 200")
    return elapsed_ms, body


def main():
    proxy_port, origin_port, ca_file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    trust = ssl.create_default_context(cafile=ca_file)

    def direct(path="/"):
        connection = http.client.HTTPSConnection(
            "localhost", origin_port, context=trust, timeout=10
        )
        return ask(connection, {}, path)

    def proxied():
        connection = http.client.HTTPConnection("127.0.0.1", proxy_port, timeout=10)
        return ask(connection, {"Host": f"localhost.ccnproxy-https:{origin_port}"})

    def handshakes():
        """Handshakes that the origin saw; asking costs it one, which is not counted in."""
        handshakes.asked += 1
        return json.loads(direct("/counts")[1])["handshakes"] - handshakes.asked

    handshakes.asked = 0

    # Python imports and looks up names on its first request: that is not the origin's time.
    direct()
    before = handshakes()
    direct_ms = [direct()[0] for _ in range(1 + NEXT_REQUESTS)]
    between = handshakes()
    proxied_ms = [proxied()[0] for _ in range(1 + NEXT_REQUESTS)]
    after = handshakes()

    print("request       direct    through the proxy")
    for index, (one, other) in enumerate(zip(direct_ms, proxied_ms)):
        name = "first" if index == 0 else f"next {index}"
        print(f"{name:<9} {one:7.2f} ms {other:17.2f} ms")
    middle = NEXT_REQUESTS // 2
    print(
        f"{'median*':<9} {sorted(direct_ms[1:])[middle]:7.2f} ms"
        f" {sorted(proxied_ms[1:])[middle]:17.2f} ms    * of the ten next ones"
    )
    print(f"TLS handshakes that the origin saw: direct {between - before}, proxy {after - between}")


main()

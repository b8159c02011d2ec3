#!/usr/bin/env python3
"""A small https origin with keep-alive that counts what it sees: TLS handshakes and requests.

usage: tls_origin.py CERTIFICATE KEY
Prints `listening on 127.0.0.1:PORT`. GET /counts answers with both counts as JSON and is itself
not counted as a request; anything else answers with `hello`.
"""

import json
import socketserver
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler

COUNTS = {"handshakes": 0, "requests": 0}
COUNTS_LOCK = threading.Lock()


def count(what):
    with COUNTS_LOCK:
        COUNTS[what] += 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one write, no Nagle: else a delayed acknowledgement (40 ms) would be timed.
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 60

    def setup(self):
        # Here and not in the accepting thread, so that one slow handshake holds up nobody.
        self.request = CONTEXT.wrap_socket(self.request, server_side=True)
        count("handshakes")
        super().setup()

    def do_GET(self):
        if self.path == "/counts":
            body = json.dumps(COUNTS).encode()
        else:
            count("requests")
            body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Silent: the counts tell."""


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that goes away is no event here."""


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(sys.argv[1], sys.argv[2])
with Server(("127.0.0.1", 0), Handler) as server:
    print("listening on 127.0.0.1:%d" % server.server_address[1], flush=True)
    server.serve_forever()

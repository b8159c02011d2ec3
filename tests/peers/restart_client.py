"""A load that notices every lost connection: PORT... HOST DIGEST; ends at SIGTERM.

On each port one thread connects anew for every request, one keeps its connection until the answer
says close, and one downloads slowly. The last line says how much was done and what failed first.
"""

import hashlib
import http.client
import signal
import sys
import threading
import time

*PORTS, HOST, DIGEST = sys.argv[1:]
ended = threading.Event()
lock = threading.Lock()
done = {"fresh": 0, "kept": 0, "downloads": 0, "closes": 0}
failures = []
slowest = [0.0]


def ask(connection, path):
    began = time.monotonic()
    connection.request("GET", path, headers={"Host": HOST})
    response = connection.getresponse()
    body = response.read()
    if path == "/small":
        with lock:
            slowest[0] = max(slowest[0], time.monotonic() - began)
    return response, body


def fresh(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    response, body = ask(connection, "/small")
    connection.close()
    if (response.status, body) != (200, b"ok"):
        raise ValueError(f"{response.status} {body!r}")
    time.sleep(0.002)


def kept(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.connect()
    # Without this http.client connects again by itself, and a lost connection would not be noticed.
    connection.auto_open = 0
    while not ended.is_set():
        response, body = ask(connection, "/small")
        if (response.status, body) != (200, b"ok"):
            raise ValueError(f"{response.status} {body!r}")
        count("kept")
        if response.will_close:
            count("closes")
            break
        time.sleep(0.005)
    connection.close()


def downloads(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    response, body = ask(connection, "/slow/medium")
    connection.close()
    if response.status != 200 or hashlib.sha256(body).hexdigest() != DIGEST:
        raise ValueError(f"{response.status}, {len(body)} bytes of a download")


def count(kind):
    with lock:
        done[kind] += 1


def run(kind, port):
    while not ended.is_set():
        try:
            kind(port)
            if kind is not kept:
                count(kind.__name__)
        except Exception as error:  # Whatever it is, a connection was lost.
            with lock:
                failures.append(f"{kind.__name__} on {port}: {error!r}")


signal.signal(signal.SIGTERM, lambda *_: ended.set())
threads = [
    threading.Thread(target=run, args=(kind, int(port)))
    for port in PORTS
    for kind in (fresh, kept, downloads)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
first = failures[0] if failures else "nothing"
print(
    *(f"{kind}={n}" for kind, n in done.items()),
    f"slowest={slowest[0]:.3f}s",
    f"failures={len(failures)} first: {first}",
)

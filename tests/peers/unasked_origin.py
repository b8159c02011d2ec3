"""An origin over a long link that says more than it was asked, and what clients get through the proxy.

Run at the near end by the case of that name; it starts the origin at the far end by itself. What
the origin says too much is on its way while the next request is: the look at the idle connection
came before it. Only the acknowledgements show that it is no answer.
"""

import os
import select
import socket
import subprocess
import sys
import threading
import time

ADDR, PORT = os.environ["WAN_FAR_ADDR"], 8080
SECRET = "/of-another-user"
# From the answer's arrival at the proxy to what was not asked for: the link's half, less what the
# origin waits.
UNASKED_AFTER = 0.1
ROUND_TRIP = 0.15
# The next request goes out so long after the answer came; all of them before the unasked bytes do.
PAUSES = (0.0, 0.03, 0.06, 0.08)
# A busy machine makes either late, and then they do not cross; so often it is tried again.
TRIES = 8
# What the origin logs when the next request was there first: whatever it says then may be the answer.
LATE = "late"
# The status of a case that is skipped.
BUSY = 77


def answer(body):
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            more = connection.recv(4096)
            if not more:
                return
            received += more
        head, received = received.split(b"\r\n\r\n", 1)
        method, path = head.decode().split()[:2]
        print(method, path, flush=True)
        connection.sendall(answer(path))
        if path.startswith("/talks"):
            time.sleep(UNASKED_AFTER)
            if select.select([connection], [], [], 0)[0]:
                print(LATE, path, flush=True)
            connection.sendall(answer(SECRET))


def origin():
    threading.excepthook = lambda _: None  # The proxy resets what it does not trust.
    listener = socket.create_server((ADDR, PORT), backlog=64)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


# Method and fields of a next request; of the last one the head goes out alone, as of a body that is on its way.
KINDS = {
    "get": ("GET", ""),
    "post": ("POST", "Content-Length: 0\r\n"),
    "streamed": ("POST", "Content-Length: 2\r\nExpect: 100-continue\r\n"),
}


def ask(port, kind, path):
    """A client of its own for each request: its status and body."""
    method, fields = KINDS[kind]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        head = f"{method} {path} HTTP/1.1\r\nHost: {ADDR}.ccnproxy:{PORT}\r\nConnection: close\r\n{fields}\r\n"
        client.sendall(head.encode())
        received = b"".join(iter(lambda: client.recv(4096), b""))
    head, body = received.decode().split("\r\n\r\n", 1)
    return int(head.split()[1]), body


def await_port(addr, port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection((addr, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {addr}:{port}")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def lines_of(log):
    with open(log, encoding="ascii") as file:
        return file.read().splitlines()


def cross(port, log, kind, pause, number):
    """Lets the next request and what nobody asked for cross. Returns whether they did; ends the case at a wrong answer."""
    name = f"{kind}-{pause}-{number}"
    got = ask(port, "get", f"/talks-{name}")
    if got != (200, f"/talks-{name}"):
        sys.exit(f"GET /talks-{name} got {got}")
    time.sleep(pause)
    status, body = ask(port, kind, f"/next-{name}")
    # What was said too much came by now; the next one begins on a connection of its own.
    time.sleep(2 * ROUND_TRIP)
    if f"{LATE} /talks-{name}" in lines_of(log):
        return False
    if SECRET in body:
        sys.exit(f"{kind} /next-{name} got what another's is")
    if (status, body) == (200, f"/next-{name}"):
        # A GET was sent again. A POST left only after the connection was known to be spoilt.
        return kind == "get"
    if kind == "get" or status != 502:
        sys.exit(f"{kind} /next-{name} got {status} and {body}")
    return True


def main():
    log = f"{os.environ['CASE_DIR']}/unasked-origin.log"
    port = free_port()
    command = ["nsenter", f"--net={os.environ['WAN_FAR']}", sys.executable, __file__, "origin"]
    with open(log, "w", encoding="ascii") as file:
        far = subprocess.Popen(command, stdout=file)
    flags = ["--cores", "1", "--port", str(port), "--warm-learned", "off", "--access-log-dir", "none"]
    proxy = subprocess.Popen([os.environ["PROXY_BIN"], *flags], stderr=subprocess.DEVNULL)
    try:
        await_port("127.0.0.1", port)
        await_port(ADDR, PORT)
        for pause in PAUSES:
            for kind in KINDS:
                if not any(cross(port, log, kind, pause, number) for number in range(TRIES)):
                    print("the machine is too busy to let them cross")
                    sys.exit(BUSY)
    finally:
        proxy.kill()
        far.kill()
    posts = [line for line in lines_of(log) if line.startswith("POST")]
    if len(posts) != len(set(posts)):
        sys.exit(f"a POST was sent twice: {posts}")


if __name__ == "__main__":
    if sys.argv[1:] == ["origin"]:
        origin()
    else:
        main()

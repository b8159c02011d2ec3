"""What scripts/bench-wan measures: our proxy, or nginx at the same job beside it."""

import os
import re
import signal
import socket
import subprocess
import time

from wan_origin import FIRST_ADDR, NAME, PORTS, await_true, nginx_preamble, user_line


class CannotRun(Exception):
    """The side cannot do what the row asks of it: the row fails, the others go on."""


def free_ports(count):
    """Ports that the kernel held free a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def end(process, seconds=10):
    """SIGTERM, and SIGKILL when that does not end it."""
    if process is None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Proxy:
    """chocon-uring. Each start is a new process with its own flags."""

    name = "chocon-uring"

    def __init__(self, binary, work, directory, names, cores):
        self.binary, self.work, self.dir, self.names = binary, work, directory, names
        self.cores = cores
        self.process = None
        self.port = None
        self.flags = []
        self.log = None
        os.makedirs(directory, exist_ok=True)

    def version(self):
        shown = subprocess.run([self.binary, "--version"], capture_output=True, text=True)
        return shown.stdout.splitlines()[0]

    def start(self, *, warm=None, is_learning=True, state_file=None):
        """`warm`: connections to keep ready, for an origin by name; `is_learning`: by traffic."""
        self._start([], self._flags(warm, is_learning, state_file))

    def start_restartable(self, state_file):
        """Below Server::Starter, which owns the listening socket.

        It gives the new process longer than that waits for its connections (--warm-wait).
        """
        self.port = free_ports(1)[0]
        starter = ["start_server", f"--port=127.0.0.1:{self.port}", "--interval=2", "--"]
        self._start(starter, self._flags(None, True, state_file))

    def restart(self):
        """A new process beside the old one, which is then told to finish; does not wait."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        end(self.process)
        self.process = None

    def target(self, origin):
        """Where a request for an origin goes: port and Host."""
        suffix = "" if PORTS[origin] == 443 else f":{PORTS[origin]}"
        return self.port, f"{NAME}.ccnproxy-https{suffix}"

    def _flags(self, warm, is_learning, state_file):
        flags = ["--listen", "127.0.0.1", "--cores", str(self.cores), "--access-log-dir", "none"]
        flags += ["--resolver", "dns", "--dns-server", f"127.0.0.1:{self.names.port}"]
        for origin, count in (warm or {}).items():
            flags += ["--warm", f"https://{NAME}:{PORTS[origin]}={count}"]
        # Learning is the default, and as such it is measured.
        if not is_learning:
            flags += ["--warm-learned", "off"]
        if state_file:
            flags += ["--state-file", state_file]
        return flags

    def _start(self, starter, flags):
        self.log = f"{self.dir}/proxy-{time.monotonic_ns()}.log"
        flags = flags if starter else [*flags, "--port", "0"]
        environment = {**os.environ, "SSL_CERT_FILE": f"{self.work}/ca.pem"}
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    [*starter, self.binary, *flags],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
        except OSError as e:
            raise CannotRun(f"does not start: {e}") from None
        try:
            await_true(self._listening, "", self.process)
        except RuntimeError:
            end(self.process)
            self.process = None
            raise CannotRun(f"does not start: {self._complaint()}") from None

    def _listening(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            found = re.search(r"listening on \S+:(\d+)", file.read())
        if found:
            self.port = int(found[1])
        return bool(found)

    def _complaint(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        wrong = [line for line in lines if "--" in line or "error" in line.lower()]
        return "; ".join((wrong or lines)[:3])


NGINX_CONFIG = """
daemon off;
worker_processes 8;
worker_rlimit_nofile 20000;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_timeout 300s;
    {temp}
    proxy_http_version 1.1;
    {servers}
}}
"""
NGINX_SERVER = """
    upstream {label} {{
        server {addr}:{port};
        keepalive 256;
        keepalive_requests 1000000;
        keepalive_timeout 60s;
    }}
    server {{
        listen 127.0.0.1:{listen} backlog=4096 reuseport;
        location / {{
            proxy_pass https://{label};
            proxy_set_header Connection ""; proxy_set_header Host {name};
            proxy_ssl_name {name}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
            proxy_ssl_session_reuse on; proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {work}/ca.pem;
        }}
    }}
"""


class Nginx:
    """nginx with 8 workers, each with its own pool. It resolves names at its start only, so it gets
    the address; it has neither floor nor memory of a former process, so those are not asked of it.
    """

    name = "nginx, 8 workers"

    def __init__(self, work, directory):
        self.work, self.dir = work, directory
        self.process = None
        self.ports = {}
        os.makedirs(directory, exist_ok=True)

    def version(self):
        shown = subprocess.run(["nginx", "-v"], capture_output=True, text=True)
        return shown.stderr.strip()

    def start(self, **_what_it_does_not_have):
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        servers = "".join(
            NGINX_SERVER.format(
                label=f"to-{port}",
                addr=FIRST_ADDR,
                port=port,
                listen=self.ports[origin],
                name=NAME,
                work=self.work,
            )
            for origin, port in PORTS.items()
        )
        config = NGINX_CONFIG.format(
            dir=self.dir, temp=nginx_preamble(self.dir), servers=servers
        )
        with open(f"{self.dir}/nginx.conf", "w", encoding="utf-8") as file:
            file.write(user_line() + config)
        arguments = ["nginx", "-p", self.dir, "-c", f"{self.dir}/nginx.conf"]
        self.process = subprocess.Popen(
            [*arguments, "-e", f"{self.dir}/error.log"], stdin=subprocess.DEVNULL
        )
        await_true(self._listens, "nginx does not start", self.process)

    def start_restartable(self, _state_file):
        self.start()

    def restart(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        end(self.process)
        self.process = None

    def target(self, origin):
        return self.ports[origin], NAME

    def _listens(self):
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", self.ports["usual"])) == 0

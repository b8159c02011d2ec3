"""Who is measured: the proxy, its peers, and two byte relays that know no HTTP (the floor).

Each is started alone on its CPUs with one thread, before one origin, and keeps connections to it.
"""

import os
import shlex
import shutil
from dataclasses import dataclass

from environment import first_line
from origins import nginx_config, start_nginx
from processes import CannotStart, await_line, await_port, free_port

# Idle origin connections that each may keep: more than the most connections of a run.
POOL = 2048
TRIES = 3
OURS = "chocon-uring"
# The origin itself, asked without a proxy.
DIRECT = "no proxy"
# chocon's way to name the origin. All get this Host, so that all parse heads of one length.
HOST_DEFAULT = "{origin_host}.{label}:{origin_port}"


@dataclass
class Stage:
    """What a peer is started with."""

    directory: str
    processes: object
    cpus: set
    origin: object
    # Whether it writes an access log to a file.
    log: bool


@dataclass
class Running:
    """One that is up: what to measure, where to send requests, and which Host to send."""

    process: object
    port: int
    host: str


def convention_host(origin):
    return HOST_DEFAULT.format(**placeholders(origin))


def placeholders(origin):
    """What a user's command or Host may name."""
    return {
        "origin_host": "localhost",
        "origin_port": origin.port,
        "scheme": "https" if origin.tls else "http",
        "label": origin.label,
    }


class Peer:
    name = ""
    flags = ""

    def refusal(self, scheme, log):
        """Why this cannot be measured there; empty when it can."""
        raise NotImplementedError

    def version(self):
        return ""

    def start(self, stage):
        """A Running; CannotStart says why there is none."""
        raise NotImplementedError


class Ours(Peer):
    name = OURS

    def __init__(self, binary):
        self.binary = binary
        self.flags = f"--cores 1 -c {POOL} --access-log-dir none (or a directory)"

    def refusal(self, scheme, log):
        return "" if os.access(self.binary, os.X_OK) else "not built"

    def command(self, log_directory=None):
        where = log_directory or "none"
        listen = [self.binary, "--listen", "127.0.0.1", "--port", "0"]
        return [*listen, "--cores", "1", "-c", str(POOL), "--access-log-dir", where]

    def start(self, stage):
        out = f"{stage.directory}/out"
        process = stage.processes.start(self.command(stage.directory if stage.log else None), out, stage.cpus)
        port = int(await_line(out, r"listening on \S*:(\d+)", process))
        return Running(process, port, convention_host(stage.origin))


class OnOwnPort(Peer):
    """One that must be told its port: another process may take it in between, so three tries."""

    def launch(self, stage, port):
        raise NotImplementedError

    def start(self, stage):
        for _ in range(TRIES):
            port = free_port()
            process = self.launch(stage, port)
            if await_port(port, process):
                return Running(process, port, self.host(stage.origin))
            stage.processes.end(process)
        raise CannotStart(f"{self.name} did not listen: {tail(stage.directory)}")

    def host(self, origin):
        return convention_host(origin)


class Nginx(OnOwnPort):
    name = "nginx"
    flags = f"one worker, upstream keepalive {POOL}, no temporary files, access_log off (or a file), TLS 1.3 unverified"

    def refusal(self, scheme, log):
        if not shutil.which("nginx"):
            return "not installed"
        return "this nginx speaks no HTTP/2 to origins" if scheme == "h2" else ""

    def version(self):
        return first_line("nginx", "-v")

    def launch(self, stage, port):
        origin, scheme = stage.origin, "https" if stage.origin.tls else "http"
        server = (
            f"proxy_http_version 1.1;\nupstream origin {{ server 127.0.0.1:{origin.port};"
            f" keepalive {POOL}; keepalive_requests 100000000; }}\n"
            f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass {scheme}://origin;\n"
            f'proxy_set_header Connection ""; proxy_set_header Host localhost:{origin.port};\n'
            "proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;\n"
            # Else long bodies take a way over the disk.
            "proxy_ssl_session_reuse on; proxy_ssl_verify off; proxy_max_temp_file_size 0; } }"
        )
        log = f"{stage.directory}/access.log" if stage.log else "off"
        config = nginx_config(stage.directory, 1, [server], log)
        return start_nginx(stage.directory, config, stage.processes, stage.cpus)


class HaProxy(OnOwnPort):
    name = "haproxy"
    flags = "nbthread 1, http-reuse always, no log (or httplog to a file), TLS unverified"

    def refusal(self, scheme, log):
        return "" if shutil.which("haproxy") else "not installed"

    def version(self):
        return " ".join(first_line("haproxy", "-v").split()[:3])

    def launch(self, stage, port):
        origin = stage.origin
        protocol = "h2" if origin.scheme == "h2" else "http/1.1"
        tls = f" ssl verify none sni str(localhost) alpn {protocol}" if origin.tls else ""
        config = "\n".join([
            "global",
            " nbthread 1",
            " maxconn 8000",
            " log stdout format raw local0 info" if stage.log else "",
            "defaults",
            " mode http",
            " timeout connect 5s",
            " timeout client 300s",
            " timeout server 300s",
            " http-reuse always",
            " log global\n option httplog" if stage.log else "",
            "frontend clients",
            f" bind 127.0.0.1:{port} backlog 4096",
            " default_backend origins",
            "backend origins",
            f" http-request set-header Host localhost:{origin.port}",
            f" server origin 127.0.0.1:{origin.port}{tls}",
            "",
        ])
        path = f"{stage.directory}/haproxy.cfg"
        with open(path, "w", encoding="ascii") as file:
            file.write(config)
        return stage.processes.start(["haproxy", "-db", "-f", path], f"{stage.directory}/out", stage.cpus)


class Relay(Peer):
    """A byte relay of this project (benches/relay): one origin connection for each client's."""

    flags = "bytes only, no HTTP"

    def __init__(self, name, binary):
        self.name = name
        self.binary = binary

    def refusal(self, scheme, log):
        if not os.access(self.binary, os.X_OK):
            return "not built"
        if scheme != "http":
            return "relays bytes, speaks no TLS"
        return "has no log" if log else ""

    def start(self, stage):
        out = f"{stage.directory}/out"
        command = [self.binary, "--listen", "127.0.0.1:0", "--to", f"127.0.0.1:{stage.origin.port}"]
        process = stage.processes.start(command, out, stage.cpus)
        port = int(await_line(out, r"(?:^|:)(\d+)\s*$", process))
        return Running(process, port, convention_host(stage.origin))


class Custom(OnOwnPort):
    """Any other, as the user starts it: `--peer NAME=CMD`, `--peer-host NAME=HOST`."""

    def __init__(self, name, command, host):
        self.name = name
        self.template = command
        self.host_template = host
        # Only the program's name: the rest may hold paths of the user's.
        self.flags = f"{os.path.basename(shlex.split(command)[0])}, as given by --peer"

    def refusal(self, scheme, log):
        program = shlex.split(self.template)[0]
        if not shutil.which(program):
            return f"there is no program {os.path.basename(program)}"
        return "its command has no {log_dir}" if log and "{log_dir}" not in self.template else ""

    def launch(self, stage, port):
        log_dir = stage.directory if stage.log else "none"
        values = {**placeholders(stage.origin), "listen_port": port, "log_dir": log_dir}
        command = [word.format(**values) for word in shlex.split(self.template)]
        return stage.processes.start(command, f"{stage.directory}/out", stage.cpus)

    def host(self, origin):
        return self.host_template.format(**placeholders(origin))


def tail(directory):
    said = []
    for name in ("out", "nginx.log", "error.log"):
        if os.path.exists(f"{directory}/{name}"):
            with open(f"{directory}/{name}", encoding="utf-8", errors="replace") as file:
                said.append(file.read().strip()[-300:])
    return " ".join(said) or "it printed nothing"

"""The origin: one nginx that serves bodies of each length over http, https and HTTP/2."""

import os
import subprocess
from dataclasses import dataclass

from processes import CannotStart, await_port, free_port

SCHEMES = ("http", "https", "h2")
# nginx takes no longer string than 4 KiB in its configuration; longer bodies are files.
INLINE_BODY_BYTES_MAX = 2000
TRIES = 3


@dataclass
class Origin:
    """One port of the origin; `h2` is TLS that offers HTTP/2, `https` is TLS that does not."""

    scheme: str
    port: int

    @property
    def tls(self):
        return self.scheme != "http"

    @property
    def label(self):
        """How the convention of chocon names it in a Host."""
        return "ccnproxy-https" if self.tls else "ccnproxy"


class Origins:
    def __init__(self, directory, processes, cpus):
        self.directory = directory
        self.processes = processes
        self.cpus = cpus
        self.by_scheme = {}
        self.process = None

    def start(self, bodies):
        """Serves `/N` for each number of bytes in `bodies`, on three ports."""
        os.makedirs(self.directory, exist_ok=True)
        make_certificates(self.directory)
        # nginx cannot listen on port 0, so another process may take a port in between.
        for _ in range(TRIES):
            self.by_scheme = {scheme: Origin(scheme, free_port()) for scheme in SCHEMES}
            config = self.config(bodies)
            self.process = start_nginx(self.directory, config, self.processes, self.cpus)
            if all(await_port(one.port, self.process) for one in self.by_scheme.values()):
                return
            self.processes.end(self.process)
        raise CannotStart("the origin did not start")

    def config(self, bodies):
        locations = "\n".join(self.location(length) for length in bodies)
        tls = (
            f"ssl_certificate {self.directory}/origin.pem;"
            f" ssl_certificate_key {self.directory}/origin.key; ssl_protocols TLSv1.3;"
        )
        extra = {"http": "", "https": " ssl", "h2": " ssl http2"}
        servers = [
            f"server {{ listen 127.0.0.1:{one.port} backlog=4096{extra[scheme]};"
            f" {tls if one.tls else ''}\n{locations} }}"
            for scheme, one in self.by_scheme.items()
        ]
        return nginx_config(self.directory, len(self.cpus), servers)

    def location(self, length):
        if length <= INLINE_BODY_BYTES_MAX:
            return f"location = /{length} {{ return 200 '{'x' * length}'; }}"
        path = f"{self.directory}/body-{length}"
        with open(path, "wb") as file:
            file.write(b"x" * length)
        return f"location = /{length} {{ alias {path}; open_file_cache max=8; }}"


def nginx_config(directory, workers, servers, access_log="off"):
    """One foreground process tree in one directory."""
    # Started by root, its workers would drop to a user who cannot read a private directory.
    user = "user root;\n" if os.geteuid() == 0 else ""
    temps = "".join(
        f"{kind}_temp_path {directory}/temp-{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"{user}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 20000;\n"
        f"pid {directory}/nginx.pid;\nerror_log {directory}/error.log warn;\n"
        "events { worker_connections 16384; }\nhttp {\n"
        f"access_log {access_log};\ndefault_type application/octet-stream;\n"
        "keepalive_timeout 300s;\nkeepalive_requests 100000000;\nsendfile on;\ntcp_nopush on;\n"
        f"{temps}" + "\n".join(servers) + "\n}\n"
    )


def start_nginx(directory, config, processes, cpus):
    path = f"{directory}/nginx.conf"
    with open(path, "w", encoding="ascii") as file:
        file.write(config)
    command = ["nginx", "-p", directory, "-c", path, "-e", f"{directory}/error.log"]
    return processes.start(command, f"{directory}/nginx.log", cpus)


def make_certificates(directory):
    """An authority for one run, `ca.pem`, and the origin's certificate of it (ECDSA P-256)."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    usage = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    ca = ["req", "-x509", *key, "-days", "1", "-subj", "/CN=throw-away", "-keyout", "ca.key", "-out", "ca.pem"]
    openssl(directory, *ca, "-addext", usage[0], "-addext", usage[1])
    openssl(directory, "req", "-new", *key, "-subj", "/CN=origin", "-keyout", "origin.key", "-out", "origin.csr")
    with open(f"{directory}/origin.ext", "w", encoding="ascii") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "origin.ext"]
    openssl(directory, "x509", "-req", "-in", "origin.csr", *signer, "-out", "origin.pem")


def openssl(directory, *arguments):
    run = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise CannotStart(f"openssl {arguments[0]} failed: {run.stderr.strip()[-300:]}")

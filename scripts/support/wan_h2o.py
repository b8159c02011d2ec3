"""Another far end of scripts/bench-wan: h2o, which sends the answers to a burst together.

nginx gives each answer a TLS record, a send and so a TCP segment of its own. Linux counts the
congestion window in segments, so a burst's answers fill it, and the origin's TCP is what is measured.
"""

import os
import shutil
import subprocess

from wan_origin import FIRST_ADDR, PORTS, await_true, read_line
from wan_sides import CannotRun

PORT = PORTS["http2"]
LISTENING = "0A"
# Paths that it has an answer to: `/ROW-1` and so on.
ANSWERS = 400

CONFIG = """
{user}
num-threads: 1
pid-file: {dir}/h2o.pid
error-log: {dir}/error.log
access-log:
  path: {dir}/judge.log
  format: "%{{sec}}t.%{{msec_frac}}t %A %p %{{connection-id}}x %{{http2.stream-id}}x %{{ssl.session-reused}}x %H %m %U %s"
listen:
  host: {addr}
  port: {port}
  ssl:
    certificate-file: {work}/origin.pem
    key-file: {work}/origin.key
hosts:
  default:
    paths:
      /:
        file.dir: {dir}/answers
"""


class H2oOrigin:
    """As `wan_origin.Origin`; speaks at the address and port of its HTTP/2 only."""

    def __init__(self, work, directory, far, row_name):
        if not shutil.which("h2o"):
            raise CannotRun("h2o is missing: scripts/setup installs it")
        self.dir, self.far = directory, far
        os.makedirs(f"{directory}/answers")
        for number in range(1, ANSWERS + 1):
            # The answer names the request, so that one that went to the wrong client is seen.
            with open(f"{directory}/answers/{row_name}-{number}", "w", encoding="ascii") as file:
                file.write(f"/{row_name}-{number}")
        user = "user: root" if os.geteuid() == 0 else ""
        with open(f"{directory}/h2o.conf", "w", encoding="utf-8") as file:
            file.write(CONFIG.format(dir=directory, work=work, addr=FIRST_ADDR, port=PORT, user=user))
        log = open(f"{directory}/h2o.out", "w", encoding="utf-8")
        command = ["nsenter", f"--net={far}", "h2o", "-m", "worker", "-c", f"{directory}/h2o.conf"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        await_true(lambda: LISTENING in self._states(), "h2o does not start", self.process)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def connections(self):
        """Connections that its kernel knows of, those included that never carried a request; closed ones for a minute."""
        return sum(state != LISTENING for state in self._states())

    def requests(self):
        with open(f"{self.dir}/judge.log", encoding="utf-8") as file:
            return [read_line(line) for line in file.read().splitlines()]

    def _states(self):
        """The states of the TCP sockets of its port, as /proc/net/tcp spells them."""
        run = ["nsenter", f"--net={self.far}", "cat", "/proc/net/tcp"]
        table = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        sockets = (line.split() for line in table.splitlines()[1:])
        return [columns[3] for columns in sockets if columns[1].endswith(f":{PORT:04X}")]

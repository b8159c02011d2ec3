"""Processes of one run: started on chosen CPUs, awaited, and ended by their ids, whatever ends the run."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import time

START_SECONDS_MAX = 10
GRACE_SECONDS = 5
# prctl(2): the signal that a child gets when its parent dies, so that not even SIGKILL leaves one.
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class CannotStart(Exception):
    """A program did not come up; the text says what it printed."""


class Processes:
    """Owns what it starts: `end_all` leaves nothing behind."""

    def __init__(self):
        self.started = []

    def start(self, command, log, cpus, env=None):
        """Runs `command` in the background on `cpus`, both outputs appended to the file `log`."""
        with open(log, "ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                preexec_fn=lambda: bind_to(cpus),
            )
        self.started.append(process)
        return process

    def run(self, command, cpus, seconds_max):
        """Runs `command` to its end and returns its standard output; a failure is a CannotStart."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: bind_to(cpus),
        )
        self.started.append(process)
        try:
            out, errors = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            raise CannotStart(f"{command[0]} did not end within {seconds_max:.0f} s") from None
        finally:
            self.end(process)
        if process.returncode != 0:
            said = (errors or out).decode(errors="replace").strip()[-300:]
            raise CannotStart(f"{command[0]} failed with status {process.returncode}: {said}")
        return out.decode(errors="replace")

    def end(self, process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process in self.started:
            self.started.remove(process)

    def end_all(self):
        # The newest first: a proxy goes before its origin.
        for process in reversed(self.started[:]):
            self.end(process)


def bind_to(cpus):
    """In the child, before its program: its CPUs, and its end with its parent's."""
    os.sched_setaffinity(0, cpus)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def exit_on_signals():
    """Makes a signal an ordinary exit, so that `finally` ends the processes."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def free_port():
    """A port that the kernel held free a moment ago, for programs that refuse port 0."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def await_port(port, process):
    """Whether something listens at `port` in time; false at once when `process` has ended."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False


def await_line(log, pattern, process):
    """The first group of the first match of `pattern` in `log`."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        ended = process.poll() is not None
        with open(log, encoding="utf-8", errors="replace") as file:
            text = file.read()
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            return found[1]
        if ended or time.monotonic() > deadline:
            raise CannotStart(f"it printed no {pattern!r} but: {text.strip()[-300:]!r}")
        time.sleep(0.02)

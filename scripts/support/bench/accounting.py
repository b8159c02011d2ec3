"""What the kernel says about a process and its children (CPU time, memory, open connections), and about CPUs."""

import glob
from contextlib import suppress

# /proc/net/tcp: the state of a connection that is open in both directions.
ESTABLISHED = "01"
# A process or thread may end between the list and the look; what is gone is not counted.
GONE = (FileNotFoundError, ProcessLookupError)


def family(pid):
    """The process and all that descend from it: nginx is a master and a worker."""
    pids = [pid]
    for parent in pids:
        for path in glob.glob(f"/proc/{parent}/task/*/children"):
            with suppress(*GONE), open(path, encoding="ascii") as file:
                pids.extend(int(child) for child in file.read().split())
    return pids


def cpu_ns(pid):
    """Time on a CPU of all threads, in user space and in the kernel (schedstat counts ns)."""
    total = 0
    for member in family(pid):
        for path in glob.glob(f"/proc/{member}/task/*/schedstat"):
            with suppress(*GONE), open(path, encoding="ascii") as file:
                total += int(file.read().split()[0])
    return total


def rss_kib(pid):
    total = 0
    for member in family(pid):
        with suppress(*GONE), open(f"/proc/{member}/smaps_rollup", encoding="ascii") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Rss:"))
    return total


def open_connections(port):
    """Established connections of this host whose remote port is `port` (IPv4)."""
    remote = f":{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split()[2:4] for line in file]
    return sum(1 for address, state in rows if address.endswith(remote) and state == ESTABLISHED)


def cpu_ticks(cpus):
    """Busy and all ticks of these CPUs since the start of the machine (proc(5), /proc/stat).

    Time that another guest of the machine had counts as busy: nobody here could use it.
    """
    with open("/proc/stat", encoding="ascii") as file:
        return ticks_of(file, cpus)


def ticks_of(lines, cpus):
    names = {f"cpu{number}" for number in cpus}
    busy = total = 0
    for name, *counts in (line.split() for line in lines):
        if name in names:
            # user, nice, system, idle, iowait, irq, softirq, steal; the time of guests is in user already.
            spent = [int(count) for count in counts[:8]]
            total += sum(spent)
            busy += sum(spent) - spent[3] - spent[4]
    return busy, total

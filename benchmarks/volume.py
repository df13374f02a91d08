"""What one host moves on the shared volume, in steady state and while the engine is not well; and how soon it sees what
a peer wrote.

Bytes and calls are the kernel's counters of the broker's I/O workers (`/proc/PID/io`), the one that looks at the lease
included. Full scans are taken out; sanlock's own are in its own process.
"""

import random
import time
from typing import List

from benchmarks import meter, peers
from benchmarks.figures import Figure
from benchmarks.host import Host, Peers

_SECONDS = 121.0
_SCAN = 2001 * 4096


def steady(host: Host, count: int, runner: int, budget: float, name: str, seconds: float = _SECONDS) -> List[Figure]:
    """``count`` hosts, ours included; ``runner`` 0: no host has the engine."""
    with Peers(host, count - 1, runner):
        host.await_slots(count)
        time.sleep(12.0)  # a cycle of everybody, and the scan that new hosts cause
        workers = meter.children(host.pid("broker"))
        scans = _full_scans(host)
        before = [meter.cost(pid) for pid in workers]
        began = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        if meter.children(host.pid("broker")) != workers:
            raise SystemExit("benchmark: the broker started a process meanwhile")
        scans = _full_scans(host) - scans
        spent = [meter.cost(pid).since(start) for pid, start in zip(workers, before)]
    moved = sum(each.read + each.written for each in spent) - scans * _SCAN
    calls = sum(each.calls for each in spent)
    how = f"/proc/PID/io of the broker's workers, without {scans} full scans"
    return [
        Figure(f"volume.{name}.bytes", moved / passed / 1e3, "kB/s", how, budget),
        Figure(f"volume.{name}.calls", calls / passed, "calls/s", "reads and writes, sockets included, of the same"),
    ]


def _full_scans(host: Host) -> int:
    return int(host.link.health()["counters"].get("storage.full_scans", 0))


def visibility(host: Host) -> List[Figure]:
    """Seconds from a peer's write until our broker serves it, while nobody has a healthy engine."""
    taken: List[float] = []
    with Peers(host, 2, 0, cycle=3600.0):
        host.await_slots(3)
        for second in range(2000, 2020):
            time.sleep(random.uniform(0.0, 2.0))  # not in step with the reader
            data = peers.slot(3, second)
            host.write({3: data})
            began = time.monotonic()
            while host.link.get_stats().get(3) != data:
                if time.monotonic() - began > 15:
                    raise SystemExit("benchmark: a peer's change does not become visible")
                time.sleep(0.01)
            taken.append(time.monotonic() - began)
    return [
        Figure("volume.visible_after", max(taken), "s", "wall, slowest of 20, engine not well", 2.0),
        Figure("volume.visible_after.mean", sum(taken) / len(taken), "s", "wall, mean of 20"),
    ]

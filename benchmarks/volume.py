"""What one host moves on the shared volume, in steady state and while the engine is not well; and how soon it sees what
a peer wrote.

Bytes and calls are the kernel's counters (`/proc/PID/io`) of the broker's I/O workers: one for the metadata, one for
the owner of the VM's lease. Full scans are counted apart, and so is sanlock's own I/O, which is in its own process. The
agent starts a process once a minute for one read of the VM's definition: its starts are counted.
"""

import random
import time
from contextlib import ExitStack
from typing import Dict, List

from benchmarks import births, idle, meter, peers
from benchmarks.effort import Effort
from benchmarks.figures import Figure
from benchmarks.host import Host, Peers
from ovirt_he_ha.storage.archive import SIZE as DEFINITION

_SCAN = 2001 * 4096


def steady(host: Host, count: int, runner: int, budget: float, effort: Effort) -> List[Figure]:
    """``count`` hosts, ours included; ``runner`` 0: no host has the engine. The budget holds for the metadata alone."""
    agent = host.pid("agent")
    with Peers(host, count - 1, runner), ExitStack() as stack:
        host.await_slots(count)
        time.sleep(effort.settle)  # a cycle of everybody, and the scan that new hosts cause
        born = births.listen()
        if born is not None:
            stack.enter_context(born)
        watched = _watched(host)
        scans, before = _full_scans(host), meter.costs(watched)
        began = time.monotonic()
        time.sleep(effort.window)
        passed = time.monotonic() - began
        if _watched(host) != watched:
            raise SystemExit("benchmark: the broker started a process meanwhile")
        spent = {name: cost.since(before[name]) for name, cost in meter.costs(watched).items()}
        scans = _full_scans(host) - scans
        reads = int(effort.window // 60) if born is None else born.of([agent])
    bytes_ = {name: (cost.read + cost.written) / passed / 1e3 for name, cost in spent.items()}
    slots = spent["volume"]
    name = f"volume.{count}_hosts" if runner else f"volume.{count}_hosts_engine_not_well"
    how = f"/proc/PID/io of the broker's worker, without {scans} full scans"
    definition = f"the agent's starts of its reader, counted: {reads} reads of {DEFINITION} bytes"
    return [
        Figure(f"{name}.metadata", bytes_["volume"] - scans * _SCAN / passed / 1e3, "kB/s", how, budget),
        Figure(f"{name}.metadata_written", slots.written / passed / 1e3, "kB/s", "of these"),
        Figure(f"{name}.metadata_calls", slots.calls / passed, "1/s", "/proc/PID/io of the same, its socket included"),
        Figure(f"{name}.lease", bytes_.get("lease", 0.0), "kB/s", "/proc/PID/io of the worker that reads the owner"),
        Figure(f"{name}.definition", reads * DEFINITION / passed / 1e3, "kB/s", definition),
        Figure(f"{name}.sanlock", bytes_["sanlock"], "kB/s", "/proc/PID/io of sanlock"),
    ]


def _watched(host: Host) -> Dict[str, int]:
    """The broker's workers, and sanlock."""
    workers = {idle.volume_of(pid): pid for pid in meter.children(host.pid("broker"))}
    return {**workers, "sanlock": host.pid("sanlock")}


def full_scan() -> List[Figure]:
    """What the product reads at its start, with every change of sanlock's list, and every 600 s."""
    return [Figure("volume.full_scan", _SCAN / 600 / 1e3, "kB/s", f"computed: {_SCAN} bytes every 600 s")]


def _full_scans(host: Host) -> int:
    return int(host.link.health()["counters"].get("storage.full_scans", 0))


def visibility(host: Host, effort: Effort) -> List[Figure]:
    """Seconds from a peer's write until our broker serves it, while nobody has a healthy engine."""
    taken: List[float] = []
    with Peers(host, 2, 0, cycle=3600.0):
        host.await_slots(3)
        for second in range(2000, 2000 + effort.calls):
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
        Figure("volume.visible_after", max(taken), "s", f"wall, slowest of {len(taken)}, engine not well", 2.0),
        Figure("volume.visible_after.mean", sum(taken) / len(taken), "s", f"wall, mean of {len(taken)}"),
    ]

"""What a process cost so far, from the kernel's own counters; nothing here asks the process."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Since the process began. ``cpu``: seconds on a processor, all threads (schedstat, nanoseconds). ``switches``: how
    often a thread was put on a processor. ``syscalls``: reads and writes only (the kernel counts no others).
    ``read``/``written``: bytes from and to storage."""

    cpu: float
    switches: int
    calls: int
    read: int
    written: int

    def since(self, before: "Cost") -> "Cost":
        return Cost(
            self.cpu - before.cpu,
            self.switches - before.switches,
            self.calls - before.calls,
            self.read - before.read,
            self.written - before.written,
        )


def cost(pid: int) -> Cost:
    """Raises OSError when the process is gone."""
    cpu, switches = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            nanoseconds, _waited, slices = (task / "schedstat").read_text().split()
        except (OSError, ValueError):
            continue  # a thread that ended between two reads
        cpu += int(nanoseconds) / 1e9
        switches += int(slices)
    counters = _pairs(Path(f"/proc/{pid}/io").read_text())
    return Cost(
        max(cpu, cpu_of(pid)),
        switches,
        counters["syscr"] + counters["syscw"],
        counters["read_bytes"],
        counters["write_bytes"],
    )


def costs(pids: Dict[str, int]) -> Dict[str, Cost]:
    """Of those that are still there: a worker that has nothing to do ends at any moment."""
    found: Dict[str, Cost] = {}
    for name, pid in pids.items():
        try:
            found[name] = cost(pid)
        except OSError:
            continue
    return found


def cpu_of(pid: int) -> float:
    """Seconds by the clock of the whole process, threads that ended included; exact to a nanosecond where the kernel
    offers the process's clock."""
    try:
        # The kernel's encoding of "the CPU clock of process pid": ~pid << 3 | CPUCLOCK_SCHED.
        return time.clock_gettime(((~pid) << 3) | 2)
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICK


def ended_children_cpu(pid: int) -> float:
    """Seconds that children took which ended and were waited for; to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / _TICK


def memory(pid: int) -> Dict[str, int]:
    """Bytes: ``rss``, ``pss`` (shared pages counted by share), ``private``."""
    rollup = _pairs(Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n", 1)[1])
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    return {"rss": rollup["Rss"] * 1024, "pss": rollup["Pss"] * 1024, "private": private * 1024}


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_running(pid: int) -> bool:
    """Not if it is gone, or only waits for its parent to hear of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> List[int]:
    """Direct children, by their process ids."""
    found: List[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _pairs(text: str) -> Dict[str, int]:
    found = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if rest.strip():
            found[key] = int(rest.split()[0])
    return found

"""CPU time of one process, from procfs: what it used, and what its virtual CPUs asked for."""

import os
import re
from pathlib import Path
from typing import Optional, Tuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# The names qemu gives to the threads of virtual CPUs (libvirt always asks for names): hardware and emulated.
_VCPU = re.compile(r"^(CPU \d+|ALL CPUs)/")


def parse_stat(text: str) -> Tuple[int, int]:
    """Start time and CPU time (user + system, all threads) of a /proc/PID/stat, in ticks. Raises ValueError."""
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything, spaces and brackets included
    if len(fields) < 20:
        raise ValueError("too few fields in a process's stat")
    return int(fields[19]), int(fields[11]) + int(fields[12])


class ProcessTimes:
    """``proc``: where procfs is mounted."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def used(self, pid: int) -> Optional[Tuple[int, int]]:
        """Start time (tells a reused pid) and CPU time in ticks; None when there is no such process, or it cannot
        be read."""
        try:
            return parse_stat((self._proc / str(pid) / "stat").read_text("utf-8", "replace"))
        except (OSError, ValueError):
            return None

    def vcpu_demand(self, pid: int) -> Optional[Tuple[float, ...]]:
        """For each thread of a virtual CPU, by thread id: seconds it ran plus seconds it waited for a CPU of the
        host. So a guest that spins demands 1 s per second also on a crowded host. None when not a single one can be
        read."""
        found = []
        try:
            threads = sorted(int(entry.name) for entry in (self._proc / str(pid) / "task").iterdir())
            for thread in threads:
                directory = self._proc / str(pid) / "task" / str(thread)
                if _VCPU.match((directory / "comm").read_text("utf-8", "replace")):
                    ran, waited = (directory / "schedstat").read_text("ascii", "replace").split()[:2]
                    found.append((int(ran) + int(waited)) / 1e9)
        except (OSError, ValueError):
            return None
        return tuple(found) or None

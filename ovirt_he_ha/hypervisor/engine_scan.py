"""Where the engine's qemu is on this host, asked every two seconds for ever: cheap while nothing changes.

A look at every process costs 20 us each, on a hypervisor with a thousand of them 1 % of a core at this pace. A process
becomes qemu within seconds of its birth (libvirtd forks, prepares, and executes), so only young ones are looked at; a
full look every minute finds what slipped through (a pid used again between two looks).
"""

import os
import time
from typing import Callable, Dict, List

from ovirt_he_ha.hypervisor.process import EngineProcess, ProcessTable

YOUNG = 15.0  # wall seconds in which a new process is looked at each time
FULL = 60.0  # wall seconds between two looks at every process


class EngineScan:
    """``find`` is for one thread. Raises OSError when the table of processes cannot be read."""

    def __init__(
        self, vmid: str, table: ProcessTable, proc: str = "/proc", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._vmid = vmid
        self._table = table
        self._proc = proc
        self._clock = clock
        self._seen: Dict[int, float] = {}  # pid -> when it was first seen
        self._full_at = float("-inf")
        self._found: List[EngineProcess] = []

    def find(self) -> List[EngineProcess]:
        """All processes of the VM here, dying ones included."""
        now = self._clock()
        pids = {int(name) for name in os.listdir(self._proc) if name.isdigit()}
        full = now - self._full_at >= FULL
        if full:
            self._full_at = now
        self._seen = {pid: self._seen.get(pid, now) for pid in pids}
        # What was found once stays what it is until it ends, and that the kernel tells without asking its memory.
        known = [process for process in self._found if self._table.runs(process)]
        suspects = {pid for pid, since in self._seen.items() if full or now - since < YOUNG}
        suspects.difference_update(process.pid for process in known)
        self._found = known + self._table.find(self._vmid, sorted(suspects & pids))
        return self._found

    def remaining(self) -> List[EngineProcess]:
        """Of what the last ``find`` found, those that have not ended; from any thread."""
        return [process for process in self._found if self._table.runs(process)]

    def known(self, pid: int) -> List[EngineProcess]:
        """What the last ``find`` found under this pid; from any thread."""
        return [process for process in self._found if process.pid == pid]

"""How long something took by itself, on a machine that others use as well.

A bound on the time of a call says that nobody waited for what hangs. Measured by the clock alone it also says that the
machine had a processor and a disk for us in every moment, which no test claims: beside two other test runs each thread
stands in a queue for most of the time. The kernel counts how long, so that this can be taken off:

* for each thread how long it was ready and stood in the queue (``schedstat``): exact, but gone with the thread;
* for the machine how long anybody stood in it, or waited for a disk (``pressure``): also on behalf of processes and
  threads that have ended, or that somebody else started;
* where the machine is a virtual one, how long its processors had work and were not given a real one (steal): in no
  queue of its own.

On an idle machine both are next to nothing, and the bound is as strict as by the clock. What sleeps, on a lock, a
socket, a deadline or a storage that hangs, is in no queue and counts in full.
"""

import os
import time
from pathlib import Path
from typing import Dict, Tuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class OwnTime:
    """Runs from its making. ``pids``: the processes that do the work, besides this one."""

    def __init__(self, *pids: int, proc: str = "/proc") -> None:
        self._proc = Path(proc)
        self._pids = (os.getpid(), *pids)
        self._queued = self._queues()
        self._pressed = self._pressure()
        self._steal = self._given_to_others()
        self._begun = time.monotonic()

    @property
    def wall(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._begun

    @property
    def stolen(self) -> float:
        """Seconds of it that the machine was busy with others, or its disk."""
        before = self._queued
        queued = sum(max(0.0, now - before.get(thread, 0.0)) for thread, now in self._queues().items())
        return max(queued, self._pressure() - self._pressed) + max(0.0, self._given_to_others() - self._steal)

    @property
    def seconds(self) -> float:
        """What is left."""
        wall = self.wall  # before the others: reading them is not what is measured
        return max(0.0, wall - self.stolen)

    def _queues(self) -> Dict[Tuple[int, str], float]:
        found = {}
        for pid in self._pids:
            tasks = self._proc / str(pid) / "task"
            try:
                threads = os.listdir(tasks)
            except OSError:
                continue
            for thread in threads:
                words = _words(tasks / thread / "schedstat")
                if len(words) > 1:
                    found[pid, thread] = int(words[1]) / 1e9
        return found

    def _pressure(self) -> float:
        return sum(self._some(of) for of in ("cpu", "io"))

    def _given_to_others(self) -> float:
        """Of all processors."""
        words = _words(self._proc / "stat")[:9]  # the first line: all of them
        return int(words[8]) / TICKS_PER_SECOND if len(words) == 9 and words[0] == "cpu" else 0.0

    def _some(self, of: str) -> float:
        totals = [word for word in _words(self._proc / "pressure" / of)[:5] if word.startswith("total=")]
        return int(totals[0][len("total=") :]) / 1e6 if totals else 0.0


def _words(path: Path) -> "list[str]":
    """Nothing where the kernel does not count this, or the thread has ended."""
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []

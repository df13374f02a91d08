"""CPU load of this host without the engine VM's share: the part that would stay if the VM went elsewhere."""

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Deque, Optional, Tuple

from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.process_times import TICKS_PER_SECOND, ProcessTimes
from ovirt_he_ha.core.model import EngineFacts, Reading, Vm

WINDOW = 60.0  # product seconds that a value covers


def parse_system(text: str) -> Tuple[int, int]:
    """Busy and total ticks of all CPUs: the first line of /proc/stat. Total is the sum of its first eight numbers
    (guest time is in user time already), idle the fourth and fifth (idle and waiting for I/O). Raises Unmeasured
    ``format``."""
    words = text.partition("\n")[0].split()
    try:
        numbers = [int(word) for word in words[1:9]]
    except ValueError:
        numbers = []
    if words[:1] != ["cpu"] or len(numbers) < 8:
        raise Unmeasured("format", "the first line of /proc/stat is not the sum of all CPUs")
    total = sum(numbers)
    return total - numbers[3] - numbers[4], total


@dataclass(frozen=True)
class EngineTicks:
    """CPU time of the engine's process so far; ``copy`` tells one copy from another. No engine here: copy empty, 0
    ticks."""

    copy: str = ""
    ticks: float = 0.0


NO_ENGINE = EngineTicks()


class EngineCpu:
    """CPU time of the engine VM here, by its process (read in the same instant as the system's), else by libvirt's
    counter."""

    def __init__(self, facts: Callable[[], Reading[EngineFacts]], times: ProcessTimes) -> None:
        self._facts = facts
        self._times = times
        self._last: Optional[EngineFacts] = None

    def read(self) -> Optional[EngineTicks]:
        """None: not known. While libvirt is away, what ran last is followed by its pid."""
        reading = self._facts()
        if reading.value is not None:
            self._last = reading.value
        facts = self._last
        if facts is None:
            return None
        if facts.pid is not None:
            return self._by_pid(facts.pid) or (self._by_counter(facts) if reading.known else None)
        if facts.status.vm is not Vm.UP and not facts.incoming:
            return NO_ENGINE
        return self._by_counter(facts) if reading.known else None

    def _by_pid(self, pid: int) -> Optional[EngineTicks]:
        used = self._times.used(pid)
        return None if used is None else EngineTicks(f"{pid}/{used[0]}", used[1])

    @staticmethod
    def _by_counter(facts: EngineFacts) -> Optional[EngineTicks]:
        if facts.counters is None or facts.counters.cpu_seconds is None:
            return None
        return EngineTicks(f"libvirt/{facts.pid}", facts.counters.cpu_seconds * TICKS_PER_SECOND)


def engine_share(before: Optional[EngineTicks], after: Optional[EngineTicks]) -> Optional[float]:
    """Ticks the engine used between the two; None when that cannot be told (it ended, or one of the two is not
    known)."""
    if before is None or after is None:
        return None
    if before.copy == after.copy:
        return max(0.0, after.ticks - before.ticks)
    # It began in between: all it used, it used since then. A counter may be older than our first look.
    return after.ticks if before is NO_ENGINE and not after.copy.startswith("libvirt/") else None


@dataclass(frozen=True)
class _Step:
    at: float
    busy: float  # without the engine
    total: float


class CpuLoad:
    """``now``: product seconds. The first value needs two calls of :meth:`measure`."""

    def __init__(self, engine: EngineCpu, now: Callable[[], float], proc: Path = Path("/proc")) -> None:
        self._engine = engine
        self._now = now
        self._path = proc / "stat"
        self._before: Optional[Tuple[int, int, Optional[EngineTicks]]] = None
        self._steps: Deque[_Step] = deque()

    def measure(self) -> float:
        """Share of all CPUs that was busy with other things in the last 60 s, 0.0 to 1.0.

        Time in which the engine's own part is not known is left out; Unmeasured ``no-data`` when that is all of it,
        ``not-yet`` at the first call, ``unreadable`` or ``format`` for /proc/stat.
        """
        try:
            busy, total = parse_system(self._path.read_text("ascii", "replace"))
        except OSError as problem:
            raise Unmeasured("unreadable", str(problem)) from problem
        engine = self._engine.read()
        before, self._before = self._before, (busy, total, engine)
        if before is None:
            raise Unmeasured("not-yet")
        self._add(busy - before[0], total - before[1], engine_share(before[2], engine))
        return self._load()

    def _add(self, busy: int, total: int, engine: Optional[float]) -> None:
        now = self._now()
        if engine is not None and total > 0:
            self._steps.append(_Step(now, max(0.0, busy - engine), total))
        while self._steps and self._steps[0].at <= now - WINDOW:
            self._steps.popleft()

    def _load(self) -> float:
        total = sum(step.total for step in self._steps)
        if total <= 0:
            raise Unmeasured("no-data", "the engine VM's share of the CPU time is not known")
        return min(1.0, max(0.0, sum(step.busy for step in self._steps) / total))


def one_minute_load() -> float:
    """The system's load average of one minute per CPU; not limited to 1."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)

"""The observer's records as a drill reads them: the present state, and what was said since."""

import json
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from ovirt_he_ha.lab.judge import Copy, Record

# Enough for the past minutes; an observer's file may be days long.
TAIL = 1024 * 1024
PERIOD = 0.05


@dataclass
class World:
    """What is true by the latest records. ``running``: copies of the VM whose process exists -> when it last provably
    ran (None: not yet). ``healthy``: the page answers; ``healthy_at``: since when that is so or not so. ``fired``:
    hosts that their watchdog powered off -> when, the latest."""

    running: Dict[Copy, Optional[float]] = field(default_factory=dict)
    owner: Optional[int] = None
    healthy: Optional[bool] = None
    healthy_at: float = 0.0
    at: float = 0.0
    fired: Dict[int, float] = field(default_factory=dict)

    def learn(self, record: Record) -> None:
        kind = record["kind"]
        self.at = record["at"]
        if kind in ("seen", "ran", "gone"):
            copy = _copy(record)
            if kind == "gone":
                self.running.pop(copy, None)
            else:
                self.running[copy] = record["last"][1] if kind == "ran" else None
        elif kind == "lease":
            self.owner = record["owner"]
        elif kind == "alive":
            self.owner, self.healthy = record["owner"], record["healthy"]
        elif kind == "health":
            self.healthy, self.healthy_at = record["ok"], record["at"]
        elif kind == "watchdog":
            self.fired[record["host"]] = record["fired"]

    def hosts_running(self) -> List[int]:
        return sorted(copy.host for copy in self.running)


class Witness:
    """Follows the file. ``records``: everything read, oldest first."""

    def __init__(self, path: Path, whole: bool = False) -> None:
        """``whole``: from the file's beginning, instead of its last minutes."""
        self._path = path
        self.world = World()
        self.records: List[Dict[str, Any]] = []
        size = path.stat().st_size
        self._offset = 0 if whole else max(0, size - TAIL)
        self._torn = self._offset > 0
        self.read()

    def read(self) -> World:
        with open(self._path, "rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.splitlines()
        if self._torn and lines:
            lines, self._torn = lines[1:], False
        for line in lines:
            record = json.loads(line)
            self.records.append(record)
            self.world.learn(record)
        return self.world

    def wait(self, condition: Callable[[World], Any], limit: float) -> Optional[float]:
        """Follow until ``condition`` holds. Returns the moment at which it was found true, or None after ``limit``
        wall seconds."""
        end = time.monotonic() + limit
        while True:
            if condition(self.read()):
                return time.monotonic()
            if time.monotonic() >= end:
                return None
            time.sleep(PERIOD)

    def since(self, moment: float) -> List[Dict[str, Any]]:
        return [record for record in self.records if record["at"] >= moment]

    def evidence(self, moment: float) -> List[Dict[str, Any]]:
        """What was said since the moment, and before it the last word on whose the lease was: one that nobody takes
        says nothing any more."""
        before = (r for r in reversed(self.records) if r["at"] < moment and r["kind"] in ("lease", "alive"))
        return [*islice(before, 1), *self.since(moment)]

    def appeared(self, copy: Copy) -> Optional[float]:
        """When this copy's process was first seen."""
        for record in self.records:
            if record["kind"] == "seen" and _copy(record) == copy:
                return float(record["at"])
        return None

    def known_before(self, moment: float) -> "Tuple[Copy, ...]":
        """Every copy of which something was told before the moment."""
        return tuple({_copy(r) for r in self.records if r["kind"] in ("seen", "ran") and r["at"] < moment})

    def latest(self) -> Optional[Copy]:
        """The copy that appeared last."""
        for record in reversed(self.records):
            if record["kind"] == "seen":
                return _copy(record)
        return None

    def first_ran(self, copy: Copy) -> Optional[float]:
        """The first moment at which this copy provably ran, as far as it was read."""
        for record in self.records:
            if record["kind"] == "ran" and _copy(record) == copy:
                return float(record["first"][1])
        return None

    def gone(self, copy: Copy) -> Optional[float]:
        """When this copy's process was first seen to be no more."""
        for record in self.records:
            if record["kind"] == "gone" and _copy(record) == copy:
                return float(record["at"])
        return None

    def last_run(self, copy: Copy) -> Optional[float]:
        """The latest moment at which this copy provably ran, as far as the observer has told."""
        found = None
        for record in self.records:
            if record["kind"] == "ran" and _copy(record) == copy:
                found = float(record["last"][1])
        return found

    def first_run(self, after: float, but: "Tuple[Copy, ...]" = ()) -> Optional[Tuple[Copy, float]]:
        """The first copy, other than those, that ran after the moment, and when that was proven."""
        for record in self.records:
            if record["kind"] == "ran" and record["first"][0] >= after:
                copy = _copy(record)
                if copy not in but:
                    return copy, record["first"][1]
        return None


def _copy(record: Record) -> Copy:
    return Copy(record["host"], record["pid"], record["started"])

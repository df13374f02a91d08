"""What the observer's records prove. Pure: records in, judgement out.

A sampling window [from, to] in which a virtual CPU used time proves that it ran at *some* moment of it. Two copies of
the VM ran beside each other when the moments of one must lie on both sides of a moment of the other: A, B, A. A
hand-over from A to B inside one window proves nothing of that kind, whatever its order; nor does a copy that was
paused while the other ran, unless it runs again.
"""

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

Record = Mapping[str, Any]


class Window(NamedTuple):
    start: float
    end: float


class Copy(NamedTuple):
    """One QEMU process: a restart, and each side of a migration, is another copy."""

    host: int
    pid: int
    started: int


@dataclass(frozen=True)
class Tenure:
    """When one copy ran. ``windows``: recorded ones, in order, the first and the last of its life among them."""

    copy: Copy
    windows: Tuple[Window, ...]

    @property
    def first(self) -> Window:
        return self.windows[0]

    @property
    def last(self) -> Window:
        return self.windows[-1]


@dataclass(frozen=True)
class Judgement:
    """``two_ran``: proven. ``unleased``: wall seconds for which a copy provably ran while the record on the disk
    named somebody else or nobody. ``owners``: tenures in the order of their beginning."""

    owners: Tuple[Tenure, ...]
    two_ran: bool
    unleased: float

    def owners_as_json(self, zero: float) -> List[Dict[str, Any]]:
        """Times in seconds after ``zero``."""
        return [
            {
                "host": tenure.copy.host,
                "pid": tenure.copy.pid,
                "from": round(tenure.first.end - zero, 2),
                "to": round(tenure.last.end - zero, 2),
            }
            for tenure in self.owners
        ]


def judge(records: Iterable[Record]) -> Judgement:
    kept = list(records)
    owners = tenures(kept)
    return Judgement(owners, two_ran(owners), unleased(kept))


def tenures(records: Iterable[Record]) -> Tuple[Tenure, ...]:
    windows: Dict[Copy, List[Window]] = {}
    for record in records:
        if record["kind"] == "ran":
            copy = Copy(record["host"], record["pid"], record["started"])
            windows.setdefault(copy, []).extend(Window(*record[end]) for end in ("first", "last"))
    found = [Tenure(copy, tuple(sorted(set(seen)))) for copy, seen in windows.items()]
    return tuple(sorted(found, key=lambda tenure: tenure.first))


def two_ran(owners: Sequence[Tenure]) -> bool:
    return any(_surrounds(a, b) for a in owners for b in owners if a is not b)


def _surrounds(outer: Tenure, inner: Tenure) -> bool:
    """Whether some window of ``inner`` lies wholly between the first and the last window of ``outer``."""
    return any(outer.first.end <= window.start and window.end <= outer.last.start for window in inner.windows)


def unleased(records: Sequence[Record]) -> float:
    total = 0.0
    others = _leases(records)
    for record in records:
        if record["kind"] != "ran":
            continue
        # At least this long between two moments at which it ran, sampled without a pause.
        start, end = record["first"][1], record["last"][0]
        for owner, since, until in others:
            if owner is not None and owner != record["host"]:
                total += max(0.0, min(end, until) - max(start, since))
    return total


def _leases(records: Sequence[Record]) -> List[Tuple[Optional[int], float, float]]:
    """(owner, first read, last read) of each record on the disk; the last one lasts. Before the first change the
    observer's sign of life tells the owner."""
    changes: List[Record] = []
    for record in records:
        if record["kind"] == "lease" or (record["kind"] == "alive" and not changes):
            changes.append(record)
    found = []
    for record, following in zip(changes, [*changes[1:], None]):
        until = float("inf") if following is None else following["since"]
        found.append((record["owner"], record["at"], until if until is not None else record["at"]))
    return found


def answered_every(records: Iterable[Record], since: float, until: float) -> float:
    """The longest time in wall seconds between two good answers of the health page in the span; the observer notes
    only gaps beyond a second, so a smaller result reads 0."""
    gaps = [0.0]
    for record in records:
        if record["kind"] == "gap" and since <= record["to"] and record["from"] <= until:
            gaps.append(record["to"] - record["from"])
    return max(gaps)

"""One line of a host's ledger: what changed there, and what the lease's record said when it did.

A line is a JSON object in ASCII. Its order among the lines of the same host is ``number``; among the lines of two hosts
only the lease's own counters order anything: ``wall`` is for the eyes of people.
"""

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional

from ovirt_he_ha.core.model import MAX_HOST_ID

LONGEST = 4096  # bytes of one line with its end; what is longer is no line of ours
LONGEST_TEXT = 300  # characters of one value
MOST_REASONS = 6
KINDS = ("begin", "end", "state", "order", "done", "vm", "lease", "maintenance", "fence", "protection", "lost")
HERE = "here"  # of ``vm``: its processors run on this host
HELD_UP = "held-up"  # its process is here, but stands still: paused, or it waits for an incoming migration
GONE = "gone"
# Product seconds that one read of the record, or one look at the VM, may have taken: only what lies further apart is
# known to have come one after the other.
LOOK_SECONDS = 5.0


class NotALine(ValueError):
    """Bytes that are no line of a ledger: ``why`` in a few words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Look:
    """The lease's record as it was read by this host. ``at``: when the read had ended, product seconds of the host's
    monotonic clock. ``owner`` 0: nobody held it; ``version`` 0: not known."""

    owner: int
    generation: int
    timestamp: int
    version: int
    at: float


@dataclass(frozen=True)
class Entry:
    """``at``: product seconds of this boot's monotonic clock. ``seen``: when the copy of the VM that runs here, or did
    until this line, was last seen running; None: there is none. ``own_generation``: under which this host holds its id
    in the lockspace. ``values``: what belongs to the kind (docs/formats.md)."""

    kind: str
    host_id: int
    boot_id: str
    at: float
    wall: float
    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    look: Optional[Look] = None
    own_generation: Optional[int] = None
    seen: Optional[float] = None
    number: int = 0


def encode(entry: Entry) -> bytes:
    """One line with its end, at most LONGEST bytes: texts are cut, and if that is not enough the values are left
    out."""
    document: Dict[str, Any] = {
        "n": entry.number,
        "k": entry.kind,
        "h": entry.host_id,
        "b": entry.boot_id,
        "t": round(entry.at, 3),
        "w": round(entry.wall, 3),
    }
    if entry.look is not None:
        look = entry.look
        document["l"] = [look.owner, look.generation, look.timestamp, look.version, round(look.at, 3)]
    if entry.own_generation is not None:
        document["g"] = entry.own_generation
    if entry.seen is not None:
        document["s"] = round(entry.seen, 3)
    if entry.values:
        document["v"] = {key: _cut(value) for key, value in entry.values.items()}
    line = _line(document)
    if len(line) > LONGEST:
        document["v"] = {"cut": True, **{k: v for k, v in document["v"].items() if k in ("vm", "to")}}
        line = _line(document)
    return line


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    return [_cut(each) for each in value[:MOST_REASONS]] if isinstance(value, (list, tuple)) else value


def decode(line: bytes) -> Entry:
    """Raises NotALine for everything that ``encode`` did not make. Unknown members are ignored."""
    if len(line) > LONGEST:
        raise NotALine(f"longer than {LONGEST} bytes")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise NotALine("torn, or no JSON") from None
    if not isinstance(document, dict):
        raise NotALine("no JSON object")
    kind, values = document.get("k"), document.get("v", {})
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(values, dict):
        raise NotALine("of a kind that this version does not know")
    own, seen = document.get("g"), document.get("s")
    return Entry(
        kind=kind,
        host_id=_whole(document.get("h"), 1, MAX_HOST_ID),
        boot_id=_text(document.get("b")),
        at=_number(document.get("t")),
        wall=_number(document.get("w")),
        values=MappingProxyType(values),
        look=_look(document["l"]) if "l" in document else None,
        own_generation=None if own is None else _whole(own),
        seen=None if seen is None else _number(seen),
        number=_whole(document.get("n")),
    )


def _look(value: Any) -> Look:
    if not isinstance(value, list) or len(value) != 5:
        raise NotALine("its look at the lease is not five numbers")
    owner, generation, timestamp, version, at = value
    return Look(_whole(owner, 0, MAX_HOST_ID), _whole(generation), _whole(timestamp), _whole(version), _number(at))


def _whole(value: Any, low: int = 0, high: int = (1 << 64) - 1) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise NotALine(f"expected a whole number from {low} to {high}, found {str(value)[:40]!r}")


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    raise NotALine(f"expected a number of seconds, found {str(value)[:40]!r}")


def _text(value: Any) -> str:
    if isinstance(value, str) and len(value) <= LONGEST_TEXT:
        return value
    raise NotALine("the boot's id is missing")


def texts(value: Any) -> List[str]:
    """The texts in a value that should be a list of them: a ledger may have been written by anybody."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []

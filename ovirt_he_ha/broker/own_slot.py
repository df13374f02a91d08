"""This host's own slot: what we wrote, and whose what the volume shows there is."""

import hashlib
from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

from ovirt_he_ha.core.model import SLOT_SIZE

BLANK = bytes(SLOT_SIZE)
LATE_WRITES = 8  # given-up writes whose late arrival in our slot is not taken for another host's
OWN_RECORDS = 360  # records of ours that are known again when the volume shows them: an hour's, in 6 kB


def _mark(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=16).digest()


@dataclass
class OwnSlot:
    """``written``: what should be there. ``late``: writes that were given up and may still reach the volume. ``older``:
    marks of the acknowledged records before the last one, the oldest first. Times are product seconds, monotonic."""

    written: Optional[bytes] = None
    written_at: Optional[float] = None
    overwritten_at: Optional[float] = None
    problem: str = ""
    late: Tuple[bytes, ...] = ()
    older: Dict[bytes, None] = field(default_factory=dict)
    foreign: Optional[bytes] = None
    mark: bytes = b""  # of ``written``

    def put(self, block: bytes) -> None:
        """``block`` should be there from now on."""
        before, self.written = self.written, block
        mark_before, self.mark = self.mark, _mark(block)
        self.older.pop(self.mark, None)
        if before not in (None, block, BLANK, self.foreign):
            self.older.pop(mark_before, None)
            self.older[mark_before] = None
            if len(self.older) > OWN_RECORDS:
                del self.older[next(iter(self.older))]

    def gave_up(self, block: bytes) -> None:
        self.late = (*self.late, block)[-LATE_WRITES:]

    def is_old(self, found: bytes) -> bool:
        """An earlier record of ours: whoever shows it shows the past, and not of our slot alone."""
        return found != self.written and found not in self.late and _mark(found) in self.older

    def is_foreign(self, found: bytes, now: float) -> bool:
        """Somebody else wrote our slot if it holds nothing of what we wrote. Said once per foreign write."""
        if self.written is None or found == self.written or found in self.late or self.is_old(found):
            return False
        self.overwritten_at = now
        self.written = self.foreign = found
        self.mark = _mark(found)
        return True

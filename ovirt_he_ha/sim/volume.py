"""The shared volume of slots, as each host sees it through a path of its own.

``Volume`` is the truth: 2,001 slots. ``Path`` is one host's way to it, with what is wrong with that way;
:class:`Door` is what the broker holds, the ``BlockIO`` of the product. A call takes effect when it is made and returns
after its latency; one that hangs returns when the hang ends, or is given up at its deadline. A write that was given up
may still reach the volume: at the end of the hang, minutes later, in the middle of whatever happens then.
"""

from dataclasses import dataclass, field
from itertools import repeat
from operator import itemgetter
from random import Random
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from ovirt_he_ha.core.model import MAX_HOST_ID, SLOT_SIZE
from ovirt_he_ha.core.seams import BlockIO
from ovirt_he_ha.sim.clock import SECOND, Scope, Timeline, ns
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue

BLANK = bytes(SLOT_SIZE)
SECTOR = 512
FOREVER = 1 << 62
STUCK_LIMIT = 2  # I/O processes that hang in the kernel; with so many a host's every call fails at once

Written = Callable[[int, int, bytes], None]


class Volume:
    """``on_write(writer, slot, data)`` is told of every write that arrives, whoever made it (writer 0: nobody of the
    cluster)."""

    def __init__(self) -> None:
        self.slots: Dict[int, bytes] = {}
        self.on_write: Written = lambda writer, slot, data: None

    def get(self, slot: int) -> bytes:
        return self.slots.get(slot, BLANK)

    def put(self, writer: int, slot: int, data: bytes) -> None:
        if data == BLANK:
            self.slots.pop(slot, None)
        else:
            self.slots[slot] = data
        self.on_write(writer, slot, data)

    def damage(self, slot: int, random: Random, bits: int) -> None:
        """Flip so many bits, as media do: no write, nobody is told."""
        data = bytearray(self.get(slot))
        for _ in range(bits):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        self.slots[slot] = bytes(data)


@dataclass
class Trouble:
    """What is wrong with one host's path. ``hang_until``: world moment at which what hangs goes on. ``stale``: what
    it reads instead, as it was when the fault began."""

    read_error: str = ""
    write_error: str = ""
    open_error: str = ""
    latency: float = 0.0
    hang_reads_until: int = 0
    hang_writes_until: int = 0
    ghost: bool = False
    torn: bool = False
    lost: bool = False
    stale: Optional[Mapping[int, bytes]] = None


@dataclass
class Path:
    """One host's way to the storage. ``trouble`` is the slots' volume, ``leases`` what sanlock and the VM's disk
    meet (they use other parts of the same storage)."""

    random: Random
    latency: float = 0.002
    trouble: Trouble = field(default_factory=Trouble)
    lease_error: bool = False
    lease_hang_until: int = 0

    def draw_latency(self) -> float:
        """Seconds of one access: mostly the usual, sometimes ten times as much."""
        base = self.latency * (0.5 + self.random.random())
        if self.random.random() < 0.01:
            base *= 10.0
        return base + self.trouble.latency

    def lease_io(self, now: int) -> bool:
        """Whether sanlock's I/O, and the VM's, works at this moment."""
        return not self.lease_error and self.lease_hang_until <= now


FIRST_BYTES = slice(None, None, SLOT_SIZE)  # of each slot
_FIRST_BYTE = itemgetter(0)


class SlotBytes(bytes):
    """Adjacent slots as one read returns them; cutting out a whole slot gives the very object that was written, and
    copies nothing."""

    parts: Tuple[bytes, ...]

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> "SlotBytes":
        made = cls()
        made.parts = tuple(parts)
        return made

    def __len__(self) -> int:
        return len(self.parts) * SLOT_SIZE

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            first, last = key.start, key.stop
            if first is not None and last == first + SLOT_SIZE and key.step is None:
                if 0 <= first < len(self) and not first % SLOT_SIZE:
                    return self.parts[first // SLOT_SIZE]
            elif key == FIRST_BYTES:
                return bytes(map(_FIRST_BYTE, self.parts))
        elif type(key) is int:
            return self.parts[key // SLOT_SIZE][key % SLOT_SIZE]
        whole: Any = b"".join(self.parts)
        return whole[key]


class Door(BlockIO):
    """``writer``: the machine behind it. ``scope``: the machine, whose end takes with it what still hangs."""

    def __init__(self, volume: Volume, path: Path, timeline: Timeline, writer: int, scope: Scope) -> None:
        self._volume = volume
        self._path = path
        self._timeline = timeline
        self._writer = writer
        self._scope = scope
        self._stuck: List[Tuple[int, Optional[int]]] = []  # (until, offset of a write)

    # --- the seam -------------------------------------------------------------------------------------------------

    def read(self, offset: int, length: int, deadline: float) -> bytes:
        trouble = self._path.trouble
        self._wait(trouble.hang_reads_until, deadline, None)
        self._take(deadline)
        if trouble.read_error:
            raise StorageError(trouble.read_error, "volume")
        slots = self._volume.slots if trouble.stale is None else trouble.stale
        first, count = offset // SLOT_SIZE, length // SLOT_SIZE
        if first + count > LAST_SLOT + 1:
            raise StorageError("too-small", "volume")
        if count == 1:
            return slots.get(first, BLANK)
        return SlotBytes.of(map(slots.get, range(first, first + count), repeat(BLANK)))

    def write(self, offset: int, data: bytes, deadline: float) -> None:
        trouble, slot = self._path.trouble, offset // SLOT_SIZE
        try:
            self._wait(trouble.hang_writes_until, deadline, offset)
        except StorageOverdue:
            if trouble.ghost or trouble.hang_writes_until < FOREVER:
                self._later(trouble.hang_writes_until, slot, data)
            raise
        self._take(deadline)
        if trouble.write_error:
            raise StorageError(trouble.write_error, "volume")
        if slot > LAST_SLOT:
            raise StorageError("too-small", "volume")
        if trouble.lost:
            return
        self._volume.put(self._writer, slot, self._torn(slot, data) if trouble.torn else data)

    def late_writes(self) -> Tuple[int, ...]:
        return tuple(offset for _, offset in self._hanging() if offset is not None)

    def close(self, deadline: float) -> None:
        """What hangs stays."""

    # --- how long it takes ----------------------------------------------------------------------------------------

    def _take(self, deadline: float) -> None:
        seconds = self._path.draw_latency()
        if seconds > deadline:
            self._timeline.spend(deadline)
            raise StorageOverdue("overdue", "volume", detail=f"{deadline:g} s")
        self._timeline.spend(seconds)

    def _wait(self, until: int, deadline: float, offset: Optional[int]) -> None:
        now = self._timeline.shown
        if until <= now:
            return
        if len(self._hanging()) >= STUCK_LIMIT:
            raise StorageOverdue("stuck", "volume")
        left = until - now
        if left > ns(deadline):
            self._timeline.spend(deadline)
            self._stuck = [*self._hanging(), (until, offset)]
            raise StorageOverdue("overdue", "volume", detail=f"{deadline:g} s")
        self._timeline.spend(left / SECOND)

    def _hanging(self) -> List[Tuple[int, Optional[int]]]:
        now = self._timeline.shown
        return [each for each in self._stuck if each[0] > now]

    def _later(self, until: int, slot: int, data: bytes) -> None:
        """The write that hangs in the kernel: only the machine's own end takes it back."""
        if until < FOREVER:
            self._timeline.at(until, lambda: self._volume.put(self._writer, slot, data), self._scope)

    def _torn(self, slot: int, data: bytes) -> bytes:
        """The first sectors are new, the others old."""
        cut = SECTOR * self._path.random.randrange(1, SLOT_SIZE // SECTOR)
        return data[:cut] + self._volume.get(slot)[cut:]


# The whole volume ends here; what lies behind it is nobody's.
LAST_SLOT = MAX_HOST_ID

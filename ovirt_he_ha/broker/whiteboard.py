"""The shared volume as this host reads and writes it: one slot of 4,096 bytes per host id, slot 0 for the global
flags.

No thread and no clock of its own: ``tick`` does what is due and says when to come again, ``write`` is called by
whoever publishes. Readers get an immutable view that is replaced as a whole, so that a host which left the volume
leaves the view too. What is served is what was read from the volume, or written and read back; never what somebody
merely asked to write.
"""

import threading
from dataclasses import dataclass
from itertools import compress
from types import MappingProxyType
from typing import Callable, Collection, Dict, FrozenSet, Mapping, Optional, Tuple

from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.own_slot import OwnSlot
from ovirt_he_ha.broker.protocol import PublishFacts, StorageFacts
from ovirt_he_ha.broker.slot_reads import meaning_of, runs
from ovirt_he_ha.core.model import GLOBAL_SLOT, MAX_HOST_ID, SLOT_SIZE
from ovirt_he_ha.core.seams import BlockIO, Clock
from ovirt_he_ha.core.timers import Timers
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue

SLOT_COUNT = MAX_HOST_ID + 1
WAIT_FOR_WRITE = 0.5  # product seconds: the agent's cycle of 10 s takes 0.1 s longer, and a late one some more
FLOOR = 1.0  # wall seconds for a transfer at the least, its turn included
# After these the place may hold something else when it answers again: the domain is looked at as at the first time.
DOUBTFUL = frozenset({"missing", "stale", "not-a-volume", "too-small", "no-access", "metadata"})
WRITE_ONLY = frozenset({"read-only", "no-access", "full", "short-write", "io"})  # no good read disproves these
OVERWRITTEN_FOR = 60.0  # seconds that a foreign write into our slot stays reported: every cycle of the agent sees it


@dataclass(frozen=True)
class View:
    """What one read of the volume found. ``slots``: 0, our own, and every other one that is in use. ``read_at``: when
    the read began, so that a slow one makes nobody look silent."""

    slots: Mapping[int, bytes]
    read_at: float


@dataclass(frozen=True)
class _Last:
    """A slot's last content and when it changed, as far as we saw. ``well``: it says that the engine is up and
    healthy, or that nobody is to act. ``changes``: it was seen to change, not only to be there."""

    data: bytes
    changed_at: float
    meaning: object
    well: bool
    changes: bool


class Whiteboard:
    """``open_volume`` looks whether the volume is what it should be and returns it, or raises StorageError; it is
    called until it succeeds, again with every full scan, and after errors that say that something else may be there.
    ``on_change``: called when something happened that others should look at.
    """

    def __init__(
        self,
        open_volume: Callable[[], BlockIO],
        host_id: int,
        clock: Clock,
        timers: Timers,
        on_change: Callable[[], None] = lambda: None,
        on_read: Callable[[Optional[float], str], None] = lambda _seconds, _why: None,
        metrics: Optional[Metrics] = None,
    ) -> None:
        self.host_id = host_id
        self._open_volume = open_volume
        self._clock = clock
        self._timers = timers
        self._on_change = on_change
        self._on_read = on_read
        self._metrics = metrics or Metrics()
        self._io: Optional[BlockIO] = None
        self._doubtful = True  # whether the volume must be looked at before it is used
        self._io_lock = threading.Lock()  # one transfer at a time; guards _io, _order, _writes; taken before the other
        self._order = 0  # counts transfers: a read that began before a write must not hide it
        self._writes: Dict[int, Tuple[int, bytes]] = {}
        self._facts_lock = threading.Lock()  # guards what readers see: _view, _state, _own, _last
        self._view: Optional[View] = None
        self._state = StorageFacts()
        self._state_at: Optional[float] = None
        self._write_problem: Optional[StorageFacts] = None  # a volume that can be read but not written
        self._own = OwnSlot()
        self._last: Dict[int, _Last] = {}
        self._used: FrozenSet[int] = frozenset()
        self._listed: FrozenSet[int] = frozenset()
        self._scan_due = 0.0
        self._scanned = False
        self._tried_at: Optional[float] = None
        self._alert = False
        self._reading = threading.Lock()  # one look at all slots at a time: a second one's answer may be older

    # --- what readers see -----------------------------------------------------------------------------------------

    def slots(self) -> Mapping[int, bytes]:
        """The last good view, empty before the first one."""
        view = self._view
        return view.slots if view else MappingProxyType({})

    def slots_age(self, now: float) -> Optional[float]:
        view = self._view
        return max(0.0, now - view.read_at) if view else None

    def slot_ages(self, now: float) -> Mapping[int, float]:
        """Seconds since each slot was seen to change; without those that did not change since we look."""
        with self._facts_lock:
            return {slot_id: max(0.0, now - last.changed_at) for slot_id, last in self._last.items() if last.changes}

    def storage(self, now: float) -> StorageFacts:
        with self._facts_lock:
            age = None if self._state_at is None else max(0.0, now - self._state_at)
            found = self._write_problem if self._write_problem and self._state.state == "ok" else self._state
            return StorageFacts(found.state, age, found.detail)

    def publish(self, now: float) -> PublishFacts:
        with self._facts_lock:
            own = self._own
            age = None if own.written_at is None else max(0.0, now - own.written_at)
            recent = own.overwritten_at is not None and now - own.overwritten_at < OVERWRITTEN_FOR
            return PublishFacts(age, recent, own.problem)

    # --- reading --------------------------------------------------------------------------------------------------

    def tick(self, listed: Optional[Collection[int]] = None, alert: bool = False) -> float:
        """Read what is due and return the product second of the next call. ``listed``: host ids that sanlock lists,
        None if it cannot be asked. ``alert``: read often although the slots look well. Never raises for what
        storage does."""
        now = self._clock.monotonic()
        if listed is not None and frozenset(listed) != self._listed:
            self._listed = frozenset(listed)
            self._scan_due = now
        self._alert = alert
        interval = self._interval(now)
        if self._tried_at is None or now >= self._tried_at + interval:
            with self._reading:
                try:
                    self._look(now)
                except StorageError as error:
                    self._failed(error, now)
            interval = self._interval(now)
        # Somebody may write meanwhile that the engine is down: look again soon whether a read is due.
        return min((self._tried_at or now) + interval, now + self._timers.slot_read_alert)

    def _interval(self, now: float) -> float:
        if not self._is_calm(now):
            return self._timers.slot_read_alert
        # Our own write, as often as this and never quite at the same moment, reads for both.
        wrote = self._own.written_at
        expected = wrote is not None and now - wrote < 2 * self._timers.publish_keepalive
        return self._timers.slot_read_well + (WAIT_FOR_WRITE if expected else 0.0)

    def _is_calm(self, now: float) -> bool:
        return not self._alert and self._state.state == "ok" and self.engine_is_well(now)

    def _look(self, now: float) -> None:
        self._tried_at = now
        self._read(now)

    def _read(self, now: float) -> None:
        full = not self._scanned or now >= self._scan_due
        self._doubtful |= full
        wanted: Collection[int] = range(SLOT_COUNT) if full else self._interesting()
        found = self._read_slots(wanted, self._interesting() if full else wanted)
        if full:
            self._used = frozenset(slot_id for slot_id, (_, data) in found.items() if data[:1] != b"\0")
            self._scanned = True
            self._scan_due = now + self._timers.full_scan
            self._metrics.add("storage.full_scans")
        self._accept(found, now)

    def _interesting(self) -> FrozenSet[int]:
        known = {slot_id for slot_id in self._listed if 0 <= slot_id <= MAX_HOST_ID}
        return frozenset(known | self._used | {self.host_id, GLOBAL_SLOT})

    def _read_slots(self, wanted: Collection[int], blank: Collection[int]) -> Dict[int, Tuple[int, bytes]]:
        """Each slot with the order number of the transfer it came from; of those that begin with NUL only ``blank``.
        Raises StorageError."""
        found: Dict[int, Tuple[int, bytes]] = {}
        for first, count in runs(wanted):
            order, data = self._transfer(first, count)
            covered = range(first, first + count)
            used = compress(covered, data[::SLOT_SIZE])  # that do not begin with NUL
            for slot_id in sorted({*filter(blank.__contains__, covered), *used}):
                if slot_id in wanted:
                    at = (slot_id - first) * SLOT_SIZE
                    # sliced before anything is decoded: a bad slot is one bad host
                    found[slot_id] = (order, data[at : at + SLOT_SIZE])
        self._metrics.add("storage.slots_read", len(wanted))
        return found

    def _transfer(self, first: int, count: int) -> Tuple[int, bytes]:
        began = self._clock.monotonic()
        until = self._until(began)
        self._enter(until)
        try:
            data = self._volume().read(first * SLOT_SIZE, count * SLOT_SIZE, self._left(until))
            self._order += 1
            order = self._order
        finally:
            self._io_lock.release()
        self._metrics.add("storage.bytes_read", len(data))
        self._on_read(self._clock.monotonic() - began, "")
        return order, data

    def _accept(self, found: Mapping[int, Tuple[int, bytes]], read_at: float) -> None:
        """Make the view of what was read, with whatever was written since. Raises StorageError ``old-data`` when our
        own slot shows that all of it is of an earlier time."""
        now = self._clock.monotonic()
        with self._io_lock, self._facts_lock:
            self._refuse_old(found)
            slots: Dict[int, bytes] = {}
            changed = self._set_state("ok", "", now)
            for slot_id, (order, data) in found.items():
                written_order, written = self._writes.get(slot_id, (0, b""))
                slots[slot_id] = written if written_order > order else data
                if slot_id == self.host_id and written_order < order:
                    changed |= self._is_foreign(data, now)
            kept = {slot_id: data for slot_id, data in slots.items() if data[:1] != b"\0" or self._always(slot_id)}
            self._view = View(MappingProxyType(kept), read_at)
            changed |= self._note(kept, now)
        if changed:
            self._on_change()

    def _refuse_old(self, found: Mapping[int, Tuple[int, bytes]]) -> None:
        order, data = found.get(self.host_id, (0, b""))
        if order > self._writes.get(self.host_id, (0, b""))[0] and self._own.is_old(data):
            raise StorageError("old-data", f"slot {self.host_id}")

    def _always(self, slot_id: int) -> bool:
        """Shown even when blank."""
        return slot_id in (GLOBAL_SLOT, self.host_id) or slot_id in self._listed

    def _note(self, slots: Mapping[int, bytes], now: float) -> bool:
        """Remember contents; whether any slot means something else than before. A new timestamp alone does not."""
        changed = False
        for slot_id in self._last.keys() - slots.keys():
            del self._last[slot_id]
            changed = True
        for slot_id, data in slots.items():
            last = self._last.get(slot_id)
            if last is not None and last.data == data:
                continue
            meaning, well = meaning_of(slot_id, data)
            changed |= slot_id != self.host_id and (last is None or last.meaning != meaning)
            self._last[slot_id] = _Last(data, now, meaning, well, last is not None)
        return changed

    def engine_is_well(self, now: float) -> bool:
        """Some host that still publishes says the engine is up and healthy, or nobody is to act (global
        maintenance)."""
        fresh = 3 * self._timers.cycle
        with self._facts_lock:
            for slot_id, last in self._last.items():
                if last.well and (slot_id == GLOBAL_SLOT or now - last.changed_at < fresh):
                    return True
        return False

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, host_id: int, data: bytes) -> None:
        """Write a slot and return when it is on the volume and was read back equal. ``data``: up to 4,096 bytes,
        padded. The caller has checked that the slot is ours to write. Raises StorageError, StorageOverdue."""
        if len(data) > SLOT_SIZE:
            raise ValueError(f"slot of {len(data)} bytes")
        block = data.ljust(SLOT_SIZE, b"\0")
        try:
            changed = self._write(host_id, block, host_id == self.host_id and self._looked_first())
        except StorageError as error:
            self._write_failed(host_id, block, error)
            raise
        self._metrics.add("storage.slots_written")
        self._metrics.add("storage.bytes_written", SLOT_SIZE)
        if changed:
            self._on_change()

    def _looked_first(self) -> bool:
        """Our own slot is read before it is written, to see what somebody else may have put there. When the regular
        read is due anyway it is done at this moment: one read instead of two. True if it was."""
        now = self._clock.monotonic()
        tried_at = self._tried_at
        if tried_at is None or now - tried_at < self._timers.slot_read_well / 2 or not self._is_calm(now):
            return False
        if not self._scanned or now >= self._scan_due or not self._reading.acquire(blocking=False):
            return False
        try:
            self._look(now)
            return True
        except StorageOverdue as error:
            self._failed(error, now)
            raise  # a write would hang there as well
        except StorageError as error:
            self._failed(error, now)
            return False
        finally:
            self._reading.release()

    def _write(self, host_id: int, block: bytes, looked: bool) -> bool:
        """Whether there is something that others should look at. ``looked``: the slot was read just now."""
        until = self._until(self._clock.monotonic())
        offset = host_id * SLOT_SIZE
        changed = False
        self._enter(until)
        try:
            io = self._volume()
            if host_id == self.host_id and self._own.written is not None and not looked:
                before = io.read(offset, SLOT_SIZE, self._left(until))
                with self._facts_lock:
                    changed = self._is_foreign(before, self._clock.monotonic())
            io.write(offset, block, self._left(until))
            found = io.read(offset, SLOT_SIZE, self._left(until))
            self._order += 1
            self._writes[host_id] = (self._order, found)
            with self._facts_lock:
                changed |= self._written(host_id, block, found)
        finally:
            self._io_lock.release()
        if found != block:
            old = host_id == self.host_id and self._own.is_old(found)
            raise StorageError("old-data" if old else "not-stored", f"slot {host_id}")
        if host_id == GLOBAL_SLOT and offset in io.late_writes():
            # Our own slot is written again within seconds; a flag that is undone would stay so.
            raise StorageOverdue("late-write", "slot 0")
        return changed

    def _written(self, host_id: int, block: bytes, found: bytes) -> bool:
        """Note what became of a write, and put it into the view at once: who wrote may read it back through us."""
        now = self._clock.monotonic()
        if host_id == self.host_id:
            self._own.put(block)
            if self._own.is_old(found):
                return False
            if self._is_foreign(found, now):
                return True
            self._own.written_at, self._own.problem = now, ""
        if found == block:
            self._write_problem = None
        if self._view is None:
            return False
        slots = dict(self._view.slots)
        slots[host_id] = found
        self._view = View(MappingProxyType(slots), self._view.read_at)
        return self._note(slots, now)

    def _write_failed(self, host_id: int, block: bytes, error: StorageError) -> None:
        self._metrics.add("storage.write_errors")
        self._doubtful |= error.code in DOUBTFUL
        with self._facts_lock:
            before = self._write_problem, self._own.problem
            if error.code in WRITE_ONLY:
                self._write_problem = StorageFacts(error.code, None, str(error))
            if host_id == self.host_id:
                self._own.problem = error.code
                self._own.gave_up(block)
            news = (self._write_problem, self._own.problem) != before
        # Only what is new wakes: who is woken writes again at once, and would do that ten times a second.
        if news:
            self._on_change()

    def _is_foreign(self, found: bytes, now: float) -> bool:
        foreign = self._own.is_foreign(found, now)
        if foreign:
            self._metrics.add("storage.own_slot_overwritten")
        return foreign

    # --- the volume -----------------------------------------------------------------------------------------------

    def _until(self, now: float) -> float:
        """When a transfer that is asked for now has to be over, its turn included. Storage does not become faster with
        the lab's clock: at twenty times the pace the deadline is 0.25 s, of which a turn that was waited for left
        nothing to the transfer."""
        deadline = self._timers.io_deadline
        return now + max(deadline, min(FLOOR, deadline) * self._clock.scale)

    def _enter(self, until: float) -> None:
        """Wait for our turn."""
        if self._io_lock.acquire(blocking=False):
            return
        if not self._io_lock.acquire(timeout=self._left(until) / self._clock.scale):
            detail = f"{self._timers.io_deadline:g} s, waiting for another access"
            raise StorageOverdue("overdue", "volume", detail=detail)

    def _left(self, until: float) -> float:
        """Product seconds; never 0, so that the volume itself says what is overdue."""
        return max(until - self._clock.monotonic(), 0.001)

    def _volume(self) -> BlockIO:
        if self._io is None or self._doubtful:
            self._io = self._open_volume()
            self._doubtful = False
        return self._io

    def _failed(self, error: StorageError, now: float) -> None:
        self._metrics.add("storage.read_errors")
        self._on_read(None, error.code)
        self._doubtful |= error.code in DOUBTFUL
        with self._facts_lock:
            changed = self._set_state(error.code, str(error), now)
        if changed:
            self._on_change()

    def _set_state(self, state: str, detail: str, now: float) -> bool:
        changed = state != self._state.state
        self._state = StorageFacts(state, None, detail)
        self._state_at = now
        return changed

    def close(self, deadline: float) -> None:
        """Let go of the volume within ``deadline`` product seconds; a transfer that hangs is left behind."""
        if self._io_lock.acquire(timeout=deadline / self._clock.scale):
            try:
                if self._io is not None:
                    self._io.close(deadline)
                    self._io = None
            finally:
                self._io_lock.release()

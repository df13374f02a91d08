"""What a cycle knew and decided, as documents of a recording, each the difference to the cycle before.

A document has these members; one that is not there did not change.

======== ===========================================================================================================
``n``    number of the cycle since the recorder began: a gap means that cycles were not recorded
``s``    the snapshot, without slots and what was carried over
``x``    slots: ``-`` ids that went, ``+`` slots that changed, or ``=`` all of them
``c``    what was carried over, where it is not what the last decision left
``d``    the decision, without the record's bytes and what it hands on
``a``    what it hands on, as the difference to what it was given; ``p`` ids whose ``seen`` follows from the slot that
         was read: its timestamp and checksum, changed when the slots were read, the token before in front of the past
``b``    CRC-32 of the slot's 4,096 bytes made from the decision's record, its readable times in UTC
======== ===========================================================================================================

A key document has ``key``, the timers in force as ``t``, and everything in full. A slot is the text of its bytes (host
line, newline, free text) where these are to be had, so that a replay decodes them again; else ``hex``, or the decoded
``record``, ``invalid`` or ``empty``.
"""

from binascii import crc32
from dataclasses import dataclass, field, fields, replace
from datetime import timezone
from functools import cache
from types import MappingProxyType
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Type, TypeVar, Union

from ovirt_he_ha.core import frames, slot, slot_text
from ovirt_he_ha.core.frames import Damage
from ovirt_he_ha.core.model import Carried, Decision, Record, Seen, Slot, Snapshot
from ovirt_he_ha.core.shapes import SAME, Noun, Shape, ShapeError, Table, noun_of, shape_of
from ovirt_he_ha.core.timers import Timers

T = TypeVar("T")

_LATEST = 1e15  # seconds; whatever a clock may say, and still a sum that has milliseconds

_NO_SLOTS: Mapping[int, Slot] = MappingProxyType({})


@dataclass(frozen=True)
class RecordedCycle:
    """One cycle as it was. ``raw``: the slots that were recorded as bytes. ``published``: CRC-32 of the slot made from
    the decision's record (readable times in UTC), None where there was none to make. ``offset`` in its file."""

    number: int
    snapshot: Snapshot
    decision: Decision
    timers: Timers
    raw: Mapping[int, bytes] = field(default_factory=lambda: MappingProxyType({}))
    published: Optional[int] = None
    offset: int = 0

    @property
    def wall(self) -> float:
        """Seconds since the epoch."""
        return self.snapshot.now + self.snapshot.wall_offset


def published_crc(snapshot: Snapshot, decision: Decision) -> Optional[int]:
    """See RecordedCycle.published. A record that cannot be written is none."""
    if decision.record is None:
        return None
    try:
        return crc32(slot.encode(decision.record, snapshot.wall_offset, timezone.utc))
    except slot.SlotError:
        return None


# --- shapes, made on first use ---------------------------------------------------------------------------------------


class _Shapes:
    def __init__(self) -> None:
        self.snapshot: Noun = noun_of(Snapshot, frozenset({"slots", "carried"}))
        self.decision: Noun = noun_of(Decision, frozenset({"carried"}))
        self.carried: Noun = noun_of(Carried, frozenset({"seen"}))
        self.timers: Noun = noun_of(Timers)
        self.seen = Table(int, noun_of(Seen))
        self.slot: Shape = shape_of(Slot)


@cache
def shapes() -> _Shapes:
    return _Shapes()


# --- writing ---------------------------------------------------------------------------------------------------------


class Encoder:
    """Documents of one host's cycles, in their order. ``raw``: the slots' bytes from which the snapshot's were
    decoded."""

    def __init__(self) -> None:
        self._shapes = shapes()
        self._snapshot: Optional[Snapshot] = None
        self._decision: Optional[Decision] = None
        self._slots = _SlotWriter(self._shapes.slot)

    def key(self, number: int, snapshot: Snapshot, decision: Decision, timers: Timers, raw: Mapping[int, bytes]) -> Any:
        """The document that stands by itself."""
        carried = snapshot.carried
        document = {
            "key": 1,
            "n": number,
            "t": self._shapes.timers.plain(timers),
            "s": [self._shapes.snapshot.plain(snapshot)],
            "x": self._slots.write(snapshot.slots, raw, whole=True),
            "c": [{**self._shapes.carried.plain(carried), "seen": self._shapes.seen.plain(carried.seen)}],
            "d": [self._shapes.decision.plain(decision)],
        }
        return self._finished(document, snapshot, decision)

    def following(self, number: int, snapshot: Snapshot, decision: Decision, raw: Mapping[int, bytes]) -> Any:
        """The difference to the document before. Only after a key."""
        assert self._snapshot is not None and self._decision is not None
        document: Dict[str, Any] = {"n": number}
        _put(document, "s", self._shapes.snapshot.patch(self._snapshot, snapshot))
        _put(document, "x", self._slots.write(snapshot.slots, raw))
        left = self._decision.carried
        if snapshot.carried is not left:
            _put(document, "c", self._carried(left, snapshot.carried))
        _put(document, "d", self._shapes.decision.patch(self._decision, decision))
        return self._finished(document, snapshot, decision)

    def _finished(self, document: Dict[str, Any], snapshot: Snapshot, decision: Decision) -> Any:
        predicted = _predictable(snapshot, decision.carried.seen)
        _put(document, "a", self._carried(snapshot.carried, decision.carried, predicted))
        if predicted:
            document["p"] = predicted
        published = published_crc(snapshot, decision)
        if published is not None:
            document["b"] = published
        self._snapshot, self._decision = replace(snapshot, slots=_NO_SLOTS), decision
        return document

    def _carried(self, old: Carried, new: Carried, predicted: Iterable[int] = ()) -> Any:
        found = self._shapes.carried.patch(old, new)
        before = dict(old.seen)
        for host_id in predicted:
            before[host_id] = new.seen[host_id]
        seen = self._shapes.seen.patch(before, new.seen)
        if seen is not SAME:
            found = {**({} if found is SAME else found), "seen": seen}
        return found


def _put(document: Dict[str, Any], name: str, change: Any) -> None:
    if change is not SAME:
        document[name] = change


def _predictable(snapshot: Snapshot, seen: Mapping[int, Seen]) -> List[int]:
    """The hosts whose slot changed, and whose ``seen`` says just that."""
    before, slots = snapshot.carried.seen, snapshot.slots
    if seen is before or snapshot.slots_age is None or not _foreseen():
        return []
    read_at = snapshot.now - snapshot.slots_age
    found = []
    for host_id, now_there in seen.items():
        old = before.get(host_id)
        if old is None or old is now_there or now_there.changed_at != read_at:
            continue
        record = slots.get(host_id)
        if not isinstance(record, Record) or now_there.since != old.since:
            continue
        if now_there.token == _token(record) and now_there.past == (old.token, *old.past)[:_PAST]:
            found.append(host_id)
    return found


@cache
def _foreseen() -> bool:
    return tuple(f.name for f in fields(Seen)) == ("token", "since", "changed_at", "past")


# Part of the format: what the policy makes of a slot may change, this may not. It costs bytes then, nothing else.
_PAST = 30


def _token(record: Record) -> str:
    return f"{record.timestamp}:{record.crc32}"


def _following(old: Seen, record: Record, read_at: float) -> Seen:
    return Seen(_token(record), old.since, read_at, (old.token, *old.past)[:_PAST])


@dataclass
class _Written:
    """A slot as last written: its bytes and their text, or what they mean where there are none. (Not both: the agent
    would hold 250 hosts' slots of the last cycle for nothing.)"""

    data: Optional[bytes]
    text: Optional[slot_text.Follower]
    slot: Optional[Slot]


class _SlotWriter:
    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._known: Dict[int, _Written] = {}

    def write(self, slots: Mapping[int, Slot], raw: Mapping[int, bytes], whole: bool = False) -> Any:
        if whole or list(slots) != list(self._known):
            whole = True
            self._known.clear()
        found: Dict[str, Any] = {}
        for host_id, decoded in slots.items():
            data, old = raw.get(host_id), self._known.get(host_id)
            if old is not None and old.data == data and (data is not None or self._is(old.slot, decoded)):
                continue
            found[str(host_id)] = self._change(host_id, old, data, decoded)
        if whole:
            return {"=": found}
        return {"+": found} if found else SAME

    def _is(self, old: Optional[Slot], new: Slot) -> bool:
        return old is new or self._shape.patch(old, new) is SAME

    def _change(self, host_id: int, old: Optional[_Written], data: Optional[bytes], decoded: Slot) -> Any:
        """A list: the difference to the slot before. A text or a dict: the whole slot."""
        own_crc = isinstance(decoded, Record) and decoded.extra_ok
        if data is not None and old is not None and old.text is not None:
            sealed = own_crc or slot_text.is_sealed(data, decoded)
            found = old.text.follow(data, own_crc) if sealed else None
            if found is not None:
                old.data = data
                return found
        text = None if data is None else slot_text.text_of(data)
        if data is None or text is None:
            self._known[host_id] = _Written(data, None, decoded if data is None else None)
            return self._shape.plain(decoded) if data is None else {"hex": data.hex()}
        self._known[host_id] = _Written(data, slot_text.Follower(data, text, own_crc), None)
        return text


# --- reading ---------------------------------------------------------------------------------------------------------


def read(data: bytes) -> Iterator[Union[RecordedCycle, Damage]]:
    """The cycles of one file's bytes, and what of it could not be read. Raises NotARecording."""
    decoder: Optional[Decoder] = None
    for chunk in frames.unpack(data):
        if isinstance(chunk, Damage):
            decoder = None
            yield chunk
            continue
        if chunk.key:
            decoder = Decoder()
        if decoder is None:
            continue  # named already, with the document it continues
        try:
            yield decoder.cycle(chunk.document, chunk.offset)
        except ShapeError as error:
            decoder = None
            yield Damage(chunk.offset, f"{error.field} to be {error.expected}", error.found, chunk.size)
        except (TypeError, AttributeError) as error:  # a value of another type than its field has: no agent wrote that
            decoder = None
            yield Damage(chunk.offset, "the values of a cycle", f"{type(error).__name__}: {error}", chunk.size)


class Decoder:
    """Documents to cycles, from a key on."""

    def __init__(self) -> None:
        self._shapes = shapes()
        self._before: Optional[RecordedCycle] = None
        self._slots: Dict[int, _Read] = {}

    def cycle(self, document: Any, offset: int = 0) -> RecordedCycle:
        """The next cycle. Raises ShapeError for a document that is no cycle, or none of this version."""
        if not isinstance(document, dict) or not isinstance(document.get("n"), int):
            raise ShapeError("n", "the number of a cycle", document)
        if self._before is None and "key" not in document:
            raise ShapeError("key", "a document that stands by itself", document)
        self._read_slots(document.get("x", {}))
        snapshot = _timed(self._snapshot(document))
        decision = self._decision(document, snapshot)
        published = document.get("b")
        self._before = RecordedCycle(
            number=document["n"],
            snapshot=snapshot,
            decision=decision,
            timers=self._timers(document),
            raw=MappingProxyType({i: known.data for i, known in self._slots.items() if known.data is not None}),
            published=published if isinstance(published, int) else None,
            offset=offset,
        )
        return self._before

    def _timers(self, document: Dict[str, Any]) -> Timers:
        if self._before is not None:
            return self._before.timers
        stored = document.get("t")
        return _as(Timers, self._shapes.timers.value(stored, "timers"))

    def _snapshot(self, document: Dict[str, Any]) -> Snapshot:
        slots = MappingProxyType({host_id: known.slot for host_id, known in self._slots.items()})
        noun, change = self._shapes.snapshot, document.get("s", {})
        if self._before is None:
            carried = self._carried(document.get("c"), None, {})
            more = {"slots": slots, "carried": carried}
            return _as(Snapshot, noun.build(_only(change, "snapshot"), "snapshot", more))
        left = self._before.decision.carried
        carried = self._carried(document["c"], left, left.seen) if "c" in document else left
        patched = noun.patched(self._before.snapshot, change, "snapshot")
        return replace(_as(Snapshot, patched), carried=carried, slots=slots)

    def _decision(self, document: Dict[str, Any], snapshot: Snapshot) -> Decision:
        given = snapshot.carried
        handed = self._carried(document.get("a", {}), given, self._predicted(document.get("p", []), snapshot))
        noun, change = self._shapes.decision, document.get("d", {})
        if self._before is None:
            return _as(Decision, noun.build(_only(change, "decision"), "decision", {"carried": handed}))
        return replace(_as(Decision, noun.patched(self._before.decision, change, "decision")), carried=handed)

    def _carried(self, stored: Any, old: Optional[Carried], seen: Mapping[int, Seen]) -> Carried:
        """``seen``: what the stored difference of the hosts' slots over time is a difference to."""
        if old is None:
            whole = dict(_table(_only(stored, "carried"), "carried"))
            found = self._shapes.seen.value(whole.pop("seen", {}), "carried.seen")
            return _as(Carried, self._shapes.carried.build(whole, "carried", {"seen": found}))
        change = dict(_table(stored, "carried"))
        new = seen
        if "seen" in change:
            new = self._shapes.seen.patched(seen, change.pop("seen"), "carried.seen")
        carried: Carried = self._shapes.carried.patched(old, change, "carried")
        return carried if new is carried.seen else replace(carried, seen=new)

    def _predicted(self, ids: Any, snapshot: Snapshot) -> Mapping[int, Seen]:
        before = snapshot.carried.seen
        if not isinstance(ids, list):
            raise ShapeError("p", "a list of hosts", ids)
        if not ids:
            return before
        after = dict(before)
        for host_id in ids:
            record = snapshot.slots.get(host_id) if isinstance(host_id, int) else None
            if not isinstance(record, Record) or host_id not in before or snapshot.slots_age is None:
                raise ShapeError("p", "hosts with a slot that was seen before", ids)
            after[host_id] = before[host_id].followed_by(_token(record), snapshot.now - snapshot.slots_age)
        return MappingProxyType(after)

    # --- slots --------------------------------------------------------------------------------------------------------

    def _read_slots(self, stored: Any) -> None:
        table = _table(stored, "slots")
        whole = table.get("=")
        if whole is not None:
            self._slots = {}
        changes = _table(table.get("+", {}) if whole is None else whole, "slots")
        for text, change in changes.items():
            if not (text.isascii() and text.isdecimal()):
                raise ShapeError("slots", "a host id", text)
            self._slots[int(text)] = self._slot(int(text), change)

    def _slot(self, host_id: int, change: Any) -> "_Read":
        place = f"slots[{host_id}]"
        old = self._slots.get(host_id)
        try:
            if isinstance(change, list) and old is not None and old.text is not None:
                change = slot_text.spliced(old.text, change)
            if isinstance(change, str):
                return _decoded(host_id, slot_text.bytes_of(change), change)
            if isinstance(change, dict) and isinstance(change.get("hex"), str):
                return _decoded(host_id, bytes.fromhex(change["hex"]))
        except ValueError as error:
            raise ShapeError(place, "a slot", str(error)) from None
        return _Read(None, None, self._shapes.slot.value(change, place))


def _timed(snapshot: Snapshot) -> Snapshot:
    """Whoever reads a cycle adds its times up, and asks when it was. Raises ShapeError."""
    ages = () if snapshot.slots_age is None else (("slots_age", snapshot.slots_age),)
    for name, value in (("now", snapshot.now), ("wall_offset", snapshot.wall_offset), *ages):
        if not isinstance(value, (int, float)) or not abs(value) <= _LATEST:
            raise ShapeError(f"snapshot.{name}", "seconds", value)
    return snapshot


class _Read(NamedTuple):
    data: Optional[bytes]
    text: Optional[str]
    slot: Slot


def _decoded(host_id: int, data: bytes, text: Optional[str] = None) -> _Read:
    return _Read(data, text, slot.decode(host_id, data))


def _only(stored: Any, field: str) -> Any:
    if isinstance(stored, list) and len(stored) == 1:
        return stored[0]
    raise ShapeError(field, "a list of the one value", stored)


def _table(stored: Any, field: str) -> Dict[str, Any]:
    if isinstance(stored, dict):
        return stored
    raise ShapeError(field, "a table", stored)


def _as(kind: Type[T], value: Any) -> T:
    if isinstance(value, kind):
        return value
    raise ShapeError(kind.__name__.lower(), f"the fields of {kind.__name__}", value)

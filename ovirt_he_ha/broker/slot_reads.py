"""Which slots are read together, and what of their contents is worth waking somebody for."""

from typing import Collection, List, Tuple

from ovirt_he_ha.core.model import GLOBAL_SLOT, Empty, Health, Record, Slot, Vm
from ovirt_he_ha.core.slot import decode, decode_global

CHUNK = 256  # slots in one read: 1 MiB, so that a full scan never keeps a write waiting for longer than one of these
# Unread slots between two wanted ones that are read along: 12 KiB cost the storage less than another request. More
# would multiply what three hosts with far ids read.
GAP = 3


def runs(ids: Collection[int]) -> List[Tuple[int, int]]:
    """Reads that cover ``ids``: (first slot, number of slots), none longer than CHUNK, near ones joined."""
    if isinstance(ids, range) and ids.step == 1:  # the whole volume, once a minute
        return [(first, min(CHUNK, ids.stop - first)) for first in ids[::CHUNK]]
    found: List[Tuple[int, int]] = []
    for slot_id in sorted(ids):
        if found:
            first, count = found[-1]
            if slot_id - (first + count) <= GAP and slot_id - first < CHUNK:
                found[-1] = (first, slot_id - first + 1)
                continue
        found.append((slot_id, 1))
    return found


def meaning_of(slot_id: int, data: bytes) -> Tuple[object, bool]:
    """What of a slot is worth waking somebody for: everything but its time and the size of a score. And whether it
    says that all is well."""
    if slot_id == GLOBAL_SLOT:
        flag = decode_global(data).value
        return flag, flag is True
    slot: Slot = decode(slot_id, data)
    if not isinstance(slot, Record):
        return (type(slot).__name__ if isinstance(slot, Empty) else slot), False
    meaning = (slot.engine, slot.maintenance, slot.stopped, slot.score > 0, slot.get("state"), slot.get("mig"))
    return meaning, _runs_well(slot)


def _runs_well(slot: Record) -> bool:
    if slot.engine is None or slot.stopped:
        return False
    return slot.engine.vm is Vm.UP and slot.engine.health is Health.GOOD

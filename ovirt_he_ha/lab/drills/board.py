"""The hosts' slots as they lie on the shared volume, read beside the product: who publishes, in which state, with
which promises."""

import mmap
import os
import time
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional

from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import SLOT_SIZE, Record
from ovirt_he_ha.lab.layout import Lab


class Publication(NamedTuple):
    """``at``: wall seconds (monotonic) at which the slot was first read so."""

    at: float
    host_id: int
    record: Record


@dataclass
class _Place:
    data: bytes = b""
    changed_at: Optional[float] = None
    record: Optional[Record] = None


class Board:
    """``publications``: every record seen, oldest first."""

    def __init__(self, lab: Lab) -> None:
        self._path = str(lab.volume_path(lab.identity.metadata))
        self._places = {host_id: _Place() for host_id in lab.host_ids}
        self._buffer = mmap.mmap(-1, SLOT_SIZE)
        self.publications: List[Publication] = []
        self.read()
        for place in self._places.values():
            place.changed_at = None  # it may be an hour old: only a change from now on shows life

    def read(self) -> None:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            for host_id, place in self._places.items():
                os.preadv(fd, [self._buffer], host_id * SLOT_SIZE)
                data = self._buffer[:]
                if data != place.data:
                    self._learn(host_id, place, data)
        finally:
            os.close(fd)

    def _learn(self, host_id: int, place: _Place, data: bytes) -> None:
        place.data, place.changed_at = data, time.monotonic()
        found = slot.decode(host_id, data)
        place.record = found if isinstance(found, Record) else None
        if place.record is not None:
            self.publications.append(Publication(place.changed_at, host_id, place.record))

    def record(self, host_id: int) -> Optional[Record]:
        return self._places[host_id].record

    def changed_since(self, host_id: int, moment: float) -> bool:
        changed = self._places[host_id].changed_at
        return changed is not None and changed >= moment

    def present(self) -> Dict[int, Record]:
        return {host_id: place.record for host_id, place in self._places.items() if place.record is not None}

    def first_reaction(self, fault_at: float, hosts: "List[int]") -> Optional[Publication]:
        """The first publication after the fault, of one of these hosts, with another state or another word on the
        engine than that host's last one before it."""
        before: Dict[int, Record] = {}
        for publication in self.publications:
            if publication.host_id not in hosts:
                continue
            if publication.at < fault_at:
                before[publication.host_id] = publication.record
            elif _news(before.get(publication.host_id), publication.record):
                return publication
        return None

    def promise(self, fault: str, hosts: "List[int]") -> Optional[float]:
        """The bound that one of these hosts announces for a fault, in product seconds."""
        for host_id in hosts:
            record = self.record(host_id)
            text = record.get(f"bound.{fault}") if record else ""
            try:
                return float(text)
            except ValueError:
                continue
        return None


def _news(before: Optional[Record], now: Record) -> bool:
    return before is None or (before.get("state"), before.engine) != (now.get("state"), now.engine)

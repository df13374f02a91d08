"""The hosts as ``--vm-status`` shows them: slots as plain dictionaries with the keys that scripts know."""

from dataclasses import dataclass
from typing import Any, Collection, Dict, List, Mapping, Optional

from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import GLOBAL_SLOT, EngineStatus, Invalid, Reading, Record, Slot

_LINE = 512  # bytes of the machine-readable part of a slot
_UNKNOWN = {"vm": "unknown", "health": "unknown", "detail": "unknown"}


@dataclass(frozen=True)
class Hosts:
    """``slots``: decoded, without the empty ones and without slot 0. ``texts``: the free text of each. ``alive``: ids
    that the agent of this host counts as live."""

    slots: Mapping[int, Slot]
    texts: Mapping[int, str]
    alive: Collection[int]
    global_maintenance: "Reading[bool]"

    def records(self) -> Dict[int, Record]:
        return {host_id: found for host_id, found in self.slots.items() if isinstance(found, Record)}

    def name(self, host_id: int) -> str:
        """``2 (host2.example)``; the bare id of a host that never published a name."""
        found = self.slots.get(host_id)
        return f"{host_id} ({found.hostname})" if isinstance(found, Record) else str(host_id)


def read_hosts(snapshot: BrokerSnapshot, alive: Collection[int]) -> Hosts:
    """A slot that cannot be decoded is Invalid and hides nobody else."""
    slots: Dict[int, Slot] = {}
    texts: Dict[int, str] = {}
    for host_id in sorted(snapshot.slots):
        data = snapshot.slots[host_id]
        if host_id == GLOBAL_SLOT:
            continue
        found = slot.decode(host_id, data)
        if isinstance(found, (Record, Invalid)):
            slots[host_id] = found
            texts[host_id] = data[_LINE:].rstrip(b"\0").decode("ascii", "replace")
    return Hosts(slots, texts, alive, global_flag(snapshot))


def global_flag(snapshot: BrokerSnapshot) -> "Reading[bool]":
    """Slot 0. A volume that was read and holds none says: no maintenance."""
    data = snapshot.slots.get(GLOBAL_SLOT)
    if data is None:
        return Reading.of(False) if snapshot.slots_age is not None else Reading.missing("not-yet")
    return slot.decode_global(data)


def as_struct(hosts: Hosts, host_id: int, own_id: int) -> Dict[str, Any]:
    """One host with the keys of ``--vm-status --json`` in their order. An invalid slot has all of them, and
    ``invalid``: the reason; its text is not repeated."""
    found = hosts.slots[host_id]
    live = host_id in hosts.alive
    if isinstance(found, Record):
        struct = _record(found)
        struct["live-data"] = live
        struct["extra"] = hosts.texts[host_id]
    else:
        struct = {
            "host-id": host_id,
            "host-ts": 0,
            "score": 0,
            "engine-status": dict(_UNKNOWN),
            "hostname": "unknown",
            "maintenance": False,
            "stopped": False,
            "crc32": "",
            "conf_on_shared_storage": False,
            "local_conf_timestamp": 0,
            "live-data": False,
            "extra": "",
        }
        if isinstance(found, Invalid):
            struct["invalid"] = {"reason": found.reason, "detail": found.detail}
    struct["local-host"] = host_id == own_id
    return struct


def _record(record: Record) -> Dict[str, Any]:
    return {
        "host-id": record.host_id,
        "host-ts": record.timestamp,
        "score": record.score,
        "engine-status": _engine(record.engine),
        "hostname": record.hostname,
        "maintenance": record.maintenance,
        "stopped": record.stopped,
        "crc32": record.crc32,
        "conf_on_shared_storage": record.conf_on_shared_storage,
        "local_conf_timestamp": record.local_conf_timestamp,
    }


def _engine(status: Optional[EngineStatus]) -> Dict[str, str]:
    if status is None:
        return {**_UNKNOWN, "reason": "no reading yet"}
    struct = {"vm": status.vm.value, "health": status.health.value, "detail": status.detail}
    if status.reason:
        struct["reason"] = status.reason
    return struct


def structs(hosts: Hosts, own_id: int) -> List[Dict[str, Any]]:
    return [as_struct(hosts, host_id, own_id) for host_id in hosts.slots]

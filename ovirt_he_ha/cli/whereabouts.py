"""Where the engine VM is, as far as this host's broker knows: libvirt's word here, the lease's record, sanlock's word
for its owner, and what live hosts publish. Off is said only where all of them agree."""

from enum import Enum
from typing import Any, NamedTuple, Optional

from ovirt_he_ha.cli.guard import FRESH
from ovirt_he_ha.cli.hosts import Hosts
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.core.model import HostLease, Reading, Vm

_GONE = (HostLease.DEAD, HostLease.FREE)


class Where(Enum):
    HERE = "here"
    ELSEWHERE = "elsewhere"  # on a host that holds its lease and lives
    MOVING = "moving"
    OFF = "off"
    UNKNOWN = "unknown"


class Place(NamedTuple):
    """``text``: half a sentence. ``host_id`` 0: no other host is meant."""

    where: Where
    text: str
    host_id: int = 0


def place_of(snapshot: BrokerSnapshot, hosts: Hosts, own_id: int) -> Place:
    return place_here(snapshot) or _by_lease(snapshot, hosts, own_id)


def place_here(snapshot: BrokerSnapshot) -> Optional[Place]:
    """What libvirt says of this host; None: the VM is known not to be here."""
    engine = snapshot.monitors.engine
    if engine.value is None or not _fresh(engine):
        why = engine.unknown or f"last seen {engine.age or 0.0:.0f} s ago"
        return Place(Where.UNKNOWN, f"whether the engine VM runs here is not known ({why}): is libvirtd running?")
    facts = engine.value
    if facts.incoming or facts.status.detail.startswith("Migration"):
        return Place(Where.MOVING, "the engine VM is moving from one host to another")
    if facts.status.vm is Vm.UP or facts.pid is not None:
        return Place(Where.HERE, f"the engine VM runs on this host ({facts.status.detail})")
    return None


def _fresh(reading: "Reading[Any]") -> bool:
    return reading.value is not None and (reading.age or 0.0) <= FRESH


def _by_lease(snapshot: BrokerSnapshot, hosts: Hosts, own_id: int) -> Place:
    owner, flags = snapshot.leases.owner, snapshot.leases.hosts
    if owner.value is None or not _fresh(owner):
        why = owner.unknown or f"last read {owner.age or 0.0:.0f} s ago"
        return Place(Where.UNKNOWN, f"who holds the VM's lease is not known ({why})")
    holder = owner.value.host_id
    if holder not in (0, own_id):
        flag = flags.value.get(holder) if flags.value is not None and _fresh(flags) else None
        if flag is HostLease.LIVE:
            return Place(Where.ELSEWHERE, f"the engine VM runs on host {hosts.name(holder)}", holder)
        if flag not in _GONE:
            said = flag.value if flag else "not listed"
            text = f"host {hosts.name(holder)} holds the VM's lease and is not known to be dead (sanlock: {said})"
            return Place(Where.UNKNOWN, text, holder)
    return _by_slots(hosts, own_id)


def _by_slots(hosts: Hosts, own_id: int) -> Place:
    for host_id, record in hosts.records().items():
        up = record.engine is not None and record.engine.vm is Vm.UP
        if up and host_id != own_id and host_id in hosts.alive and not record.stopped:
            return Place(Where.UNKNOWN, f"host {hosts.name(host_id)} still publishes the engine VM as up", host_id)
    return Place(Where.OFF, "the engine VM is off, and no living host holds its lease")

"""Which host can take the running VM, and why another cannot."""

from dataclasses import dataclass
from typing import Optional

from ovirt_he_ha.cli.hosts import Hosts
from ovirt_he_ha.cli.request import Refusal
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.core.model import HostLease, LeaseId, Record
from ovirt_he_ha.core.situation import lease_text


@dataclass(frozen=True)
class Journey:
    """What a destination must fit. ``memory`` in MiB."""

    snapshot: BrokerSnapshot
    hosts: Hosts
    own_id: int
    lease: LeaseId
    memory: int


def uri(record: Record) -> str:
    """Where this host takes the VM; empty if it does not."""
    return record.get("mig.uri") if record.get("mig") == "1" else ""


def choose(journey: Journey, wanted: Optional[int]) -> Record:
    """The host that was named, or the best of those that can take the VM: score descending, id ascending. Raises
    Refusal."""
    records = journey.hosts.records()
    if wanted is None:
        able = [one for one in records.values() if one.host_id != journey.own_id and not problem(journey, one)]
        if not able:
            raise Refusal("no-destination", "No live host can take the engine VM by migration; see --vm-status")
        return min(able, key=lambda record: (-record.score, record.host_id))
    if wanted == journey.own_id:
        raise Refusal("no-destination", f"Host {wanted} is this host: the engine VM runs here already")
    if wanted not in records:
        raise Refusal("no-destination", f"Host {wanted} has published nothing that can be read; see --vm-status")
    found = problem(journey, records[wanted])
    if found:
        raise Refusal("no-destination", f"Host {journey.hosts.name(wanted)} cannot take the engine VM: {found}")
    return records[wanted]


def problem(journey: Journey, record: Record) -> str:
    """Empty, or why this host cannot take the VM."""
    return _condition(journey, record) or _fit(journey, record)


def _condition(journey: Journey, record: Record) -> str:
    if record.host_id not in journey.hosts.alive or record.stopped:
        return "it is not alive"
    if record.maintenance:
        return "it is in maintenance"
    if record.score <= 0:
        return "its score is 0"
    listed = journey.snapshot.leases.hosts.value or {}
    if listed.get(record.host_id) is not HostLease.LIVE:
        return "sanlock does not show it alive in the storage domain's lockspace"
    return ""


def _fit(journey: Journey, record: Record) -> str:
    if not record.extra_ok or not uri(record):
        return "it publishes no address for migrations ([migration] address in its agent.conf)"
    if record.get("lease") not in ("", lease_text(journey.lease)):
        return f"it guards the VM with another lease ({record.get('lease')})"
    own = journey.hosts.records().get(journey.own_id)
    if own is None or not own.get("cpu") or own.get("cpu") != record.get("cpu"):
        return "its CPU model is another one, or is not known"
    free = record.get("mem")
    if free.isascii() and free.isdigit() and int(free[:12]) < journey.memory:
        return f"it has {int(free[:12])} MiB of memory free, expected {journey.memory}"
    return ""
